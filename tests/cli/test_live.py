"""Values of running programs that change in place: what is stored, what is reloaded, and that a store is whole."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable

import pytest

from elfpatch.kernel import bpf, bpffs
from tests.support.cli import Cli
from tests.support.net import VethPair

SOURCE = """
volatile __u32 knob = 5;
volatile __u64 wide = 0x1111111111111111;
volatile struct { __u16 low, high; } pair = { 1, 2 };
volatile struct { __u32 four : 4, rest : 28; } bits = { 3, 0 };
volatile __u8 address[16] = { 1 };
volatile char name[8] = "eth0";
volatile struct { __u8 pad; __u16 odd; } __attribute__((packed)) off = { 0, 7 };
volatile __u32 list[4] = { 1, 2, 3, 4 };
volatile __u32 zero;
__u64 runs = 1;
__u64 torn SEC(".data.torn") = 0;
static volatile __u32 hidden SEC(".data.hidden") = 9;
CONFIG __u32 fixed = 100;
SEC("tc") int p(struct __sk_buff *skb)
{
	__u64 value = wide;

	runs++;
	if ((__u32)value != value >> 32)
		torn++;
	return knob + pair.low + pair.high + bits.four + address[15] + name[0] + off.odd + list[1] + zero + hidden + fixed;
}
"""
START = 5 + 1 + 2 + 3 + 0 + ord("e") + 7 + 2 + 0 + 9 + 100


@pytest.fixture
def template(compiled: Callable[..., str]) -> str:
    return compiled(SOURCE, name="live")


def at(net: VethPair) -> str:
    return f"tcx:{net.b.ifname}:ingress,netns={net.b.ns.name}"


def run(cli: Cli, times: int = 1) -> int:
    fd = bpf.obj_get(cli.layout.prog("live", "p"))
    try:
        return bpf.prog_test_run(fd, bytes(64), repeat=times).retval
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("values", "more"),
    [
        (("knob=7",), 2),
        (("wide=0x2222222222222222",), 0),
        (("pair.low=11",), 10),
        (("pair.low=11", "pair.high=12"), 20),  # together one aligned word
        (("list[1]=12",), 10),
        (("name=fth0",), 1),
        (("zero=4",), 4),
    ],
)
def test_one_word_is_stored(cli: Cli, net: VethPair, template: str, values: tuple[str, ...], more: int) -> None:
    first = cli.ok("apply", "-j", "--target", at(net), template).json
    assert run(cli) == START
    given = [word for value in values for word in ("--set", value)]
    assert "in the running programs' memory" in cli.ok("plan", *given, template).out
    done = cli.ok("apply", "-j", *given, template).json
    assert (done["result"], done["generation"]) == ("changed", 2)
    assert done["live"] == [value.partition("=")[0] for value in values]
    assert done["prog"] == {"old": first["prog"]["new"], "new": first["prog"]["new"]}
    assert run(cli) == START + more
    assert cli.ok("apply", "-j", *given, template).json["result"] == "unchanged"
    back = cli.ok("apply", template)  # declarative: what is not given is the template's
    assert "with no reload" in back.out
    assert run(cli) == START
    assert cli.ok("status", "-j", "live").json["deployments"][0]["targets"][0]["live"]["state"] == "ours"


@pytest.mark.parametrize(
    ("values", "more"),
    [
        (("knob=6", "zero=1"), 2),  # two words cannot change at once
        (("knob=6", "list[3]=5"), 1),
        (("bits.four=4",), 1),  # its neighbours in the word are the program's
        (("address[0]=2", "address[15]=1"), 1),
        (("off.odd=8",), 1),  # not aligned
        (("hidden=10",), 1),  # no symbol, no mapping
        (("fixed=101",), 1),
        (("fixed=101", "knob=6"), 2),
    ],
)
def test_everything_else_is_reloaded(
    cli: Cli, net: VethPair, template: str, values: tuple[str, ...], more: int
) -> None:
    first = cli.ok("apply", "-j", "--target", at(net), template).json
    given = [word for value in values for word in ("--set", value)]
    done = cli.ok("apply", "-j", *given, template).json
    assert done["live"] == []
    assert done["prog"]["old"] == first["prog"]["new"] != done["prog"]["new"]
    assert run(cli) == START + more


def test_what_the_program_keeps_beside_the_value_stays(cli: Cli, net: VethPair, template: str) -> None:
    cli.ok("apply", "--target", at(net), template)
    run(cli, 10)
    cli.ok("apply", "--set", "knob=6", template)
    fd = bpf.obj_get(cli.layout.map("live", ".data"))
    try:
        held = bpf.map_lookup(fd, bytes(4), bpf.map_info(fd).value_size)
    finally:
        os.close(fd)
    assert struct.pack("<Q", 11) in held  # runs
    cli.ok("apply", "--set", "knob=6", "--set", "fixed=200", template)  # a reload goes on with that map
    assert run(cli) == START + 101


def test_a_change_of_targets_is_a_reload(cli: Cli, net: VethPair, template: str) -> None:
    cli.ok("apply", "--target", at(net), template)
    both = ("--target", at(net), "--target", at(net).replace("ingress", "egress"))
    done = cli.ok("apply", "-j", "--set", "knob=6", *both, template).json
    assert done["live"] == []
    assert run(cli) == START + 1


def test_a_program_that_becomes_specialised_is_a_reload(cli: Cli, net: VethPair, template: str) -> None:
    cli.ok("apply", "--target", at(net), template)
    done = cli.ok("apply", "-j", "--specialize", "--set", "knob=6", template).json
    assert (done["live"], done["specialized"]) == ([], True)
    again = cli.ok("apply", "-j", "--specialize", "--set", "knob=7", template).json
    assert (again["live"], again["specialized"]) == (["knob"], True)
    assert run(cli) == START + 2


def test_a_map_that_is_gone_is_a_reload(cli: Cli, net: VethPair, template: str) -> None:
    cli.ok("apply", "--target", at(net), template)
    bpffs.unpin(cli.layout.map("live", ".data"))
    done = cli.ok("apply", "-j", "--set", "knob=6", template).json
    assert done["live"] == []
    assert run(cli) == START + 1


def test_no_run_sees_half_a_word(cli: Cli, net: VethPair, template: str) -> None:
    """The program itself compares the halves of what it reads, while both alternate."""
    cli.ok("apply", "--target", at(net), template)
    seen: set[int] = set()
    stop = threading.Event()

    def runs() -> None:
        while not stop.is_set():
            seen.add(run(cli, 20_000))

    reader = threading.Thread(target=runs)
    reader.start()
    try:
        for number in range(100):
            half = 0x33333333 if number % 2 else 0x44444444
            done = cli.ok("apply", "-j", "--set", f"wide={half << 32 | half}", template)
            assert done.json["live"] == ["wide"]
    finally:
        stop.set()
        reader.join(30)
    assert seen == {START}
    fd = bpf.obj_get(cli.layout.map("live", ".data.torn"))
    try:
        assert bpf.map_lookup(fd, bytes(4), 8) == bytes(8)
    finally:
        os.close(fd)
