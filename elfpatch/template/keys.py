"""Static keys: their words, their branch sites, and why one cannot be switched.

Opcode sites (kind A) are found by their labels, `__sk.<u|l>.<key>.<n>`; the key's word is in section `.elfpatch.keys`.
Offset sites (kind B) are rows of section `.jump_table`; their key has no word that means anything, its state is what
the sites say. docs/static-keys.md has both layouts.
"""

from __future__ import annotations

import struct
from bisect import bisect_right

from attrs import define, field, frozen

from elfpatch import index as ix
from elfpatch import insn as isa
from elfpatch.code import KEY_SIZE, REACH, site_size, site_state
from elfpatch.errors import BadObject
from elfpatch.template import btf as bt
from elfpatch.template import elf
from elfpatch.template.lines import Lines
from elfpatch.template.programs import Function
from elfpatch.template.types import TypeTable
from elfpatch.template.variables import describe

KEY_SECTION = ".elfpatch.keys"
JUMP_TABLE = ".jump_table"
LABEL = "__sk."
TYPE_NAME = "static key"
_ROW = 16  # u32 instruction, u32 target, u64 key with bit 0 set when likely
_LIKELY = 1


@frozen
class Branch:
    """An instruction that is said to be a site of a key, not yet looked at. `target` None: where its offset leads."""

    kind: int
    likely: bool
    section: elf.Section
    offset: int
    target: int | None


@define
class Key:
    """A key and the branches that name it. `word`: offset in its section, -1 when it has no word of its own."""

    name: str
    section: elf.Section | None
    word: int
    var: int = 0  # BTF id of its VAR, 0 when there is none
    ref: int = 0
    static: bool = False
    branches: list[Branch] = field(factory=list)
    problem: str = ""


@define
class KeyTable:
    """Rows for the index. `variables` await their place in the sorted table, and `sites` their variable's row, for
    which `owners` holds the variable of each. `by_place`: the site at (section number, slot). `symbols`: the numbers of
    symbols that are keys and so no variables. `sections`: the rows to append to SECTIONS, from number `first`."""

    variables: list[ix.Variable] = field(factory=list)
    sites: list[ix.Site] = field(factory=list)
    owners: list[ix.Variable] = field(factory=list)
    by_place: dict[tuple[int, int], int] = field(factory=dict)
    symbols: set[int] = field(factory=set)
    sections: list[ix.Section] = field(factory=list)


def collect(
    obj: elf.ElfObject, btf: bt.Btf | None, lines: Lines, functions: list[Function], types: TypeTable, first: int
) -> KeyTable:
    """All static keys of an object. `first`: the row that the first of `sections` will have."""
    table = KeyTable()
    worded, unworded = _opcode_keys(obj, btf)
    unworded += _offset_keys(obj, btf, table)
    if not worded and not unworded:
        return table
    by_section: dict[int, list[Function]] = {}
    for function in functions:
        by_section.setdefault(function.section.number, []).append(function)
    kind = _type_row(types)
    rows: dict[int, int] = {}
    for key in worded:
        assert key.section is not None
        if key.section.number not in rows:
            rows[key.section.number] = first + len(table.sections)
            size = key.section.size
            table.sections.append(ix.Section(key.section.name, ix.SECTION_KEYS, key.section.offset, size, 1, -1))
        _add(table, obj, key, rows[key.section.number], key.word, kind, types, by_section, lines)
    if unworded:
        row = first + len(table.sections)
        table.sections.append(ix.Section(JUMP_TABLE, ix.SECTION_SITES, 0, KEY_SIZE * len(unworded), 0, -1))
        for number, key in enumerate(unworded):
            _add(table, obj, key, row, KEY_SIZE * number, kind, types, by_section, lines)
    return table


def _type_row(types: TypeTable) -> int:
    types.types.append(ix.Type(ix.BOOL, 0, KEY_SIZE, TYPE_NAME, "", -1, 0, 0, 0))
    return len(types.types) - 1


# --- finding ----------------------------------------------------------------------------------------------------


