"""A deployment's life as its user sees it: apply, change, status, drift, detach."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from elfpatch.deploy import record as rec
from elfpatch.errors import SyscallFailed
from elfpatch.kernel import bpf
from tests.support.cli import ENDPOINT, MARK, Cli
from tests.support.net import VethPair, command

TWO_PROGRAMS = """
const volatile __u32 version = 1;
volatile __u32 knob = 5;
__u64 runs;
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, ENTRIES); __type(key, __u32); __type(value, __u64); }
	counters SEC(".maps");
static int count(void)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&counters, &zero);

	if (value)
		__sync_fetch_and_add(value, 1);
	runs++;
	return version + knob;
}
SEC("tcx/ingress") int incoming(struct __sk_buff *skb) { return count() ? -1 : 0; }
SEC("tcx/egress") int outgoing(struct __sk_buff *skb) { return count() ? -1 : 0; }
SEC("xdp") int early(struct xdp_md *ctx) { return count() ? 2 : 1; }
"""


def at(net: VethPair, kind: str = "tcx", where: str = ":ingress") -> str:
    return f"{kind}:{net.b.ifname}{where},netns={net.b.ns.name}"


def live_id(cli: Cli, name: str = "mark") -> int:
    return cli.ok("status", "-j", name).json["deployments"][0]["targets"][0]["live"]["prog_id"]


def gone(prog_id: int) -> bool:
    """Whether a program is freed; the kernel takes a moment (RCU)."""
    for _ in range(100):
        try:
            os.close(bpf.prog_fd_by_id(prog_id))
        except SyscallFailed:
            return True
        time.sleep(0.05)
    return False


def run_pinned(cli: Cli, name: str, program: str, times: int = 1) -> int:
    fd = bpf.obj_get(cli.layout.prog(name, program))
    try:
        return bpf.prog_test_run(fd, bytes(64), repeat=times).retval
    finally:
        os.close(fd)


def test_first_attach_then_swap_then_unchanged(cli: Cli, net: VethPair) -> None:
    first = cli.ok("apply", "-j", "--set", "foo=42", "--target", at(net), MARK).json
    assert first["result"] == "changed"
    assert first["generation"] == 1
    assert first["target"] == at(net)
    assert first["prog"]["old"] is None
    assert first["changes"] == [{"path": "foo", "old": "0", "new": "42", "bytes": "2a000000"}]

    second = cli.ok("apply", "-j", "--set", "foo=43", MARK).json
    assert second["generation"] == 2
    assert second["prog"]["old"] == first["prog"]["new"]
    assert second["changes"] == [{"path": "foo", "old": "42", "new": "43", "bytes": "2b000000"}]
    assert second["template_sha256"] == first["template_sha256"]
    assert second["config_sha256"] != first["config_sha256"]
    assert live_id(cli) == second["prog"]["new"]

    third = cli.ok("apply", "-j", "--set", "foo=0x2b", MARK).json
    assert third["result"] == "unchanged"
    assert third["generation"] == 2
    assert live_id(cli) == second["prog"]["new"]
    assert "unchanged" in cli.ok("apply", "--set", "foo=43", MARK).out

    cli.ok("detach", "mark")
    assert cli.left() == []
    assert gone(second["prog"]["new"])


def test_the_result_is_declarative(cli: Cli) -> None:
    cli.ok("apply", "--set", "ep.ip4=10.0.0.5", "--set", "ep.id=7", ENDPOINT)
    changed = cli.ok("apply", "-j", "--set", "ep.ip4=10.0.0.6", "--reuse-values", ENDPOINT).json["changes"]
    assert [change["path"] for change in changed] == ["ep.ip4"]
    assert cli("status", "-j").json["deployments"][0]["values"] == {"ep.ip4": "10.0.0.6", "ep.id": "7"}
    changed = cli.ok("apply", "-j", "--set", "ep.ip4=10.0.0.6", ENDPOINT).json["changes"]
    assert changed == [{"path": "ep.id", "old": "7", "new": "0", "bytes": "00000000"}]


def test_files_come_before_set_in_order(cli: Cli, tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.json"
    first.write_text('[ep]\nip4 = "10.0.0.1"\nid = 1\n[ep.policy]\nmode = "POLICY_AUDIT"\n')
    second.write_text(json.dumps({"ep": {"ip4": "10.0.0.2"}, "ep.mac": "02:00:00:00:00:01"}))
    cli.ok("apply", "--set", "ep.id=3", "-f", str(first), "-f", str(second), ENDPOINT)
    values = cli("status", "-j").json["deployments"][0]["values"]
    assert values == {
        "ep.id": "3",
        "ep.ip4": "10.0.0.2",
        "ep.mac": "02:00:00:00:00:01",
        "ep.policy.mode": "POLICY_AUDIT",
    }


def test_without_a_target_programs_are_pinned_and_it_says_so(cli: Cli) -> None:
    assert "nothing is attached" in cli.ok("apply", "--set", "foo=42", MARK).out
    assert os.path.exists(cli.layout.prog("mark", "mark"))
    assert cli("status").out.count("foo = 42") == 1
    cli.ok("detach", "mark")
    assert cli.left() == []


def test_targets_are_added_kept_and_given_up(cli: Cli, net: VethPair, compiled: Callable[..., str]) -> None:
    path = compiled(TWO_PROGRAMS, "-DENTRIES=1")
    everywhere = [at(net), at(net, where=":egress"), at(net, "xdp", ":skb"), at(net, "tc", ":egress")]
    words = [word for target in everywhere for word in ("--target", target)]
    done = cli.ok("apply", "--name", "all", "-j", *words, path).json
    assert {entry["action"] for entry in done["targets"]} == {"attach"}
    programs = {one["name"] for one in done["programs"]}
    assert programs == {"incoming", "outgoing", "early"}

    done = cli.ok("apply", "--name", "all", "-j", "--set", "version=2", path).json
    assert [entry["action"] for entry in done["targets"]] == ["swap"] * 4
    shown = json.loads(net.b.ns.tc("-j", "filter", "show", "dev", net.b.ifname, "egress"))
    ours = next(row for row in shown if "options" in row)
    assert ours["options"]["prog"]["id"] == done["targets"][3]["prog"]["new"]

    done = cli.ok("apply", "--name", "all", "-j", "--set", "version=3", *words[:2], path).json
    assert sorted(entry["action"] for entry in done["targets"]) == ["detach", "detach", "detach", "swap"]
    status = cli("status", "-j").json["deployments"][0]
    assert [target["target"] for target in status["targets"]] == [at(net)]
    assert "clsact" not in net.b.ns.tc("qdisc", "show", "dev", net.b.ifname)
    links = json.loads(net.b.ns.ip("-j", "link", "show", net.b.ifname))
    assert "xdp" not in links[0]


def test_a_target_that_cannot_be_given_up_stays_known(cli: Cli, net: VethPair, monkeypatch: pytest.MonkeyPatch) -> None:
    from elfpatch.deploy.attach.link import LinkAdapter

    def stuck(*_: object) -> None:
        raise SyscallFailed("BPF_LINK_DETACH", 5)

    targets = ["--target", at(net), "--target", at(net, where=":egress")]
    cli.ok("apply", "--set", "foo=1", *targets, MARK)
    monkeypatch.setattr(LinkAdapter, "detach", stuck)
    done = cli.ok("apply", "--set", "foo=2", *targets[:2], MARK)
    assert "was not detached" in done.err
    monkeypatch.undo()
    known = [one["target"] for one in cli("status", "-j").json["deployments"][0]["targets"]]
    assert known == [at(net), at(net, where=":egress")]
    done = cli.ok("apply", "-j", "--set", "foo=2", *targets[:2], MARK)
    assert sorted(one["action"] for one in done.json["targets"]) == ["detach", "swap"]
    cli.ok("detach", "mark")
    assert cli.left() == []


def test_maps_and_globals_keep_their_state(cli: Cli, compiled: Callable[..., str]) -> None:
    path = compiled(TWO_PROGRAMS, "-DENTRIES=1")
    cli.ok("apply", "--name", "s", path)
    run_pinned(cli, "s", "incoming", 5)
    counters, bss = cli.layout.map("s", "counters"), cli.layout.map("s", ".bss")

    def value(pin: str, size: int = 8) -> int:
        fd = bpf.obj_get(pin)
        try:
            return int.from_bytes(bpf.map_lookup(fd, bytes(4), size), "little")
        finally:
            os.close(fd)

    assert (value(counters), value(bss)) == (5, 5)
    cli.ok("apply", "--name", "s", "--set", "version=2", path)
    run_pinned(cli, "s", "incoming", 2)
    assert (value(counters), value(bss)) == (7, 7)
    done = cli.ok("apply", "--name", "s", "-j", "--set", "version=3", "--set", "knob=9", path).json
    assert done["maps"]["copied"] == [".data"]
    assert value(cli.layout.map("s", ".data"), 4) == 9
    assert (value(counters), value(bss)) == (7, 7)
    # a set .bss variable keeps the others' state
    done = cli.ok("apply", "--name", "s", "-j", "--set", "version=2", "--set", "knob=9", "--set", "runs=100", path).json
    assert done["maps"]["copied"] == [".bss"]
    assert value(bss) == 100


def test_a_map_that_does_not_fit_is_refused_with_every_difference(cli: Cli, compiled: Callable[..., str]) -> None:
    small, large = compiled(TWO_PROGRAMS, "-DENTRIES=1"), compiled(TWO_PROGRAMS, "-DENTRIES=2")
    cli.ok("apply", "--name", "s", small)
    run_pinned(cli, "s", "incoming", 5)
    left = cli.left()
    done = cli("apply", "--name", "s", large)
    assert done.code == 78
    assert "max entries 1 instead of 2" in done.err
    assert "--replace-maps" in done.err
    assert cli.left() == left
    done = cli.ok("apply", "--name", "s", "-j", "--replace-maps", large)
    assert done.json["maps"]["replaced"] == ["counters"]


def test_rodata_is_frozen_and_never_reused(cli: Cli) -> None:
    """A pinned, reused rodata map would make the patch a silent no-op."""
    for value in (1, 2, 3):
        cli.ok("apply", "--set", f"foo={value}", MARK)
        fd = bpf.obj_get(cli.layout.prog("mark", "mark"))
        try:
            info = bpf.prog_info(fd)
        finally:
            os.close(fd)
        (map_id,) = info.map_ids
        map_fd = bpf.map_fd_by_id(map_id)
        try:
            assert bpf.map_frozen(map_fd)
            assert int.from_bytes(bpf.map_lookup(map_fd, bytes(4), 4), "little") == value
        finally:
            os.close(map_fd)
        assert os.listdir(os.path.dirname(cli.layout.map("mark", "x"))) == []


# --- drift ------------------------------------------------------------------------------------------------------


def replace_by_hand(cli: Cli, net: VethPair) -> int:
    """Put another program on the deployment's link, as somebody with bpftool and root could."""
    cli.ok("apply", "--name", "other", "--set", "foo=99", MARK)
    link = bpf.obj_get(cli.layout.link("mark", _target(net)))
    other = bpf.obj_get(cli.layout.prog("other", "mark"))
    old = bpf.prog_fd_by_id(bpf.link_info(link).prog_id)
    try:
        bpf.link_update(link, other, old)
        return bpf.prog_info(other).prog_id
    finally:
        for fd in (link, other, old):
            os.close(fd)


