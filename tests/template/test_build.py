"""`elfpatch build`: the object with its index is still an object for every other tool, and what they make of it is
noticed."""

from __future__ import annotations

import json
import struct

import pytest

from elfpatch import index as ix
from elfpatch.cli.main import main
from elfpatch.deploy.source import open_template
from elfpatch.errors import BadObject
from elfpatch.patch.image import make_image, written
from elfpatch.patch.setting import from_set
from elfpatch.template.build import build, original
from tests.template.oracles import (
    ALL,
    BY_LIBBPF,
    OBJECTS,
    READELF,
    Loaded,
    libbpf_load,
    name_of,
    output,
    run,
    template_of,
)

fixtures = pytest.mark.parametrize("path", ALL, ids=name_of)
SCALARS = OBJECTS / "clang-19-v3" / "scalars.o"
STRUCTS = OBJECTS / "clang-19-v3" / "structs.o"


def indexed(path, tmp_path):
    """The file with an index, built by the command line, and of the same name."""
    made = tmp_path / path.name
    assert main(["build", "-o", str(made), str(path)]) == 0
    return made


@fixtures
def test_the_original_is_kept_and_comes_back(path, tmp_path):
    before, after = path.read_bytes(), indexed(path, tmp_path).read_bytes()
    assert original(after) == before
    allowed = {*range(40, 48), *range(60, 62)}  # e_shoff and e_shnum
    index = template_of(path).index
    for site in index.rows(ix.Site):
        allowed.update(range(site.file_offset, site.file_offset + 8) if site.kind != ix.SITE_OPCODE else ())
    for row in index.rows(ix.Immediate):
        allowed.update(range(row.file_offset, row.file_offset + len(row.raw)))
    for row in index.rows(ix.Rewrite):
        allowed.update(range(row.offset, row.offset + len(row.raw)))
    assert {at for at in range(len(before)) if before[at] != after[at]} <= allowed


@fixtures
def test_building_again_changes_nothing(path, tmp_path):
    made = indexed(path, tmp_path)
    before = made.read_bytes()
    assert build(before, path.stem) == before
    assert main(["build", str(made)]) == 0
    assert made.read_bytes() == before


@fixtures
def test_the_index_is_found_and_is_of_this_object(path, tmp_path):
    template = open_template(str(indexed(path, tmp_path)))
    assert template.index.template_sha256 == template_of(path).index.template_sha256


@fixtures
def test_readelf_sees_one_section_more_and_warns_of_nothing_new(path, tmp_path):
    made = indexed(path, tmp_path)
    before, after = run(READELF, "-a", "-W", path), run(READELF, "-a", "-W", made)
    assert after.stderr.replace(str(made), str(path)) == before.stderr
    names = [json.loads(output(READELF, "--elf-output-style=JSON", "-S", p))[0]["Sections"] for p in (path, made)]
    names = [[row["Section"]["Name"]["Name"] for row in rows] for rows in names]
    assert names[1] == [*names[0], ".elfpatch"]
    immediates = template_of(path).index.count(ix.Immediate)
    for flags in ("-s",) if immediates else ("-s", "-r"):
        texts = [output(READELF, flags, "-W", p).replace(str(p), "") for p in (path, made)]
        assert texts[0] == texts[1]


@pytest.mark.parametrize("path", BY_LIBBPF, ids=name_of)
def test_libbpf_loads_the_same_programs(path, tmp_path, session_bpffs):
    tags = []
    for file in (path, indexed(path, tmp_path)):
        loaded = libbpf_load(file, session_bpffs)
        assert isinstance(loaded, Loaded), loaded
        tags.append(loaded.tags())
        loaded.remove()
    assert tags[0] == tags[1]


@pytest.fixture(autouse=True)
def no_shared_pin():
    yield
    from tests.template.test_loaded import PINNED_BY_NAME

    PINNED_BY_NAME.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "path", [path for path in ALL if path.parent.name in ("clang-14-v2", "clang-19-v3")], ids=name_of
)
def test_bpftool_links_it_or_refuses_as_it_does_the_original(path, tmp_path):
    made = indexed(path, tmp_path)
    verdicts = [
        run("bpftool", "gen", "object", tmp_path / f"linked{number}.o", file, check=False).returncode
        for number, file in enumerate((path, made))
    ]
    assert verdicts[0] == verdicts[1]


# --- what other tools make of it

REWRITES = {
    "llvm-strip -g": ("llvm-strip-19", "-g"),
    "llvm-objcopy": ("llvm-objcopy-19",),
    "llvm-objcopy adds a section": ("llvm-objcopy-19", "--add-section=.note=/proc/version"),
    "llvm-objcopy renames a section": ("llvm-objcopy-19", "--rename-section=tc=classifier"),
}


