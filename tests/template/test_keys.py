"""Branch sites as elfpatch finds them, against what llvm-readelf and llvm-objdump say of the same objects. And damaged
objects, whose keys must not be switched."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from elfpatch import index as ix
from elfpatch.errors import BadObject
from elfpatch.patch.code import sites_of
from elfpatch.patch.image import Template
from elfpatch.template.compile import compile_object
from tests.template.oracles import OBJECTS, name_of, template_of
from tests.template.sites import (
    JUMP_TABLES,
    KEYS,
    FoundSite,
    View,
    edited,
    is_on_offset,
    says_on,
    source_lines,
    view,
)

WITH_KEYS = [*KEYS, *JUMP_TABLES, OBJECTS / "linked" / "keys_linked.o"]
HERE = OBJECTS / "clang-19-v3"


def found_sites(template: Template, path: Path) -> list[FoundSite]:
    """The rows of SITES in the oracle's words."""
    index = template.index
    return [
        FoundSite(
            index.row(ix.Variable, site.variable).name,
            ("opcode", "offset")[site.kind],
            bool(site.likely),
            site.section,
            site.section_offset,
            site.file_offset,
            site.section_offset + 8 + 8 * site.distance,
            site.function,
            site.insn,
        )
        for site in index.rows(ix.Site)
    ]


def in_order(sites: list[FoundSite]) -> list[FoundSite]:
    return sorted(sites, key=lambda site: site.at)


@pytest.mark.parametrize("path", WITH_KEYS, ids=name_of)
def test_sites_are_where_labels_and_table_rows_are(path):
    wanted = view(path).sites()
    assert wanted
    assert in_order(found_sites(template_of(path), path)) == in_order(wanted)


@pytest.mark.parametrize("path", WITH_KEYS, ids=name_of)
def test_states_are_what_the_instructions_say(path):
    seen = view(path)
    template = template_of(path)
    for row, variable in enumerate(template.index.rows(ix.Variable)):
        wanted = {
            site.at: says_on(site, seen.data[site.at])
            if site.kind == "opcode"
            else is_on_offset(site, seen.data[site.at : site.at + 8], seen.order)
            for site in seen.sites()
            if site.key == variable.name
        }
        assert {site.file_offset: state for site, state, _ in sites_of(template, row)} == wanted
        word = seen.words().get(variable.name)
        if word is not None:
            assert set(wanted.values()) == {bool(seen.unpack("I", word)[0])}


@pytest.mark.parametrize("path", [p for p in WITH_KEYS if p.parent.name.startswith(("clang", "big"))], ids=name_of)
def test_source_lines_are_those_of_dwarf(path):
    lines = source_lines(path)
    sites = list(template_of(path).index.rows(ix.Site))
    assert all(site.source for site in sites)
    assert {(s.section_offset, s.source) for s in sites} == {
        (s.section_offset, lines[s.section, s.section_offset]) for s in sites
    }


def test_stripping_debugging_information_keeps_every_site():
    stripped, whole = (
        [(site.key, site.kind, site.likely, site.section, site.offset) for site in found_sites(template_of(path), path)]
        for path in (OBJECTS / "stripped" / "keys.o", HERE / "keys.o")
    )
    assert stripped == whole


@pytest.mark.parametrize("path", WITH_KEYS, ids=name_of)
def test_programs_have_the_sites_of_their_functions(path):
    """A fixup of a program points at the instruction that the site owns in the file, whatever its state."""
    template = template_of(path)
    index = template.index
    reached = set()
    for program in index.rows(ix.Program):
        if program.problem:
            continue
        for fixup in index.rows(ix.Fixup, program.first_fixup, program.fixups):
            if fixup.kind != ix.FIXUP_SITE:
                continue
            site = index.row(ix.Site, fixup.ref)
            raw = template.data[site.file_offset : site.file_offset + 8]
            ours = program.insns[8 * fixup.insn : 8 * fixup.insn + 8]
            if site.kind == ix.SITE_OPCODE:
                assert raw[1:] == ours[1:] and {raw[0], ours[0]} <= {0xA5, 0x35}
            else:
                assert ours[2:4] == struct.pack(">h" if index.big_endian else "<h", site.distance)
            reached.add(fixup.ref)
    assert reached == set(range(index.count(ix.Site))) or path.match("bpf-gcc/*")


