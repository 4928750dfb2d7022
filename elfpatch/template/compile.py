"""An object -> its index. Deterministic, needs no privilege, never touches the kernel."""

from __future__ import annotations

from elfpatch import index as ix
from elfpatch import insn as isa
from elfpatch.code import site_bytes, site_size
from elfpatch.errors import BadObject
from elfpatch.template import btf as bt
from elfpatch.template import elf, immediates, keys
from elfpatch.template import maps as mp
from elfpatch.template.lines import Lines
from elfpatch.template.programs import Linker
from elfpatch.template.trim import trim
from elfpatch.template.types import TypeTable
from elfpatch.template.variables import collect, data_section_kind, describe


def compile_object(data: bytes, stem: str, *, replace_stale: bool = False, asked: tuple[str, ...] = ()) -> bytes:
    """The index of an object, without trailer. `stem`: the object's file name without its ending; it names the maps.
    `asked`: names of variables that are to be immediates though they are not declared so.

    Raises BadValue when one of `asked` does not exist, BadObject when the object is not one that elfpatch can use or,
    unless `replace_stale`, carries a section `.elfpatch`, which then was not made of what the object is now.
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
    sections = [
        ix.Section(s.name, kinds[s.number], s.offset, s.size, int(s.has_bytes), map_table.by_section.get(s.number, -1))
        for s in (obj.sections[number] for number in kinds)
    ]
    lines = Lines(btf, ext)
    key_table = keys.collect(obj, btf, lines, linker.functions, types, len(sections))
    sections += key_table.sections
    variables = collect(obj, btf, rows, linker.references(), types, key_table.symbols) + key_table.variables
    held = immediates.collect(linker, lines, variables, types.types, asked)
    variables.sort(key=lambda variable: (variable.name, variable.section, variable.offset))
    numbers = {id(variable): number for number, variable in enumerate(variables)}
    for site, owner in zip(key_table.sites, key_table.owners, strict=True):
        site.variable = numbers[id(owner)]
    for row, owner in zip(held.rows, held.owners, strict=True):
        row.variable = numbers[id(owner)]
    linker.sites, linker.immediates = key_table.by_place, held.by_place
    fixups: list[ix.Fixup] = []
    entries = linker.entries()
    programs = [linker.program(entry, fixups) for entry in entries]
    _without_states(programs, fixups, key_table.sites, obj.big_endian)
    mp.resolve_program_slots(map_table, {entry.symbol: row for row, entry in enumerate(entries)})
    info = ix.Info(
        stem,
        _license(obj),
        _version(obj),
        b"",
        ext.func_info.rec_size if ext else 0,
        ext.line_info.rec_size if ext else 0,
        ext.core_relos.rec_size if ext else 0,
        obj.compiler,
    )
    if btf is not None:
        trim(_kernel_btf(obj, btf), btf, info, programs, map_table.rows)
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
        ix.Site: [*key_table.sites],
        ix.Immediate: [*held.rows],
        ix.Rewrite: [*held.rewrites],
        ix.Mask: [*_masks(sections, variables, key_table.sites, held)],
        ix.Note: [ix.Note(text) for text in _notes(obj, kinds)],
    }
    return ix.encode(tables, big_endian=obj.big_endian, elf_header=data[: ix.ELF_HEADER_SIZE], object_data=data)


def _without_states(programs: list[ix.Program], fixups: list[ix.Fixup], sites: list[ix.Site], big: bool) -> None:
    """Bring branch sites into one form, whatever the object's keys are: values live in the object's own bytes, and an
    index made of a patched template is the one that was made of the template."""
    for program in programs:
        code = bytearray(program.insns)
        for fixup in fixups[program.first_fixup : program.first_fixup + program.fixups]:
            if fixup.kind == ix.FIXUP_SITE:
                raw = site_bytes(sites[fixup.ref], False, big)
                code[fixup.insn * isa.SIZE : fixup.insn * isa.SIZE + len(raw)] = raw
        program.insns = bytes(code)


def _read_btf(obj: elf.ElfObject) -> tuple[bt.Btf | None, bt.BtfExt | None]:
    section, extra = obj.section(".BTF"), obj.section(".BTF.ext")
    if section is None or not section.data:
        return None, None
    btf = bt.Btf(section.data, obj.big_endian)
    return btf, bt.parse_ext(extra.data, btf) if extra is not None and extra.data else None


def _kernel_btf(obj: elf.ElfObject, btf: bt.Btf) -> bytes:
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


def _masks(
    sections: list[ix.Section], variables: list[ix.Variable], sites: list[ix.Site], held: immediates.ImmediateTable
) -> list[ix.Mask]:
    """The file ranges of settable variables and of what their values stand in, merged where they touch."""
    data = [
        (sections[v.section].file_offset + v.offset, v.size)
        for v in variables
        if v.flags & ix.SETTABLE and sections[v.section].has_bytes
    ]
    code = [(site.file_offset, site_size(site)) for site in sites]
    code += [(row.file_offset, len(row.raw)) for row in held.rows]
    code += [(rewrite.offset, len(rewrite.raw)) for rewrite in held.rewrites]
    masks: list[ix.Mask] = []
    for kind, spans in enumerate((data, code)):
        first = len(masks)
        for start, size in sorted(spans):
            if len(masks) > first and start <= masks[-1].offset + masks[-1].size:
                masks[-1].size = max(masks[-1].size, start + size - masks[-1].offset)
            else:
                masks.append(ix.Mask(start, size, kind))
    return sorted(masks, key=lambda mask: mask.offset)


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
