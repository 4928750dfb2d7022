"""Every adapter on the real kernel: attach, observe, swap, lost compare, others on the hook, detach, what vanishes.

The oracles are bpftool, `tc` and `ip`, never the adapter itself.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from elfpatch import errors
from elfpatch.deploy.attach import adapter_for
from elfpatch.deploy.attach.base import ABSENT, DEFUNCT, FOREIGN, OURS, Adapter, Place
from elfpatch.deploy.target import Target, parse
from elfpatch.kernel import bpf
from elfpatch.kernel.netlink import Rtnl
from tests.support.insns import TC_NEXT, XDP_DROP, XDP_PASS, mov_exit
from tests.support.net import Bpffs, Cgroup, End, NetNs, VethPair, command, udp, unique

pytestmark = pytest.mark.usefixtures("kernel")

MECHANISMS = [
    "tcx ingress", "tcx egress", "tc ingress", "tc egress", "cgroup connect4",
    "xdp", "xdp drv", "xdp skb", "xdp netlink", "xdp drv netlink", "xdp skb netlink",
]  # fmt: skip
ON_INTERFACES = [mechanism for mechanism in MECHANISMS if not mechanism.startswith("cgroup")]
LINKS = ["tcx ingress", "cgroup connect4", "xdp", "xdp skb"]
NOT_LINKS = ["tc ingress", "xdp netlink"]
EXCLUSIVE = ["xdp", "xdp skb", "xdp netlink", "xdp skb netlink", "tc ingress"]
# Return values under which traffic passes
PASSING = {"xdp": XDP_PASS, "tcx": TC_NEXT, "tc": -1, "cgroup": 1}


def links() -> list[dict[str, Any]]:
    """All links as bpftool sees them. It gives up when one goes away while it counts them, whoever's that was."""
    for attempt in range(10):
        try:
            found: list[dict[str, Any]] = json.loads(command("bpftool", "-j", "link", "show"))
            return found
        except AssertionError:
            if attempt == 9:
                raise
            time.sleep(0.1)
    raise AssertionError("not reached")


class Loaded:
    """A loaded program."""

    def __init__(self, target: Target, name: str, value: int | None = None) -> None:
        returned = PASSING[target.kind] if value is None else value
        spec = bpf.ProgSpec(
            target.prog_type, mov_exit(returned), "GPL", name=name, expected_attach_type=target.attach_type
        )
        self.fd = bpf.prog_load(spec)
        self.id = bpf.prog_info(self.fd).prog_id