def _opcode_keys(obj: elf.ElfObject, btf: bt.Btf | None) -> tuple[list[Key], list[Key]]:
    """The keys with words in `.elfpatch.keys`, and those that labels name and nobody defines."""
    keys: list[Key] = []
    for section in obj.sections:
        if section.name != KEY_SECTION or section.executable or not section.has_bytes:
            continue
        symbols = [s for s in obj.symbols_in(section, elf.STT_OBJECT) if s.name]
        described = describe(btf, section, symbols) if btf else {}
        for symbol in symbols:
            said = described.get(symbol.number)
            static = symbol.binding == elf.STB_LOCAL
            key = Key(symbol.name, section, symbol.value, said.type if said else 0, said.ref if said else 0, static)
            if symbol.size not in (0, KEY_SIZE) or symbol.value + KEY_SIZE > section.size:
                raise BadObject(f"a static key of {symbol.size} bytes", where=f"symbol {symbol.name!r}")
            keys.append(key)
    missing: dict[str, Key] = {}
    for name, branch in _labels(obj):
        found = [key for key in keys if key.name == name]
        if not found:
            lost = missing.setdefault(name, Key(name, None, -1))
            lost.problem = "the object does not define it: link it with the object that does"
            found = [lost]
        elif len(found) > 1:
            for key in found:
                key.problem = f"{len(found)} static keys have this name, and its sites do not say which one they follow"
        for key in found:
            key.branches.append(branch)
    return keys, list(missing.values())


def _labels(obj: elf.ElfObject) -> list[tuple[str, Branch]]:
    found = []
    for symbol in obj.symbols:
        if symbol.type != elf.STT_NOTYPE or not symbol.name.startswith(LABEL):
            continue
        letter, _, rest = symbol.name[len(LABEL) :].partition(".")
        name, dot, number = rest.rpartition(".")
        inside = elf.SHN_UNDEF < symbol.section < len(obj.sections)
        if letter not in ("u", "l") or not dot or not number.isdigit() or not inside:
            raise BadObject("it is not `__sk.<u|l>.<key>.<number>` on an instruction", where=f"label {symbol.name!r}")
        section = obj.sections[symbol.section]
        found.append((name, Branch(ix.SITE_OPCODE, letter == "l", section, symbol.value, None)))
    return found


def _offset_keys(obj: elf.ElfObject, btf: bt.Btf | None, table: KeyTable) -> list[Key]:
    """The keys that rows of `.jump_table` name."""
    keys: dict[int, Key] = {}
    order = ">" if obj.big_endian else "<"
    for section in obj.sections:
        if section.name != JUMP_TABLE or not section.has_bytes:
            continue
        if section.size % _ROW:
            raise BadObject(f"{section.size} bytes are not whole rows of {_ROW}", where=f"section {section.name}")
        named = {relocation.offset: relocation for relocation in obj.relocations.get(section.number, [])}
        for at in range(0, section.size, _ROW):
            where = f"section {section.name}, row {at // _ROW}"
            code, target, owner = (named.get(at + part) for part in (0, 4, 8))
            if code is None or target is None or owner is None:
                raise BadObject("a row without relocations for its instruction, target and key", where=where)
            offset, to, value = struct.unpack_from(order + "IIQ", section.data, at)
            if code.symbol.section != target.symbol.section or code.symbol.section >= len(obj.sections):
                raise BadObject("its instruction and its target are not in one section", where=where)
            symbol = _key_symbol(obj, owner, value & ~_LIKELY, where)
            table.symbols.add(symbol.number)
            known = keys.setdefault(symbol.number, _key_of(obj, btf, symbol))
            known.branches.append(
                Branch(
                    ix.SITE_OFFSET,
                    bool(value & _LIKELY),
                    obj.sections[code.symbol.section],
                    code.symbol.value + offset,
                    target.symbol.value + to,
                )
            )
    found = list(keys.values())
    for key in found:
        if sum(other.name == key.name for other in found) > 1:
            key.problem = "another static key has this name"
    return found


def _key_symbol(obj: elf.ElfObject, relocation: elf.Relocation, addend: int, where: str) -> elf.Symbol:
    """The symbol of a key: the one that the relocation names, or where it names a section the one at the addend."""
    symbol = relocation.symbol
    if symbol.type != elf.STT_SECTION:
        return symbol
    if symbol.section < len(obj.sections):
        for candidate in obj.symbols_in(obj.sections[symbol.section], elf.STT_OBJECT):
            if candidate.value == symbol.value + addend and candidate.name:
                return candidate
    raise BadObject("its key is no variable of the object", where=where)


def _key_of(obj: elf.ElfObject, btf: bt.Btf | None, symbol: elf.Symbol) -> Key:
    static = symbol.binding == elf.STB_LOCAL
    if not btf or not elf.SHN_UNDEF < symbol.section < len(obj.sections):
        return Key(symbol.name, None, -1, static=static)
    section = obj.sections[symbol.section]
    said = describe(btf, section, obj.symbols_in(section, elf.STT_OBJECT)).get(symbol.number)
    return Key(symbol.name, None, -1, said.type if said else 0, said.ref if said else 0, static)


