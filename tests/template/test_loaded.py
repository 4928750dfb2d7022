"""What elfpatch loads against what libbpf loads from the same object: instructions, maps, BTF, CO-RE.

The kernel's tag of a program is a hash of its instructions before verification (map fds masked), so equal tags mean
equal instructions, in the same order of subprograms. `bpftool prog dump xlated` shows what the verifier left of them,
which depends on the contents and the freezing of .rodata.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from elfpatch.deploy.paths import Layout
from elfpatch.deploy.plan import Request
from elfpatch.deploy.transaction import apply, detach
from elfpatch.errors import BadObject
from elfpatch.kernel import bpf
from tests.support.net import unique
from tests.template.kernel import dumped, functions, map_types
from tests.template.oracles import (
    BIG_ENDIAN,
    BY_LIBBPF,
    LOADABLE,
    OBJECTS,
    UNTYPED,
    Loaded,
    libbpf_load,
    name_of,
    show_program,
)

BPF_F_MMAPABLE = 1 << 10
PINNED_BY_NAME = Path("/sys/fs/bpf/fixture_pinned")  # libbpf's folder, whatever bpffs the programs are pinned in


class Deployed(Loaded):
    """The same of a deployment of elfpatch."""

    def __init__(self, layout: Layout, name: str) -> None:
        super().__init__(Path(layout.pins(name)))
        self.layout = layout
        self.name = name

    def remove(self) -> None:
        detach(self.layout, self.name)
        for pin in self.folder.parents[1].glob("fixture_pinned"):
            pin.unlink()


@pytest.fixture
def layout(tmp_path: Path, session_bpffs: Path) -> Layout:
    return Layout(str(tmp_path / "state"), str(session_bpffs))


@pytest.fixture
def both(layout, session_bpffs):
    """Loads an object with elfpatch and with libbpf."""
    made: list[Loaded] = []

    def load(path: Path) -> tuple[Loaded, Loaded]:
        name = unique("fx")
        apply(layout, Request(str(path), name=name))
        ours = Deployed(layout, name)
        made.append(ours)
        theirs = libbpf_load(path, session_bpffs)
        assert isinstance(theirs, Loaded), theirs
        made.append(theirs)
        return ours, theirs

    yield load
    for loaded in made:
        loaded.remove()
    PINNED_BY_NAME.unlink(missing_ok=True)


def types_of_maps(loaded: Loaded) -> dict[str, object]:
    """What the BTF of each map says of its key and value."""
    found = {}
    for number in {number for pin in loaded.programs.values() for number in show_program(pin).get("map_ids", [])}:
        fd = bpf.map_fd_by_id(number)
        info = bpf.map_info(fd)
        found[info.name] = map_types(fd, dumped("id", info.btf_id) if info.btf_id else {})
        os.close(fd)
    return found


def described_functions(loaded: Loaded, program: str) -> dict[str, object]:
    """What the BTF of a program says of functions."""
    number = show_program(loaded.programs[program]).get("btf_id")
    return functions(dumped("id", number)) if number else {}


@pytest.mark.parametrize("path", BY_LIBBPF, ids=name_of)
def test_programs_and_maps_are_those_of_libbpf(both, path):
    ours, theirs = both(path)
    assert ours.tags() == theirs.tags()
    for program in theirs.programs:
        assert ours.xlated(program) == theirs.xlated(program), program
        made, described = (described_functions(one, program) for one in (ours, theirs))
        assert (program in made) == (program in described), program
        assert made.items() <= described.items(), program  # libbpf's has functions that no program uses
    wanted = theirs.maps()
    for name, definition in wanted.items():
        if path.stem == "linked" and name == "linked.rodata":
            definition["flags"] &= ~BPF_F_MMAPABLE  # libbpf 1.2 and later: not for a section of statics alone
    assert ours.maps() == wanted
    assert types_of_maps(ours) == types_of_maps(theirs)


@pytest.mark.parametrize("path", [p for p in LOADABLE if p not in BY_LIBBPF], ids=name_of)
def test_what_this_libbpf_cannot_load_is_loaded(layout, path):
    name = unique("fx")
    outcome = apply(layout, Request(str(path), name=name))
    assert outcome.record.programs
    Deployed(layout, name).remove()


@pytest.mark.parametrize("path", UNTYPED, ids=name_of)
def test_sections_that_name_no_type_need_a_target(layout, path):
    with pytest.raises(BadObject, match="give a --target"):
        apply(layout, Request(str(path)))


@pytest.mark.parametrize("path", BIG_ENDIAN, ids=name_of)
def test_big_endian_objects_are_not_loaded(layout, path):
    with pytest.raises(BadObject, match="big-endian"):
        apply(layout, Request(str(path)))


def seen(loaded: Loaded) -> list[int]:
    """The map `seen`, as 64-bit slots."""
    fd = bpf.obj_get(str(loaded.folder / "maps" / "seen"))
    value = bpf.map_lookup(fd, bytes(4), bpf.map_info(fd).value_size)
    os.close(fd)
    return list(struct.unpack(f"{len(value) // 8}Q", value))


@pytest.mark.parametrize("path", [p for p in BY_LIBBPF if p.stem == "core"], ids=name_of)
def test_co_re_gives_the_same_as_libbpf_and_the_truth(both, path):
    results = []
    for loaded in both(path):
        fd = loaded.fd("core")
        assert bpf.prog_test_run(fd, ctx=bytes(8)).retval == 7
        os.close(fd)
        results.append(seen(loaded))
    assert results[0] == results[1]
    pid, tgid, leader, *rest = results[0]
    assert (pid, tgid, leader) == (os.getpid() + 1, os.getpid(), os.getpid())
    assert struct.pack("2Q", *rest[:2]).rstrip(b"\0") == Path("/proc/self/comm").read_bytes().strip()
    assert rest[2:8] == [0, 1, 0, 16, 1, 2]


def test_tail_calls_and_maps_of_maps_are_filled_as_the_source_says(both):
    for loaded in both(OBJECTS / "clang-19-v3" / "maps.o"):
        fd = loaded.fd("entry")
        runs = [bpf.prog_test_run(fd, bytes(64)).retval for _ in range(2)]
        os.close(fd)
        assert runs == [101, 101]  # slot 1 of `jumps`
        assert seen(loaded)[0] == 2  # counted in `inner_two`, slot 2 of `outer`