class Hook:
    """One target in namespaces and cgroups of the test's own, with programs `one`, `two`, `three` that fit it."""

    def __init__(self, mechanism: str, net: VethPair, cgroup: Cgroup, pins: str, ns: str = "") -> None:
        kind, *rest = mechanism.split()
        self.end: End = net.b
        self.net = net
        self.cgroup = cgroup
        self.pin = f"{pins}/link"
        ns = ns or net.b.ns.name
        if kind == "cgroup":
            text = f"cgroup:{cgroup.path}:{rest[0]}"
        else:
            where = "".join(f":{part}" for part in rest if part != "netlink")
            text = f"{kind}:veth1{where},netns={ns}{',via=netlink' if 'netlink' in rest else ''}"
        self.target = parse(text)
        self.adapter: Adapter = adapter_for(self.target)
        self.one, self.two, self.three = (Loaded(self.target, name) for name in ("one", "two", "three"))
        self.known = (self.one.id, self.two.id)
        self.record: dict[str, str] = {}

    @property
    def place(self) -> Place:
        return self.adapter.locate(self.target)

    def attach(self, prog: Loaded) -> None:
        self.record = self.adapter.attach(self.place, prog.fd, self.pin)

    def swap(self, old: Loaded, new: Loaded) -> None:
        self.adapter.swap(self.place, self.pin, self.record, old.fd, new.fd)

    def detach(self) -> None:
        self.adapter.detach(self.target, self.pin, self.record, self.known)

    def state(self) -> tuple[str, int]:
        live = self.adapter.observe(self.place, self.pin, self.record, self.known)
        return live.state, live.prog_id

    def on_hook(self) -> list[int]:
        """Ids of the programs on the hook, by other tools."""
        kind, where = self.target.kind, self.target.where
        if kind == "cgroup":
            shown = json.loads(command("bpftool", "-j", "cgroup", "show", self.cgroup.path).strip() or "[]")
            return [entry["id"] for entry in shown]
        if kind == "tc":
            shown = json.loads(self.end.ns.tc("-j", "filter", "show", "dev", "veth1", where) or "[]")
            return [entry["options"]["prog"]["id"] for entry in shown if "prog" in entry.get("options", {})]
        if kind == "tcx":
            return self._tcx_links()
        (shown,) = json.loads(self.end.ns.ip("-j", "-d", "link", "show", "veth1"))
        xdp = shown.get("xdp")
        return [attached["prog"]["id"] for attached in _modes(xdp)] if xdp else []

    def _tcx_links(self) -> list[int]:
        """bpftool 7.1 lists TCX links without their interface; the kernel's fdinfo has it."""
        found = []
        for link in links():
            if link["prog_id"] not in (self.one.id, self.two.id, self.three.id):
                continue
            fd = bpf.link_fd_by_id(link["id"])
            lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
            os.close(fd)
            hook = {"link_type:\ttcx", f"ifindex:\t{self.end.ifindex}"}
            if hook < set(lines) and any(line.endswith(f"({self.target.where})") for line in lines):
                found.append(link["prog_id"])
        return found

    def foreign(self, prog: Loaded) -> Callable[[], None]:
        """Somebody else attaches `prog` to the same hook, in the same way where it can be; returns their undo."""
        target, index = self.target, self.end.ifindex if self.target.kind != "cgroup" else 0
        if target.kind == "xdp":
            mode = {"": 0, "drv": 4, "skb": 2}[target.mode]
            with Rtnl(target.netns) as rtnl:
                rtnl.xdp_set(index, prog.fd, mode)

            def undo() -> None:
                with Rtnl(target.netns) as rtnl:
                    rtnl.xdp_set(index, -1, mode)

            return undo
        if target.kind == "tc":
            path = f"{os.path.dirname(self.pin)}/{unique('f')}"
            bpf.obj_pin(prog.fd, path)
            tc = self.end.ns.command
            tc("tc", "qdisc", "add", "dev", "veth1", "clsact", check=False)
            where = ("dev", "veth1", target.where, "prio", str(target.prio), "handle", str(target.handle))
            tc("tc", "filter", "replace", *where, "bpf", "direct-action", "pinned", path)
            return lambda: None
        if target.kind == "cgroup":
            folder = os.open(self.cgroup.path, os.O_RDONLY)
            link = bpf.link_create(prog.fd, folder, target.attach_type)
            os.close(folder)
        else:
            link = self.end.ns.run(bpf.link_create, prog.fd, index, target.attach_type)
        return lambda: os.close(link)


def _modes(xdp: dict[str, Any]) -> list[dict[str, Any]]:
    return xdp.get("attached", [xdp])


@pytest.fixture
def make(net: VethPair, cgroup: Cgroup, bpffs: str) -> Callable[..., Hook]:
    os.mkdir(f"{bpffs}/pins")
    return lambda mechanism, ns="": Hook(mechanism, net, cgroup, f"{bpffs}/pins", ns)


@pytest.fixture(params=MECHANISMS)
def hook(request: pytest.FixtureRequest, make: Callable[[str], Hook]) -> Iterator[Hook]:
    made = make(request.param)
    yield made
    made.detach()


def pins(hook: Hook) -> list[str]:
    return os.listdir(os.path.dirname(hook.pin))


# --- the ordinary life


def test_attach_swap_detach(hook: Hook) -> None:
    assert hook.state() == (ABSENT, 0)
    assert hook.on_hook() == []
    hook.attach(hook.one)
    assert hook.state() == (OURS, hook.one.id)
    assert hook.on_hook() == [hook.one.id]
    assert hook.adapter.occupants(hook.place) == [hook.one.id]
    assert pins(hook) == (["link"] if hook.adapter.pinned else [])
    hook.swap(hook.one, hook.two)
    assert hook.state() == (OURS, hook.two.id)
    assert hook.on_hook() == [hook.two.id]
    hook.swap(hook.two, hook.one)  # as an undo does
    assert hook.on_hook() == [hook.one.id]
    hook.detach()
    assert hook.state() == (ABSENT, 0)
    assert hook.on_hook() == []
    assert pins(hook) == []


