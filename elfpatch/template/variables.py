"""The globals of an object: where they are, what type they have, and whether setting them changes anything.

The symbol table decides where a variable is; BTF says what it is and must agree. clang leaves offsets and sizes of
global variables 0 in BTF, GNU C all offsets, so only what is there is compared.
"""

from __future__ import annotations

from bisect import bisect_right

from attrs import frozen

from elfpatch import index as ix
from elfpatch.errors import BadObject
from elfpatch.template import btf as bt
from elfpatch.template import elf
from elfpatch.template.types import TypeTable

SECTION_KINDS = (
    (".kconfig", ix.SECTION_KCONFIG),
    (".rodata", ix.SECTION_RODATA),
    (".data", ix.SECTION_DATA),
    (".bss", ix.SECTION_BSS),
)


def data_section_kind(section: elf.Section) -> int | None:
    """The kind of a data section as libbpf sees it, or None: `.data`, `.data.*` and the like for .rodata and .bss."""
    if section.executable or section.type not in (elf.SHT_PROGBITS, elf.SHT_NOBITS):
        return None
    for name, kind in SECTION_KINDS:
        if section.name == name or section.name.startswith(name + "."):
            return kind
    return None


@frozen
class Reference:
    """An instruction that takes the address of a byte of a data section."""

    section: int
    offset: int


@frozen
class Described:
    """What BTF says of one variable."""

    type: int  # of the VAR
    ref: int  # of what it holds
    size: int  # 0: not said
    static: bool


def collect(
    obj: elf.ElfObject,
    btf: bt.Btf | None,
    rows: dict[int, int],
    references: list[Reference],
    types: TypeTable,
    keys: set[int],
) -> list[ix.Variable]:
    """The variables of all data sections. `rows` gives the index row of a section by its number, `keys` the numbers of
    symbols that are static keys."""
    found = []
    for section in obj.sections:
        if section.number not in rows:
            continue
        symbols = [s for s in obj.symbols_in(section, elf.STT_OBJECT) if s.name]
        if btf is None:  # GNU as and old clang leave assembler-made data without a type
            symbols += [s for s in obj.symbols_in(section, elf.STT_NOTYPE) if s.name and s.size]
        described = describe(btf, section, symbols) if btf else {}
        live = _live(section, symbols, references)
        kind = data_section_kind(section)
        for symbol in symbols:
            if symbol.number in keys:
                continue
            found.append(
                _variable(
                    obj, btf, section, kind, rows[section.number], symbol, described.get(symbol.number), types, live
                )
            )
    return found


def describe(btf: bt.Btf, section: elf.Section, symbols: list[elf.Symbol]) -> dict[int, Described]:
    """BTF's view of a section's variables, by symbol number. Raises BadObject when it contradicts the symbols."""
    by_name: dict[str, list[elf.Symbol]] = {}
    for symbol in symbols:
        by_name.setdefault(symbol.name, []).append(symbol)
        stem, _, suffix = symbol.name.rpartition(".")
        if stem and suffix.isdigit():  # GNU C numbers the statics of functions: `var.0`
            by_name.setdefault(stem, []).append(symbol)
    found: dict[int, Described] = {}
    for datasec in btf.of_kind(bt.DATASEC):
        if datasec.name != section.name:
            continue
        if datasec.size and datasec.size != section.size:
            raise BadObject(
                f"BTF gives the section {datasec.size} bytes, ELF {section.size}", where=f"section {section.name}"
            )
        # A linker fills in size and offsets; clang leaves the size 0 and the offsets of globals, GNU C all offsets.
        laid_out = datasec.size > 0 and any(row.offset for row in datasec.variables)
        for row in datasec.variables:
            var = btf.type(row.type)
            if var.kind != bt.VAR:
                continue
            matching = _matching(var, row, by_name.get(var.name, []), found, laid_out=laid_out)
            if matching is None:
                continue
            size = _checked_size(btf, section, var, matching)
            if row.offset != matching.value and (row.offset or laid_out):
                raise BadObject(
                    f"BTF puts it at offset {row.offset}, the symbol table at {matching.value}",
                    where=f"variable {var.name!r} in {section.name}",
                )
            found[matching.number] = Described(var.id, var.ref, size, var.linkage == bt.VAR_STATIC)
    return found


