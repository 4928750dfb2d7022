"""The types of the index against `bpftool btf dump`: sizes, offsets, names of members, enums, tags."""

from __future__ import annotations

import subprocess

import pytest

from elfpatch import index as ix
from tests.template.oracles import ALL, WITHOUT_BTF, BtfDump, index_leaves, name_of, template_of

fixtures = pytest.mark.parametrize("path", [path for path in ALL if path not in WITHOUT_BTF], ids=name_of)


def described(path):
    """Each variable of the index with its candidates in BTF (statics may share a name): ids of their types. Keys have
    one of their own."""
    dump, template = BtfDump(path), template_of(path)
    by_section = dump.variables()
    for variable in template.index.rows(ix.Variable):
        if variable.flags & ix.KEY:
            continue
        section = template.section(variable.section).name
        stem = variable.name.rpartition(".")[0] if variable.name[-1].isdigit() and "." in variable.name else ""
        wanted = {variable.name, variable.name.split(".")[-1], stem}  # GNU C: `limit.0`
        found = [number for name, number in by_section.get(section, []) if name in wanted]
        yield dump, template.index, variable, found


@fixtures
def test_every_variable_has_the_type_that_bpftool_shows(path):
    for dump, index, variable, candidates in described(path):
        if variable.type < 0:
            assert not candidates, variable.name
            continue
        assert candidates, variable.name
        leaves = index_leaves(index, variable.type, variable.name)
        assert leaves in [dump.leaves(number, variable.name) for number in candidates]
        assert variable.size in [dump.size(number) for number in candidates]
        assert index.row(ix.Type, variable.type).size == variable.size


@fixtures
def test_qualifiers(path):
    for dump, _, variable, candidates in described(path):
        flags = [dump.qualifiers(number) for number in candidates]
        found = {name for name, flag in (("CONST", ix.CONST), ("VOLATILE", ix.VOLATILE)) if variable.flags & flag}
        assert not flags or found in flags, variable.name


def enumerators(dump, number):
    kind = dump.plain(number)
    return {value["name"]: value["val"] for value in kind.get("values", [])}


@pytest.mark.parametrize("path", [path for path in ALL if path.stem == "scalars"], ids=name_of)
def test_enumerators_have_their_values(path):
    for dump, index, variable, candidates in described(path):
        kind = index.row(ix.Type, variable.type)
        if kind.kind != ix.ENUM:
            continue
        mask = (1 << 8 * max(kind.size, 4)) - 1
        found = {e.name: e.value & mask for e in index.rows(ix.Enumerator, kind.first, kind.members)}
        assert found == {name: value & mask for name, value in enumerators(dump, candidates[0]).items()}


@pytest.mark.parametrize("compiler", ["clang-14-v2", "bpf-gcc"])
def test_names_of_a_64_bit_enum_are_not_taken_from_btf_that_cuts_their_values(compiler):
    """clang 14 and GNU C 12 write WIDE_BIG, 0x123456789a, as 0x3456789a."""
    path = next(path for path in ALL if path.match(f"{compiler}/scalars.o"))
    [(_, wide)] = template_of(path).index.variables_named("v_wide")
    kind = template_of(path).index.row(ix.Type, wide.type)
    assert (kind.kind, kind.size, kind.name, kind.members) == (ix.INT, 8, "enum wide", 0)


@pytest.mark.parametrize("path", [path for path in ALL if path.stem == "structs"], ids=name_of)
def test_declaration_tags_are_where_bpftool_shows_them(path):
    dump, index = BtfDump(path), template_of(path).index
    tags = {kind["name"] for kind in dump.types if kind["kind"] == "DECL_TAG"}
    said = {f"elfpatch:desc={meta.description}" for meta in index.rows(ix.Meta) if meta.description}
    said |= {f"elfpatch:format={meta.format}" for meta in index.rows(ix.Meta) if meta.format}
    assert said == tags
    assert bool(tags) == (path.parent.name != "bpf-gcc")


def test_scalars_are_what_the_source_says():
    """Signedness, byte order and kind, once by hand."""
    index = template_of(next(path for path in ALL if path.match("clang-19-v3/scalars.o"))).index
    found = {}
    for variable in index.rows(ix.Variable):
        kind = index.row(ix.Type, variable.type)
        found[variable.name] = (kind.kind, kind.size, kind.flags)
    assert found == {
        "b_u32": (ix.INT, 4, 0),
        "d_s64": (ix.INT, 8, ix.SIGNED),
        "d_u32": (ix.INT, 4, 0),
        "hits": (ix.INT, 8, 0),
        "v_be16": (ix.INT, 2, ix.NETWORK_ORDER),
        "v_be32": (ix.INT, 4, ix.NETWORK_ORDER),
        "v_bool": (ix.BOOL, 1, 0),
        "v_bytes": (ix.ARRAY, 6, 0),
        "v_char": (ix.CHAR, 1, 0),
        "v_grid": (ix.ARRAY, 12, 0),
        "v_s16": (ix.INT, 2, ix.SIGNED),
        "v_s32": (ix.INT, 4, ix.SIGNED),
        "v_s64": (ix.INT, 8, ix.SIGNED),
        "v_s8": (ix.INT, 1, ix.SIGNED),
        "v_sign": (ix.ENUM, 4, ix.SIGNED),
        "v_text": (ix.ARRAY, 16, 0),
        "v_tiny": (ix.ENUM, 1, 0),
        "v_u16": (ix.INT, 2, 0),
        "v_u32": (ix.INT, 4, 0),
        "v_u64": (ix.INT, 8, 0),
        "v_u8": (ix.INT, 1, 0),
        "v_wide": (ix.ENUM, 8, 0),
    }


SIGNED_ENUM = """
enum error { FAILED = -1, DONE };
enum bits { LOW = 1, HIGH = 0x40000000 };
const volatile enum error error = DONE;
const volatile enum bits bits = LOW;
__attribute__((section("tc"))) int p(void *skb) { return error + bits; }
"""


@pytest.mark.parametrize(
    "compiler",
    [
        ("clang-14", "-g", "--target=bpf"),
        ("clang-16", "-g", "--target=bpf"),
        ("clang-19", "-g", "--target=bpfeb"),
        ("bpf-gcc", "-gbtf"),
    ],
    ids=lambda words: words[0],
)
def test_a_negative_enumerator_is_negative_whoever_compiled_it(tmp_path, compiler):
    """clang before 15 and GNU C before 13 do not mark signed enums."""
    (tmp_path / "enums.c").write_text(SIGNED_ENUM)
    command = [*compiler, "-O2", "-c", "enums.c", "-o", "enums.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    index = template_of(tmp_path / "enums.o").index
    kinds = {v.name: index.row(ix.Type, v.type) for v in index.rows(ix.Variable)}
    assert kinds["error"].flags & ix.SIGNED
    assert not kinds["bits"].flags & ix.SIGNED
    failed = next(iter(index.rows(ix.Enumerator, kinds["error"].first, 1)))
    assert (failed.name, failed.value & 0xFFFF_FFFF_FFFF_FFFF) == ("FAILED", 0xFFFF_FFFF_FFFF_FFFF)