# --- checking ---------------------------------------------------------------------------------------------------


def _add(
    table: KeyTable,
    obj: elf.ElfObject,
    key: Key,
    row: int,
    word: int,
    kind: int,
    types: TypeTable,
    functions: dict[int, list[Function]],
    lines: Lines,
) -> None:
    meta = types.meta(key.var) if key.var else -1
    flags = ix.KEY | (ix.STATIC if key.static else 0)
    variable = ix.Variable(key.name, row, word, KEY_SIZE, kind, flags, meta, key.problem, b"")
    table.variables.append(variable)
    sites = []
    problems = [key.problem] if key.problem else []
    if not key.branches:
        problems.append(
            "it has no sites: no branch depends on it, or its labels were stripped (llvm-strip -g keeps them, "
            "--strip-unneeded does not)"
        )
    for branch in () if key.problem else key.branches:
        site, problem = _site(obj, branch, functions.get(branch.section.number, []), lines)
        if site is None:
            problems.append(problem)
        else:
            sites.append((branch, site))
    if problems:
        variable.why_not = "; ".join(problems)
        return
    variable.flags |= ix.SETTABLE | ix.LIVE
    if key.var and types.has_required(key.var, key.ref) and key.section is not None:
        variable.default = key.section.data[word : word + KEY_SIZE]
    for branch, site in sites:
        table.by_place[branch.section.number, branch.offset // isa.SIZE] = len(table.sites)
        table.sites.append(site)
        table.owners.append(variable)


def _site(obj: elf.ElfObject, branch: Branch, functions: list[Function], lines: Lines) -> tuple[ix.Site | None, str]:
    """The row of a site, or what is wrong with it."""
    section, offset = branch.section, branch.offset
    where = f"{section.name}+{offset:#x}"
    if not section.executable or offset % isa.SIZE or offset + isa.SIZE > section.size:
        return None, f"its site at {where} is not on an instruction"
    slot = offset // isa.SIZE
    function = _around(functions, slot)
    if function is None:
        return None, f"its site at {where} is in no function"
    source = lines.at(section.name, offset)
    where = f"{function.name} instruction {slot - function.start}" + (f" ({source})" if source else "")
    insn = isa.decode(section.data, slot, big_endian=obj.big_endian)
    if branch.target is not None and branch.target % isa.SIZE:
        return None, f"the target of its site at {where} is not on an instruction"
    distance = insn.off if branch.target is None else branch.target // isa.SIZE - slot - 1
    if not function.start <= slot + 1 + distance < function.end:
        return None, f"the target of its site at {where} is outside the function"
    if branch.kind == ix.SITE_OFFSET and not distance:
        return None, f"the target of its site at {where} is the next instruction"
    kind = branch.kind
    if kind == ix.SITE_OFFSET and insn.opcode == isa.JA32:
        kind = ix.SITE_LONG_OFFSET
    elif kind == ix.SITE_OFFSET and distance not in REACH:
        return None, f"the target of its site at {where} is farther than a `goto` reaches"
    site = ix.Site(
        -1,
        kind,
        int(branch.likely),
        section.offset + offset,
        distance,
        section.name,
        offset,
        function.name,
        slot - function.start,
        source,
    )
    if branch.kind == ix.SITE_OPCODE and (insn.src or insn.imm):
        return None, _tampered(where, insn, "an unsigned comparison of a register with 0")
    if site_state(site, section.data[offset : offset + site_size(site)], obj.big_endian) is None:
        form = (
            "`if r < 0` or `if r >= 0`"
            if branch.kind == ix.SITE_OPCODE
            else "a `goto` to the next instruction or its target"
        )
        return None, _tampered(where, insn, form)
    return site, ""


def _tampered(where: str, insn: isa.Insn, wanted: str) -> str:
    found = f"opcode {insn.opcode:#04x}, src {insn.src}, off {insn.off}, imm {insn.imm}"
    return f"its site at {where} is not {wanted} but {found}: something has changed it"


def _around(functions: list[Function], slot: int) -> Function | None:
    at = bisect_right([function.start for function in functions], slot) - 1
    return functions[at] if at >= 0 and functions[at].start <= slot < functions[at].end else None
