"""Which program of an object runs on which target."""

from __future__ import annotations

from elfpatch.errors import BadConfiguration, BadObject, Missing, raise_all
from elfpatch.index import AUTOLOAD, SLOT_PROG, Index, Program, Slot
from elfpatch.kernel import abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.deploy.target import Target
    from elfpatch.errors import ElfpatchError

# types for which bpf(2) wants the target's BTF id at load
_NEEDS_BTF_TARGET = (abi.PROG_TYPE_TRACING, abi.PROG_TYPE_EXT, abi.PROG_TYPE_LSM, abi.PROG_TYPE_STRUCT_OPS)


class Wanted:
    """A program to load: its row in PROGRAMS, and the types to load it with."""

    __slots__ = ("attach_type", "prog_type", "program", "row")

    def __init__(self, row: int, program: Program, prog_type: int, attach_type: int) -> None:
        self.row = row
        self.program = program
        self.prog_type = prog_type
        self.attach_type = attach_type


class Selection:
    """The programs to load, and for each target (in order) the row of its program."""

    __slots__ = ("for_target", "wanted")

    def __init__(self) -> None:
        self.wanted: dict[int, Wanted] = {}
        self.for_target: list[int] = []

    def add(self, row: int, program: Program, prog_type: int, attach_type: int) -> None:
        have = self.wanted.get(row)
        if have is None:
            self.wanted[row] = Wanted(row, program, prog_type, attach_type)
        elif have.prog_type != prog_type or (have.attach_type != attach_type and have.program.attach_type == 0):
            raise BadConfiguration(
                f"program {program.name} cannot be on two targets of different types", hint="use a deployment for each"
            )


def select(index: Index, targets: list[Target]) -> Selection:
    """The program of each target; without targets every program that is loaded by default.

    Raises Missing, BadConfiguration or BadObject, all problems together.
    """
    programs = list(index.rows(Program))
    if not programs:
        raise BadObject("the object holds no program")
    chosen = Selection()
    problems: list[ElfpatchError] = []
    for target in targets:
        try:
            row, prog_type, attach_type = _for_target(programs, target)
            chosen.for_target.append(row)
            chosen.add(row, programs[row], prog_type, attach_type)
        except (BadConfiguration, BadObject, Missing) as error:
            problems.append(error)
    raise_all(problems)
    if not targets:
        for row, program in enumerate(programs):
            if program.flags & AUTOLOAD:
                _require_type(program)
                chosen.add(row, program, program.type, program.attach_type)
    _follow_slots(index, programs, chosen)
    return chosen


def _follow_slots(index: Index, programs: list[Program], chosen: Selection) -> None:
    """Programs that initialise a prog array are loaded with the others, and with the same type."""
    if not chosen.wanted:
        return
    first = next(iter(chosen.wanted.values()))
    for slot in index.rows(Slot):
        if slot.kind == SLOT_PROG and slot.ref not in chosen.wanted:
            program = programs[slot.ref]
            if program.type:
                chosen.add(slot.ref, program, program.type, program.attach_type)
            else:
                chosen.add(slot.ref, program, first.prog_type, first.attach_type)


def _require_type(program: Program) -> None:
    if not program.type:
        raise BadObject(
            f"section {program.section!r} does not say which type of program {program.name} is",
            hint="give a --target, which says it",
        )


def _for_target(programs: list[Program], target: Target) -> tuple[int, int, int]:
    if target.prog:
        named = [row for row, program in enumerate(programs) if program.name == target.prog]
        if not named:
            raise Missing(
                f"the object has no program named {target.prog}",
                where=target.text,
                hint=f"there are {', '.join(program.name for program in programs)}",
            )
        fitting = [row for row in named if _fits(programs[row], target)]
        if not fitting:
            program = programs[named[0]]
            raise BadConfiguration(
                f"program {program.name} is of type {_type_text(program.type)}"
                f"{_attach_text(program)}, the target wants {_type_text(target.prog_type)}",
                where=target.text,
            )
        row = fitting[0]
    else:
        row = _only(programs, [row for row, program in enumerate(programs) if _fits(program, target)], target)
    program = programs[row]
    return row, program.type or target.prog_type, _attach_type(program, target)


def _type_text(prog_type: int) -> str:
    from elfpatch.uapi import PROG_TYPES

    return PROG_TYPES[prog_type]


def _attach_text(program: Program) -> str:
    from elfpatch.uapi import ATTACH_TYPES

    return f" ({ATTACH_TYPES[program.attach_type]})" if program.attach_type else ""


def _fits(program: Program, target: Target) -> bool:
    """Whether a program may run on a target. A section that names no type may run on any."""
    if program.type == 0:
        return True
    if program.type != target.prog_type:
        return False
    if target.kind == "cgroup":  # the kernel checks the hook of cgroup programs
        return program.attach_type in (0, target.attach_type)
    if target.kind == "xdp":  # programs of devmaps and cpumaps never run on a device
        return program.attach_type in (0, target.attach_type)
    return True


def _attach_type(program: Program, target: Target) -> int:
    """The expected_attach_type to load with. A link is only updated by a program of the same one."""
    if target.kind in ("cgroup", "xdp"):
        return target.attach_type
    return program.attach_type


def _only(programs: list[Program], rows: list[int], target: Target) -> int:
    """The one program for a target: the only one that fits, or the only one whose section says it is meant."""
    if not rows:
        raise BadConfiguration(
            f"no program of the object is of type {_type_text(target.prog_type)}",
            where=target.text,
            hint=f"it has {', '.join(f'{p.name} ({p.section})' for p in programs)}",
        )
    for section in target.sections:
        meant = [row for row in rows if programs[row].section == section]
        if len(meant) == 1:
            return meant[0]
        if meant:
            rows = meant
            break
    typed = [row for row in rows if programs[row].type] or rows
    if len(typed) == 1:
        return typed[0]
    raise BadConfiguration(
        f"several programs fit: {', '.join(programs[row].name for row in typed)}",
        where=target.text,
        hint=f"choose one: {target.text},prog={programs[typed[0]].name}",
    )


def needs_btf_target(program: Program) -> bool:
    """Whether a load of this program wants a kernel function or another program to attach to."""
    return program.type in _NEEDS_BTF_TARGET
