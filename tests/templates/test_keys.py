"""The static keys of the shipped templates: with every setting they do what the same source does with the keys as
constants, whichever way they are loaded, and what is off is not there."""

from __future__ import annotations

import re
import struct
import subprocess
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from elfpatch import index as ix
from elfpatch.deploy.prepare import prepare
from elfpatch.deploy.select import select
from elfpatch.kernel import bpf
from tests.differential.support import PACKETS
from tests.support.packets import ACK, ICMP6, ether, fragment6, icmp, icmp6, ipv4, ipv6, neighbour, tcp, udp
from tests.templates.support import FIXTURES, Event, Loaded, Loader, Result, Settings, untimed

KEYS = {
    "endpoint": ("accounting", "debug", "notify_drops"),
    "xdp_filter": ("ipv6", "rate_limit", "sampling"),
    "xdp_lb": ("encap",),
}

COUNTING_AND_REPORTING = {"accounting", "debug", "notify_drops", "sampling"}

# --- configurations and packets: in `policy` every key matters

SELF = {"ep.id": "77", "ep.ip4": "10.0.0.2", "ep.ip6": "fd00::2", "ep.mac": "02:00:00:00:00:02"}
PORTS = {"ep.policy.ports[0]": "53", "ep.policy.ports[9]": "443"}
ALWAYS = {"sample_one_in": "1"}  # or chance would decide
SERVICE = {"service.vip": "10.0.0.5", "service.port": "443", "service.seed": "7"} | {
    f"backends[{n}].{name}": value
    for n in range(3)
    for name, value in (("address", f"10.1.0.{n + 1}"), ("weight", str(n + 1)), ("mac", f"02:00:00:00:01:0{n}"))
}

CONFIGURATIONS: dict[str, dict[str, Settings]] = {
    "endpoint": {
        "default": {"ep.ip4": "10.0.0.2"},
        "policy": SELF | PORTS | {"ep.policy.mode": "POLICY_ENFORCE", "ep.policy.serve": "true"},
        "audit": SELF | PORTS | {"ep.policy.mode": "POLICY_AUDIT"},
    },
    "xdp_filter": {
        "default": ALWAYS,
        "policy": ALWAYS | {"limits.pps": "1", "limits.burst": "2", "limits.penalty": "3600s"},
        "dry run": ALWAYS | {"limits.pps": "1", "limits.burst": "1", "limits.prefix4": "8", "dry_run": "true"},
    },
    "xdp_lb": {
        "default": {"service.vip": "10.0.0.5"},
        "policy": SERVICE | {"service.mtu": "900", "service.source": "10.9.9.9"},
        "redirect": SERVICE | {"service.port": "0", "service.forward": "LB_REDIRECT", "service.hash": "LB_HASH_SOURCE"},
    },
}

DENIED = ("192.168.0.0/16", "fd00:bad::/32")

MORE_PACKETS = [
    ether(ipv4("10.0.0.2", "192.0.2.1", tcp(443, 50000, flags=ACK))),
    ether(ipv4("10.0.0.2", "192.0.2.1", udp(1, 53)), vlans=(3, 4)),
    ether(ipv4("10.0.0.2", "192.0.2.1", bytes(8), protocol=47)),
    ether(ipv4("10.0.0.2", "192.0.2.1", b"ab")),
    ether(ipv4("198.51.100.7", "10.0.0.5", tcp(50000, 443, b"GET", flags=ACK))),
    ether(ipv4("198.51.100.8", "10.0.0.5", tcp(50001, 443, b"x" * 830), dont_fragment=True, tos=0x2E)),
    ether(ipv4("192.0.2.254", "10.0.0.5", icmp(3, 4, bytes(4) + ipv4("10.0.0.5", "198.51.100.7", tcp(443, 50000))))),
    ether(ipv6("fd00::2", "2001:db8::1", udp(1, 443), extensions=((60, bytes(6)), fragment6(0, more=True)))),
    ether(ipv6("fd00::2", "2001:db8::1", neighbour(136, "fd00::9"))),
    ether(ipv6("fe80::ff:fe00:2", "ff02::1", icmp6(134, data=bytes(12)))),
    ether(ipv6("fd00:bad::1", "2001:db8::1", udp(1, 2)), vlans=(5,)),
    ether(ipv6("fd00::2", "2001:db8::1", bytes(8), next_header=ICMP6)[:40]),
    ether(ipv4("10.0.0.2", "192.0.2.1", udp(1, 53)), vlans=(1, 2, 3)),
]
ALL_PACKETS = [*PACKETS, *MORE_PACKETS, *PACKETS[:4]]  # what comes again meets the rate limit