@pytest.mark.parametrize("rewrite", REWRITES)
@pytest.mark.parametrize("name", ["clang-19-v3/scalars", "clang-14-v2/structs", "big-endian/plain"])
def test_a_rewritten_template_is_stale_until_it_is_built_again(rewrite, name, tmp_path, capsys):
    made = indexed(OBJECTS / f"{name}.o", tmp_path)
    run(*REWRITES[rewrite], made)
    before = made.read_bytes()
    capsys.readouterr()
    assert main(["inspect", "--state-dir", str(tmp_path), str(made)]) == 65
    [line] = capsys.readouterr().err.splitlines()
    assert "stale" in line or "not the one its index was made from" in line
    assert "elfpatch build" in line
    assert made.read_bytes() == before

    assert main(["build", str(made)]) == 0
    template = open_template(str(made))
    assert [v.name for v in template.index.rows(ix.Variable)] == [
        v.name for v in template_of(OBJECTS / f"{name}.o").index.rows(ix.Variable)
    ]
    assert run(READELF, "-a", "-W", made).stderr == ""
    again = made.read_bytes()
    assert build(again, made.stem) == again
    assert original(again) == before


def test_a_stripped_template_that_was_built_again_is_loaded_by_libbpf(tmp_path, session_bpffs):
    made = indexed(SCALARS, tmp_path)
    run("llvm-strip-19", "-g", made)
    assert main(["build", str(made)]) == 0
    loaded, wanted = libbpf_load(made, session_bpffs), libbpf_load(SCALARS, session_bpffs)
    assert isinstance(loaded, Loaded) and isinstance(wanted, Loaded)
    assert loaded.tags() == wanted.tags()
    loaded.remove()
    wanted.remove()


# --- indexes that are not to be trusted


def refused(data, tmp_path, match):
    path = tmp_path / "scalars.o"
    path.write_bytes(data)
    with pytest.raises(BadObject, match=match) as caught:
        open_template(str(path))
    assert "\n" not in str(caught.value)


def test_a_patched_template_is_still_this_template(tmp_path):
    template = open_template(str(indexed(SCALARS, tmp_path)))
    (tmp_path / "out.o").write_bytes(written(make_image(template, [from_set("v_u32=7")])))
    assert open_template(str(tmp_path / "out.o")).index.template_sha256 == template.index.template_sha256


def test_any_other_change_is_noticed(tmp_path):
    data = indexed(SCALARS, tmp_path).read_bytes()
    template = open_template(str(tmp_path / "scalars.o"))
    masks = [(mask.offset, mask.offset + mask.size) for mask in template.index.rows(ix.Mask)]
    for at in range(64, template.index.object_size, 97):
        if not any(start <= at < end for start, end in masks):
            changed = bytearray(data)
            changed[at] ^= 1
            refused(changed, tmp_path, "not the one its index was made from")


def test_a_tampered_index_is_noticed(tmp_path):
    data = indexed(SCALARS, tmp_path).read_bytes()
    block = ix.find(data)
    assert block is not None
    start = data.index(bytes(block))
    for at in range(start + 48, start + len(block), 131):
        changed = bytearray(data)
        changed[at] ^= 0x10
        refused(changed, tmp_path, "damaged|not the one")


def test_an_index_of_a_newer_format_is_refused_with_the_way_out(tmp_path):
    data = bytearray(indexed(SCALARS, tmp_path).read_bytes())
    start = data.index(ix.MAGIC)
    struct.pack_into("<I", data, start + len(ix.MAGIC), ix.VERSION + 1)
    refused(data, tmp_path, "upgrade elfpatch")


def test_a_trailer_that_points_outside_is_refused(tmp_path):
    data = bytearray(indexed(SCALARS, tmp_path).read_bytes())
    struct.pack_into("<Q", data, len(data) - 16, len(data) + 1)
    refused(data, tmp_path, "outside the file")


def test_the_index_of_another_object_is_refused(tmp_path):
    block = ix.find(indexed(SCALARS, tmp_path).read_bytes())
    assert block is not None
    refused(STRUCTS.read_bytes() + ix.with_trailer(bytes(block)), tmp_path, "not the one")


def test_build_does_not_take_the_index_of_another_object_for_this_one_s():
    """Else the other object's header and size would be put on this one."""
    block = ix.find(build(SCALARS.read_bytes(), "scalars"))
    assert block is not None
    mixed = STRUCTS.read_bytes() + ix.with_trailer(bytes(block))
    assert original(mixed) == mixed
    found = ix.find(build(mixed, "structs"))
    assert found is not None
    assert ix.Index(found).variables_named("cfg")


@pytest.mark.parametrize("at", [-1, -9, -16, -100])
def test_build_repairs_a_damaged_index(at, tmp_path):
    made = indexed(SCALARS, tmp_path)
    data = bytearray(made.read_bytes())
    data[at] ^= 0xFF
    made.write_bytes(data)
    assert main(["build", str(made)]) == 0
    assert open_template(str(made)).index.variables_named("v_u32")