def test_detach_again_does_nothing(hook: Hook) -> None:
    hook.attach(hook.one)
    hook.detach()
    hook.detach()
    hook.attach(hook.two)
    assert hook.on_hook() == [hook.two.id]


def test_the_record_is_flat_text(hook: Hook) -> None:
    hook.attach(hook.one)
    assert all(type(key) is str and type(value) is str for key, value in hook.record.items())
    assert not any("\n" in value or "=" in value for value in hook.record.values())


def test_an_unrecorded_program_on_our_attachment_is_foreign(hook: Hook) -> None:
    hook.attach(hook.one)
    live = hook.adapter.observe(hook.place, hook.pin, hook.record, (hook.three.id,))
    assert (live.state, live.prog_id) == (FOREIGN, hook.one.id)


def test_leaves_no_descriptor_open(hook: Hook) -> None:
    hook.attach(hook.one)
    hook.swap(hook.one, hook.two)
    hook.detach()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        hook.attach(hook.one)
        hook.state()
        hook.swap(hook.one, hook.two)
        with pytest.raises(errors.Drifted):
            hook.swap(hook.one, hook.two)
        hook.detach()
    assert len(os.listdir("/proc/self/fd")) == before


# --- the compare


def test_a_lost_compare_changes_nothing(hook: Hook) -> None:
    hook.attach(hook.one)
    hook.swap(hook.one, hook.three)  # in between, somebody else
    with pytest.raises(errors.Drifted, match=rf"replaced meanwhile: program {hook.three.id} \(three\)") as raised:
        hook.swap(hook.one, hook.two)
    assert raised.value.exit_code == 1
    assert hook.target.text in str(raised.value)
    assert hook.on_hook() == [hook.three.id]
    hook.swap(hook.three, hook.one)


def test_swapping_what_was_removed_is_drift(hook: Hook) -> None:
    hook.attach(hook.one)
    hook.detach()
    with pytest.raises(errors.Drifted, match="removed meanwhile"):
        hook.swap(hook.one, hook.two)
    assert hook.on_hook() == []


# --- others


@pytest.mark.parametrize("mechanism", EXCLUSIVE)
def test_an_occupied_hook_is_refused(mechanism: str, make: Callable[[str], Hook]) -> None:
    hook = make(mechanism)
    undo = hook.foreign(hook.three)
    with pytest.raises(errors.Refused, match=rf"program {hook.three.id} \(three\)") as raised:
        hook.attach(hook.one)
    assert not isinstance(raised.value, errors.SyscallFailed)
    assert raised.value.hint
    assert hook.on_hook() == [hook.three.id]
    assert pins(hook) == [name for name in pins(hook) if name != "link"]
    if hook.target.kind == "tc" or hook.target.via == "netlink":
        assert hook.state() == (FOREIGN, hook.three.id)
    hook.detach()
    assert hook.on_hook() == [hook.three.id]
    undo()


@pytest.mark.parametrize("mechanism", ["xdp", "xdp skb", "xdp netlink"])
def test_an_xdp_link_of_another_is_refused(mechanism: str, make: Callable[[str], Hook]) -> None:
    hook = make(mechanism)
    link = hook.end.ns.run(bpf.link_create, hook.three.fd, hook.end.ifindex, hook.target.attach_type, flags=4)
    with pytest.raises(errors.Refused, match=rf"program {hook.three.id} \(three\) in driver mode"):
        hook.attach(hook.one)
    assert hook.on_hook() == [hook.three.id]
    os.close(link)


@pytest.mark.parametrize("mechanism", ["tcx ingress", "tcx egress", "cgroup connect4"])
def test_shared_hooks_keep_the_programs_of_others(mechanism: str, make: Callable[[str], Hook]) -> None:
    hook = make(mechanism)
    undo = hook.foreign(hook.three)
    hook.attach(hook.one)
    hook.swap(hook.one, hook.two)
    assert hook.state() == (OURS, hook.two.id)
    assert sorted(hook.on_hook()) == sorted([hook.two.id, hook.three.id])
    assert hook.adapter.occupants(hook.place) == [hook.three.id, hook.two.id]
    hook.detach()
    assert hook.on_hook() == [hook.three.id]
    undo()