# --- what is observed


@dataclass(frozen=True)
class Case:
    """A template with one of its configurations, and the keys that are on."""

    template: str
    configuration: str
    on: frozenset[str]

    def __str__(self) -> str:
        return f"{self.template}-{self.configuration}-{'+'.join(sorted(self.on)) or 'none'}"

    @property
    def settings(self) -> Settings:
        keys = {key: "on" if key in self.on else "off" for key in KEYS[self.template]}
        return CONFIGURATIONS[self.template][self.configuration] | keys


@dataclass(frozen=True)
class Seen:
    """What a program does with the packets. A map that is not there counts as one in which nothing is.

    `sources` are the keys of the buckets, `hits` the values other than 0 of the deny lists."""

    runs: list[tuple[int, bytes, int]]
    counters: dict[str, tuple[int, int]]
    events: list[Event]
    sources: list[bytes]
    hits: dict[bytes, int]


@dataclass(frozen=True)
class Kernel:
    """What the kernel holds: the maps that were made, those that the program holds on to, and the maps and functions
    that the instructions name which it runs; data sections aside. `sites` are those of them that are branches of keys.
    """

    made: set[str]
    held: set[str]
    named: set[str]
    sites: list[str]


def observe(loaded: Loaded) -> Seen:
    for prefix in DENIED:
        if ("deny6" if ":" in prefix else "deny4") in loaded.maps:
            loaded.deny(prefix)
    tc = loaded.program == "endpoint"
    results: list[Result] = [loaded.run(packet) for packet in ALL_PACKETS]
    denied = [loaded.map(name) for name in ("deny4", "deny6") if name in loaded.maps]
    hits = {key: struct.unpack("Q", each.get(key))[0] for each in denied for key in sorted(each.keys())}
    return Seen(
        [(result.verdict, result.packet, result.mark if tc else 0) for result in results],
        loaded.counters() if "counters" in loaded.maps else {},
        untimed(loaded.events()) if "events" in loaded.maps else [],
        sorted(loaded.map("sources").keys()) if "sources" in loaded.maps else [],
        {key: count for key, count in hits.items() if count},
    )


def examine(loaded: Loaded) -> Kernel:
    info = bpf.prog_info(loaded.fd)
    command = ["bpftool", "prog", "dump", "xlated", "id", str(info.prog_id)]
    dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    by_id = {each.info.map_id: name for name, each in loaded.maps.items() if "rodata" not in name}
    named = {by_id[number] for number in map(int, re.findall(r"map\[id:(\d+)\]", dump)) if number in by_id}
    called = set(re.findall(r"call (\w+)#", dump))
    held = {by_id[number] for number in info.map_ids if number in by_id}
    return Kernel(set(by_id.values()), held, named | called, re.findall(r"if r\d+ (?:<|>=) 0x0 goto", dump))


class Programs:
    """Loads the programs of cases and looks at them; each is loaded once. None stays loaded."""

    def __init__(self, work: Path, bpffs: Path) -> None:
        self.work = work
        self.bpffs = bpffs
        self._seen: dict[tuple[Case, str], Seen] = {}
        self._kernel: dict[tuple[Case, str], Kernel] = {}

    def seen(self, case: Case, how: str) -> Seen:
        if (case, how) not in self._seen:
            self._look(case, how)
        return self._seen[case, how]

    def kernel(self, case: Case, how: str) -> Kernel:
        assert case.configuration == "policy", "others are not examined: bpftool reads all symbols of the kernel for it"
        self.seen(case, how)
        return self._kernel[case, how]

    def _look(self, case: Case, how: str) -> None:
        with closing(Loader(self.work, self.bpffs)) as loader:
            loaded = loader.load(case.template, case.settings, how)
            self._seen[case, how] = observe(loaded)
            if case.configuration == "policy":
                self._kernel[case, how] = examine(loaded)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, session_bpffs: Path) -> Programs:
    return Programs(tmp_path_factory.mktemp("programs"), session_bpffs)


def combinations(template: str) -> list[frozenset[str]]:
    keys = KEYS[template]
    return [
        frozenset(key for key, on in zip(keys, bits, strict=True) if on) for bits in product((0, 1), repeat=len(keys))
    ]


CASES = [
    Case(template, configuration, on)
    for template, configurations in CONFIGURATIONS.items()
    for configuration in configurations
    for on in combinations(template)
]
POLICY_CASES = [case for case in CASES if case.configuration == "policy"]


# --- behaviour


