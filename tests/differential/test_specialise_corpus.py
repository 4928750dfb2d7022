"""Programs of other people, as they ship: each one loaded as it is, and specialised for the constants in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from elfpatch import index as ix
from elfpatch.errors import ElfpatchError, SyscallFailed, VerifierRejected
from elfpatch.flow.program import heads
from elfpatch.patch.specialise import specialise
from tests.flow.kernel import Subject, contents, kept_by_kernel, outcome, subjects
from tests.support.corpus import objects

Runs = list[tuple[int, bytes, bytes]]


@dataclass
class Loading:
    """How a program loaded. `error` is None when it did; then what it did with packets and left in arrays by map row,
    and those of its instructions that the kernel kept."""

    error: ElfpatchError | None = None
    runs: Runs = field(default_factory=list)
    maps: dict[int, list[bytes]] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)

    @property
    def verdict(self) -> str:
        """The kind of error, with its number when there is one."""
        return "taken" if self.error is None else f"{type(self.error).__name__} {getattr(self.error, 'errno', '')}"


@dataclass
class Compared:
    """A program as it is, twice, and specialised. `unneeded`: the maps that it then does not refer to. `dead`: what
    specialising calls unreachable."""

    name: str
    plain: Loading
    again: Loading
    special: Loading
    unneeded: list[str]
    dead: set[int]


def compared(subject: Subject) -> Compared:
    code = subject.code()
    done = specialise(code, subject.memory)
    assert done.why_not == ""
    still = {row for _, row, _ in done.code.refs.values()}
    return Compared(
        f"{subject.path.name} {subject.program.name}",
        loading(subject, specialize=False),
        loading(subject, specialize=False),
        loading(subject, specialize=True),
        [one.name for row, one in enumerate(subject.image.template.index.rows(ix.Map)) if row not in still],
        {slot for slot, reason in done.removed.items() if reason.startswith("unreachable")},
    )


def loading(subject: Subject, *, specialize: bool) -> Loading:
    try:
        with subject.loaded(specialize=specialize) as (loaded, fd):
            made = Loading(runs=outcome(fd, subject.program.type), maps=contents(loaded))
            if not specialize:
                code = subject.code()
                made.kept = kept_by_kernel(subject.spec(code, loaded), heads(code))
            return made
    except ElfpatchError as error:
        return Loading(error)


@pytest.fixture(scope="module")
def programs(kernel: None) -> list[Compared]:
    """Those of which this host can be asked anything."""
    return [compared(subject) for path in objects() for subject in subjects(path)]


@pytest.fixture
def taken(programs: list[Compared]) -> list[Compared]:
    """Those that load both ways."""
    return [one for one in programs if one.plain.error is None and one.special.error is None]


def is_better_for_want_of_a_map(one: Compared) -> bool:
    """The program as it is needs a map that this kernel does not make; specialised it does not need it."""
    error = one.plain.error
    no_map = isinstance(error, SyscallFailed) and not isinstance(error, VerifierRejected) and error.where
    return one.special.error is None and any(str(no_map).startswith(f"map {name} (") for name in one.unneeded)


def test_specialising_changes_no_verdict(programs: list[Compared]) -> None:
    worse = [
        (one.name, one.plain.verdict, one.special.verdict, str(one.special.error))
        for one in programs
        if one.plain.verdict != one.special.verdict and not is_better_for_want_of_a_map(one)
    ]
    assert worse == []


def test_specialising_changes_nothing_that_packets_see(taken: list[Compared]) -> None:
    assert [one.name for one in taken if one.plain.runs != one.special.runs] == []
    assert sum(bool(one.plain.runs) for one in taken) >= 25


def test_specialising_changes_nothing_that_is_left_in_maps(taken: list[Compared]) -> None:
    """Of programs that do the same each time; those that note the time do not."""
    steady = [one for one in taken if one.plain.runs and one.plain.maps == one.again.maps]
    for one in steady:
        assert one.special.maps == {row: one.plain.maps[row] for row in one.special.maps}, one.name
    assert len(steady) >= 20


def test_what_is_called_unreachable_the_kernel_removes_too(taken: list[Compared]) -> None:
    assert [(one.name, one.dead & one.plain.kept) for one in taken if one.dead & one.plain.kept] == []
    assert sum(bool(one.dead) for one in taken) >= 20


def test_most_of_the_corpus_is_looked_at(programs: list[Compared], taken: list[Compared]) -> None:
    unsupported = sum(one.plain.verdict.startswith("Unsupported") for one in programs)
    assert len(taken) >= 0.8 * (len(programs) - unsupported)