@pytest.mark.parametrize("mechanism", NOT_LINKS)
def test_what_another_put_in_our_place_is_not_detached(mechanism: str, make: Callable[[str], Hook]) -> None:
    hook = make(mechanism)
    hook.attach(hook.one)
    undo = hook.foreign(hook.three)
    assert hook.state() == (FOREIGN, hook.three.id)
    with pytest.raises(errors.Drifted, match=str(hook.three.id)):
        hook.swap(hook.one, hook.two)
    hook.detach()
    assert hook.on_hook() == [hook.three.id]
    undo()


@pytest.mark.parametrize("mechanism", LINKS)
def test_a_link_updated_by_another_is_foreign(mechanism: str, make: Callable[[str], Hook]) -> None:
    hook = make(mechanism)
    hook.attach(hook.one)
    link = bpf.obj_get(hook.pin)
    bpf.link_update(link, hook.three.fd, hook.one.fd)
    os.close(link)
    assert hook.state() == (FOREIGN, hook.three.id)
    hook.detach()


@pytest.mark.parametrize("mechanism", LINKS)
def test_a_link_detached_by_another_is_defunct(mechanism: str, make: Callable[[str], Hook]) -> None:
    hook = make(mechanism)
    hook.attach(hook.one)
    command("bpftool", "link", "detach", "pinned", hook.pin)
    assert hook.state() == (DEFUNCT, 0)
    with pytest.raises(errors.Drifted):
        hook.swap(hook.one, hook.two)
    hook.attach(hook.two)  # over the dead link's pin
    assert hook.on_hook() == [hook.two.id]
    assert pins(hook) == ["link"]
    hook.detach()


@pytest.mark.parametrize("mechanism", ["xdp", "xdp skb"])
@pytest.mark.parametrize("how", ["detached", "unpinned"])
def test_who_took_an_xdp_link_off_and_stays_is_foreign(how: str, mechanism: str, make: Callable[[str], Hook]) -> None:
    hook = make(mechanism)
    hook.attach(hook.one)
    command("bpftool", "link", "detach", "pinned", hook.pin)
    if how == "unpinned":
        os.unlink(hook.pin)
    undo = hook.foreign(hook.three)
    assert hook.state() == (FOREIGN, hook.three.id)
    hook.detach()
    assert hook.on_hook() == [hook.three.id]
    undo()


@pytest.mark.parametrize("mechanism", LINKS)
def test_detach_works_while_another_holds_the_link(mechanism: str, make: Callable[[str], Hook]) -> None:
    hook = make(mechanism)
    hook.attach(hook.one)
    held = bpf.obj_get(hook.pin)
    hook.detach()
    assert hook.on_hook() == []
    os.close(held)


@pytest.mark.parametrize("mechanism", LINKS)
def test_a_pin_that_cannot_be_made_leaves_nothing(mechanism: str, make: Callable[[str], Hook]) -> None:
    hook = make(mechanism)
    hook.pin = f"{os.path.dirname(hook.pin)}/none/link"
    with pytest.raises(errors.ElfpatchError):
        hook.attach(hook.one)
    assert hook.on_hook() == []


def test_a_pin_removed_by_another_means_absent(make: Callable[[str], Hook]) -> None:
    hook = make("tcx ingress")
    hook.attach(hook.one)
    os.unlink(hook.pin)
    assert hook.state() == (ABSENT, 0)
    assert hook.on_hook() == []
    with pytest.raises(errors.Drifted, match="pin was removed"):
        hook.swap(hook.one, hook.two)


# --- what vanishes


