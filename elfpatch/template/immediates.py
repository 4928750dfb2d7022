"""Immediates: the instructions that hold a variable's value, and the relocations that go for it.

A variable is an immediate where its declaration says so (`IMMEDIATE` in config.h), where a label says so
(`__imm.<size>.<n>` on an LD_IMM64, which `immediate()` leaves), or where the caller asks for it by name. At a label the
LD_IMM64 is the value. Elsewhere template/escape.py finds out what the code does with the variable's address.
"""

from __future__ import annotations

import struct

from attrs import define, field

from elfpatch import index as ix
from elfpatch import insn as isa
from elfpatch.errors import BadObject, BadValue, raise_all
from elfpatch.template import elf
from elfpatch.template.escape import Origin, Refusal, Use, trace
from elfpatch.template.lines import Lines
from elfpatch.template.programs import Function, Linker

LABEL = "__imm."
AS_VALUE = ":value"
_WRITTEN = (
    "its value was written into the instructions by a patch of an object without index, and nothing says where any "
    "more: patch the object as compiled, or `elfpatch build` it before it is patched"
)
_SHT_RELA, _SHT_REL = 4, 9
_ENTRY_SIZES = (16, 24)


@define
class ImmediateTable:
    """Rows for the index; `owners` holds the variable of each of `rows`. `by_place`: the row at (section number,
    slot)."""

    rows: list[ix.Immediate] = field(factory=list)
    owners: list[ix.Variable] = field(factory=list)
    by_place: dict[tuple[int, int], int] = field(factory=dict)
    rewrites: list[ix.Rewrite] = field(factory=list)


