"""The maps of an object: BTF-defined (`.maps`), legacy (`maps`) and one for every data section."""

from __future__ import annotations

import struct

from attrs import define

from elfpatch import index as ix
from elfpatch.errors import BadObject
from elfpatch.template import btf as bt
from elfpatch.template import elf
from elfpatch.uapi import MAP_TYPES

F_RDONLY_PROG = 1 << 7
F_MMAPABLE = 1 << 10

_ARRAY = MAP_TYPES.index("array")
_MAP_IN_MAP = (MAP_TYPES.index("array_of_maps"), MAP_TYPES.index("hash_of_maps"))

NAME_LENGTH = 15


@define
class MapTable:
    """The rows of MAPS and SLOTS, and the maps by where relocations find them."""

    rows: list[ix.Map]
    slots: list[ix.Slot]
    by_place: dict[tuple[int, int], int]  # (section number, offset) -> row
    by_section: dict[int, int]  # data section number -> row


def collect(
    obj: elf.ElfObject, btf: bt.Btf | None, section_rows: dict[int, int], kinds: dict[int, int], stem: str
) -> MapTable:
    """All maps of an object. `section_rows` and `kinds` are the index row and kind of each data section by number."""
    table = MapTable([], [], {}, {})
    for section in obj.sections:
        if section.name == ".maps":
            _btf_defined(obj, btf, section, table)
        elif section.name == "maps" and not section.executable:
            _legacy(obj, section, table)
    for section in obj.sections:
        if section.number in section_rows and section.size and kinds[section.number] != ix.SECTION_KCONFIG:
            table.by_section[section.number] = len(table.rows)
            table.rows.append(_data_map(obj, btf, section, section_rows[section.number], kinds[section.number], stem))
    return table


def _data_map(obj: elf.ElfObject, btf: bt.Btf | None, section: elf.Section, row: int, kind: int, stem: str) -> ix.Map:
    flags = F_RDONLY_PROG if kind == ix.SECTION_RODATA else 0
    # As libbpf: mappable only when a variable is visible outside its file, for then somebody may want to map it.
    if any(s.binding != elf.STB_LOCAL and not s.hidden for s in obj.symbols_in(section, elf.STT_OBJECT)):
        flags |= F_MMAPABLE
    value_type = next((t.id for t in btf.of_kind(bt.DATASEC) if t.name == section.name), 0) if btf else 0
    name = data_map_name(stem, section.name)
    return ix.Map(name, _ARRAY, 4, section.size, 1, flags, 0, -1, 0, value_type, -1, 0, row, 0, "")


def data_map_name(stem: str, section: str) -> str:
    """The kernel's name of a data map, as libbpf makes it (internal_map_name): 8 letters at most of the object's name,
    up to its first dot, then the section; a section with a name of its own (`.data.x`) stands alone."""
    prefix = "" if "." in section[1:] else stem.partition(".")[0][: min(8, max(0, NAME_LENGTH - len(section)))]
    name = (prefix + section)[:NAME_LENGTH]
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)


# --- .maps ------------------------------------------------------------------------------------------------------


