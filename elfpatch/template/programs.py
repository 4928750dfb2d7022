"""Functions -> kernel-ready programs.

Every function of every executable section is found by its symbol. An entry program is a function of a section other
than `.text`; the functions that it calls, or whose address it takes, are appended to it one after another, as the
kernel wants a program and its subprograms in one array. Then calls are given their distances, relocations are carried
out, and func_info, line_info and core_relos are moved along.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import itemgetter
from typing import Literal

from attrs import define, frozen

from elfpatch import index as ix
from elfpatch import insn as isa
from elfpatch.errors import BadObject
from elfpatch.template import btf as bt
from elfpatch.template import elf
from elfpatch.template.maps import MapTable
from elfpatch.template.sections import section_type
from elfpatch.template.variables import Reference


@frozen
class Function:
    """A function: instructions [start, end) of its section, counted in 8-byte slots."""

    name: str
    symbol: int
    section: elf.Section
    start: int
    end: int


@frozen
class DataPlace:
    """An LD_IMM64 of a function that takes the address of byte `offset` of data section row `data`."""

    function: Function
    slot: int
    data: int
    offset: int


@define
class Linked:
    """A program while it is put together. `places` gives the slot where each function starts."""

    code: bytearray
    places: dict[Function, int]
    fixups: list[ix.Fixup]


class Records:
    """Records of .BTF.ext, to be found by the byte offset of their instruction."""

    def __init__(self, records: bt.ExtRecords, order: Literal["big", "little"]) -> None:
        self._rows: dict[str, list[bytes]] = {}
        self._offsets: dict[str, list[int]] = {}
        for section, rows in records.sections.items():
            numbered = sorted(((int.from_bytes(row[:4], order), row) for row in rows), key=itemgetter(0))
            self._offsets[section] = [offset for offset, _ in numbered]
            self._rows[section] = [row for _, row in numbered]

    def between(self, section: str, start: int, end: int) -> list[bytes]:
        """The records of the instructions from `start` and before `end`."""
        offsets = self._offsets.get(section, [])
        return self._rows.get(section, [])[bisect_left(offsets, start) : bisect_left(offsets, end)]


class Linker:
    """Puts the programs of one object together."""

    def __init__(
        self, obj: elf.ElfObject, ext: bt.BtfExt | None, maps: MapTable, data_sections: dict[int, int]
    ) -> None:
        """`data_sections`: index row by section number."""
        self.obj = obj
        order: Literal["big", "little"] = "big" if obj.big_endian else "little"
        parts = (ext.func_info, ext.line_info, ext.core_relos) if ext else (bt.NO_RECORDS,) * 3
        self._func_info, self._line_info, self._core_relos = (Records(part, order) for part in parts)
        self.maps = maps
        self.data_sections = data_sections
        self.functions = _functions(obj)
        self._by_start = {(f.section.number, f.start): f for f in self.functions}
        # What values do to instructions: the row of SITES or IMMEDIATES by (section number, slot)
        self.sites: dict[tuple[int, int], int] = {}
        self.immediates: dict[tuple[int, int], int] = {}
        self._relocations = {
            (number, relocation.offset // isa.SIZE): relocation
            for number, relocations in obj.relocations.items()
            if obj.sections[number].executable
            for relocation in relocations
        }

    def entries(self) -> list[Function]:
        """The functions that are programs of their own."""
        return [function for function in self.functions if function.section.name != ".text"]

    def references(self) -> list[Reference]:
        """Every place of a data section whose address some instruction, or initialised data, takes."""
        found = []
        for number, relocations in self.obj.relocations.items():
            section = self.obj.sections[number]
            if section.name == ".jump_table":  # it names keys, which nobody reads
                continue
            for relocation in relocations:
                if relocation.symbol.section not in self.data_sections:
                    continue
                addend = self._addend(section, relocation)
                found.append(Reference(relocation.symbol.section, relocation.symbol.value + addend))
        return found

    def data_places(self) -> list[DataPlace]:
        """Every LD_IMM64 that takes the address of a byte of a data section."""
        found = []
        for function in self.functions:
            for relocation in self._relocated(function):
                slot = relocation.offset // isa.SIZE
                if relocation.type != elf.R_BPF_64_64 or self._is_kconfig(relocation.symbol):
                    continue
                data = self.data_sections.get(relocation.symbol.section)
                if data is not None and function.section.data[slot * isa.SIZE] == isa.LD_IMM64:
                    addend = self._addend(function.section, relocation)
                    found.append(DataPlace(function, slot, data, relocation.symbol.value + addend))
        return found

    def _relocated(self, function: Function) -> list[elf.Relocation]:
        """The relocations of a function, which are sorted by offset."""
        found = self.obj.relocations.get(function.section.number, [])
        first = bisect_left(found, function.start * isa.SIZE, key=_offset_of)
        return found[first : bisect_left(found, function.end * isa.SIZE, key=_offset_of)]

    def relocation_at(self, section: int, slot: int) -> elf.Relocation | None:
        """The relocation of an instruction, by section number and slot."""
        return self._relocations.get((section, slot))

    def callee_name(self, function: Function, slot: int) -> str:
        """What the call at a slot of the function's section calls, in words."""
        insn = isa.decode(function.section.data, slot, big_endian=self.obj.big_endian)
        if not insn.src:
            from elfpatch.helpers import helper_name

            return helper_name(insn.imm) or f"helper {insn.imm}"
        relocation = self._relocations.get((function.section.number, slot))
        if insn.src != isa.PSEUDO_CALL:
            return relocation.symbol.name if relocation else "a kernel function"
        try:
            target = self._callee(function, slot, insn, relocation, "")
        except BadObject:
            return "a function"
        return target if isinstance(target, str) else target.name

    def _addend(self, section: elf.Section, relocation: elf.Relocation) -> int:
        """What stands in the relocated field, without the symbol's value."""
        order = ">" if self.obj.big_endian else "<"
        if section.executable:
            if relocation.offset + isa.SIZE > section.size:
                raise BadObject("it is cut off", where=f"relocation at {section.name}+{relocation.offset:#x}")
            (addend,) = struct.unpack_from(order + "i", section.data, relocation.offset + 4)
        elif relocation.type == elf.R_BPF_64_ABS64 and relocation.offset + 8 <= section.size:
            (addend,) = struct.unpack_from(order + "q", section.data, relocation.offset)
        elif relocation.offset + 4 <= section.size:
            (addend,) = struct.unpack_from(order + "i", section.data, relocation.offset)
        else:
            return 0
        number = int(addend)
        if self.obj.addend_has_value and relocation.symbol.type != elf.STT_SECTION:
            number -= relocation.symbol.value
        return number

    # --- one program --------------------------------------------------------------------------------------------

    def link(self, entry: Function) -> Linked:
        linked = Linked(bytearray(), {}, [])
        pending = [entry]
        calls: list[tuple[int, Function]] = []
        while pending:
            function = pending.pop()
            if function in linked.places:
                continue
            at = len(linked.code) // isa.SIZE
            linked.places[function] = at
            linked.code += function.section.data[function.start * isa.SIZE : function.end * isa.SIZE]
            found = self._complete(linked, function, at)
            calls += found
            # libbpf's order, so that the program's tag is the same: each callee with all that it calls, then the next
            pending += (target for _, target in reversed(found))
        for slot, target in calls:
            instruction = isa.decode(linked.code, slot, big_endian=self.obj.big_endian)
            instruction.imm = linked.places[target] - slot - 1
            isa.encode_into(linked.code, slot, instruction, big_endian=self.obj.big_endian)
        return linked

    def _complete(self, linked: Linked, function: Function, at: int) -> list[tuple[int, Function]]:
        """Carry out the relocations of a function placed at slot `at`; the slots that refer to functions come back."""
        calls = []
        for slot in self._concerned(function):
            instruction = isa.decode(function.section.data, slot, big_endian=self.obj.big_endian)
            relocation = self._relocations.get((function.section.number, slot))
            placed = at + slot - function.start
            place = (function.section.number, slot)
            if place in self.sites:
                linked.fixups.append(ix.Fixup(placed, ix.FIXUP_SITE, self.sites[place], ""))
            if place in self.immediates:
                linked.fixups.append(ix.Fixup(placed, ix.FIXUP_IMMEDIATE, self.immediates[place], ""))
                relocation = None
            where = f"{function.section.name}:{function.name} instruction {slot - function.start}"
            if instruction.opcode == isa.CALL and instruction.src == isa.PSEUDO_CALL:
                target = self._callee(function, slot, instruction, relocation, where)
                if isinstance(target, Function):
                    calls.append((placed, target))
                else:
                    linked.fixups.append(ix.Fixup(placed, ix.FIXUP_EXTERN, -1, target))
            elif instruction.opcode == isa.LD_IMM64:
                if slot + 1 >= function.end:
                    raise BadObject("an LD_IMM64 is cut off by the function's end", where=where)
                if relocation is not None:
                    pointed = self._address(linked, placed, instruction, relocation, where)
                    if pointed is not None:
                        calls.append((placed, pointed))
            elif relocation is not None:
                if instruction.opcode != isa.CALL:
                    raise BadObject(
                        f"a relocation of type {relocation.type} for {relocation.symbol.name!r} "
                        f"on opcode {instruction.opcode:#04x}",
                        where=where,
                    )
                linked.fixups.append(ix.Fixup(placed, ix.FIXUP_EXTERN, -1, relocation.symbol.name))
        return calls

    def _concerned(self, function: Function) -> Iterator[int]:
        """The slots of a function that linking has to look at: few, so that the others are never decoded."""
        number = function.section.number
        opcodes = function.section.data[function.start * isa.SIZE : function.end * isa.SIZE : isa.SIZE]
        second = -1
        for slot, opcode in enumerate(opcodes, function.start):
            if slot == second:
                continue
            if opcode == isa.LD_IMM64:
                second = slot + 1
            elif opcode != isa.CALL:
                place = (number, slot)
                if place not in self._relocations and place not in self.sites and place not in self.immediates:
                    continue
            yield slot

    def _callee(
        self, function: Function, slot: int, instruction: isa.Insn, relocation: elf.Relocation | None, where: str
    ) -> Function | str:
        """The function that is called, or the name of an external one."""
        if relocation is None:
            section, start = function.section.number, slot + instruction.imm + 1
        else:
            symbol = relocation.symbol
            if symbol.section == elf.SHN_UNDEF:
                return symbol.name
            addend = instruction.imm
            if self.obj.addend_has_value and symbol.type != elf.STT_SECTION:
                addend -= symbol.value  # in bytes, though the field counts instructions (GNU as 2.40)
            section, start = symbol.section, symbol.value // isa.SIZE + addend + 1
        target = self._by_start.get((section, start))
        if target is None:
            name = self.obj.sections[section].name if section < len(self.obj.sections) else str(section)
            raise BadObject(f"a call to {name}+{start * isa.SIZE:#x}, where no function starts", where=where)
        return target

    def _address(
        self, linked: Linked, placed: int, instruction: isa.Insn, relocation: elf.Relocation, where: str
    ) -> Function | None:
        """Complete an LD_IMM64: a map, a byte of a data map, a function (which is returned), or an external symbol."""
        symbol = relocation.symbol
        if relocation.type != elf.R_BPF_64_64:
            raise BadObject(f"a relocation of type {relocation.type} on an LD_IMM64", where=where)
        big_endian = self.obj.big_endian
        second = isa.decode(linked.code, placed + 1, big_endian=big_endian)
        addend = instruction.imm
        if self.obj.addend_has_value and symbol.type != elf.STT_SECTION:
            addend -= symbol.value
        offset = symbol.value + addend
        instruction.imm = 0
        pointed: Function | None = None
        if symbol.section == elf.SHN_UNDEF or (symbol.section in self.data_sections and self._is_kconfig(symbol)):
            linked.fixups.append(ix.Fixup(placed, ix.FIXUP_EXTERN, -1, symbol.name))
        elif symbol.section in self.data_sections:
            if not 0 <= offset < 1 << 31:
                raise BadObject(f"it takes the address of byte {offset} of the section of {symbol.name!r}", where=where)
            instruction.src, second.imm = isa.PSEUDO_MAP_VALUE, offset
            row = self.maps.by_section.get(symbol.section)
            if row is None:
                raise BadObject(f"it refers to the empty section of {symbol.name!r}", where=where)
            linked.fixups.append(ix.Fixup(placed, ix.FIXUP_MAP_VALUE, row, ""))
        elif (symbol.section, offset) in self.maps.by_place:
            instruction.src, second.imm = isa.PSEUDO_MAP_FD, 0
            linked.fixups.append(ix.Fixup(placed, ix.FIXUP_MAP_FD, self.maps.by_place[symbol.section, offset], ""))
        elif symbol.section < len(self.obj.sections) and self.obj.sections[symbol.section].executable:
            # A function's address, for a callback: counted in instructions from here, like the target of a call
            pointed = self._by_start.get((symbol.section, offset // isa.SIZE))
            if pointed is None:
                raise BadObject("it takes the address of code where no function starts", where=where)
            instruction.src, second.imm = isa.PSEUDO_FUNC, 0
        else:
            name = symbol.name or (
                self.obj.sections[symbol.section].name if symbol.section < len(self.obj.sections) else "?"
            )
            raise BadObject(f"it refers to {name!r}, which is neither a map, data nor a function", where=where)
        isa.encode_into(linked.code, placed, instruction, big_endian=big_endian)
        isa.encode_into(linked.code, placed + 1, second, big_endian=big_endian)
        return pointed

    def _is_kconfig(self, symbol: elf.Symbol) -> bool:
        sections = self.obj.sections
        return symbol.section < len(sections) and sections[symbol.section].name == ".kconfig"

    # --- what the instructions say of themselves ------------------------------------------------------------------

    def func_info(self, linked: Linked) -> bytes:
        """One record a function, or nothing when one lacks it (the kernel wants all or none)."""
        found = []
        for function, place in linked.places.items():
            record = self._record_at(self._func_info, function)
            if record is None:
                return b""
            found.append(self._moved(record, place))
        return b"".join(found)

    def _record_at(self, records: Records, function: Function) -> bytes | None:
        found = records.between(function.section.name, function.start * isa.SIZE, function.start * isa.SIZE + 1)
        return found[0] if found else None

    def line_info(self, linked: Linked) -> bytes:
        return b"".join(
            self._moved(record, place + self._offset(record) // isa.SIZE - function.start)
            for function, place in linked.places.items()
            for record in self._inside(self._line_info, function)
        )

    def core_relos(self, linked: Linked) -> bytes:
        """Unlike the others these count bytes; the kernel wants them so (kernel/bpf/verifier.c: check_core_relo)."""
        return b"".join(
            self._moved(record, self._offset(record) + (place - function.start) * isa.SIZE)
            for function, place in linked.places.items()
            for record in self._inside(self._core_relos, function)
        )

    @staticmethod
    def _inside(records: Records, function: Function) -> list[bytes]:
        return records.between(function.section.name, function.start * isa.SIZE, function.end * isa.SIZE)

    def _offset(self, record: bytes) -> int:
        return int.from_bytes(record[:4], "big" if self.obj.big_endian else "little")

    def _moved(self, record: bytes, offset: int) -> bytes:
        return offset.to_bytes(4, "big" if self.obj.big_endian else "little") + record[4:]

    def _global_functions(self, linked: Linked) -> bytes:
        """Where functions start that the verifier checks on their own, as the kernel-ready BTF has them."""
        starts = [place for function, place in linked.places.items() if place and self._is_global(function)]
        return b"".join(start.to_bytes(4, "little") for start in starts)

    def _is_global(self, function: Function) -> bool:
        symbol = self.obj.symbols[function.symbol]
        return symbol.binding != elf.STB_LOCAL and not symbol.hidden

    def program(self, entry: Function, fixups: list[ix.Fixup]) -> ix.Program:
        """The row of an entry program; its fix-ups are appended to `fixups`."""
        problem = ""
        try:
            linked = self.link(entry)
        except BadObject as error:
            linked, problem = Linked(bytearray(), {}, []), str(error)
        name = entry.section.name
        autoload = not name.startswith("?")
        name = name.removeprefix("?")
        kind = section_type(name)
        flags = (
            (ix.AUTOLOAD if autoload else 0) | (ix.SLEEPABLE if kind.sleepable else 0) | (ix.FRAGS if kind.frags else 0)
        )
        first = len(fixups)
        fixups.extend(linked.fixups)
        return ix.Program(
            entry.name,
            name,
            kind.prog_type,
            kind.attach_type,
            flags,
            name.partition("/")[2],
            bytes(linked.code),
            self.func_info(linked),
            self.line_info(linked),
            self.core_relos(linked),
            self._global_functions(linked),
            first,
            len(linked.fixups),
            problem,
        )


def _offset_of(relocation: elf.Relocation) -> int:
    return relocation.offset


def _functions(obj: elf.ElfObject) -> list[Function]:
    found = []
    for section in obj.sections:
        if not section.executable or not section.size:
            continue
        if section.size % isa.SIZE:
            raise BadObject(f"{section.size} bytes are not whole instructions", where=f"section {section.name}")
        symbols = [s for s in obj.symbols_in(section, elf.STT_FUNC) if s.name]
        if not symbols:  # assembler and very old compilers leave functions untyped
            symbols = [s for s in obj.symbols_in(section, elf.STT_NOTYPE) if s.name and s.binding != elf.STB_LOCAL]
        starts = [symbol.value // isa.SIZE for symbol in symbols]
        for symbol in symbols:
            where = f"function {symbol.name!r} in {section.name}"
            if symbol.value % isa.SIZE or symbol.size % isa.SIZE:
                raise BadObject("it does not start and end between instructions", where=where)
            start = symbol.value // isa.SIZE
            later = bisect_right(starts, start)
            after = starts[later] if later < len(starts) else section.size // isa.SIZE
            end = start + symbol.size // isa.SIZE if symbol.size else after
            found.append(Function(symbol.name, symbol.number, section, start, end))
    return found