@pytest.mark.parametrize("mechanism", ON_INTERFACES)
@pytest.mark.parametrize("same_index", [False, True])
def test_a_recreated_interface(mechanism: str, same_index: bool, make: Callable[[str], Hook]) -> None:
    hook = make(mechanism)
    hook.attach(hook.one)
    before = hook.end.ifindex
    hook.net.recreate_b(index=before if same_index else before + 40)
    assert (hook.end.ifindex == before) is same_index
    state, prog_id = hook.state()
    # Without a link nothing tells a new interface of the same index from one that somebody cleared.
    assert state == (DEFUNCT if hook.adapter.pinned or not same_index else ABSENT)
    assert prog_id == 0
    with pytest.raises(errors.Drifted):
        hook.swap(hook.one, hook.two)
    hook.attach(hook.two)
    assert hook.state() == (OURS, hook.two.id)
    assert hook.on_hook() == [hook.two.id]
    hook.detach()
    assert hook.on_hook() == []
    assert pins(hook) == []


@pytest.mark.parametrize("mechanism", ON_INTERFACES)
def test_a_deleted_interface(mechanism: str, make: Callable[[str], Hook]) -> None:
    hook = make(mechanism)
    hook.attach(hook.one)
    place = hook.place
    hook.end.ns.ip("link", "del", "veth1")
    with pytest.raises(errors.Missing, match="no interface named veth1") as raised:
        hook.adapter.locate(hook.target)
    assert raised.value.exit_code == 66
    with pytest.raises(errors.Drifted):
        hook.adapter.swap(place, hook.pin, hook.record, hook.one.fd, hook.two.fd)
    with pytest.raises(errors.Missing, match="interface is gone"):
        hook.adapter.attach(place, hook.one.fd, hook.pin)
    hook.detach()
    assert pins(hook) == []
    hook.detach()


@pytest.mark.parametrize("mechanism", ["tcx ingress", "tc egress", "xdp", "xdp netlink"])
def test_another_namespace_under_the_same_name(mechanism: str, make: Callable[[str], Hook], net: VethPair) -> None:
    """Interfaces of fresh namespaces often have the same index; only the namespace's identity tells them apart."""
    hook = make(mechanism)
    hook.attach(hook.one)
    index = hook.end.ifindex
    keep = os.open(net.b.ns.path, os.O_RDONLY)  # the old namespace lives on, nameless
    try:
        net.b.ns.remove()
        net.b.ns.create()
        net.b.ns.ip(
            "link", "add", "veth1", "index", str(index), "type", "veth", "peer", "name", "veth9", "netns", net.a.ns.name
        )
        assert hook.end.ifindex == index
        assert hook.state() == (DEFUNCT, 0)
        if hook.target.kind == "tcx":  # even with the record lost: our link is not among those on the hook
            assert hook.adapter.observe(hook.place, hook.pin, {}).state == DEFUNCT
        hook.attach(hook.two)
        assert hook.state() == (OURS, hook.two.id)
        hook.detach()
        assert hook.on_hook() == []
    finally:
        os.close(keep)


@pytest.mark.parametrize("mechanism", ["tcx ingress", "xdp skb"])
def test_a_renamed_interface(mechanism: str, make: Callable[[str], Hook]) -> None:
    """Another one has its name by now; our link lives on where it was until the pin goes to a new link."""
    hook = make(mechanism)
    hook.attach(hook.one)
    ip = hook.end.ns.ip
    ip("link", "set", "veth1", "down")
    ip("link", "set", "veth1", "name", "veth8")
    ip("link", "add", "veth1", "type", "veth", "peer", "name", "veth9")
    for record in (hook.record, {}):
        assert hook.adapter.observe(hook.place, hook.pin, record).state == DEFUNCT
    hook.attach(hook.two)
    assert hook.state() == (OURS, hook.two.id)
    assert hook.on_hook() == [hook.two.id]
    hook.detach()


def test_a_deleted_cgroup(make: Callable[[str], Hook]) -> None:
    hook = make("cgroup connect4")
    hook.attach(hook.one)
    place = hook.place
    os.rmdir(hook.cgroup.path)
    with pytest.raises(errors.Missing, match="no cgroup"):
        hook.adapter.locate(hook.target)
    with pytest.raises(errors.Missing, match="cgroup is gone"):
        hook.adapter.attach(place, hook.one.fd, f"{hook.pin}2")
    os.mkdir(hook.cgroup.path)
    assert hook.state() == (DEFUNCT, 0)
    hook.attach(hook.two)
    assert hook.state() == (OURS, hook.two.id)
    hook.detach()


# --- where


