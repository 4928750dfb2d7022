"""Trimmed BTF: the kernel makes of every program what it makes of it with all of its BTF."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from elfpatch import index as ix
from scripts.build_templates import compile_object
from tests.support.corpus import objects
from tests.support.require import require
from tests.template.kernel import Outcome, dumped, functions, indexed, outcome, untrimmed
from tests.template.oracles import ALL, BIG_ENDIAN, WITHOUT_BTF, name_of

CLANG = os.environ.get("CLANG", "clang-19")
NIGHTLY = "ELFPATCH_TRIM_ALL" in os.environ
# bpftool takes a second for each program: it reads all symbols of the kernel
SOME = ALL if NIGHTLY else [path for path in ALL if path.parent.name in ("clang-19-v3", "templates")]
TAGGED = Path(__file__).with_name("trim.bpf.c")


def both(path: Path) -> tuple[Outcome, Outcome]:
    """What the kernel makes of an object with the trimmed and with all of the BTF."""
    data = path.read_bytes()
    return outcome(indexed(path), data), outcome(untrimmed(path), data)


@pytest.mark.parametrize("path", [path for path in SOME if path not in BIG_ENDIAN], ids=name_of)
def test_fixtures_load_as_with_all_of_their_btf(kernel, path):
    trimmed, full = both(path)
    if full.typed:
        assert trimmed == full
    else:  # what the kernel minds in the BTF of GNU C may be gone
        assert [one.error for one in trimmed.programs.values()] == [one.error for one in full.programs.values()]


@pytest.mark.parametrize("path", [path for path in ALL if path not in WITHOUT_BTF], ids=name_of)
def test_bpftool_reads_it_and_finds_the_functions_of_the_object(path, tmp_path):
    """Of either byte order."""
    raw = tmp_path / "trimmed.btf"
    raw.write_bytes(indexed(path).info.btf)
    trimmed, all_of_them = (functions(dumped("file", one), linkage=False) for one in (raw, path))
    assert trimmed.items() <= all_of_them.items()
    assert all(name in trimmed for name in entries(path))


def entries(path: Path) -> list[str]:
    """The programs of an object of which it says something."""
    return [program.name for program in indexed(path).rows(ix.Program) if program.func_info]


def test_types_that_the_kernel_finds_by_name_or_tag_are_kept(kernel, tmp_path):
    require(CLANG)
    path = tmp_path / "trim.o"
    compile_object(TAGGED, path, clang=CLANG)
    trimmed, full = both(path)
    assert trimmed == full
    assert trimmed.maps["values"] is not None  # without `struct item` the kernel takes no BTF for this map
    assert not trimmed.programs["entry"].error
    raw = tmp_path / "trimmed.btf"
    raw.write_bytes(indexed(path).info.btf)
    members = {kind["name"]: len(kind["members"]) for kind in dumped("file", raw).values() if kind["kind"] == "STRUCT"}
    assert members == {
        "value": 3,
        "item": 2,
        "owned": 2,
        "bpf_spin_lock": 1,
        "bpf_list_head": 0,  # its bit-fields have no names
        "bpf_list_node": 0,
        "pair": 0,
        "__sk_buff": 0,  # only pointed to
    }


@pytest.fixture(scope="module")
def corpus(kernel) -> list[tuple[str, Outcome, Outcome]]:
    return [(path.name, *both(path)) for path in chosen() if not indexed(path).big_endian]


def chosen() -> list[Path]:
    """A few of the objects; by night one of each name: many come twice, built a little differently."""
    found = list({path.stem.partition("-")[2].removesuffix(".so"): path for path in objects()}.values())
    return found if NIGHTLY else found[::10]


def test_other_peoples_objects_load_as_with_all_of_their_btf(corpus):
    compared = [one for one in corpus if one[2].typed]
    for name, trimmed, full in compared:
        assert trimmed == full, name
    assert len(compared) > (80 if NIGHTLY else 3)


def test_other_peoples_objects_load_where_all_of_their_btf_is_refused(corpus):
    """Of two of libbpf-tools this kernel refuses the types that they include and do not use."""
    refused = [(trimmed, full) for _, trimmed, full in corpus if trimmed.typed and not full.typed]
    for trimmed, full in refused:
        for name, one in full.programs.items():
            assert trimmed.programs[name].error in ("", one.error), name


def test_most_of_them_load(corpus):
    """Else the comparison above compares errors."""
    seen = [one for _, trimmed, _ in corpus for one in trimmed.programs.values()]
    typed = [types for _, trimmed, _ in corpus for types in trimmed.maps.values() if types not in (None, "not made")]
    assert sum(not one.error for one in seen) > 0.5 * len(seen) > (80 if NIGHTLY else 5)
    assert len(typed) > (80 if NIGHTLY else 5)


def test_trimming_leaves_a_fifth_of_other_peoples_btf():
    """They include vmlinux.h, and read some members of the kernel's structs."""
    sizes = [(len(indexed(path).info.btf), len(untrimmed(path).info.btf)) for path in chosen()]
    assert sum(trimmed for trimmed, _ in sizes) < (0.25 if NIGHTLY else 0.5) * sum(full for _, full in sizes)