def _target(net: VethPair):  # type: ignore[no-untyped-def]
    from elfpatch.deploy.target import parse

    return parse(at(net))


def test_a_program_replaced_by_somebody_else(cli: Cli, net: VethPair) -> None:
    cli.ok("apply", "--set", "foo=1", "--target", at(net), MARK)
    foreign = replace_by_hand(cli, net)
    status = cli.ok("status", "-j", "mark").json["deployments"][0]
    assert status["drift"]
    assert status["targets"][0]["live"] == {"state": "foreign", "prog_id": foreign}
    assert "DRIFT: replaced" in cli("status", "mark").out
    for value in ("1", "2"):  # even an unchanged configuration must not be called so
        done = cli("apply", "--set", f"foo={value}", MARK)
        assert done.code == 1
        assert f"program {foreign} of somebody else" in done.err
    assert live_id(cli) == foreign


def test_a_program_removed_by_somebody_else_is_put_back(cli: Cli, net: VethPair) -> None:
    cli.ok("apply", "--set", "foo=1", "--target", at(net), MARK)
    os.unlink(cli.layout.link("mark", _target(net)))
    assert "DRIFT: removed" in cli("status", "mark").out
    done = cli.ok("apply", "-j", "--set", "foo=1", MARK).json
    assert done["result"] == "changed"
    assert not cli("status", "-j", "mark").json["deployments"][0]["drift"]