@pytest.mark.parametrize("path", [HERE / "keys.o", OBJECTS / "big-endian" / "keys.o", OBJECTS / "bpf-gcc" / "keys.o"])
def test_keys_are_no_variables_and_their_words_are_theirs(path):
    template = template_of(path)
    seen = view(path)
    keys = {v.name: v for v in template.index.rows(ix.Variable) if v.flags & ix.KEY}
    assert set(keys) == set(seen.words())
    for name, variable in keys.items():
        section = template.section(variable.section)
        assert (section.file_offset + variable.offset, variable.size) == (seen.words()[name], 4)
        assert variable.flags & ix.SETTABLE
    assert not any(section.map >= 0 for section in template.index.rows(ix.Section) if section.kind == ix.SECTION_KEYS)


# --- damage -----------------------------------------------------------------------------------------------------


def reason(data: bytes, key: str) -> str:
    """Why a key of these bytes cannot be set; "" when it can."""
    index = ix.Index(compile_object(data, "damaged"))
    ((_, variable),) = index.variables_named(key)
    assert bool(variable.flags & ix.SETTABLE) != bool(variable.why_not)
    if variable.why_not:
        assert not [site for site in index.rows(ix.Site) if site.variable == index.variables_named(key)[0][0]]
    return variable.why_not


def label_of(seen: View, site: FoundSite) -> int:
    """Where in the file the symbol of an opcode site is."""
    (number,) = [
        number
        for number, symbol in enumerate(seen.symbols)
        if symbol.name.startswith("__sk.") and (symbol.section, symbol.value) == (site.section, site.offset)
    ]
    return seen.section(".symtab").offset + 24 * number


def place(path: Path, site: FoundSite) -> str:
    return f"{site.function} instruction {site.insn} ({source_lines(path)[site.section, site.offset]})"


DAMAGE: dict[str, tuple[int, bytes, bytes, str]] = {
    # at which byte of the instruction | little-endian, big-endian | what is said
    "opcode": (0, b"\x15", b"\x15", "opcode 0x15"),
    "ja": (0, b"\x05", b"\x05", "opcode 0x05"),
    "signed": (0, b"\xc5", b"\xc5", "opcode 0xc5"),
    "exit": (0, b"\x95", b"\x95", "opcode 0x95"),
    "32 bits": (0, b"\xa6", b"\xa6", "opcode 0xa6"),
    "by register": (0, b"\xad", b"\xad", "opcode 0xad"),
    "imm": (4, b"\1\0\0\0", b"\0\0\0\1", "imm 1"),
    "negative imm": (4, b"\xff" * 4, b"\xff" * 4, "imm -1"),
}


@pytest.mark.parametrize("variant", ["clang-19-v3", "clang-14-v2", "big-endian"])
@pytest.mark.parametrize("name", DAMAGE)
def test_a_tampered_opcode_site_is_refused_where_it_is(variant, name):
    path = OBJECTS / variant / "keys.o"
    seen = view(path)
    inside, little, big, said = DAMAGE[name]
    for site in [s for s in seen.sites() if s.key == "beta"][:3]:
        bad = edited(seen.data, site.at + inside, big if seen.order == ">" else little)
        why = reason(bad, "beta")
        assert place(path, site) in why and said in why
        assert not reason(bad, "alpha")


@pytest.mark.parametrize("variant", ["clang-19-v3", "big-endian"])
def test_a_source_register_is_refused(variant):
    path = OBJECTS / variant / "keys.o"
    seen = view(path)
    site = seen.sites()[0]
    (registers,) = seen.unpack("B", site.at + 1)
    bad = edited(seen.data, site.at + 1, bytes((registers | (3 if seen.order == ">" else 3 << 4),)))
    assert place(path, site) in reason(bad, site.key) and "src 3" in reason(bad, site.key)


