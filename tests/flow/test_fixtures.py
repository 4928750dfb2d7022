"""Every program of the fixtures, specialised for its own constants, before the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from elfpatch.errors import VerifierRejected
from elfpatch.flow.program import Code, heads
from elfpatch.patch.specialise import Specialised, prune, specialise
from tests.flow.asm import plain
from tests.flow.kernel import Subject, contents, kept_by_kernel, outcome, subjects
from tests.support.require import require_root
from tests.template.oracles import ALL, ROOT, name_of

PATHS = [*ALL, *sorted((ROOT / "fixtures" / "templates").glob("*.o"))]
# They put the address of a map's element into packets and maps: it is another one after each load
SHOW_ADDRESSES = ("escape", "fetch")
OBJECTS = [path for path in PATHS if path.parent.name != "big-endian"]


@pytest.fixture(params=OBJECTS, ids=name_of)
def programs(request: pytest.FixtureRequest) -> list[Subject]:
    """The programs of an object whose types are known and which need no symbols of others."""
    require_root()
    path: Path = request.param
    return subjects(path)


def described(code: Code) -> tuple[object, ...]:
    return (code.encode(), code.refs, code.starts, code.func_info, code.line_info, code.core_relos)


def unreachable(done: Specialised) -> set[int]:
    return {slot for slot, reason in done.removed.items() if reason.startswith("unreachable")}


def test_every_program_is_understood_and_specialising_again_changes_nothing(programs: list[Subject]) -> None:
    for subject in programs:
        done = specialise(subject.code(), subject.memory)
        assert done.why_not == ""
        again = specialise(done.code, subject.memory)
        assert described(again.code) == described(done.code)
        assert again.removed == {}


def test_pruning_a_program_that_loads_changes_nothing(programs: list[Subject]) -> None:
    for subject in programs:
        code = subject.code()
        done = prune(code)
        assert set(done.removed.values()) <= {"it jumps to what is next"}
        kept = [plain(insn) for slot, insn in enumerate(code.insns) if slot not in done.removed]
        assert [insn[:3] for insn in map(plain, done.code.insns)] == [insn[:3] for insn in kept]


def test_both_have_one_verdict_and_do_the_same(programs: list[Subject]) -> None:
    for subject in programs:
        found: list[tuple[object, dict[int, list[bytes]]] | None] = []
        for specialize in (False, True):
            try:
                with subject.loaded(specialize=specialize) as (loaded, fd):
                    found.append((outcome(fd, subject.program.type), contents(loaded)))
            except VerifierRejected:
                found.append(None)
        plain, special = found
        if plain is None or special is None:
            assert plain == special
            continue
        if subject.path.stem in SHOW_ADDRESSES:
            continue
        assert special[0] == plain[0]
        assert special[1] == {row: elements for row, elements in plain[1].items() if row in special[1]}


def test_what_is_called_dead_the_kernel_removes_too(programs: list[Subject]) -> None:
    for subject in programs:
        code = subject.code()
        done = specialise(code, subject.memory)
        try:
            with subject.loaded() as (loaded, _):
                kept = kept_by_kernel(subject.spec(code, loaded), list(heads(code)))
        except VerifierRejected:
            continue
        assert unreachable(done) & kept == set()


def test_most_objects_are_loaded() -> None:
    """What the tests above pass over is little: rejected as it is."""
    require_root()
    rejected = set()
    for path in OBJECTS:
        for subject in subjects(path):
            try:
                with subject.loaded():
                    pass
            except VerifierRejected:
                rejected.add(name_of(path))
    assert {name.partition("/")[2] for name in rejected} <= {"calls", "fetch"}
    assert "clang-19-v3/calls" not in rejected


def test_the_shipped_templates_shrink() -> None:
    """Their options are off: most of what is there cannot run."""
    require_root()
    for name, share in (("endpoint", 0.5), ("xdp_filter", 0.5), ("xdp_lb", 0.5)):
        (subject,) = subjects(ROOT / "fixtures" / "templates" / f"{name}.o")
        code = subject.code()
        done = specialise(code, subject.memory)
        assert len(done.code.insns) < share * len(code.insns)
        assert len(done.code.refs) < len(code.refs)
