"""An image and a selection -> what goes to the kernel: the code of each program, and the maps that it needs.

Without specialisation that is every program as it is in the index, with keys and immediates in it, and every map. With
it, each program is made for the values it gets: loads of frozen data become immediates, dead code goes, and with it
the maps and programs that only dead code refers to.
"""

from __future__ import annotations

from elfpatch import index as ix
from elfpatch.errors import BadObject
from elfpatch.kernel.abi import F_RDONLY_PROG, MAP_TYPE_PROG_ARRAY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from elfpatch.deploy.select import Selection, Wanted
    from elfpatch.flow.program import Code
    from elfpatch.patch.image import Image
    from elfpatch.patch.specialise import Specialised

_MAP_FIXUPS = (ix.FIXUP_MAP_FD, ix.FIXUP_MAP_VALUE)


class Prepared:
    """What to load. `programs` by row of PROGRAMS; `maps` are rows of MAPS; `slots` the initial elements to fill in.
    `left_out` names the maps and programs that specialisation found no use for."""

    __slots__ = ("left_out", "maps", "programs", "slots", "specialized")

    def __init__(self) -> None:
        self.programs: dict[int, Ready] = {}
        self.maps: list[int] = []
        self.slots: list[ix.Slot] = []
        self.left_out: list[str] = []
        self.specialized = False


class Ready:
    """A program's code, for which only the fds of maps are missing: `refs` gives the row of MAPS by instruction slot,
    `externs` the kernel symbols that it would need. `before` and `specialised`: its code before, and what was done to
    it; None without specialisation."""

    __slots__ = ("before", "core_relos", "externs", "func_info", "insns", "line_info", "refs", "specialised", "wanted")

    def __init__(self, wanted: Wanted, insns: bytes | bytearray) -> None:
        program = wanted.program
        self.wanted = wanted
        self.insns = insns
        self.func_info = program.func_info
        self.line_info = program.line_info
        self.core_relos = program.core_relos
        self.refs: dict[int, int] = {}
        self.externs: list[str] = []
        self.before: Code | None = None
        self.specialised: Specialised | None = None


def prepare(image: Image, selection: Selection, *, specialize: bool = False) -> Prepared:
    """Raises BadObject when a program cannot be made ready."""
    index = image.template.index
    prepared = Prepared()
    prepared.specialized = specialize
    if specialize:
        _only_what_runs(image, selection, prepared)
        return prepared
    for row, wanted in selection.wanted.items():
        prepared.programs[row] = ready(image, wanted)
    referred = {map_row for one in prepared.programs.values() for map_row in one.refs.values()}
    prepared.maps = [
        row
        for row, definition in enumerate(index.rows(ix.Map))
        if row in referred or (definition.section < 0 and not definition.template_only and not definition.problem)
    ]
    prepared.slots = list(index.rows(ix.Slot))
    return prepared


def ready(image: Image, wanted: Wanted, *, specialize: bool = False) -> Ready:
    """One program's code for an image."""
    program = wanted.program
    loose = False
    insns: bytes | bytearray = program.insns
    if image.template.has_code:
        from elfpatch.patch.code import program_code

        insns, loose = program_code(image, program)
    made = Ready(wanted, insns)
    fixups = image.template.fixups(program)
    if (loose or specialize) and not program.problem:
        _transform(image, made, fixups, specialize=specialize)
    else:
        made.refs = {fixup.insn: fixup.ref for fixup in fixups if fixup.kind in _MAP_FIXUPS}
        made.externs = sorted({fixup.name for fixup in fixups if fixup.kind == ix.FIXUP_EXTERN})
    return made


def code_before(image: Image, insns: bytes | bytearray, program: ix.Program, fixups: list[ix.Fixup]) -> Code:
    """A program as the analyses of `flow` take it."""
    from elfpatch.flow.program import code_of

    info = image.template.index.info
    refs = {}
    for fixup in fixups:
        if fixup.kind in _MAP_FIXUPS:
            offset = int.from_bytes(insns[8 * fixup.insn + 12 : 8 * fixup.insn + 16], _order(image))
            refs[fixup.insn] = (fixup.kind, fixup.ref, offset if fixup.kind == ix.FIXUP_MAP_VALUE else 0)
    starts = program.global_functions
    return code_of(
        bytes(insns),
        refs,
        program.func_info,
        program.line_info,
        program.core_relos,
        info.func_info_rec_size or 8,
        info.line_info_rec_size or 16,
        info.core_relo_rec_size or 16,
        opaque={fixup.insn for fixup in fixups if fixup.kind == ix.FIXUP_EXTERN},
        global_starts=[int.from_bytes(starts[at : at + 4], "little") for at in range(0, len(starts), 4)],
        big_endian=image.template.index.big_endian,
    )