def _matching(
    var: bt.BtfType, row: bt.BtfVarSec, candidates: list[elf.Symbol], taken: dict[int, Described], *, laid_out: bool
) -> elf.Symbol | None:
    free = [symbol for symbol in candidates if symbol.number not in taken]
    exact = [symbol for symbol in free if symbol.name == var.name] or free
    if len(exact) > 1:  # statics of one name: only the offset can tell, and only where the linker has filled it in
        return next((symbol for symbol in exact if symbol.value == row.offset), None if laid_out else exact[0])
    return exact[0] if exact else None


def _checked_size(btf: bt.Btf, section: elf.Section, var: bt.BtfType, symbol: elf.Symbol) -> int:
    where = f"variable {var.name!r} in {section.name}"
    size = btf.size_of(var.ref)
    flexible = _ends_flexibly(btf, var.ref)
    if symbol.size and size != symbol.size and not (flexible and symbol.size > size):
        raise BadObject(f"BTF gives it {size} bytes, the symbol table {symbol.size}", where=where)
    return size


def _ends_flexibly(btf: bt.Btf, number: int) -> bool:
    record = btf.strip(number)
    if record is None or record.kind != bt.STRUCT or not record.members:
        return False
    last = btf.strip(record.members[-1].type)
    return last is not None and last.kind == bt.ARRAY and last.count == 0


def _live(section: elf.Section, symbols: list[elf.Symbol], references: list[Reference]) -> set[int]:
    """The symbols that some instruction refers to."""
    starts = [symbol.value for symbol in symbols]
    found = set()
    for reference in references:
        if reference.section != section.number:
            continue
        at = bisect_right(starts, reference.offset)
        while at > 0:
            symbol = symbols[at - 1]
            if symbol.value <= reference.offset < symbol.value + max(symbol.size, 1):
                found.add(symbol.number)
            elif symbol.value + symbol.size < reference.offset:
                break
            at -= 1
    return found


def _variable(
    obj: elf.ElfObject,
    btf: bt.Btf | None,
    section: elf.Section,
    kind: int | None,
    row: int,
    symbol: elf.Symbol,
    described: Described | None,
    types: TypeTable,
    live: set[int],
) -> ix.Variable:
    flags = ix.STATIC if symbol.binding == elf.STB_LOCAL else 0
    if symbol.number in live:
        flags |= ix.LIVE
    type_row = meta_row = -1
    required = False
    size = symbol.size
    if described and btf:
        flags |= ix.IMMEDIATE if types.tagged(described.type, "immediate") else 0
        flags |= ix.VOLATILE if btf.qualified(described.ref, bt.VOLATILE) else 0
        flags |= ix.CONST if btf.qualified(described.ref, bt.CONST) else 0
        type_row = types.row(described.ref)
        meta_row = types.meta(described.type)
        required = types.has_required(described.type, described.ref)
        size = size or described.size
    why_not = _why_not(kind, flags, described is not None, size)
    if not why_not:
        flags |= ix.SETTABLE
    default = b""
    if required:
        default = section.data[symbol.value : symbol.value + size] if section.has_bytes else bytes(size)
    return ix.Variable(symbol.name, row, symbol.value, size, type_row, flags, meta_row, why_not, default)


def _why_not(kind: int | None, flags: int, typed: bool, size: int) -> str:
    if kind == ix.SECTION_KCONFIG:
        return "it is filled in from the kernel's configuration"
    if not size:
        return "its symbol has no size"
    if typed and flags & ix.CONST and not flags & ix.VOLATILE:
        return (
            "it is const without volatile: the compiler has folded its value into the code (declare it const volatile)"
        )
    if not flags & ix.LIVE:
        return "no instruction refers to it, so setting it would change nothing (unused, or folded by the compiler)"
    return ""