@pytest.mark.parametrize("path", [HERE / "keys.o", OBJECTS / "big-endian" / "keys.o"], ids=name_of)
def test_a_target_outside_its_function_is_refused(path):
    """clang 14 wraps an offset that does not fit, silently: this is the only sign."""
    seen = view(path)
    for site in seen.sites():
        function = seen.function(site.section, site.offset)
        first, last = function.value, function.value + function.size - 8
        for target, fine in ((first - 8, False), (first, True), (last, True), (last + 8, False)):
            distance = (target - site.offset) // 8 - 1
            raw = struct.pack(seen.order + "h", distance)
            if seen.data[site.at + 2 : site.at + 4] == raw:
                continue
            why = reason(edited(seen.data, site.at + 2, raw), site.key)
            assert bool(why) != fine, (site, target)
            assert fine or f"the target of its site at {place(path, site)} is outside the function" in why


@pytest.mark.parametrize("shift", [1, 4, 7])
def test_a_label_off_an_instruction_is_refused(shift):
    seen = view(HERE / "keys.o")
    site = seen.sites()[1]
    bad = edited(seen.data, label_of(seen, site) + 8, struct.pack("<Q", site.offset + shift))
    assert f"its site at {site.section}+{site.offset + shift:#x} is not on an instruction" in reason(bad, site.key)


def test_a_label_outside_its_section_or_code_is_refused():
    seen = view(HERE / "keys.o")
    site = seen.sites()[1]
    at = label_of(seen, site)
    beyond = edited(seen.data, at + 8, struct.pack("<Q", seen.section(site.section).size))
    assert "is not on an instruction" in reason(beyond, site.key)
    elsewhere = edited(seen.data, at + 6, struct.pack("<H", seen.section("license").index))
    assert "is not on an instruction" in reason(edited(elsewhere, at + 8, bytes(8)), site.key)


def test_a_label_on_another_instruction_is_refused():
    """The one after it: a `goto +0`, and the slot in the middle of an LD_IMM64."""
    path = HERE / "keys.o"
    seen = view(path)
    site = seen.sites()[1]
    bad = edited(seen.data, label_of(seen, site) + 8, struct.pack("<Q", site.offset + 8))
    assert f"{site.function} instruction {site.insn + 1} " in reason(bad, site.key)
    (lddw, *_) = [at for at, *_ in seen.relocations()["tc"] if seen.contents("tc")[at] == 0x18]
    inside = edited(seen.data, label_of(seen, site) + 8, struct.pack("<Q", lddw + 8))
    assert "opcode 0x00" in reason(inside, site.key)


@pytest.mark.parametrize("name", ["__sk.x.alpha.1", "__sk.u.alpha.q", "__sk.u.alpha"])
def test_a_label_that_cannot_be_read_is_an_error(name):
    """The name in the string table is overwritten in place; it must be as long or shorter."""
    seen = view(HERE / "keys.o")
    strings = seen.section(".strtab")
    at = seen.data.index(b"\0__sk.u.alpha.1\0", strings.offset, strings.offset + strings.size) + 1
    bad = edited(seen.data, at, name.encode() + b"\0")
    with pytest.raises(BadObject, match=r"not `__sk\.<u\|l>\.<key>\.<number>`"):
        compile_object(bad, "damaged")


def test_a_key_without_sites_says_what_took_them():
    path = OBJECTS / "stripped" / "keys_unneeded.o"
    assert not view(path).sites()
    why = reason(path.read_bytes(), "alpha")
    assert "no sites" in why and "--strip-unneeded" in why


def test_a_key_that_is_defined_elsewhere():
    path = HERE / "keys_linked_b.o"
    assert "does not define it" in reason(path.read_bytes(), "shared")
    assert not reason(path.read_bytes(), "own")
    assert not reason((OBJECTS / "linked" / "keys_linked.o").read_bytes(), "shared")


