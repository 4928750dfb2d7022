"""`--specialize`: what runs is made for its values, and what they leave unused is not loaded."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from elfpatch.kernel import bpf
from tests.support.cli import MARK, Cli
from tests.support.net import VethPair

DEBUG = """
#include "static_key.h"
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }
	seen SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 16); __type(key, __u32); __type(value, __u64); }
	events SEC(".maps");
static DEFINE_STATIC_KEY_FALSE(debug);
CONFIG __u32 limit = 100;
SEC("tc") int p(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 one = 1, *count = bpf_map_lookup_elem(&seen, &zero);

	if (count)
		__sync_fetch_and_add(count, 1);
	if (static_branch_unlikely(&debug)) {
		__u64 *event = bpf_map_lookup_elem(&events, &zero);

		if (event)
			__sync_fetch_and_add(event, 1);
		else
			bpf_map_update_elem(&events, &zero, &one, 0);
	}
	return skb->len > limit ? 2 : -1;
}
"""

TAIL_CALLS = """
#include "static_key.h"
int second(struct __sk_buff *skb);
int third(struct __sk_buff *skb);
int fourth(struct __sk_buff *skb);
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 4); __uint(key_size, 4);
	__array(values, int(void *)); }
	calls SEC(".maps") = { .values = { [1] = (void *)&second, [2] = (void *)&third, [3] = (void *)&fourth } };
CONFIG __u32 mode = 1;
CONFIG __u32 any = 0;
SEC("?tc") int second(struct __sk_buff *skb) { return 2; }
SEC("?tc") int third(struct __sk_buff *skb) { bpf_tail_call(skb, &calls, 3); return 3; }
SEC("?tc") int fourth(struct __sk_buff *skb) { return 4; }
SEC("tc") int entry(struct __sk_buff *skb)
{
	if (any)
		bpf_tail_call(skb, &calls, skb->mark & 3);
	else if (mode == 1)
		bpf_tail_call(skb, &calls, 1);
	else if (mode == 2)
		bpf_tail_call(skb, &calls, 2);
	return -1;
}
"""


def at(net: VethPair) -> str:
    return f"tcx:{net.b.ifname}:ingress,netns={net.b.ns.name}"


def run_pinned(cli: Cli, name: str, program: str, packet: bytes = bytes(64)) -> int:
    fd = bpf.obj_get(cli.layout.prog(name, program))
    try:
        return bpf.prog_test_run(fd, packet).retval
    finally:
        os.close(fd)


def maps_of(cli: Cli, name: str, program: str) -> int:
    """How many maps a pinned program refers to, as the kernel says."""
    fd = bpf.obj_get(cli.layout.prog(name, program))
    try:
        return len(bpf.prog_info(fd).map_ids)
    finally:
        os.close(fd)


def pinned(cli: Cli, name: str, kind: str) -> set[str]:
    return set(os.listdir(os.path.join(cli.layout.pins(name), kind)))


def test_constants_need_no_map_and_values_still_change(cli: Cli, net: VethPair) -> None:
    first = cli.ok("apply", "-j", "--specialize", "--set", "foo=42", "--target", at(net), MARK).json
    assert first["left_out"] == ["map mark.rodata"]
    assert maps_of(cli, "mark", "mark") == 0
    second = cli.ok("apply", "-j", "--specialize", "--set", "foo=43", MARK).json
    assert second["prog"]["old"] == first["prog"]["new"]
    assert cli.ok("apply", "-j", "--specialize", "--set", "foo=43", MARK).json["result"] == "unchanged"
    plain = cli.ok("apply", "-j", "--set", "foo=43", MARK).json
    assert plain["result"] == "changed"  # another program, though the values are the same
    assert plain["left_out"] == []
    assert maps_of(cli, "mark", "mark") == 1


def test_the_plan_says_that_specialising_changes_the_program(cli: Cli, net: VethPair) -> None:
    cli.ok("apply", "--set", "foo=1", "--target", at(net), MARK)
    assert cli("plan", "--detailed-exitcode", "--set", "foo=1", MARK).code == 0
    changed = cli("plan", "--detailed-exitcode", "--specialize", "--set", "foo=1", MARK)
    assert changed.code == 2
    assert "specialised" in changed.out


def test_maps_of_what_is_off_are_not_made_and_state_goes_on(cli: Cli, compiled: Callable[..., str]) -> None:
    template = compiled(DEBUG, name="debugged")
    done = cli.ok("apply", "-j", "--specialize", "--set", "limit=60", template).json
    assert set(done["left_out"]) == {"map debugged.rodata", "map events"}
    assert pinned(cli, "debugged", "maps") == {"seen"}
    assert run_pinned(cli, "debugged", "p") == 2
    on = cli.ok("apply", "-j", "--specialize", "--set", "limit=70", "--set", "debug=on", template).json
    assert on["left_out"] == ["map debugged.rodata"]
    assert {change["path"]: (change["old"], change["new"]) for change in on["changes"]} == {
        "debug": ("off", "on"),
        "limit": ("60", "70"),
    }
    assert pinned(cli, "debugged", "maps") == {"seen", "events"}
    assert run_pinned(cli, "debugged", "p") == 0xFFFFFFFF
    seen = bpf.obj_get(cli.layout.map("debugged", "seen"))
    try:
        assert bpf.map_lookup(seen, bytes(4), 8) == (2).to_bytes(8, "little")
    finally:
        os.close(seen)
    cli.ok("detach", "debugged")
    assert cli.left() == []


@pytest.mark.parametrize(
    ("values", "programs", "result"),
    [
        ((), {"entry", "second"}, 2),
        (("mode=2",), {"entry", "third", "fourth"}, 4),
        (("mode=3",), {"entry"}, 0xFFFFFFFF),
        (("any=1",), {"entry", "second", "third", "fourth"}, 0xFFFFFFFF),
    ],
)
def test_tail_calls_that_cannot_happen_are_not_loaded(
    cli: Cli, net: VethPair, compiled: Callable[..., str], values: tuple[str, ...], programs: set[str], result: int
) -> None:
    template = compiled(TAIL_CALLS, name="tails")
    given = [word for value in values for word in ("--set", value)]
    target = ("--target", f"{at(net)},prog=entry")
    done = cli.ok("apply", "-j", "--specialize", *given, *target, template).json
    assert {one["name"] for one in done["programs"]} == programs == pinned(cli, "tails", "progs")
    assert run_pinned(cli, "tails", "entry") == result
    whole = cli.ok("apply", "-j", *given, template).json
    assert {one["name"] for one in whole["programs"]} == {"entry", "second", "third", "fourth"}
    assert run_pinned(cli, "tails", "entry") == result
    cli.ok("detach", "tails")


def test_check_tells_what_is_not_needed(cli: Cli, compiled: Callable[..., str]) -> None:
    template = compiled(DEBUG, name="debugged")
    done = cli.ok("check", "--specialize", template)
    assert "not needed for these values: map events, map debugged.rodata" in done.out
    assert len(cli.ok("check", "-j", template).json["left_out"]) == 0