def collect(
    linker: Linker, lines: Lines, variables: list[ix.Variable], types: list[ix.Type], asked: tuple[str, ...]
) -> ImmediateTable:
    """All immediates of an object. `asked`: names of variables that are to be immediates whatever they are declared as;
    `NAME:value` says that the program computes with its address, wherever that goes, and never reads through it.

    Raises BadValue for a name that is no variable, BadObject with the instruction for one that cannot be an immediate.
    A variable that is declared so and cannot be is not settable.
    """
    obj = linker.obj
    table = ImmediateTable()
    numbers = {name.removesuffix(AS_VALUE) for name in asked if name.endswith(AS_VALUE)}
    asked = tuple(name.removesuffix(AS_VALUE) for name in asked)
    _mark(variables, asked)
    labels = _labels(obj)
    origins: dict[Function, list[Origin]] = {}
    refused: dict[int, list[str]] = {}
    for place in linker.data_places():
        variable = _covering(variables, place.data, place.offset)
        size = labels.pop((place.function.section.number, place.slot), 0)
        if variable is None or not (size or variable.flags & ix.IMMEDIATE):
            continue
        variable.flags |= ix.IMMEDIATE
        origin = Origin(place.function, place.slot, place.offset, variable, _is_number(types, variable))
        if size:
            room = variable.offset + variable.size - place.offset
            if size > room:
                where = where_text(lines, place.function, place.slot)
                refused.setdefault(id(variable), []).append(f"{where} takes {size} bytes where it has {room}")
            else:
                _add(table, lines, origin, Use(ix.IMMEDIATE_VALUE, place.slot, place.offset, size))
        else:
            origins.setdefault(place.function, []).append(origin)
    _check_left(linker, labels)
    for function, inside in origins.items():
        for origin, outcome in trace(function, inside, obj.big_endian, linker.callee_name, numbers):
            if isinstance(outcome, Refusal):
                where = where_text(lines, function, outcome.slot)
                refused.setdefault(id(origin.variable), []).append(f"{outcome.why} at {where}")
            else:
                for use in outcome:
                    _add(table, lines, origin, use)
    _refuse(variables, refused, asked, table, written=bool(labels))
    table.by_place = {
        (_section_number(obj, row.section, row.file_offset), row.section_offset // isa.SIZE): number
        for number, row in enumerate(table.rows)
    }
    table.rewrites = _rewrites(obj, table)
    return table


def where_text(lines: Lines, function: Function, slot: int) -> str:
    """`endpoint instruction 12 (endpoint.bpf.c:120)`."""
    source = lines.at(function.section.name, slot * isa.SIZE)
    return f"{function.name} instruction {slot - function.start}" + (f" ({source})" if source else "")


def _mark(variables: list[ix.Variable], asked: tuple[str, ...]) -> None:
    problems = []
    for name in asked:
        found = [variable for variable in variables if variable.name == name and not variable.flags & ix.KEY]
        for variable in found:
            variable.flags |= ix.IMMEDIATE
        if not found:
            known = sorted({variable.name for variable in variables if not variable.flags & ix.KEY})
            problems.append(
                BadValue(
                    f"there is no variable {name!r}", where=f"--immediate {name}", hint=f"there are {', '.join(known)}"
                )
            )
    raise_all(problems)


def _refuse(
    variables: list[ix.Variable],
    refused: dict[int, list[str]],
    asked: tuple[str, ...],
    table: ImmediateTable,
    *,
    written: bool,
) -> None:
    """Make what cannot be an immediate not settable; an error when it was asked for. `written`: an earlier patch has
    left values of which nobody knows the variable."""
    problems = []
    for variable in variables:
        if not variable.flags & ix.IMMEDIATE:
            continue
        reasons = refused.get(id(variable), [])
        if not reasons and not variable.flags & ix.LIVE and variable.name not in asked and written:
            variable.why_not = _WRITTEN
        if not reasons and not any(owner is variable for owner in table.owners):
            reasons = ["no instruction refers to it"] if variable.name in asked else []
        if not reasons:
            if any(owner is variable for owner in table.owners) and variable.size:
                variable.flags |= ix.SETTABLE  # also const without volatile: the asm hides the value from the compiler
                variable.why_not = ""
            continue
        text = f"it cannot be an immediate: {'; '.join(reasons)}"
        if variable.name in asked:
            problems.append(BadObject(text, where=f"variable {variable.name}", hint=_hint(reasons, variable.name)))
        variable.flags &= ~ix.SETTABLE
        variable.why_not = text
        keep = [number for number, owner in enumerate(table.owners) if owner is not variable]
        table.rows = [table.rows[number] for number in keep]
        table.owners = [table.owners[number] for number in keep]
    raise_all(problems)


def _check_left(linker: Linker, labels: dict[tuple[int, int], int]) -> None:
    """Labels that stand on no address of a variable: on a number, it was written; on anything else, it is damaged."""
    obj = linker.obj
    for section, slot in labels:
        insn = isa.decode(obj.sections[section].data, slot, big_endian=obj.big_endian)
        if insn.opcode != isa.LD_IMM64 or insn.src or linker.relocation_at(section, slot) is not None:
            raise BadObject(
                "it stands on no LD_IMM64 that names a variable",
                where=f"label {LABEL}* at {obj.sections[section].name}+{slot * isa.SIZE:#x}",
            )


def _hint(reasons: list[str], name: str) -> str:
    if all("its address is" in reason and "read through" not in reason for reason in reasons):
        return f"if it stands for the value there, as `__fetch` has it: --immediate {name}{AS_VALUE}"
    return "leave --immediate out"


def _is_number(types: list[ix.Type], variable: ix.Variable) -> bool:
    if variable.type < 0:
        return variable.size in (1, 2, 4, 8)
    return types[variable.type].kind in (ix.INT, ix.BOOL, ix.CHAR, ix.ENUM)


def _labels(obj: elf.ElfObject) -> dict[tuple[int, int], int]:
    """The size that a label asks for, by section number and slot."""
    found: dict[tuple[int, int], int] = {}
    for symbol in obj.symbols:
        if symbol.type != elf.STT_NOTYPE or not symbol.name.startswith(LABEL):
            continue
        size = symbol.name[len(LABEL) :].partition(".")[0]
        section = obj.sections[symbol.section] if elf.SHN_UNDEF < symbol.section < len(obj.sections) else None
        inside = section is not None and section.executable and symbol.value + isa.SIZE <= section.size
        if size not in ("1", "2", "4", "8") or not inside or symbol.value % isa.SIZE:
            raise BadObject("it is not `__imm.<1|2|4|8>.<n>` on an instruction", where=f"label {symbol.name!r}")
        found[symbol.section, symbol.value // isa.SIZE] = int(size)
    return found


def _covering(variables: list[ix.Variable], section: int, offset: int) -> ix.Variable | None:
    for variable in variables:
        if variable.section == section and variable.offset <= offset < variable.offset + max(variable.size, 1):
            return None if variable.flags & ix.KEY else variable
    return None


def _add(table: ImmediateTable, lines: Lines, origin: Origin, use: Use) -> None:
    function = origin.function
    offset = use.slot * isa.SIZE
    width = isa.SIZE if use.kind == ix.IMMEDIATE_LOAD else 2 * isa.SIZE
    row = ix.Immediate(
        -1,
        use.kind,
        int(use.signed),
        function.section.offset + offset,
        origin.variable.section,
        use.offset,
        use.size,
        function.section.name,
        offset,
        function.name,
        use.slot - function.start,
        lines.at(function.section.name, offset),
        function.section.data[offset : offset + width],
    )
    if all(row.file_offset != other.file_offset for other in table.rows):
        table.rows.append(row)
        table.owners.append(origin.variable)


def _section_number(obj: elf.ElfObject, name: str, file_offset: int) -> int:
    return next(
        section.number
        for section in obj.sections
        if section.name == name and section.executable and section.offset <= file_offset < section.offset + section.size
    )


# --- relocations ------------------------------------------------------------------------------------------------


def _rewrites(obj: elf.ElfObject, table: ImmediateTable) -> list[ix.Rewrite]:
    """Relocation tables without the rows that named immediates: those move behind the end, which moves forward."""
    order = ">" if obj.big_endian else "<"
    (headers,) = struct.unpack_from(order + "Q", obj.data, 40)
    found = []
    for section in obj.sections:
        if section.type not in (_SHT_REL, _SHT_RELA) or not section.size:
            continue
        header = headers + 64 * section.number
        (target,) = struct.unpack_from(order + "I", obj.data, header + 44)
        (width,) = struct.unpack_from(order + "Q", obj.data, header + 56)
        gone = {
            slot * isa.SIZE
            for (number, slot), row in table.by_place.items()
            if number == target and table.rows[row].kind != ix.IMMEDIATE_LOAD
        }
        if not gone:
            continue
        if width not in _ENTRY_SIZES:
            raise BadObject(f"relocations of {width} bytes", where=f"section {section.name}")
        entries = [section.data[at : at + width] for at in range(0, section.size - width + 1, width)]
        kept = [entry for entry in entries if struct.unpack_from(order + "Q", entry)[0] not in gone]
        removed = [entry for entry in entries if struct.unpack_from(order + "Q", entry)[0] in gone]
        what = f"relocations in {section.name}"
        found.append(ix.Rewrite(section.offset, b"".join(entries), b"".join(kept + removed), what))
        sizes = (struct.pack(order + "Q", size) for size in (section.size, width * len(kept)))
        found.append(ix.Rewrite(header + 32, *sizes, f"size of {section.name}"))
    return found