@pytest.mark.parametrize("how", ["plain", "specialized", "written"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_template_does_what_its_source_does_with_the_keys_as_constants(programs, case, how):
    assert programs.seen(case, how) == programs.seen(case, "compiled")


@pytest.mark.parametrize("template, different", [("endpoint", 6), ("xdp_filter", 8), ("xdp_lb", 2)])
def test_the_packets_tell_the_settings_apart(programs, template, different):
    """Six for endpoint: with `debug` on there is nothing left for `notify_drops` to tell."""
    seen = {repr(programs.seen(case, "compiled")) for case in POLICY_CASES if case.template == template}
    assert len(seen) == different


@pytest.mark.parametrize("template", KEYS)
def test_keys_change_no_more_than_they_say(programs, template):
    """Counting and reporting change no verdict and no packet."""
    for configuration in CONFIGURATIONS[template]:
        runs = {on: programs.seen(Case(template, configuration, on), "plain").runs for on in combinations(template)}
        assert all(runs[on] == runs[on - COUNTING_AND_REPORTING] for on in runs)


def test_every_key_of_every_template_is_tested(loader):
    found = {}
    for path in FIXTURES.glob("*.o"):
        index = loader.image(path.stem, {}).template.index
        keys = tuple(sorted(row.name for row in index.rows(ix.Variable) if row.flags & ix.KEY))
        found |= {path.stem: keys} if keys else {}
    assert found == KEYS


# --- cost

JLT_IMM, JGE_IMM = 0xA5, 0x35

# What is only there for a key: a map or a function, and the keys of which one must be on.
ONLY_FOR = {
    "endpoint": {
        "counters": {"accounting"},
        "events": {"debug", "notify_drops"},
        "bpf_ringbuf_reserve": {"debug", "notify_drops"},
        "bpf_ringbuf_submit": {"debug", "notify_drops"},
        "bpf_ktime_get_ns": {"debug", "notify_drops"},
    },
    "xdp_filter": {
        "sources": {"rate_limit"},
        "deny6": {"ipv6"},
        "events": {"sampling"},
        "bpf_user_rnd_u32": {"sampling"},
        "bpf_ringbuf_reserve": {"sampling"},
        "bpf_xdp_load_bytes": {"sampling"},
        "bpf_ktime_get_ns": {"rate_limit", "sampling"},
    },
    "xdp_lb": {"bpf_xdp_adjust_head": {"encap"}},
}


def wanted(case: Case) -> dict[str, bool]:
    return {name: bool(keys & case.on) for name, keys in ONLY_FOR[case.template].items()}


@pytest.mark.parametrize("case", POLICY_CASES, ids=str)
def test_of_what_is_off_no_instruction_is_left(programs, case):
    """Neither the loader nor the compiler removed anything from a `plain` program: the verifier did."""
    for how in ("plain", "specialized", "written", "compiled"):
        named = programs.kernel(case, how).named
        assert {name: name in named for name in ONLY_FOR[case.template]} == wanted(case), how


@pytest.mark.parametrize("case", POLICY_CASES, ids=str)
def test_of_the_branches_themselves_none_is_left(programs, loader, case):
    """An unsigned comparison with 0 is never anything else. Those that are loaded are all there."""
    image = loader.image(case.template, case.settings)
    index = image.template.index
    (ready,) = prepare(image, select(index, [])).programs.values()
    opcodes = [opcode for opcode, _, _, imm in struct.iter_unpack("=BBhi", ready.insns) if not imm]
    assert opcodes.count(JLT_IMM) + opcodes.count(JGE_IMM) == index.count(ix.Site)
    assert [programs.kernel(case, how).sites for how in ("plain", "specialized", "written")] == [[], [], []]


@pytest.mark.parametrize("case", POLICY_CASES, ids=str)
def test_specialized_a_program_has_no_map_of_what_is_off(programs, case):
    """Its other maps are all there, and without specialisation so are those of what is off."""
    all_maps = programs.kernel(Case(case.template, "policy", frozenset(KEYS[case.template])), "plain").made
    plain, specialized = (programs.kernel(case, how) for how in ("plain", "specialized"))
    assert plain.made == plain.held == all_maps
    off = {name for name, is_on in wanted(case).items() if not is_on}
    assert specialized.made == specialized.held == all_maps - off


@pytest.mark.parametrize("case", POLICY_CASES, ids=str)
def test_a_program_names_what_it_names_with_constants(programs, case):
    """The same maps and functions, of keys and of everything else."""
    known = [programs.kernel(case, how).named for how in ("plain", "specialized", "compiled")]
    assert known[0] == known[1] == known[2]
