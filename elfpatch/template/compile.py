"""An object -> its index. Deterministic, needs no privilege, never touches the kernel."""

from __future__ import annotations

from elfpatch import index as ix
from elfpatch.errors import BadObject
from elfpatch.template import btf as bt
from elfpatch.template import elf
from elfpatch.template import maps as mp
from elfpatch.template.programs import Linker
from elfpatch.template.types import TypeTable
from elfpatch.template.variables import collect, data_section_kind, describe


def compile_object(data: bytes, stem: str, *, replace_stale: bool = False) -> bytes:
    """The index of an object, without trailer. `stem`: the object's file name without its ending; it names the maps.

    Raises BadObject when the object is not one that elfpatch can use; unless `replace_stale`, also when it carries a
    section `.elfpatch`, which then was not made of what the object is now.
    """
    obj = elf.parse(data)
    if not replace_stale and obj.section(".elfpatch") is not None:
        raise BadObject(
            "its index is stale: another tool has rewritten the object since",
            where="section .elfpatch",
            hint="make it anew with `elfpatch build`",
        )
    btf, ext = _read_btf(obj)
    kinds = {s.number: kind for s in obj.sections if (kind := data_section_kind(s)) is not None}
    rows = {number: row for row, number in enumerate(kinds)}
    map_table = mp.collect(obj, btf, rows, kinds, stem)
    linker = Linker(obj, ext, map_table, rows)
    gnu, clang = _gnu_version(obj.compiler), _clang_version(obj.compiler)
    types = TypeTable(btf, dimensions_reversed=0 < gnu < 14, enum_signs_missing=0 < gnu < 13 or 0 < clang < 15)
    variables = collect(obj, btf, rows, linker.references(), types)
    fixups: list[ix.Fixup] = []
    entries = linker.entries()
    programs = [linker.program(entry, fixups) for entry in entries]
    mp.resolve_program_slots(map_table, {entry.symbol: row for row, entry in enumerate(entries)})
    sections = [
        ix.Section(
            section.name,
            kinds[section.number],
            section.offset,
            section.size,
            int(section.has_bytes),
            map_table.by_section.get(section.number, -1),
        )
        for section in (obj.sections[number] for number in kinds)
    ]
    info = ix.Info(
        stem,
        _license(obj),
        _version(obj),
        _kernel_btf(obj, btf, kinds),
        ext.func_info.rec_size if ext else 0,
        ext.line_info.rec_size if ext else 0,
        ext.core_relos.rec_size if ext else 0,
        obj.compiler,
    )
    tables: dict[type[ix.Row], list[ix.Row]] = {
        ix.Info: [info],
        ix.Section: [*sections],
        ix.Variable: [*variables],
        ix.Type: [*types.types],
        ix.Member: [*types.members],
        ix.Enumerator: [*types.enumerators],
        ix.Meta: [*types.metas],
        ix.Map: [*map_table.rows],
        ix.Slot: [*map_table.slots],
        ix.Program: [*programs],
        ix.Fixup: [*fixups],
        ix.Mask: [*_masks(sections, variables)],
        ix.Note: [ix.Note(text) for text in _notes(obj, kinds)],
    }
    return ix.encode(tables, big_endian=obj.big_endian, elf_header=data[: ix.ELF_HEADER_SIZE], object_data=data)


def _read_btf(obj: elf.ElfObject) -> tuple[bt.Btf | None, bt.BtfExt | None]:
    section, extra = obj.section(".BTF"), obj.section(".BTF.ext")
    if section is None or not section.data:
        return None, None
    btf = bt.Btf(section.data, obj.big_endian)
    return btf, bt.parse_ext(extra.data, btf) if extra is not None and extra.data else None


def _kernel_btf(obj: elf.ElfObject, btf: bt.Btf | None, kinds: dict[int, int]) -> bytes:
    if btf is None or obj.big_endian:  # big-endian objects are patched, never loaded here
        return b""
    layout: dict[str, dict[int, int]] = {}
    sizes: dict[str, int] = {}
    for section in obj.sections:
        if not section.flags & elf.SHF_ALLOC or section.executable or not section.size:
            continue
        symbols = [s for s in obj.symbols_in(section, elf.STT_OBJECT) if s.name]
        by_number = {symbol.number: symbol for symbol in symbols}
        layout[section.name] = {
            described.type: by_number[number].value for number, described in describe(btf, section, symbols).items()
        }
        sizes[section.name] = section.size
    hidden = {s.name for s in obj.symbols if s.type == elf.STT_FUNC and s.hidden}
    return bt.kernel_ready(btf, layout, sizes, hidden)


def _gnu_version(compiler: str) -> int:
    """12 of `GCC: (12.2.0-14+deb12u1+) 12.2.0`; 0 for other compilers."""
    if not compiler.startswith("GCC:"):
        return 0
    major = compiler.rpartition(" ")[2].partition(".")[0]
    return int(major) if major.isascii() and major.isdigit() else 0


def _clang_version(compiler: str) -> int:
    """19 of `Debian clang version 19.1.7 (3~deb12u1)`; 0 for other compilers."""
    major = compiler.partition("clang version ")[2].partition(".")[0]
    return int(major) if major.isascii() and major.isdigit() else 0


def _license(obj: elf.ElfObject) -> str:
    section = obj.section("license")
    return section.data.split(b"\0")[0].decode("utf-8", "replace") if section else ""


def _version(obj: elf.ElfObject) -> int:
    section = obj.section("version")
    if section is None or len(section.data) < 4:
        return 0
    return int.from_bytes(section.data[:4], "big" if obj.big_endian else "little")


def _masks(sections: list[ix.Section], variables: list[ix.Variable]) -> list[ix.Mask]:
    """The file ranges of settable variables, merged where they touch."""
    spans = sorted(
        (sections[v.section].file_offset + v.offset, v.size)
        for v in variables
        if v.flags & ix.SETTABLE and sections[v.section].has_bytes
    )
    masks: list[ix.Mask] = []
    for start, size in spans:
        if masks and start <= masks[-1].offset + masks[-1].size:
            masks[-1].size = max(masks[-1].size, start + size - masks[-1].offset)
        else:
            masks.append(ix.Mask(start, size))
    return masks


def _notes(obj: elf.ElfObject, kinds: dict[int, int]) -> list[str]:
    notes = []
    for number in kinds:
        for relocation in obj.relocations.get(number, []):
            notes.append(
                f"{obj.sections[number].name}+{relocation.offset:#x} holds the address of "
                f"{relocation.symbol.name or obj.sections[relocation.symbol.section].name!r}: no loader fills it in"
            )
    return notes


def require_object(data: bytes, path: str) -> None:
    """Raise BadObject, naming the file, when these bytes are not an eBPF object."""
    try:
        elf.parse(data)
    except BadObject as error:
        error.where = f"{path}: {error.where}" if error.where else path
        raise
