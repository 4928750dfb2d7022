"""Immediates as elfpatch finds them, against labels and relocations as llvm-readelf shows them; and which variables
can be none, with the instruction that says so."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from elfpatch import index as ix
from elfpatch.deploy.source import open_template
from elfpatch.errors import BadObject, BadValue, Problems
from elfpatch.template.build import build
from elfpatch.template.compile import compile_object
from tests.template.oracles import OBJECTS, name_of, template_of
from tests.template.sites import IMMEDIATES, FoundImmediate, compile_c, edited, source_lines, view

HERE = OBJECTS / "clang-19-v3"
ESCAPES = [OBJECTS / variant / "escape.o" for variant in ("clang-14-v2", "clang-19-v3")]
FETCHES = [OBJECTS / variant / "fetch.o" for variant in ("clang-14-v2", "clang-19-v3", "big-endian", "without-btf")]
NARROW = ("IDENTITY", "PORT", "NODE_MAC_1", "NODE_MAC_2")
WIDE = ("COOKIE", "NODE_IP_1", "NODE_IP_2")


def index_of(data: bytes, *asked: str) -> ix.Index:
    return ix.Index(compile_object(data, "prog", asked=asked))


def rows(index: ix.Index, name: str) -> list[ix.Immediate]:
    ((number, _),) = index.variables_named(name)
    return [row for row in index.rows(ix.Immediate) if row.variable == number]


@pytest.mark.parametrize("path", IMMEDIATES, ids=name_of)
def test_immediates_are_where_labels_are(path):
    index = template_of(path).index
    sections = list(index.rows(ix.Section))
    found = [
        FoundImmediate(row.section, row.file_offset, row.section_offset, row.size, sections[row.data].name, row.offset)
        for row in index.rows(ix.Immediate)
    ]
    wanted = view(path).immediates()
    assert wanted
    assert sorted(found, key=lambda one: one.at) == sorted(wanted, key=lambda one: one.at)
    assert {row.kind for row in index.rows(ix.Immediate)} == {ix.IMMEDIATE_VALUE}


@pytest.mark.parametrize("path", IMMEDIATES, ids=name_of)
def test_immediates_say_where_they_are(path):
    lines, seen = source_lines(path), view(path)
    for row in template_of(path).index.rows(ix.Immediate):
        function = seen.function(row.section, row.section_offset)
        assert (row.function, row.insn) == (function.name, (row.section_offset - function.value) // 8)
        assert row.source == lines.get((row.section, row.section_offset), "")
        assert row.raw == seen.data[row.file_offset : row.file_offset + 16]
    assert lines or path.parent.name == "bpf-gcc"


@pytest.mark.parametrize("path", IMMEDIATES, ids=name_of)
def test_programs_have_no_map_for_them(path):
    index = template_of(path).index
    data = {row for row, definition in enumerate(index.rows(ix.Map)) if definition.section >= 0}
    assert data
    kinds = set()
    for program in index.rows(ix.Program):
        fixups = list(index.rows(ix.Fixup, program.first_fixup, program.fixups))
        kinds |= {fixup.kind for fixup in fixups}
        assert not [fixup for fixup in fixups if fixup.kind == ix.FIXUP_MAP_VALUE and fixup.ref in data]
    assert kinds == {ix.FIXUP_MAP_FD, ix.FIXUP_IMMEDIATE}


# --- asked for by name ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FETCHES, ids=name_of)
def test_fetch_takes_addresses_for_values(path):
    """The rows of each variable are its relocations; the width is what the code makes of it."""
    asked = [*NARROW, *(f"{name}:value" for name in WIDE), "LIMIT"]
    index = index_of(path.read_bytes(), *asked)
    seen = view(path)
    places: dict[str, set[int]] = {}
    for section, found in seen.relocations().items():
        for offset, _, name, _ in found:
            if section in ("tc", "xdp", "classifier"):
                places.setdefault(name, set()).add(seen.section(section).offset + offset)
    for name, size in (("IDENTITY", 4), ("PORT", 2), ("NODE_MAC_1", 4), ("NODE_MAC_2", 2), *((w, 8) for w in WIDE)):
        made = rows(index, name)
        assert {row.kind for row in made} == {ix.IMMEDIATE_VALUE}
        assert {row.file_offset for row in made} == places[name]
        assert {row.size for row in made} == {size}
    limit = rows(index, "LIMIT")
    assert {row.file_offset for row in limit if row.kind == ix.IMMEDIATE_BASE} == places["LIMIT"]
    (load,) = [row for row in limit if row.kind == ix.IMMEDIATE_LOAD]
    assert (load.size, load.signed, load.function) == (4, 0, "mixed")
    assert seen.data[load.file_offset] == 0x61


@pytest.mark.parametrize("path", FETCHES, ids=name_of)
@pytest.mark.parametrize("name", WIDE)
def test_sixty_four_bits_that_are_stored_may_be_an_address(path, name):
    with pytest.raises(BadObject, match="its address is stored at fetch_xdp instruction") as raised:
        index_of(path.read_bytes(), name)
    assert f"--immediate {name}:value" in str(raised.value)


ESCAPING = {
    # what is said, in which function, and what stands on the source line
    "in_map": ("its address is stored", "escape_to_map", "seen->slot[0] = (__u64)&in_map"),
    "on_stack": ("its address is stored", "escape_to_stack", "&on_stack"),
    "as_key": ("its address is passed to bpf_map_lookup_elem", "escape_to_helper", "&as_key"),
    "returned": ("its address is returned", "choose", "return length > 60 ? &returned"),
    "table": ("what is read through it depends on more than the address", "indexed", "table[skb->len & 7]"),
    "both": ("its address is stored", "in_all_ways", "(__u64)&both"),
}


def told_line(message: str, path: Path, function: str) -> str:
    """The source line that a message names for an instruction of `function`; objdump must agree on it."""
    insn, file, line = re.search(rf"{function} instruction (\d+) \((\S+):(\d+)\)", message).groups()
    (start,) = [(s.section, s.value) for s in view(path).symbols if s.name == function]
    assert source_lines(path)[start[0], start[1] + 8 * int(insn)] == f"{file}:{line}"
    return (OBJECTS / "src" / file).read_text().split("\n")[int(line) - 1]


@pytest.mark.parametrize("path", ESCAPES, ids=name_of)
@pytest.mark.parametrize("name", ESCAPING)
def test_an_address_that_escapes_is_refused_where_it_does(path, name):
    said, function, text = ESCAPING[name]
    with pytest.raises(BadObject) as raised:
        index_of(path.read_bytes(), name)
    assert said in str(raised.value) and f"variable {name}" in str(raised.value)
    line = told_line(str(raised.value), path, function)
    assert text in line or (name, line.strip()) in {
        ("on_stack", "bpf_loop(2, add_up, &place, 0);"),
        ("returned", "static __noinline volatile __u32 *choose(__u32 length)"),
    }


@pytest.mark.parametrize("path", ESCAPES, ids=name_of)
@pytest.mark.parametrize("name", ["table", "both"])
def test_some_are_refused_whatever_is_said_of_them(path, name):
    """An element that is chosen at run time, and a variable that is written to: no number is either."""
    with pytest.raises(BadObject, match=f"variable {name}: it cannot be an immediate"):
        index_of(path.read_bytes(), f"{name}:value")


@pytest.mark.parametrize("path", ESCAPES, ids=name_of)
def test_refusals_are_told_together_and_one_that_can_be_is_made(path):
    with pytest.raises(Problems, match=r"variable in_map: .*; .*variable on_stack: "):
        index_of(path.read_bytes(), "in_map", "loaded", "on_stack")
    index = index_of(path.read_bytes(), "loaded")
    assert [row.kind for row in rows(index, "loaded")] == [ix.IMMEDIATE_BASE, ix.IMMEDIATE_LOAD]
    assert not rows(index, "in_map")


def test_a_name_that_is_none_lists_those_that_are():
    with pytest.raises(BadValue, match=r"--immediate nope: there is no variable 'nope' \(there are as_key, both, in_m"):
        index_of(ESCAPES[0].read_bytes(), "nope")
    with pytest.raises(BadValue, match="there is no variable 'alpha'"):
        index_of((HERE / "keys.o").read_bytes(), "alpha")


def test_an_index_has_the_immediates_it_was_made_with(tmp_path):
    out = tmp_path / "fetch.o"
    out.write_bytes(build((HERE / "fetch.o").read_bytes(), "fetch", ("IDENTITY", "COOKIE:value")))
    assert open_template(str(out), "", ("IDENTITY",)).index.count(ix.Immediate)
    with pytest.raises(BadObject, match="its index was made without PORT as an immediate") as raised:
        open_template(str(out), "", ("IDENTITY", "PORT"))
    assert "elfpatch build --immediate PORT" in str(raised.value)


# --- labels -----------------------------------------------------------------------------------------------------


def label_at(path: Path, size: int) -> tuple[FoundImmediate, int, str]:
    """The first label of that size, where its symbol is in the file, and its name."""
    seen = view(path)
    (found, *_) = [one for one in seen.immediates() if one.size == size]
    (symbol,) = [
        s for s in seen.symbols if s.name.startswith("__imm.") and (s.section, s.value) == (found.section, found.offset)
    ]
    return found, seen.symbol_at(symbol.name), symbol.name


@pytest.mark.parametrize("path", [HERE / "immediates.o", OBJECTS / "big-endian" / "immediates.o"], ids=name_of)
def test_a_label_that_asks_for_more_than_there_is(path):
    """Declared so, it cannot be set; the reason names the instruction."""
    seen = view(path)
    found, at, name = label_at(path, 1)
    strings = seen.section(".strtab").offset
    (name_at,) = seen.unpack("I", at)
    bad = edited(seen.data, strings + name_at, name.replace("__imm.1.", "__imm.8.").encode())
    index = index_of(bad)
    ((_, variable),) = index.variables_named("i_u8")
    function = seen.function(found.section, found.offset)
    where = f"{function.name} instruction {(found.offset - function.value) // 8} (immediates.bpf.c:"
    assert where in variable.why_not and "takes 8 bytes where it has 1" in variable.why_not
    assert not variable.flags & ix.SETTABLE and not rows(index, "i_u8")
    with pytest.raises(BadObject, match="takes 8 bytes where it has 1"):
        index_of(bad, "i_u8")


def test_labels_that_stand_on_nothing():
    path = HERE / "immediates.o"
    seen = view(path)
    found, at, name = label_at(path, 4)
    for value, said in ((found.offset + 16, "stands on no LD_IMM64"), (found.offset + 4, "on an instruction")):
        with pytest.raises(BadObject, match=said):
            index_of(edited(seen.data, at + 8, struct.pack("<Q", value)))
    (name_at,) = seen.unpack("I", at)
    wrong = name.replace("__imm.4", "__imm.3").encode()
    with pytest.raises(BadObject, match=r"not `__imm\.<1\|2\|4\|8>\.<n>`"):
        index_of(edited(seen.data, seen.section(".strtab").offset + name_at, wrong))


# --- what code does with an address -----------------------------------------------------------------------------

HEAD = '#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nchar _license[] SEC("license") = "GPL";\n'
ASM = HEAD + (
    "struct wide {{ __u64 a, b; __u32 c; }};\nvolatile struct wide it = {{ 1, 2, 3 }};\nvolatile __u32 other = 4;\n"
    'SEC("xdp") int p(struct xdp_md *ctx)\n{{\n\t__u64 r = 0, s = 1;\n\tasm volatile({text}\n'
    '\t\t: "+r"(r), "+r"(s) : "r"(&it), "r"(&other), "r"(ctx) : "r1", "r0", "memory");\n\treturn r + s;\n}}\n'
)
REFUSED = {
    "atomic read": ('"%0 = 1; lock *(u32 *)(%2 + 0) += w1"', "it is written to"),
    "exchange": ('"r1 = 1; r1 = xchg_64(%2 + 0, r1)"', "it is written to"),
    "store": ('"*(u32 *)(%2 + 4) = w1"', "it is written to"),
    "two wide reads": ('"%0 = *(u64 *)(%2 + 0); %1 = *(u64 *)(%2 + 8)"', "two 64-bit values are read through one"),
    "beyond the end": ('"%0 = *(u32 *)(%2 + 24)"', "4 bytes are read outside the variable"),
    "before the start": ('"%0 = *(u32 *)(%2 - 4)"', "4 bytes are read outside the variable"),
    "wide, computed": ('"r1 = %2; r1 += 8; %0 = *(u64 *)(r1 + 0)"', "64 bits are read through an address that was"),
    "indexed": ('"r1 = *(u32 *)(%4 + 12); r1 &= 7; r1 += %2; %0 = *(u32 *)(r1 + 0)"', "depends on more than the"),
    "one or another": ('"r1 = %2; if %0 == 0 goto +1; r1 = %3; %0 = *(u32 *)(r1 + 0)"', "depends on more than the"),
    "read and counted": ('"%0 = *(u32 *)(%2 + 0); %1 = %2"', "both read through and used as a number"),
    "spilled": ('"*(u64 *)(r10 - 8) = %2"', "its address is stored"),
}
TAKEN = {
    "32 bits": ('"%0 = *(u32 *)(%2 + 16)"', {(ix.IMMEDIATE_LOAD, 16, 4)}),
    "a byte inside": ('"%0 = *(u8 *)(%2 + 3)"', {(ix.IMMEDIATE_LOAD, 3, 1)}),
    "moved about": ('"r1 = %2; r1 += 4; %0 = *(u16 *)(r1 + 2)"', {(ix.IMMEDIATE_LOAD, 6, 2)}),
    "wide": ('"%0 = *(u64 *)(%2 + 8)"', {(ix.IMMEDIATE_LOAD, 8, 8), (ix.IMMEDIATE_BASE, 8, 8)}),
    "wide and narrow": (
        '"%0 = *(u64 *)(%2 + 8); %1 = *(u32 *)(%2 + 16)"',
        {(ix.IMMEDIATE_LOAD, 8, 8), (ix.IMMEDIATE_LOAD, 16, 4), (ix.IMMEDIATE_BASE, 8, 8)},
    ),
}


def assembled(text: str, tmp_path: Path) -> Path:
    return compile_c(ASM.format(text=text), tmp_path / "asm.o", "-Wno-uninitialized")


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_value_can_stand_in_for(name, tmp_path):
    text, said = REFUSED[name]
    with pytest.raises(BadObject, match=said) as raised:
        index_of(assembled(text, tmp_path).read_bytes(), "it")
    assert re.search(
        r"variable it: it cannot be an immediate: .* at p instruction \d+ \(asm\.c:\d+\)", str(raised.value)
    )


@pytest.mark.parametrize("name", TAKEN)
def test_loads_that_become_moves(name, tmp_path):
    text, wanted = TAKEN[name]
    made = rows(index_of(assembled(text, tmp_path).read_bytes(), "it"), "it")
    start = min(row.offset for row in made if row.kind == ix.IMMEDIATE_BASE)
    assert {(row.kind, row.offset, row.size) for row in made if row.size} == wanted, start


@pytest.mark.parametrize("name", ["atomic read", "store", "spilled"])
def test_other_variables_are_left_alone(name, tmp_path):
    index = index_of(assembled(REFUSED[name][0], tmp_path).read_bytes())
    assert not index.count(ix.Immediate) and not index.count(ix.Rewrite)