@pytest.mark.parametrize("mechanism", ["tcx ingress", "tc ingress", "xdp", "xdp netlink"])
def test_namespaces_by_path_and_ones_own(mechanism: str, make: Callable[..., Hook], net: VethPair) -> None:
    hook = make(mechanism, ns=net.b.ns.path)
    hook.attach(hook.one)
    assert hook.on_hook() == [hook.one.id]
    hook.detach()
    # The caller lives in the namespace and names none.
    inside = parse(hook.target.text.replace(f",netns={net.b.ns.name}", ""))
    adapter = adapter_for(inside)

    def life() -> tuple[list[int], list[int], str]:
        place = adapter.locate(inside)
        record = adapter.attach(place, hook.one.fd, hook.pin)
        there = hook.on_hook()
        adapter.swap(place, hook.pin, record, hook.one.fd, hook.two.fd)
        state = adapter.observe(place, hook.pin, record, hook.known).state
        adapter.detach(inside, hook.pin, record, hook.known)
        return there, hook.on_hook(), state

    assert inside.netns == ""
    assert net.b.ns.run(life) == ([hook.one.id], [], OURS)


def test_places_are_the_same_exactly_for_the_same_hook(make: Callable[..., Hook], net: VethPair) -> None:
    by_name, by_path = make("tcx ingress"), make("tcx ingress", ns=f"/proc/self/fd/../../..{net.b.ns.path}")
    assert by_name.place.key == by_path.place.key
    keys = {make(mechanism).place.key for mechanism in ("tcx ingress", "tcx egress", "tc ingress", "cgroup connect4")}
    assert len(keys) == 4
    assert make("xdp drv").place.key == make("xdp skb netlink").place.key


def test_cgroups_may_be_named_from_their_root(make: Callable[[str], Hook], cgroup: Cgroup) -> None:
    target = parse(f"cgroup:/{os.path.basename(cgroup.path)}:connect4")
    place = adapter_for(target).locate(target)
    assert place.cgroup_id == cgroup.id
    assert place.key == make("cgroup connect4").place.key


def test_what_is_no_cgroup(tmp_path: Path, cgroup: Cgroup) -> None:
    target = parse(f"cgroup:{tmp_path}:connect4")
    with pytest.raises(errors.BadConfiguration, match="not a cgroup2 folder"):
        adapter_for(target).locate(target)
    target = parse(f"cgroup:{cgroup.path}x:connect4")
    with pytest.raises(errors.Missing, match=rf"did you mean {os.path.basename(cgroup.path)}\?"):
        adapter_for(target).locate(target)


# --- particulars


@pytest.mark.parametrize(("had", "wanted"), [("xdp drv", "xdp skb"), ("xdp skb", "xdp drv"), ("xdp", "xdp skb")])
@pytest.mark.parametrize("via", ["", " netlink"])
def test_a_live_mode_change_is_refused(had: str, wanted: str, via: str, make: Callable[[str], Hook]) -> None:
    hook, other = make(had + via), make(wanted + via)
    hook.attach(hook.one)
    with pytest.raises(errors.BadConfiguration, match="cannot change the mode"):
        other.adapter.swap(other.place, hook.pin, hook.record, hook.one.fd, hook.two.fd)
    with pytest.raises(errors.BadConfiguration):
        other.adapter.check_swap(other.place, hook.record)
    assert hook.on_hook() == [hook.one.id]
    hook.detach()


def test_no_mode_keeps_the_mode(make: Callable[[str], Hook]) -> None:
    for via in ("", " netlink"):
        hook, unsaid = make("xdp skb" + via), make("xdp" + via)
        hook.attach(hook.one)
        unsaid.adapter.swap(unsaid.place, hook.pin, hook.record, hook.one.fd, hook.two.fd)
        assert '"mode":2' in hook.end.ns.ip("-j", "-d", "link", "show", "veth1").replace(" ", "")
        assert hook.on_hook() == [hook.two.id]
        hook.detach()


def test_changing_between_link_and_netlink_is_refused(make: Callable[[str], Hook]) -> None:
    link, netlink = make("xdp"), make("xdp netlink")
    link.attach(link.one)
    with pytest.raises(errors.BadConfiguration, match="detach first"):
        netlink.adapter.check_swap(netlink.place, link.record)
    link.detach()


