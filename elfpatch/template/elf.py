"""An eBPF object as ELF: sections, symbols and relocations, read once by lief and checked.

lief accepts files that are truncated or contradict themselves, so everything that the rest relies on is checked here:
what comes out has sections inside the file, symbols inside their sections, relocations that name symbols.
"""

from __future__ import annotations

import struct
import warnings
from functools import cached_property
from typing import Any

from attrs import frozen

from elfpatch.errors import BadObject

EM_NONE, EM_BPF = 0, 247
ET_REL = 1
SHT_PROGBITS, SHT_NOBITS = 1, 8
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION = 0, 1, 2, 3
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STV_INTERNAL, STV_HIDDEN = 1, 2

R_BPF_64_64, R_BPF_64_ABS64, R_BPF_64_ABS32, R_BPF_64_NODYLD32, R_BPF_64_32 = 1, 2, 3, 4, 10

# lief numbers relocation types with the architecture in the upper bits
_LIEF_TYPE_MASK = 0x07FF_FFFF


@frozen
class Section:
    number: int
    name: str
    type: int
    flags: int
    offset: int
    size: int
    data: bytes

    @property
    def executable(self) -> bool:
        return self.type == SHT_PROGBITS and bool(self.flags & SHF_EXECINSTR)

    @property
    def has_bytes(self) -> bool:
        return self.type != SHT_NOBITS


@frozen
class Symbol:
    number: int
    name: str
    type: int
    binding: int
    visibility: int
    section: int  # section number, 0 undefined, 0xff00 and up special
    value: int
    size: int

    @property
    def hidden(self) -> bool:
        return self.visibility in (STV_INTERNAL, STV_HIDDEN)


@frozen
class Relocation:
    offset: int  # in the section, bytes
    type: int
    symbol: Symbol


@frozen
class ElfObject:
    data: bytes
    big_endian: bool
    sections: list[Section]
    symbols: list[Symbol]
    relocations: dict[int, list[Relocation]]  # by section number, sorted by offset; debug sections left out
    compiler: str
    # GNU as puts the symbol's value into the addend; the ELF specification and LLVM leave it out
    addend_has_value: bool

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((section for section in self.sections if section.name == name), None)

    def symbols_in(self, section: Section, *types: int) -> list[Symbol]:
        """The symbols of these types that are defined in a section, sorted by value."""
        found = [symbol for symbol in self._by_section.get(section.number, ()) if symbol.type in types]
        return sorted(found, key=lambda symbol: symbol.value)

    @cached_property
    def _by_section(self) -> dict[int, list[Symbol]]:
        found: dict[int, list[Symbol]] = {}
        for symbol in self.symbols:
            found.setdefault(symbol.section, []).append(symbol)
        return found


def parse(data: bytes) -> ElfObject:
    """Read an object. Raises BadObject when it is not a well-formed relocatable eBPF ELF file."""
    big_endian = _check_header(data)
    import lief

    lief.logging.disable()
    config = lief.ELF.ParserConfig()
    config.count_mtd = lief.ELF.ParserConfig.DYNSYM_COUNT.SECTION
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # types 11 and 12 of bpf-gcc are unknown to lief
        binary = lief.ELF.parse(data, config)
        if not isinstance(binary, lief.ELF.Binary):
            raise BadObject("the file cannot be read as ELF")
        sections = [_section(number, section, data) for number, section in enumerate(binary.sections)]
        symbols = [_symbol(number, symbol, sections) for number, symbol in enumerate(binary.symtab_symbols)]
        relocations = _relocations(binary, sections, symbols)
    comment = next((section.data for section in sections if section.name == ".comment"), b"")
    compiler = comment.strip(b"\0").split(b"\0")[0].decode("utf-8", "replace") or _producer(sections)
    return ElfObject(data, big_endian, sections, symbols, relocations, compiler, "GCC:" in compiler)


