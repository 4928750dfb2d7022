"""Over a thousand replacements under traffic no packet meets neither the old nor the new program.

Each packet has a number, and each program stamps it with its version. In lock-step: the next replacement waits for a
packet of the new version. The contrast, taking the program off and putting the next one on, must fail by the same
count: so the count can fail. The control shows that without replacements nothing is lost or missed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.template.oracles import ROOT


def target(net, hook: str) -> str:
    """`tcx ingress` -> the target's text. Ingress and XDP are at the receiver, egress is at the sender."""
    kind, where = hook.split()
    end = net.a if where == "egress" else net.b
    option = ""
    if where == "netlink":
        where, option = "drv", ",via=netlink"
    return f"{kind}:{end.ifname}:{where},netns={end.ns.name},prog=stamp_{'xdp' if kind == 'xdp' else 'tc'}{option}"


HOOKS = {
    "tcx ingress": 1000,
    "tcx egress": 200,
    "tc ingress": 1000,
    "tc egress": 200,
    "xdp drv": 300,
    "xdp skb": 100,
    "xdp netlink": 100,
}
hooks = pytest.mark.parametrize(("hook", "count"), HOOKS.items(), ids=lambda value: str(value).replace(" ", "-"))


def settle(verdict) -> None:
    """What holds of every stream that a program was on all the time."""
    assert verdict.unprocessed == 0, verdict
    assert verdict.backward == 0, verdict
    assert verdict.lost == 0, verdict


@pytest.mark.timeout(120)
@hooks
def test_replacements_miss_no_packet(hook, count, deployment, traffic, net):
    with traffic() as packets:
        deployment.apply(target(net, hook), version=1)
        packets.wait_for(1)
        for version in range(2, count + 2):
            deployment.apply(version=version)
            packets.wait_for(version)
        verdict = packets.stop()
    print(hook, verdict)
    settle(verdict)
    assert len(verdict.versions) == count + 1


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.replace(" ", "-"))
def test_detaching_and_attaching_does_miss_packets(hook, deployment, traffic, net):
    """The contrast."""
    with traffic() as packets:
        for version in range(1, 31):
            if version > 1:
                deployment.detach()
            deployment.apply(target(net, hook), version=version)
            packets.wait_for(version)
        verdict = packets.stop()
    print(hook, verdict)
    assert verdict.unprocessed > 0, verdict


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.replace(" ", "-"))
def test_without_replacements_nothing_is_missed(hook, deployment, traffic, net):
    """The control."""
    with traffic() as packets:
        deployment.apply(target(net, hook), version=1)
        packets.wait_for(1)
        time.sleep(1)
        verdict = packets.stop()
    settle(verdict)
    assert verdict.packets > 2000
    assert set(verdict.versions) == {1}


@pytest.mark.parametrize("hook", ["tcx ingress", "tc ingress", "xdp drv"], ids=lambda hook: hook.replace(" ", "-"))
def test_replacements_by_the_command_line_miss_no_packet(hook, deployment, traffic, net):
    command = [sys.executable, str(ROOT / "scripts" / "elfpatch"), "apply"]
    command += ["--state-dir", deployment.layout.state, "--bpffs", deployment.layout.bpffs, str(deployment.object)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with traffic() as packets:
        for version in range(1, 31):
            words = ["--set", f"version={version}", *(["--target", target(net, hook)] if version == 1 else [])]
            subprocess.run([*command, *words], check=True, timeout=30, env=environment, capture_output=True)
            packets.wait_for(version)
        verdict = packets.stop()
    settle(verdict)
    assert len(verdict.versions) == 30