def test_an_interface_without_native_xdp(netns: NetNs, bpffs: str) -> None:
    for text in (f"xdp:lo:drv,netns={netns.name}", f"xdp:lo:drv,netns={netns.name},via=netlink"):
        target = parse(text)
        adapter = adapter_for(target)
        prog = Loaded(target, "one")
        with pytest.raises(errors.Refused, match=r"lo has no native XDP.*xdp:lo:skb"):
            adapter.attach(adapter.locate(target), prog.fd, f"{bpffs}/link")


def test_a_program_of_another_type_is_refused(make: Callable[[str], Hook]) -> None:
    for mechanism, other in (("tcx ingress", "xdp"), ("xdp", "tc ingress"), ("tc ingress", "xdp")):
        hook, wrong = make(mechanism), make(other)
        with pytest.raises(errors.SyscallFailed, match="cannot attach: Invalid argument") as raised:
            hook.attach(wrong.one)
        assert raised.value.hint
        assert hook.on_hook() == []
    assert hook.end.ns.tc("qdisc", "show", "dev", "veth1").count("clsact") == 0


def test_a_kernel_without_tcx_is_told_apart(make: Callable[[str], Hook], monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux 6.1 answers: EINVAL to the link and to the query. The attach type is one that no kernel has."""
    hook = make("tcx ingress")
    monkeypatch.setattr(Target, "attach_type", 200)
    with pytest.raises(errors.Unsupported, match=r"use tc:veth1:ingress") as raised:
        hook.adapter.attach(hook.place, hook.one.fd, hook.pin)
    assert raised.value.exit_code == 69


def test_a_cgroup_whose_program_tolerates_no_other(make: Callable[[str], Hook]) -> None:
    hook = make("cgroup connect4")
    path = f"{os.path.dirname(hook.pin)}/three"
    bpf.obj_pin(hook.three.fd, path)
    command("bpftool", "cgroup", "attach", hook.cgroup.path, "connect4", "pinned", path)
    with pytest.raises(errors.Refused, match=rf"program {hook.three.id} \(three\)") as raised:
        hook.attach(hook.one)
    assert raised.value.hint
    assert hook.on_hook() == [hook.three.id]


def qdiscs(hook: Hook) -> str:
    return hook.end.ns.tc("qdisc", "show", "dev", "veth1")


def test_clsact_goes_with_the_last_filter_if_we_brought_it(make: Callable[[str], Hook]) -> None:
    one, two = make("tc ingress"), make("tc egress")
    for first, second in ((one, two), (two, one)):
        one.attach(one.two)
        two.attach(two.two)
        for hook in (one, two):
            hook.swap(hook.two, hook.one)
        first.detach()
        assert "clsact" in qdiscs(one)
        assert second.on_hook() == [second.one.id]
        second.detach()
        assert "clsact" not in qdiscs(one)


def test_clsact_of_another_stays(make: Callable[[str], Hook]) -> None:
    hook = make("tc ingress")
    hook.end.ns.tc("qdisc", "add", "dev", "veth1", "clsact")
    hook.attach(hook.one)
    hook.swap(hook.one, hook.two)
    hook.detach()
    assert "clsact" in qdiscs(hook)


def test_clsact_stays_with_the_filters_of_another(make: Callable[[str], Hook]) -> None:
    hook = make("tc ingress")
    hook.attach(hook.one)
    hook.end.ns.tc(*"filter add dev veth1 egress prio 9 protocol ip u32 match u32 0 0".split())
    hook.swap(hook.one, hook.two)
    hook.detach()
    assert "clsact" in qdiscs(hook)
    assert "u32" in hook.end.ns.tc("filter", "show", "dev", "veth1", "egress")


def test_an_ingress_qdisc_will_do_for_ingress(make: Callable[[str], Hook]) -> None:
    hook, egress = make("tc ingress"), make("tc egress")
    hook.end.ns.tc("qdisc", "add", "dev", "veth1", "ingress")
    hook.attach(hook.one)
    hook.swap(hook.one, hook.two)
    assert hook.state() == (OURS, hook.two.id)
    with pytest.raises(errors.Refused, match="ingress qdisc, which has no egress"):
        egress.attach(egress.one)
    hook.detach()
    assert "ingress" in qdiscs(hook)


def test_a_priority_of_another_kind_is_refused(make: Callable[[str], Hook]) -> None:
    hook = make("tc ingress")
    hook.end.ns.tc("qdisc", "add", "dev", "veth1", "clsact")
    hook.end.ns.tc(*"filter add dev veth1 ingress prio 1 protocol ip u32 match u32 0 0".split())
    with pytest.raises(errors.Refused, match=r"priority 1 .*u32.*prio=N"):
        hook.attach(hook.one)
    assert "bpf" not in hook.end.ns.tc("filter", "show", "dev", "veth1", "ingress")


@pytest.mark.parametrize(("prio", "handle"), [(1, 1), (65535, 1), (7, 0x80000000), (7, 0xFFFFFFFE)])
def test_priorities_and_handles(prio: int, handle: int, make: Callable[[str], Hook]) -> None:
    hook = make("tc ingress")
    hook.target = parse(f"{hook.target.text},prio={prio},handle={handle}")
    hook.attach(hook.one)
    hook.swap(hook.one, hook.two)
    shown = json.loads(hook.end.ns.tc("-j", "filter", "show", "dev", "veth1", "ingress"))
    (entry,) = (entry for entry in shown if "prog" in entry.get("options", {}))
    assert (entry["pref"], entry["options"]["handle"]) == (prio, hex(handle))
    hook.detach()
    assert hook.on_hook() == []


def test_filters_of_other_chains_are_not_ours(make: Callable[[str], Hook]) -> None:
    hook = make("tc ingress")
    path = f"{os.path.dirname(hook.pin)}/three"
    bpf.obj_pin(hook.three.fd, path)
    hook.end.ns.tc("qdisc", "add", "dev", "veth1", "clsact")
    add = f"tc filter add dev veth1 ingress chain 5 prio 1 handle 1 bpf da pinned {path}"
    hook.end.ns.command(*add.split())
    assert hook.state() == (ABSENT, 0)
    hook.attach(hook.one)
    assert hook.state() == (OURS, hook.one.id)
    hook.detach()
    assert hook.on_hook() == [hook.three.id]


# --- traffic: that a program is attached means that packets meet it

DROPPING = {"xdp": XDP_DROP, "tcx": 2, "tc": 2}


@pytest.mark.parametrize("mechanism", ["tcx ingress", "tc ingress", "xdp drv", "xdp skb", "xdp netlink"])
def test_packets_meet_the_program(mechanism: str, make: Callable[[str], Hook], net: VethPair) -> None:
    hook = make(mechanism)
    dropping = Loaded(hook.target, "drop", DROPPING[hook.target.kind])
    receiver = net.b.udp_socket(5000)
    receiver.settimeout(0.3)

    def arrives(number: int) -> bool:
        net.a.send(udp(net.a, net.b, struct.pack("!I", number)))
        try:
            return receiver.recv(100) == struct.pack("!I", number)
        except TimeoutError:
            return False

    with receiver:
        assert arrives(1)
        hook.attach(hook.one)
        assert arrives(2)
        hook.swap(hook.one, dropping)
        assert not arrives(3)
        hook.swap(dropping, hook.two)
        assert arrives(4)
        hook.detach()
        assert arrives(5)


def test_sockets_meet_the_cgroup_program(make: Callable[[str], Hook]) -> None:
    hook = make("cgroup connect4")

    def connects() -> bytes:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect(("127.0.0.1", 9))
        except PermissionError:
            return b"refused"
        return b"connected"

    refusing = Loaded(hook.target, "refuse", 0)
    hook.attach(refusing)
    assert hook.cgroup.run(connects) == b"refused"
    hook.swap(refusing, hook.one)
    assert hook.cgroup.run(connects) == b"connected"


def test_the_bpffs_may_be_anywhere(tmp_path: Path, make: Callable[[str], Hook]) -> None:
    hook = make("tcx ingress")
    with Bpffs(str(tmp_path / "other.place")) as other:
        hook.pin = f"{other.path}/link"
        hook.attach(hook.one)
        assert hook.state() == (OURS, hook.one.id)
        hook.detach()