def _check_header(data: bytes) -> bool:
    """True for a big-endian object; BadObject for what is not ELF64, relocatable, eBPF and whole."""
    if data[:4] != b"\x7fELF":
        raise BadObject("not an ELF file", hint="an eBPF object is made by `clang --target=bpf -c`")
    if len(data) < 64:
        raise BadObject(f"truncated: {len(data)} bytes are less than an ELF header")
    if data[4] == 1:
        raise BadObject("a 32-bit ELF file: eBPF objects are 64-bit")
    if data[4] != 2 or data[5] not in (1, 2):
        raise BadObject("the ELF header names no known class or byte order")
    order = "<" if data[5] == 1 else ">"
    kind, machine = struct.unpack_from(order + "HH", data, 16)
    if machine not in (EM_BPF, EM_NONE):
        raise BadObject(f"an object for machine {machine}, not for eBPF ({EM_BPF})", hint="use `clang --target=bpf`")
    if kind != ET_REL:
        raise BadObject(f"ELF type {kind} is not a relocatable object", hint="use `clang --target=bpf -c`")
    (table,) = struct.unpack_from(order + "Q", data, 40)
    entry_size, count, names = struct.unpack_from(order + "HHH", data, 58)
    if not table or not count or entry_size != 64:
        raise BadObject("the file has no section headers")
    if table + entry_size * count > len(data):
        raise BadObject(
            f"truncated: section headers end at byte {table + entry_size * count}, the file has {len(data)}"
        )
    if names >= count:
        raise BadObject(f"the section names are in section {names} of {count}")
    return order == ">"


def _number(value: Any) -> int:
    """The number of a lief enumeration; lief gives values that it does not know as plain integers."""
    return int(getattr(value, "value", value))


def _section(number: int, section: object, data: bytes) -> Section:
    import lief

    assert isinstance(section, lief.ELF.Section)
    kind, offset, size = _number(section.type), section.offset, section.size
    name = str(section.name)
    if kind == SHT_NOBITS and size >= 1 << 32:
        raise BadObject(f"{size} bytes are more than a map's value can have", where=f"section {name}")
    if kind == SHT_NOBITS or number == 0:
        return Section(number, name, kind, _number(section.flags), offset, size, b"")
    if offset + size > len(data):
        raise BadObject(
            f"truncated: it ends at byte {offset + size}, the file has {len(data)}", where=f"section {name}"
        )
    return Section(number, name, kind, _number(section.flags), offset, size, data[offset : offset + size])


def _symbol(number: int, symbol: object, sections: list[Section]) -> Symbol:
    import lief

    assert isinstance(symbol, lief.ELF.Symbol)
    made = Symbol(
        number,
        str(symbol.name),
        _number(symbol.type),
        _number(symbol.binding),
        _number(symbol.visibility),
        symbol.shndx,
        symbol.value,
        symbol.size,
    )
    if SHN_UNDEF < made.section < SHN_LORESERVE:
        if made.section >= len(sections):
            raise BadObject(f"it is in section {made.section} of {len(sections)}", where=f"symbol {made.name!r}")
        section = sections[made.section]
        if made.type in (STT_OBJECT, STT_FUNC) and made.value + made.size > section.size:
            raise BadObject(
                f"it ends at byte {made.value + made.size} of section {section.name}, which has {section.size}",
                where=f"symbol {made.name!r}",
            )
    return made


def _relocations(binary: object, sections: list[Section], symbols: list[Symbol]) -> dict[int, list[Relocation]]:
    import lief

    assert isinstance(binary, lief.ELF.Binary)
    wanted = {s.number: s for s in sections if s.flags & SHF_ALLOC or s.executable or s.name.startswith(".struct_ops")}
    by_offset = {s.offset: s.number for s in sections if s.number in wanted and s.size and s.has_bytes}
    found: dict[int, list[Relocation]] = {}
    for relocation in binary.relocations:
        target = relocation.section
        number = by_offset.get(target.offset) if target is not None else None
        if target is None or number is None or sections[number].name != target.name:
            continue
        if relocation.info >= len(symbols):
            raise BadObject(
                f"it names symbol {relocation.info} of {len(symbols)}",
                where=f"relocation at {sections[number].name}+{relocation.address:#x}",
            )
        if relocation.address >= sections[number].size:
            raise BadObject(
                f"it lies outside the section of {sections[number].size} bytes",
                where=f"relocation at {sections[number].name}+{relocation.address:#x}",
            )
        made = Relocation(relocation.address, _number(relocation.type) & _LIEF_TYPE_MASK, symbols[relocation.info])
        found.setdefault(number, []).append(made)
    for relocations in found.values():
        relocations.sort(key=lambda relocation: relocation.offset)
    return found


def _producer(sections: list[Section]) -> str:
    """The compiler's own words in the debug strings, where clang leaves them; "" when there are none."""
    strings = next((section.data for section in sections if section.name == ".debug_str"), b"")
    return next((text.decode("utf-8", "replace") for text in strings.split(b"\0") if b"clang version" in text), "")