def test_an_interface_made_again_is_not_taken_for_the_old_one(cli: Cli, net: VethPair) -> None:
    cli.ok("apply", "--set", "foo=1", "--target", at(net), MARK)
    net.b.ns.ip("link", "del", net.b.ifname)
    assert "DRIFT: gone" in cli("status", "mark").out
    assert cli("apply", "--set", "foo=2", MARK).code == 66
    net.b.ns.ip("link", "add", net.b.ifname, "type", "veth", "peer", "name", "other")
    assert cli("status", "-j", "mark").json["deployments"][0]["drift"]
    done = cli.ok("apply", "-j", "--set", "foo=1", MARK).json
    assert done["targets"][0]["action"] == "attach"
    assert not cli("status", "-j", "mark").json["deployments"][0]["drift"]


def test_an_interrupted_apply_is_finished_by_the_next(cli: Cli, net: VethPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the swap and the record: the program that runs is known as ours."""
    from elfpatch.deploy import transaction

    cli.ok("apply", "--set", "foo=1", "--target", at(net), MARK)

    def die_at_the_record(layout: object, record: rec.Record) -> None:
        os._exit(9)

    child = os.fork()
    if not child:
        monkeypatch.setattr(transaction.rec, "write", die_at_the_record)
        cli("apply", "--set", "foo=2", MARK)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert cli("status", "-j", "mark").json["deployments"][0]["problem"]
    done = cli.ok("apply", "-j", "--set", "foo=3", MARK).json
    assert live_id(cli) == done["prog"]["new"]
    assert not cli("status", "-j", "mark").json["deployments"][0]["drift"]
    cli.ok("detach", "mark")
    assert [path for path in cli.left() if "new" not in path] == []


# --- several targets --------------------------------------------------------------------------------------------


def test_a_failure_on_the_second_target_takes_the_first_back(
    cli: Cli, net: VethPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elfpatch.deploy.attach.link import LinkAdapter
    from elfpatch.errors import Drifted

    words = ["--target", at(net), "--target", at(net, where=":egress")]
    cli.ok("apply", "--set", "foo=1", *words, MARK)
    before = cli("status", "-j", "mark").json["deployments"][0]
    left = cli.left()
    swap = LinkAdapter.swap

    def lose_on_egress(self, place, *rest):  # type: ignore[no-untyped-def]
        if place.target.where == "egress":
            raise Drifted("somebody was faster", where=place.target.text)
        swap(self, place, *rest)

    monkeypatch.setattr(LinkAdapter, "swap", lose_on_egress)
    done = cli("apply", "--set", "foo=2", MARK)
    assert done.code == 1
    assert "somebody was faster" in done.err
    monkeypatch.undo()
    assert cli("status", "-j", "mark").json["deployments"][0] == before
    assert cli.left() == left


def test_a_failed_first_apply_leaves_no_target_attached(cli: Cli, net: VethPair) -> None:
    """The second target is a filter of somebody else's."""
    net.b.ns.tc("qdisc", "add", "dev", net.b.ifname, "clsact")
    command("bpftool", "prog", "load", MARK, f"{cli.layout.bpffs}/foreign")
    net.b.ns.command(
        "tc", "filter", "add", "dev", net.b.ifname, "egress", "prio", "1", "handle", "1", "bpf", "da", "pinned",
        f"{cli.layout.bpffs}/foreign",
    )  # fmt: skip
    done = cli("apply", "--set", "foo=1", "--target", at(net), "--target", at(net, "tc", ":egress"), MARK)
    assert done.code == 1, done.err
    assert "prio=" in done.err
    assert cli.left() == []
    filters = net.b.ns.tc("filter", "show", "dev", net.b.ifname, "egress")
    assert filters.count("handle 0x1") == 1
    cli.ok("apply", "--set", "foo=1", "--target", at(net), MARK)


def test_nothing_leaks(cli: Cli, net: VethPair) -> None:
    def ours() -> tuple[int, int]:
        """This process's descriptors, and the deployment's pins."""
        return len(os.listdir("/proc/self/fd")), len(cli.left())

    cli.ok("apply", "--set", "foo=1", "--target", at(net), MARK)
    cli.ok("apply", "--set", "foo=2", MARK)
    before = ours()
    replaced = []
    for value in range(100):
        done = cli.ok("apply", "-j", "--set", f"foo={value + 10}", MARK).json
        replaced.append(done["prog"]["old"])
        assert cli("apply", "--set", "foo=x", MARK).code == 65
    assert ours() == before
    assert all(gone(prog_id) for prog_id in replaced)


# --- plan, check, names -----------------------------------------------------------------------------------------


def test_plan_changes_nothing_and_tells_what_apply_does(cli: Cli, net: VethPair) -> None:
    plan = cli.ok("plan", "-j", "--set", "foo=1", "--target", at(net), MARK).json
    assert plan["result"] == "changes"
    assert plan["steps"][0]["action"] == "attach"
    assert cli.left() == []
    assert cli("plan", "--detailed-exitcode", "--set", "foo=1", MARK).code == 2
    done = cli.ok("apply", "-j", "--set", "foo=1", "--target", at(net), MARK).json
    assert done["config_sha256"] == plan["config_sha256"]
    assert cli("plan", "--detailed-exitcode", "--set", "foo=1", MARK).code == 0
    assert cli("plan", "--detailed-exitcode", "--set", "foo=2", MARK).code == 2
    assert cli("plan", "--detailed-exitcode", "--set", "foo=x", MARK).code == 1
    assert "foo  1 -> 2" in cli("apply", "--dry-run", "--set", "foo=2", MARK).out
    assert live_id(cli) == done["prog"]["new"]


def test_check_asks_the_verifier_and_keeps_nothing(cli: Cli) -> None:
    done = cli.ok("check", "-j", "--set", "ep.ip4=10.0.0.1", ENDPOINT).json
    assert done["result"] == "accepted"
    assert done["programs"][0]["jited_bytes"] > 100
    assert cli.left() == []


def test_two_objects_do_not_share_a_deployment_by_accident(cli: Cli, compiled: Callable[..., str]) -> None:
    other = compiled(
        'const volatile __u32 foo = 1;\nSEC("tc") int other(struct __sk_buff *skb) { return foo; }', name="alien"
    )
    cli.ok("apply", "--name", "alien", "--set", "foo=1", MARK)
    done = cli("apply", "--set", "foo=1", other)
    assert done.code == 78
    assert "--name" in done.err
    cli.ok("apply", "--name", "alien", "--set", "foo=1", other)


def test_programs_whose_pins_are_gone_are_loaded_again(cli: Cli) -> None:
    cli.ok("apply", MARK)
    pin = Path(cli.layout.prog("mark", cli.ok("status", "-j").json["deployments"][0]["programs"][0]["name"]))
    pin.unlink()  # as a restart of the host does with all of them
    (found,) = cli.ok("status", "-j").json["deployments"]
    assert found["drift"]
    assert "pins are gone" in found["problem"]
    assert cli("plan", "--detailed-exitcode", MARK).code == 2
    assert cli.ok("apply", "-j", MARK).json["result"] == "changed"
    assert pin.exists()
    assert not cli.ok("status", "-j").json["deployments"][0]["drift"]
    cli.ok("detach", "mark")
