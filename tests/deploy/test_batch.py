"""The order, the bounds and the end of a batch; what is done to the kernel is in tests/cli/test_batch.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from elfpatch.deploy.batch import Batch, Job
from elfpatch.deploy.plan import Request
from elfpatch.errors import BadValue, Missing


def jobs(names: list[str]) -> Iterator[Job]:
    for number, name in enumerate(names, 1):
        yield Job(number, name, Request(f"{number}", name=name))


def test_jobs_of_one_deployment_keep_their_order_and_never_meet() -> None:
    begun: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    inside: list[str] = []
    met: list[str] = []

    def work(request: Request) -> Any:
        if request.name in inside:
            met.append(request.name)
        inside.append(request.name)
        begun[request.name].append(int(request.object))
        time.sleep(0.001)
        inside.remove(request.name)

    names = ["a", "a", "b", "a", "c", "b"] * 20
    results = list(Batch(jobs(names), work, 4))
    assert len(results) == len(names)
    assert not met
    for name, order in begun.items():
        assert order == [number for number, one in enumerate(names, 1) if one == name]


def test_a_failure_stops_nothing_and_keeps_its_kind() -> None:
    def work(request: Request) -> Any:
        if request.name == "gone":
            raise Missing("no such thing")
        if request.name == "odd":
            raise ValueError("two\nlines")
        return cast(Any, request.name)

    entries = [*jobs(["one", "gone", "odd", "two"]), Job(5, "line", error=BadValue("not JSON"))]
    results = {result.number: result for result in Batch(entries, work, 2)}
    assert [str(results[n].outcome) for n in (1, 4)] == ["one", "two"]
    assert [results[n].error.exit_code for n in (2, 3, 5)] == [66, 70, 65]  # type: ignore[union-attr]
    assert str(results[3].error) == "odd: ValueError: two lines"


def test_input_is_read_a_bounded_way_ahead() -> None:
    read: list[int] = []
    go = threading.Event()

    def source() -> Iterator[Job]:
        for job in jobs([f"n{number}" for number in range(1000)]):
            read.append(job.number)
            yield job

    def work(request: Request) -> Any:
        go.wait(10)

    batch = Batch(source(), work, 2)
    time.sleep(0.2)
    assert len(read) <= 2 * 4 + 1
    go.set()
    assert len(list(batch)) == 1000


def test_stop_finishes_what_is_at_work_and_counts_the_rest_even_while_the_input_waits() -> None:
    began = threading.Event()
    go = threading.Event()
    never = threading.Event()

    def source() -> Iterator[Job]:
        yield from jobs(["a", "b", "c"])
        never.wait(10)

    def work(request: Request) -> Any:
        began.set()
        go.wait(10)

    batch = Batch(source(), work, 1)
    assert began.wait(10)
    time.sleep(0.05)  # the feeder reads all three
    batch.stop()
    go.set()
    start = time.monotonic()
    assert [result.name for result in batch] == ["a"]
    assert batch.not_begun == 2
    assert time.monotonic() - start < 5
    never.set()


def test_what_the_input_raises_comes_after_the_results_before_it() -> None:
    def source() -> Iterator[Job]:
        yield from jobs(["a", "b"])
        raise OSError(5, "input/output error")

    batch = Batch(source(), lambda request: cast(Any, request.name), 2)
    assert {next(batch).name, next(batch).name} == {"a", "b"}
    with pytest.raises(OSError, match="input/output"):
        next(batch)
