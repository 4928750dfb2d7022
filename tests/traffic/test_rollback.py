"""A transaction over two targets whose second swap fails: the first is swapped back under traffic, without a gap."""

from __future__ import annotations

import os

import pytest

from elfpatch.deploy.attach.clsact import ClsactFilter
from elfpatch.deploy.attach.tcx import TcxLink
from elfpatch.deploy.source import open_template
from elfpatch.deploy.status import status
from elfpatch.errors import ElfpatchError, SyscallFailed
from elfpatch.kernel import bpf
from tests.support.insns import TC_OK, mov_exit
from tests.traffic.test_state import counted, counts, eventually, everywhere

OTHER = "veth7"  # the second target: an interface beside those that the stream goes over


@pytest.fixture
def targets(net):
    """A second interface, and how to name both targets; `tcx` or `tc` is the second one's kind."""
    net.a.ns.ip("link", "add", OTHER, "type", "veth", "peer", "name", "veth8")
    net.a.ns.ip("link", "set", OTHER, "up")

    def named(kind: str) -> tuple[str, str]:
        return (
            f"tcx:{net.b.ifname}:ingress,netns={net.b.ns.name},prog=stamp_tc",
            f"{kind}:{OTHER}:ingress,netns={net.a.ns.name},prog=stamp_tc",
        )

    return named


def fails(net, deployment) -> None:
    raise SyscallFailed("BPF_LINK_UPDATE", 12)


def interface_vanishes(net, deployment) -> None:
    net.a.ns.ip("link", "del", OTHER)


def filter_is_deleted(net, deployment) -> None:
    net.a.ns.tc("filter", "del", "dev", OTHER, "ingress")


def filter_is_replaced(net, deployment) -> None:
    """Somebody else puts a program in the place of ours."""
    path = f"{deployment.layout.bpffs}/foreign"
    fd = bpf.prog_load(bpf.ProgSpec(3, mov_exit(TC_OK), "GPL", name="foreign"))
    bpf.obj_pin(fd, path)
    os.close(fd)
    there = ("dev", OTHER, "ingress", "prio", "1", "handle", "1", "protocol", "all")
    net.a.ns.command("tc", "filter", "replace", *there, "bpf", "da", "object-pinned", path)
    os.unlink(path)


@pytest.mark.parametrize(
    ("kind", "adapter", "happens"),
    [
        ("tcx", TcxLink, fails),
        ("tcx", TcxLink, interface_vanishes),
        ("tc", ClsactFilter, fails),
        ("tc", ClsactFilter, interface_vanishes),
        ("tc", ClsactFilter, filter_is_deleted),
        ("tc", ClsactFilter, filter_is_replaced),
    ],
)
def test_the_first_target_is_swapped_back(kind, adapter, happens, deployment, traffic, net, targets, monkeypatch):
    one, other = targets(kind)
    real, seen = adapter.swap, []

    def swap(self, place, *rest):
        if place.target.iface == OTHER and not seen:
            packets.wait_for(2)  # the first target already runs the new program
            seen.append(place)
            happens(net, deployment)
        return real(self, place, *rest)

    with traffic() as packets:
        before = deployment.apply(one, other, version=1).record
        packets.wait_for(1)
        monkeypatch.setattr(adapter, "swap", swap)
        with pytest.raises(ElfpatchError) as caught:
            deployment.apply(version=2)
        packets.wait_for(1)
        verdict = packets.stop()
    assert seen
    assert caught.value.exit_code == 1
    assert "undoing" not in str(caught.value)
    assert verdict.unprocessed == verdict.lost == 0
    assert set(verdict.versions) == {1, 2}
    assert verdict.backward == 1  # once to the new program and once back
    assert counted(deployment) == everywhere(sum(verdict.versions.values()))

    [shown] = status(deployment.layout, [deployment.name])
    assert not shown.problem
    assert shown.record is not None
    assert (shown.record.generation, shown.record.programs) == (before.generation, before.programs)
    drifted = {target.attached.target: bool(target.drift) for target in shown.targets}
    assert drifted == {one: False, other: happens is not fails}
    links = 2 if kind == "tcx" else 1  # a pinned link outlives its interface
    eventually(lambda: counts(deployment), (3, 1, links))


def test_a_failure_before_the_first_swap_changes_nothing(deployment, traffic, net, targets, monkeypatch):
    one, other = targets("tcx")
    with traffic() as packets:
        before = deployment.apply(one, other, version=1).record
        packets.wait_for(1)
        monkeypatch.setattr(bpf, "prog_load", lambda spec: fails(net, deployment))
        with pytest.raises(ElfpatchError):
            deployment.apply(version=2)
        monkeypatch.undo()
        verdict = packets.stop()
    assert set(verdict.versions) == {1}
    [shown] = status(deployment.layout, [deployment.name])
    assert not shown.drifted
    assert shown.record is not None
    assert shown.record.programs == before.programs
    assert open_template(str(deployment.object)).index.template_sha256.hex() == shown.record.template_sha256
    eventually(lambda: counts(deployment), (3, 1, 2))


def test_after_a_rollback_the_next_apply_goes_through(deployment, traffic, net, targets, monkeypatch):
    one, other = targets("tcx")
    with traffic() as packets:
        deployment.apply(one, other, version=1)
        packets.wait_for(1)
        with monkeypatch.context() as patched:
            patched.setattr(TcxLink, "swap", lambda self, place, *rest: fails(net, deployment))
            with pytest.raises(ElfpatchError):
                deployment.apply(version=2)
        for version in (3, 4):
            deployment.apply(version=version)
            packets.wait_for(version)
        verdict = packets.stop()
    assert set(verdict.versions) == {1, 3, 4}
    assert verdict.unprocessed == verdict.lost == verdict.backward == 0
    deployment.detach()
    eventually(lambda: counts(deployment), (0, 0, 0))