def test_labels_of_one_name_after_linking_are_legal():
    path = OBJECTS / "linked" / "keys_linked.o"
    names = [symbol.name for symbol in view(path).symbols if symbol.name.startswith("__sk.")]
    assert len(set(names)) < len(names), "the fixture should have two labels of one name"
    assert len(found_sites(template_of(path), path)) == len(names)


def test_keys_of_one_name_are_refused_both():
    index = template_of(OBJECTS / "linked" / "keys_twice.o").index
    twins = index.variables_named("same")
    assert len(twins) == 2 and not index.count(ix.Site)
    assert all("2 static keys have this name" in variable.why_not for _, variable in twins)


# --- .jump_table ------------------------------------------------------------------------------------------------


def relocation_at(seen: View, offset: int) -> int:
    """Where in the file the relocation of a byte of .jump_table is."""
    section = seen.section(".rel.jump_table")
    (at,) = [at for at in range(section.offset, section.offset + section.size, 16) if seen.unpack("Q", at)[0] == offset]
    return at


def _size(seen: View) -> bytes:
    header = seen.header_at(".jump_table")
    return edited(seen.data, header + 32, struct.pack(seen.order + "Q", seen.section(".jump_table").size + 8))


def _no_relocation(seen: View) -> bytes:
    return edited(seen.data, relocation_at(seen, 4), struct.pack(seen.order + "Q", 12))


def _other_section(seen: View) -> bytes:
    """The target of the first row is given the relocation of one in another section."""
    codes = {name: at for at, _, name, _ in seen.relocations()[".jump_table"] if at % 16 == 0}
    mine = seen.relocations()[".jump_table"][0][2]
    other = relocation_at(seen, next(at for name, at in codes.items() if name != mine) + 4)
    return edited(seen.data, relocation_at(seen, 4) + 8, seen.data[other + 8 : other + 16])


@pytest.mark.parametrize("path", JUMP_TABLES, ids=name_of)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_size, "are not whole rows of 16"),
        (_no_relocation, "row 0: a row without relocations for its instruction, target and key"),
        (_other_section, "row 0: its instruction and its target are not in one section"),
    ],
    ids=["size", "no relocation", "other section"],
)
def test_a_damaged_jump_table_is_an_error(path, damage, said):
    with pytest.raises(BadObject) as raised:
        compile_object(damage(view(path)), "damaged")
    assert said in str(raised.value) and ".jump_table" in str(raised.value)


@pytest.mark.parametrize("path", JUMP_TABLES, ids=name_of)
def test_rows_that_point_wrongly_are_refused(path):
    seen = view(path)
    at = seen.section(".jump_table").offset
    for number, site in enumerate(seen.sites()):
        row = at + 16 * number
        function = seen.function(site.section, site.offset)
        end = function.value + function.size
        where = place(path, site)
        word = seen.order + "I"
        if site.likely:  # `goto` to its target, which is now another one
            said = f"its site at {where} is not a `goto`"
        else:
            said = f"the target of its site at {where} is the next instruction"
        assert said.split(" is ")[0] in reason(edited(seen.data, row + 4, struct.pack(word, site.offset + 8)), site.key)
        outside = edited(seen.data, row + 4, struct.pack(word, end))
        assert f"the target of its site at {where} is outside the function" in reason(outside, site.key)
        odd = edited(seen.data, row + 4, struct.pack(word, site.target + 4))
        assert f"the target of its site at {where} is not on an instruction" in reason(odd, site.key)
        off = edited(seen.data, row, struct.pack(word, site.offset + 2))
        assert f"its site at {site.section}+{site.offset + 2:#x} is not on an instruction" in reason(off, site.key)
        tampered = edited(seen.data, site.at, b"\xb7")
        assert f"its site at {where} is not a `goto`" in reason(tampered, site.key)
        assert "opcode 0xb7" in reason(tampered, site.key)
