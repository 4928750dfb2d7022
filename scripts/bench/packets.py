"""What a packet pays for settings, by how they are given (see styles.py).

First every build must treat a set of packets as the one with compiled-in constants does. Then BPF_PROG_TEST_RUN sends
one packet, which goes the longest way, through each build many times at a stretch, on one core, build after build in
turning order. A build's figure of a round is the least of many stretches: what else the machine does only ever adds.
Each round loads all of them anew, for the place of the machine code, which the kernel chooses at random, is worth some
per cent. A program that does nothing says what of the time is the test run's own.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from elfpatch.kernel import bpf
from elfpatch.uapi import PROG_TYPES
from scripts.bench import styles
from scripts.bench.measure import Spread, ratios
from scripts.bench.styles import CONSTANTS, Running

GOAL = 1.05  # of specialised programs: at most so many times what compiled-in constants take
STRETCH_NS, STRETCHES = 1_000_000, 30  # for one figure: about how long the packet is sent on and on, and how often
FIRST = 5_000  # packets of the run that says how many make a stretch
NOTHING = "a program that does nothing"

PASSED, DROPPED, LEFT = 0, 2, 0xFFFFFFFF  # TC_ACT_OK, _SHOT, _UNSPEC
TCP, UDP, ICMP, GRE = 6, 17, 1, 47
IP4, ARP, VLAN = 0x0800, 0x0806, 0x8100
SK_BUFF_SIZE = 192


class Disagreement(Exception):
    """A build does not do what it should: its times are no comparison."""


# --- packets


def frame(payload: bytes, kind: int = IP4, dest: str = "020000000001") -> bytes:
    return bytes.fromhex(dest) + bytes.fromhex("020000000002") + struct.pack(">H", kind) + payload


def ipv4(
    source: str,
    dest: str = "10.9.0.1",
    *,
    protocol: int = TCP,
    port: int = 443,
    ttl: int = 64,
    tos: int = 1,
    length: int = 100,
    fragment: int = 0,
    first: int = 0x45,
) -> bytes:
    """A header whose checksum is of no matter, ports, and zeros up to `length`."""
    fields = struct.pack(">BBHHHBBH", first, tos, length, 1, fragment, ttl, protocol, 0xBEEF)
    ports = struct.pack(">HH", 40000, port)
    return (fields + socket.inet_aton(source) + socket.inet_aton(dest) + ports).ljust(length, b"\0")


MEASURED = frame(ipv4("10.1.2.3"))
# name -> packet and what must become of it
PACKETS = {
    "to the last port of the list": (MEASURED, PASSED),
    "to the first port of the list": (frame(ipv4("10.1.2.3", protocol=UDP, port=53)), PASSED),
    "to the second port of the list": (frame(ipv4("10.1.2.3", port=80)), PASSED),
    "to the third port of the list": (frame(ipv4("10.1.2.3", port=853)), PASSED),
    "to a port of the range": (frame(ipv4("10.1.2.3", protocol=UDP, port=8050, tos=0xFF)), PASSED),
    "to the last port of the range": (frame(ipv4("10.1.2.3", port=8099, tos=10 << 2)), PASSED),
    "behind the range": (frame(ipv4("10.1.2.3", port=8100)), DROPPED),
    "to the first port of the range": (frame(ipv4("10.1.2.3", port=8000)), PASSED),
    "before the range": (frame(ipv4("10.1.2.3", port=7999)), DROPPED),
    "from the administrator": (frame(ipv4("10.1.0.7", port=22)), PASSED),
    "without ports": (frame(ipv4("10.1.2.3", protocol=ICMP)), PASSED),
    "of a tunnel": (frame(ipv4("10.1.2.3", protocol=GRE)), DROPPED),
    "from elsewhere": (frame(ipv4("10.2.2.3")), DROPPED),
    "to elsewhere": (frame(ipv4("10.1.2.3", "10.9.0.2")), DROPPED),
    "of the greatest length": (frame(ipv4("10.1.2.3", length=1480)), PASSED),
    "too long": (frame(ipv4("10.1.2.3", length=1481)), DROPPED),
    "with little time to live": (frame(ipv4("10.1.2.3", ttl=2)), PASSED),
    "with too little time to live": (frame(ipv4("10.1.2.3", ttl=1)), DROPPED),
    "a fragment": (frame(ipv4("10.1.2.3", fragment=0x2000)), DROPPED),
    "with IP options": (frame(ipv4("10.1.2.3", first=0x46)), DROPPED),
    "cut before the ports": (frame(ipv4("10.1.2.3"))[:36], DROPPED),
    "with a tag": (frame(b"\0\5\x08\0" + ipv4("10.1.2.3"), VLAN), LEFT),
    "no IP": (frame(bytes(46), ARP), LEFT),
    "to all": (frame(ipv4("10.1.2.3"), dest="ffffffffffff"), LEFT),
}


def check(running: dict[str, Running]) -> None:
    """Every build gives the verdict that is meant, and the packet and mark that the one with constants gives; also when
    the packet that is measured comes again and again. Raises Disagreement."""
    for name, (packet, verdict) in PACKETS.items():
        wanted = outcome(running[CONSTANTS.name], packet)
        if wanted[0] != verdict:
            raise Disagreement(f"{CONSTANTS.name}: a packet {name} gets verdict {wanted[0]}, not {verdict}")
        for style, one in running.items():
            if outcome(one, packet) != wanted:
                raise Disagreement(f"{style}: not what {CONSTANTS.name} make of a packet {name}")
    for style, one in running.items():
        if outcome(one, MEASURED) != outcome(one, MEASURED, repeat=3):
            raise Disagreement(f"{style}: the packet is another one when it comes again")


def outcome(one: Running, packet: bytes, repeat: int = 1) -> tuple[int, bytes, bytes]:
    """Verdict, packet, and `struct __sk_buff` behind a program."""
    run = bpf.prog_test_run(one.fd, packet, data_out_size=len(packet), ctx_out_size=SK_BUFF_SIZE, repeat=repeat)
    return run.retval, run.data_out, run.ctx_out


# --- times


def nothing() -> int:
    """A loaded tc program that returns 0; returns its fd."""
    insns = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
    return bpf.prog_load(bpf.ProgSpec(PROG_TYPES.index("sched_cls"), insns, "GPL", name="nothing"))


@contextmanager
def one_core() -> Iterator[None]:
    """This process on one of the cores that it may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def took(fd: int, repeat: int) -> int:
    """Nanoseconds of processor time that a test run of so many packets takes. What else runs on the core meanwhile does
    not count. (The kernel's own figure per packet is cut to whole nanoseconds, too coarse here.)"""
    began = time.thread_time_ns()
    bpf.prog_test_run(fd, MEASURED, repeat=repeat)
    return time.thread_time_ns() - began


