"""One process at a time; nothing stays behind, and nobody is let in twice."""

from __future__ import annotations

import os
from multiprocessing import get_context
from pathlib import Path

import pytest

from elfpatch.deploy.lock import Lock
from elfpatch.deploy.paths import Layout, check_name
from elfpatch.errors import LockBusy, UsageError


def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path / "state"), str(tmp_path / "bpf"))


def test_the_second_is_kept_out_until_the_first_leaves(tmp_path: Path) -> None:
    with Lock(layout(tmp_path), "a", 0), pytest.raises(LockBusy), Lock(layout(tmp_path), "a", 0.03):
        pass
    with Lock(layout(tmp_path), "a", 0), Lock(layout(tmp_path), "b", 0):
        pass
    assert not os.path.exists(tmp_path / "state")


def _count(state: str, counter: str) -> None:
    """Add one, badly: without the lock two processes would read the same number."""
    for _ in range(20):
        with Lock(Layout(state, state), "a", 60):
            number = int(Path(counter).read_text())
            Path(counter).write_text(str(number + 1))


def test_processes_that_make_and_remove_the_file_never_meet(tmp_path: Path) -> None:
    """The file goes whenever nobody has a record: each round makes it anew, while others wait on the removed one."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    context = get_context("fork")
    workers = [context.Process(target=_count, args=(str(tmp_path / "state"), str(counter))) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 6
    assert counter.read_text() == "120"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a.b", "ä", "a" * 65, "\n"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)