def _transform(image: Image, made: Ready, fixups: list[ix.Fixup], *, specialize: bool) -> None:
    from elfpatch.patch.specialise import prune, specialise

    made.before = code_before(image, made.insns, made.wanted.program, fixups)
    done = specialise(made.before, constants(image)) if specialize else prune(made.before)
    if done.why_not and not specialize:
        raise BadObject(
            f"a static key leaves code behind that cannot be removed: {done.why_not}",
            where=f"program {made.wanted.program.name}",
        )
    made.specialised = done
    made.insns = done.code.encode()
    made.func_info = done.code.func_info
    made.line_info = done.code.line_info
    made.core_relos = done.code.core_relos
    made.refs = {slot: map_row for slot, (_, map_row, _) in done.code.refs.items()}
    made.externs = sorted({f.name for f in fixups if f.kind == ix.FIXUP_EXTERN and done.moved[f.insn] >= 0})


def constants(image: Image) -> Callable[[int, int, int], int | None]:
    """What the frozen maps of an image hold: (row of MAPS, offset, size) -> the unsigned value, None when it is not
    constant."""
    index = image.template.index
    held: dict[int, bytes | None] = {}

    def memory(row: int, offset: int, size: int) -> int | None:
        if row not in held:
            definition = index.row(ix.Map, row)
            frozen = definition.section >= 0 and definition.flags & F_RDONLY_PROG
            held[row] = image.section_bytes(definition.section) if frozen else None
        contents = held[row]
        if contents is None or not 0 <= offset <= len(contents) - size:
            return None
        return int.from_bytes(contents[offset : offset + size], _order(image))

    return memory


if TYPE_CHECKING:
    from typing import Literal


def _order(image: Image) -> Literal["little", "big"]:
    return "big" if image.template.index.big_endian else "little"


# --- specialised ------------------------------------------------------------------------------------------------


def _only_what_runs(image: Image, selection: Selection, prepared: Prepared) -> None:
    """The programs on targets (all, when there are no targets), and from there what their live code refers to."""
    index = image.template.index
    slots = list(index.rows(ix.Slot))
    arrays = {row for row, definition in enumerate(index.rows(ix.Map)) if definition.type == MAP_TYPE_PROG_ARRAY}
    reachable: dict[int, set[int] | None] = {}  # of prog arrays: the slots that live code may jump to, None for any
    pending = list(dict.fromkeys(selection.for_target)) or list(selection.wanted)
    used: set[int] = set()
    while pending:
        row = pending.pop()
        if row in prepared.programs or row not in selection.wanted:
            continue
        made = prepared.programs[row] = ready(image, selection.wanted[row], specialize=True)
        used |= _with_inner(set(made.refs.values()), slots)
        if arrays & set(made.refs.values()):
            _jumps(image, made, arrays, reachable)
        pending += [slot.ref for slot in slots if slot.kind == ix.SLOT_PROG and _is_reachable(slot, used, reachable)]
    prepared.programs = {row: prepared.programs[row] for row in selection.wanted if row in prepared.programs}
    rows = list(index.rows(ix.Map))
    prepared.maps = [row for row in range(len(rows)) if row in used]
    prepared.slots = [
        slot
        for slot in slots
        if slot.map in used and (slot.kind == ix.SLOT_MAP or _is_reachable(slot, used, reachable))
    ]
    prepared.left_out = [
        f"map {definition.name}"
        for row, definition in enumerate(rows)
        if row not in used and not definition.template_only and not definition.problem
    ]
    prepared.left_out += [
        f"program {wanted.program.name}" for row, wanted in selection.wanted.items() if row not in prepared.programs
    ]


def _with_inner(rows: set[int], slots: list[ix.Slot]) -> set[int]:
    """With the maps that initial elements of these maps name."""
    return rows | {slot.ref for slot in slots if slot.kind == ix.SLOT_MAP and slot.map in rows}


def _is_reachable(slot: ix.Slot, used: set[int], reachable: dict[int, set[int] | None]) -> bool:
    if slot.map not in used:
        return False
    keys = reachable.get(slot.map)
    return keys is None or slot.key in keys


def _jumps(image: Image, made: Ready, arrays: set[int], reachable: dict[int, set[int] | None]) -> None:
    """Take up which slots of prog arrays a program's tail calls may jump to."""
    from elfpatch.flow.graph import build
    from elfpatch.flow.program import Uncertain
    from elfpatch.flow.propagate import propagate
    from elfpatch.patch.specialise import tail_calls

    assert made.specialised is not None
    code = made.specialised.code
    try:
        found = tail_calls(code, propagate(code, build(code), constants(image)))
    except Uncertain:
        found = {}
    for row in arrays & set(made.refs.values()):
        keys = found.get(row)  # a map that is named and not jumped through may be used in ways that are not seen
        known = reachable.get(row, set())
        reachable[row] = None if keys is None or known is None else known | keys