def _btf_defined(obj: elf.ElfObject, btf: bt.Btf | None, section: elf.Section, table: MapTable) -> None:
    """The maps of `.maps`. One that cannot be understood is kept with its problem, which only a load minds."""
    variables = {
        var.name: var
        for datasec in (btf.of_kind(bt.DATASEC) if btf else ())
        if btf and datasec.name == ".maps"
        for var in (btf.type(row.type) for row in datasec.variables)
        if var.kind == bt.VAR
    }
    pending: list[tuple[int, bt.BtfMember, int]] = []
    for symbol in obj.symbols_in(section, elf.STT_OBJECT):
        if not symbol.name:
            continue
        try:
            row, values = _defined(btf, variables.get(symbol.name), symbol.name, table)
        except BadObject as error:
            row, values = _empty(symbol.name, str(error)), None
        number = len(table.rows)
        table.by_place[section.number, symbol.value] = number
        table.rows.append(row)
        if values is not None:
            pending.append((number, values, symbol.value))
    for number, values, start in pending:
        try:
            _initial_slots(obj, section, table, number, start + values.bit_offset // 8)
        except BadObject as error:
            table.rows[number].problem = str(error)


def _empty(name: str, problem: str = "", template_only: int = 0) -> ix.Map:
    return ix.Map(name, 0, 0, 0, 0, 0, 0, -1, 0, 0, -1, 0, -1, template_only, problem)


def _defined(
    btf: bt.Btf | None, var: bt.BtfType | None, name: str, table: MapTable
) -> tuple[ix.Map, bt.BtfMember | None]:
    where = f"map {name!r}"
    if btf is None or var is None:
        raise BadObject("it is defined by BTF, and the object has none for it", where=where, hint="compile with -g")
    record = btf.strip(var.ref)
    if record is None or record.kind != bt.STRUCT:
        raise BadObject("its BTF type is not a struct", where=where)
    return _read_definition(btf, record, name, table)


def _read_definition(
    btf: bt.Btf, record: bt.BtfType, name: str, table: MapTable, inner: bool = False
) -> tuple[ix.Map, bt.BtfMember | None]:
    row = _empty(name, template_only=int(inner))
    values = None
    where = f"map {name!r}"
    numbers = {
        "type": "type",
        "max_entries": "max_entries",
        "map_flags": "flags",
        "key_size": "key_size",
        "value_size": "value_size",
        "numa_node": "numa_node",
        "map_extra": "extra",
        "pinning": "pinning",
    }
    for member in record.members:
        if member.name in numbers:
            setattr(row, numbers[member.name], _number(btf, member, where))
        elif member.name in ("key", "value"):
            pointed = btf.strip(member.type)
            if pointed is None or pointed.kind != bt.PTR:
                raise BadObject(f"member {member.name!r} is not a pointer", where=where)
            size = btf.size_of(pointed.ref)
            setattr(row, member.name + "_size", size)
            setattr(row, "btf_" + member.name, pointed.ref)
        elif member.name == "values":
            values = member
            _values_member(btf, member, row, name, table, where)
        else:
            raise BadObject(f"member {member.name!r} is not known", where=where, hint="see libbpf's .maps definitions")
    if not row.type:
        raise BadObject("it has no type", where=where)
    if row.pinning not in (0, 1):
        raise BadObject(f"pinning {row.pinning} is neither none (0) nor by name (1)", where=where)
    return row, values


def _number(btf: bt.Btf, member: bt.BtfMember, where: str) -> int:
    """`__uint(name, N)` is a pointer to an array of N elements, `__ulong` an enum64 with one value."""
    pointed = btf.strip(member.type)
    if pointed is not None and pointed.kind == bt.PTR:
        array = btf.strip(pointed.ref)
        if array is not None and array.kind == bt.ARRAY:
            return array.count
        if array is not None and array.kind in (bt.ENUM, bt.ENUM64) and array.enumerators:
            return array.enumerators[0][1]
    if pointed is not None and pointed.kind in (bt.ENUM, bt.ENUM64) and pointed.enumerators:
        return pointed.enumerators[0][1]
    raise BadObject(f"member {member.name!r} is not made by __uint()", where=where)


def _values_member(btf: bt.Btf, member: bt.BtfMember, row: ix.Map, name: str, table: MapTable, where: str) -> None:
    array = btf.strip(member.type)
    element = btf.strip(array.ref) if array is not None and array.kind == bt.ARRAY else None
    pointed = btf.strip(element.ref) if element is not None and element.kind == bt.PTR else None
    if array is None or element is None or pointed is None:
        raise BadObject("member 'values' is not an array of pointers", where=where)
    row.value_size = row.value_size or 4
    row.key_size = row.key_size or 4
    if pointed.kind == bt.STRUCT:
        inner, _ = _read_definition(btf, pointed, (name + ".inner")[:NAME_LENGTH], table, inner=True)
        row.inner = len(table.rows)
        table.rows.append(inner)
    elif pointed.kind != bt.FUNC_PROTO:
        raise BadObject("member 'values' holds neither maps nor programs", where=where)


def _initial_slots(obj: elf.ElfObject, section: elf.Section, table: MapTable, number: int, start: int) -> None:
    """Static initialisers: a relocation at `values[i]` names the inner map or the program."""
    later = (offset for (number, offset) in table.by_place if number == section.number and offset >= start)
    end = min(later, default=None)
    for relocation in obj.relocations.get(section.number, []):
        if relocation.offset < start or (end is not None and relocation.offset >= end):
            continue
        key = (relocation.offset - start) // 8
        target = table.by_place.get((relocation.symbol.section, relocation.symbol.value))
        if target is not None:
            table.slots.append(ix.Slot(number, key, ix.SLOT_MAP, target))
        elif relocation.symbol.type == elf.STT_FUNC:
            # resolved to a row once the programs are known
            table.slots.append(ix.Slot(number, key, ix.SLOT_PROG, relocation.symbol.number))
        else:
            raise BadObject(
                f"slot {key} names {relocation.symbol.name!r}, which is neither a map nor a program",
                where=f"map {table.rows[number].name!r}",
            )


# --- legacy maps ------------------------------------------------------------------------------------------------


def _legacy(obj: elf.ElfObject, section: elf.Section, table: MapTable) -> None:
    """Section `maps`: type, key_size, value_size, max_entries, flags as u32, one struct a symbol, zero-extended.

    iproute2's longer struct goes on with id, pinning, inner_id, inner_idx.
    """
    symbols = [s for s in obj.symbols_in(section, elf.STT_OBJECT, elf.STT_NOTYPE) if s.name]
    if not symbols:
        return
    stride = section.size // len(symbols)
    if stride < 16 or section.size % len(symbols):
        raise BadObject(f"{section.size} bytes are not {len(symbols)} map definitions", where=f"section {section.name}")
    order = ">" if obj.big_endian else "<"
    for symbol in symbols:
        raw = section.data[symbol.value : symbol.value + min(stride, 36)].ljust(36, b"\0")
        kind, key, value, entries, flags, _id, pinning, inner_id, _inner = struct.unpack(order + "9I", raw)
        inner = kind in _MAP_IN_MAP or inner_id
        problem = f"map {symbol.name!r}: legacy maps of maps are not supported" if inner else ""
        table.by_place[section.number, symbol.value] = len(table.rows)
        pinning = 1 if pinning and stride >= 36 else 0
        table.rows.append(
            ix.Map(symbol.name, kind, key, value, entries, flags, 0, -1, 0, 0, -1, pinning, -1, 0, problem)
        )


def resolve_program_slots(table: MapTable, program_rows: dict[int, int]) -> None:
    """Turn the symbol numbers of program slots into rows of PROGRAMS."""
    for slot in table.slots:
        if slot.kind == ix.SLOT_PROG:
            if slot.ref not in program_rows:
                raise BadObject(
                    f"slot {slot.key} names a function that is not a program",
                    where=f"map {table.rows[slot.map].name!r}",
                )
            slot.ref = program_rows[slot.ref]
