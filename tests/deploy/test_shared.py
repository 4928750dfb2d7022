"""What instances of one template share in the kernel, and what they never do."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import elfpatch
from elfpatch.api import Instance
from elfpatch.deploy import shared
from elfpatch.deploy.shared import Held, Shared
from elfpatch.kernel import bpf
from tests.support.cli import ENDPOINT, MARK
from tests.support.net import VethPair

# --- the store ----------------------------------------------------------------------------------------------------


def null() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def test_an_object_is_loaded_for_the_first_only() -> None:
    store = Shared()
    loads: list[int] = []

    def load() -> int:
        loads.append(1)
        return null()

    taken: list[Held | None] = []
    threads = [threading.Thread(target=lambda: taken.append(store.take("key", load))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len(set(map(id, taken))) == 1
    store.close()


def test_a_failed_load_is_tried_again_by_the_next() -> None:
    store = Shared()

    def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.take("key", fail)
    one = store.take("key", null)
    assert one is not None
    assert one.fd >= 0
    store.close()


def test_what_is_in_use_is_kept_and_of_the_rest_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "HELD", 3)
    store = Shared()
    used = store.take("used", null)
    assert used is not None
    fds = []
    for number in range(5):
        one = store.take(number, null)
        assert one is not None
        fds.append(one.fd)
        store.give_back(one)
    os.fstat(used.fd)
    assert store.take("used", lambda: pytest.fail("it was loaded again")) is used
    loaded: list[int] = []
    for number in (4, 3, 0):

        def load(number: int = number) -> int:
            loaded.append(number)
            return null()

        store.take(number, load)
    assert loaded == [0]
    store.close()


def test_a_program_is_not_handed_out_twice_for_one_hook() -> None:
    store = Shared()
    assert store.take("program", null, ["here"]) is not None
    assert store.take("program", null, ["there"]) is not None
    assert store.take("program", null, ["here", "elsewhere"]) is None
    assert store.take("program", null, ["elsewhere"]) is not None
    store.close()


# --- in the kernel --------------------------------------------------------------------------------------------------


@pytest.fixture
def open_template(bpffs: str, tmp_path: Path) -> Iterator[object]:
    opened: list[elfpatch.Template] = []

    def make(path: str) -> elfpatch.Template:
        opened.append(elfpatch.Template.open(path, state_dir=str(tmp_path / "state"), bpffs=bpffs))
        return opened[-1]

    yield make
    for template in opened:
        template.close()


def info(number: int) -> bpf.ProgInfo:
    fd = bpf.prog_fd_by_id(number)
    try:
        return bpf.prog_info(fd)
    finally:
        os.close(fd)


def hooks(net: VethPair) -> list[str]:
    return [
        f"tcx:{end.ifname}:{where},netns={end.ns.name}" for end in (net.a, net.b) for where in ("ingress", "egress")
    ]


def test_equal_instances_are_one_program_and_others_share_btf(open_template, net: VethPair) -> None:
    template = open_template(MARK)
    values = (1, 1, 1, 2)
    instances = [
        Instance(f"in{n}", {"foo": value}, [hook])
        for n, (value, hook) in enumerate(zip(values, hooks(net), strict=True))
    ]
    found = {one.number: one for one in template.apply_all(instances, jobs=2)}
    assert [one.error for one in found.values()] == [None] * 4
    programs = [info(next(iter(found[n].applied.programs.values()))) for n in (1, 2, 3, 4)]
    assert len({one.prog_id for one in programs[:3]}) == 1
    assert programs[3].prog_id != programs[0].prog_id
    assert programs[3].map_ids != programs[0].map_ids  # another value, another .rodata
    assert len({one.btf_id for one in programs}) == 1
    for n in range(4):
        template.detach(f"in{n}")


def test_equal_instances_on_one_hook_are_programs_of_their_own(open_template, net: VethPair) -> None:
    """TCX refuses the same program twice on a hook."""
    template = open_template(MARK)
    hook = hooks(net)[0]
    first = template.apply({"foo": 1}, targets=[hook], name="one")
    second = template.apply({"foo": 1}, targets=[hook], name="two")
    assert first.programs[hook] != second.programs[hook]
    assert info(first.programs[hook]).map_ids == info(second.programs[hook]).map_ids  # the frozen map is one
    for name in ("one", "two"):
        template.detach(name)


def test_maps_that_hold_state_are_each_instances_own(open_template, net: VethPair) -> None:
    template = open_template(ENDPOINT)
    ids = []
    for number, hook in enumerate(hooks(net)[:2]):
        applied = template.apply({"ep.ip4": "10.0.0.1"}, targets=[hook], name=f"ep{number}")
        ids.append(set(info(applied.programs[hook]).map_ids))
    assert len(ids[0] & ids[1]) == 1  # .rodata
    assert len(ids[0] - ids[1]) == len(ids[1] - ids[0]) > 0
    for number in range(2):
        template.detach(f"ep{number}")


def test_what_was_applied_runs_on_when_the_template_is_closed(open_template, net: VethPair) -> None:
    template = open_template(MARK)
    hook = hooks(net)[0]
    applied = template.apply({"foo": 1}, targets=[hook], name="one")
    template.close()
    assert info(applied.programs[hook]).prog_id == applied.programs[hook]
    assert not template.apply({"foo": 1}, name="one").changed
    template.detach("one")