def one_round(fds: dict[str, int]) -> dict[str, float]:
    """Nanoseconds per packet of each program. A test run's own start is that of a run of one packet."""
    names = list(fds)
    repeats = {name: 1 + STRETCH_NS * FIRST // took(fd, FIRST) for name, fd in fds.items()}
    start = min(took(fds[NOTHING], 1) for _ in range(STRETCHES))
    least = dict.fromkeys(names, sys.maxsize)
    for number in range(STRETCHES):
        shift = number % len(names)
        for name in (*names[shift:], *names[:shift]):
            least[name] = min(least[name], took(fds[name], repeats[name]))
    return {name: (least[name] - start) / (repeats[name] - 1) for name in names}


def measure(work: Path, clang: str, rounds: int) -> Table:
    """Raises Disagreement, elfpatch's errors, CalledProcessError."""
    times: dict[str, list[float]] = {}
    builds = styles.build_all(work, clang)
    with one_core():
        for number in range(rounds):
            with ExitStack() as opened:
                running = {build.style.name: styles.load_build(build, opened) for build in builds}
                if number == 0:
                    check(running)
                idle = nothing()
                opened.callback(os.close, idle)
                found = one_round({**{name: one.fd for name, one in running.items()}, NOTHING: idle})
            for name, ns in found.items():
                times.setdefault(name, []).append(ns)
    rows = [row(build, running[build.style.name], times) for build in builds]
    return Table(GOAL, rounds, Spread.of(times[NOTHING]), rows)


# --- the table


@dataclass(frozen=True)
class Row:
    """A style: nanoseconds per packet and how many times those of compiled-in constants that is, round by round;
    `net_ratio` without what the test run itself takes."""

    style: str
    specialized: bool
    ns: Spread
    ratio: Spread
    net_ratio: Spread
    sizes: styles.Sizes


@dataclass(frozen=True)
class Table:
    """`goal` is for the ratios of specialised programs, `nothing` nanoseconds of a program that does nothing."""

    goal: float
    rounds: int
    nothing: Spread
    rows: list[Row]


def row(build: styles.Build, running: Running, times: dict[str, list[float]]) -> Row:
    name = build.style.name
    net = {key: [ns - own for ns, own in zip(found, times[NOTHING], strict=True)] for key, found in times.items()}
    return Row(
        name,
        build.style.specialize,
        Spread.of(times[name]),
        ratios(times, name, CONSTANTS.name),
        ratios(net, name, CONSTANTS.name),
        running.sizes,
    )


def report(table: Table) -> list[str]:
    """The table for a person."""
    lines = ["", f"settings of one tc program, per packet ({table.rounds} rounds; the middle half in brackets)"]
    lines += [f"  {'':<31}{'ns':>7}{'ratio to constants':>25}{'net':>16}   goal"]
    for one in table.rows:
        met = "met" if one.ratio.median <= table.goal else "missed"
        goal = f"at most {table.goal}: {met}" if one.specialized else ""
        ratio, net = spread(one.ratio, 3), f"{one.net_ratio.median:.2f}"
        lines.append(f"  {one.style:<31}{spread(one.ns, 1):>20}{ratio:>22}{net:>8}   {goal}".rstrip())
    lines.append(f"  {NOTHING:<31}{spread(table.nothing, 1):>20}   the test run's own: left out of `net`")
    lines += ["", "  the same programs in the kernel; memory of one instance in bytes"]
    lines += [
        f"  {'':<31}{'insns':>6}{'verified':>9}{'xlated':>8}{'jited':>12}{'program':>9}{'settings':>9}{'maps':>8}"
    ]
    for one in table.rows:
        size = one.sizes
        maps = ", ".join(size.maps_memory)
        lines.append(
            f"  {one.style:<31}{size.insns:>6}{size.verified:>9}{size.xlated:>8}{size.jited_bytes:>6} bytes"
            f"{size.memory:>9}{size.settings_memory:>9}{sum(size.maps_memory.values()):>8}  {maps}"
        )
    return lines


def spread(found: Spread, digits: int) -> str:
    return f"{found.median:.{digits}f} [{found.low:.{digits}f} {found.high:.{digits}f}]"
