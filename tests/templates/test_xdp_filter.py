"""xdp_filter: denied sources and sources that send too fast are dropped."""

from __future__ import annotations

import struct
import time

import pytest

from tests.support.packets import ETH_ARP, arp, ether, ip4, ip6, ipv4, ipv6, tcp, udp
from tests.templates.support import XDP_DROP, XDP_PASS, event_of, untimed

LIMITS = {"limits.pps": "1", "limits.burst": "5"}  # one packet a second: no token comes back during a test


def from4(source: str, **more) -> bytes:
    return ether(ipv4(source, "192.0.2.1", udp(1000, 53, b"x")), **more)


def from6(source: str, **more) -> bytes:
    return ether(ipv6(source, "2001:db8::1", tcp(1000, 80)), **more)


def verdict(program, packet: bytes, *, passes: bool | None = None) -> str:
    """The verdict of a packet by the counter that it moved; bytes and return value are checked on the way."""
    before = program.counters()
    result = program.run(packet)
    after = program.counters()
    (moved,) = (name for name in after if after[name] != before.get(name))
    packets, size = before.get(moved, (0, 0))
    assert after[moved] == (packets + 1, size + len(packet))
    if passes is None:
        passes = moved in ("PASSED", "NOT_IP")
    assert result.verdict == (XDP_PASS if passes else XDP_DROP)
    assert result.packet == packet
    return moved


def passed_of(program, packet: bytes, count: int) -> int:
    """How many of `count` runs of a packet pass."""
    return [program.run(packet).verdict for _ in range(count)].count(XDP_PASS)


# --- deny list


def test_without_entries_and_limits_everything_passes(load):
    program = load("xdp_filter", {})
    for packet in (from4("10.0.0.1"), from6("fd00::1"), from4("10.0.0.1", vlans=(3,)), from6("fd00::1", vlans=(3, 4))):
        assert verdict(program, packet) == "PASSED"
    assert program.map("sources").keys() == []


def test_denied_sources_are_dropped_and_hits_counted(load):
    program = load("xdp_filter", {})
    for prefix in ("10.1.0.0/16", "10.2.3.4/32", "fd00:1::/32", "fd00:2::3/128"):
        program.deny(prefix)
    cases = {
        "10.1.2.3": "DENIED",
        "10.2.3.4": "DENIED",
        "10.2.3.5": "PASSED",
        "10.0.255.255": "PASSED",
        "1.10.1.1": "PASSED",
    }
    for source, expected in cases.items():
        assert verdict(program, from4(source)) == expected
        assert verdict(program, from4(source, vlans=(3,))) == expected
        assert verdict(program, from4(source, vlans=(3, 4))) == expected
    for source, expected in {"fd00:1:2::3": "DENIED", "fd00:2::3": "DENIED", "fd00:2::4": "PASSED"}.items():
        assert verdict(program, from6(source)) == expected
        assert verdict(program, from6(source, vlans=(3, 4))) == expected
    hits = program.map("deny4").get(struct.pack("I", 32) + ip4("10.1.255.1"))
    assert struct.unpack("Q", hits) == (3,)


def test_the_destination_does_not_matter(load):
    program = load("xdp_filter", {})
    program.deny("192.0.2.1/32")
    assert verdict(program, from4("10.0.0.1")) == "PASSED"


def test_dry_run_only_counts(load):
    program = load("xdp_filter", LIMITS | {"dry_run": "true"})
    program.deny("10.1.0.0/16")
    assert verdict(program, from4("10.1.2.3"), passes=True) == "DENIED"
    found = [verdict(program, from4("10.9.9.9"), passes=True) for _ in range(7)]
    assert found == ["PASSED"] * 5 + ["LIMITED"] * 2
    assert verdict(program, ether(b"\x40", 0x0800), passes=True) == "MALFORMED"


# --- token bucket


@pytest.mark.parametrize("burst", [1, 5, 32])
def test_a_source_may_send_a_burst(load, burst):
    program = load("xdp_filter", {"limits.pps": "1", "limits.burst": str(burst)})
    assert [verdict(program, from4("10.0.0.1")) for _ in range(burst + 2)] == ["PASSED"] * burst + ["LIMITED"] * 2
    # every source has a bucket of its own
    assert verdict(program, from4("10.0.0.2")) == "PASSED"
    assert verdict(program, from6("fd00::1")) == "PASSED"


def test_the_default_burst_is_100(load):
    program = load("xdp_filter", {"limits.pps": "1"})
    assert passed_of(program, from4("10.0.0.1"), 120) == 100


def test_tokens_come_back_at_the_rate(load):
    rate, burst = 200, 100  # the bucket holds what half a second brings: no stall of this test makes it overflow
    program = load("xdp_filter", {"limits.pps": str(rate), "limits.burst": str(burst)})
    packet = from4("10.0.0.1")
    passed, start = 0, time.monotonic()
    while (before := time.monotonic()) < start + 0.25:
        passed += program.run(packet).verdict == XDP_PASS
    most = burst + rate * (time.monotonic() - start) + 1
    assert burst + rate * (before - start - 0.01) - 2 <= passed <= most


def test_a_full_bucket_gets_no_fuller(load):
    program = load("xdp_filter", {"limits.pps": "1000", "limits.burst": "3"})
    packet = from4("10.0.0.1")
    program.run(packet)
    time.sleep(0.1)  # a hundred tokens, if there were room for them
    start = time.monotonic()
    passed = passed_of(program, packet, 60)
    assert 3 <= passed <= 3 + 1 + 1000 * (time.monotonic() - start)


def test_a_tagged_packet_takes_from_the_same_bucket(load):
    program = load("xdp_filter", LIMITS)
    packets = [from4("10.0.0.1"), from4("10.0.0.1", vlans=(1,)), from4("10.0.0.1", vlans=(1, 2))] * 2
    assert [verdict(program, packet) for packet in packets] == ["PASSED"] * 5 + ["LIMITED"]


def test_prefixes_group_sources(load):
    program = load("xdp_filter", LIMITS | {"limits.prefix4": "24", "limits.prefix6": "48"})
    assert sum(passed_of(program, from4(f"10.0.0.{host}"), 1) for host in range(10)) == 5
    assert passed_of(program, from4("10.0.1.1"), 9) == 5
    assert sum(passed_of(program, from6(f"fd00:1:2:{net}::1"), 1) for net in range(10)) == 5
    assert passed_of(program, from6("fd00:1:3::1"), 9) == 5
    assert sorted(program.map("sources").keys()) == sorted(
        [ip6("::ffff:10.0.0.0"), ip6("::ffff:10.0.1.0"), ip6("fd00:1:2::"), ip6("fd00:1:3::")]
    )


@pytest.mark.parametrize(
    "bits, source", [(1, "8000::"), (33, "fd00:1:8000::"), (64, "fd00:1:8000:ffff::"), (127, "fd00:1:8000:ffff::fffe")]
)
def test_every_length_of_prefix_masks_right(load, bits, source):
    program = load("xdp_filter", LIMITS | {"limits.prefix6": str(bits)})
    program.run(from6("fd00:1:8000:ffff::ffff"))
    assert program.map("sources").keys() == [ip6(source)]


def test_by_default_an_ipv6_source_is_a_64(load):
    program = load("xdp_filter", LIMITS)
    assert sum(passed_of(program, from6(f"fd00::{host:x}"), 1) for host in range(10)) == 5


def test_a_penalty_shuts_a_source_out_for_its_time(load):
    penalty = 0.5
    program = load(
        "xdp_filter", {"limits.pps": "100", "limits.burst": "2", "limits.penalty": f"{int(penalty * 1000)}ms"}
    )
    packet = from4("10.0.0.1")
    start = time.monotonic()
    while program.run(packet).verdict == XDP_PASS:
        start = time.monotonic()
    exceeded = time.monotonic()
    runs = 0
    while True:
        verdict = program.run(packet).verdict
        if time.monotonic() >= start + penalty:  # the penalty began after `start`: until here it lasts
            break
        assert verdict == XDP_DROP  # without a penalty there would have been a token every 10 ms
        runs += 1
        time.sleep(0.005)
    assert runs > 3
    assert program.run(from4("10.0.0.2")).verdict == XDP_PASS
    time.sleep(max(0, exceeded + penalty + 0.05 - time.monotonic()))
    assert program.run(packet).verdict == XDP_PASS  # what was sent meanwhile did not prolong it


def test_zero_is_no_limit(load):
    program = load("xdp_filter", {"limits.pps": "0", "limits.burst": "1"})
    assert program.run(from4("10.0.0.1"), repeat=1000).verdict == XDP_PASS
    assert program.counters() == {"PASSED": (1000, 1000 * len(from4("10.0.0.1")))}


def test_the_highest_rate_still_counts(load):
    program = load("xdp_filter", {"limits.pps": "10000000", "limits.burst": "1000000"})
    program.run(from4("10.0.0.1"), repeat=1000)
    assert program.counters()["PASSED"][0] == 1000


# --- other packets


def test_what_is_no_ip_passes(load):
    program = load("xdp_filter", LIMITS)
    for _ in range(8):
        assert verdict(program, ether(arp("02:00:00:00:00:02", "10.0.0.1", "10.0.0.2"), ETH_ARP)) == "NOT_IP"
        assert verdict(program, ether(bytes(46), 0x88CC, vlans=(1, 2))) == "NOT_IP"


def test_what_cannot_be_read_is_dropped(load):
    program = load("xdp_filter", {})
    good4, good6 = ipv4("10.0.0.1", "10.0.0.2"), ipv6("fd00::1", "fd00::2")
    for packet in (
        ether(good4[:19], 0x0800),
        ether(b"\x55" + good4[1:], 0x0800),
        ether(good6[:39], 0x86DD),
        ether(b"\x70" + good6[1:], 0x86DD),
        ether(good4, vlans=(1, 2, 3)),
        ether(b"\0\1\x08", 0x8100),
    ):
        assert verdict(program, packet) == "MALFORMED"


# --- static keys

SAMPLED = [
    (ether(ipv4("10.0.0.1", "192.0.2.1", udp(1, 2, b"long enough for more than a head" * 3))), "PASSED"),
    (from6("fd00::1"), "PASSED"),
    (ether(b"\x40", 0x0800), "MALFORMED"),
    (ether(arp("02:00:00:00:00:02", "10.0.0.1", "10.0.0.2"), ETH_ARP), "NOT_IP"),
    (from4("10.1.2.3", vlans=(3,)), "DENIED"),
]


def test_by_default_nothing_is_sampled(load):
    program = load("xdp_filter", {"sample_one_in": "1"})
    for packet, _ in SAMPLED:
        program.run(packet)
    assert program.events() == []


def test_one_in_one_is_every_packet(load):
    program = load("xdp_filter", {"sampling": "on", "sample_one_in": "1"})
    program.deny("10.1.0.0/16")
    start = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert [verdict(program, packet) for packet, _ in SAMPLED] == [expected for _, expected in SAMPLED]
    events = program.events()
    assert untimed(events) == [event_of(packet, expected) for packet, expected in SAMPLED]
    times = [start, *(event.time for event in events), time.clock_gettime_ns(time.CLOCK_MONOTONIC)]
    assert times == sorted(times)


@pytest.mark.parametrize("one_in", [2, 10, 1000])
def test_one_in_so_many_is_sampled(load, one_in):
    """Within five standard deviations of a binomial distribution: 1 in 1,700,000."""
    runs = 500 * one_in
    program = load("xdp_filter", {"sampling": "on", "sample_one_in": str(one_in)})
    program.run(from4("10.0.0.1"), repeat=runs)
    share = 1 / one_in
    assert abs(len(program.events()) - runs * share) <= 5 * (runs * share * (1 - share)) ** 0.5


def test_without_ipv6_it_passes_unjudged(load):
    program = load("xdp_filter", LIMITS | {"ipv6": "off"})
    program.deny("fd00:1::/32")
    program.deny("10.1.0.0/16")
    for packet in (from6("fd00:1::1"), from6("fd00:1::1", vlans=(3, 4)), ether(b"\x70" + bytes(50), 0x86DD)):
        assert [verdict(program, packet) for _ in range(7)] == ["NOT_IP"] * 7
    assert program.map("sources").keys() == []
    assert verdict(program, from4("10.1.2.3")) == "DENIED"
    assert [verdict(program, from4("10.0.0.1")) for _ in range(7)] == ["PASSED"] * 5 + ["LIMITED"] * 2
    assert verdict(program, ether(ipv6("fd00::1", "fd00::2"), vlans=(1, 2, 3))) == "MALFORMED"


def test_without_a_rate_limit_no_source_is_too_fast(load):
    program = load("xdp_filter", LIMITS | {"limits.penalty": "3600s", "rate_limit": "off"})
    program.deny("10.1.0.0/16")
    program.deny("fd00:1::/32")
    for source in (from4("10.0.0.1"), from6("fd00::1")):
        assert passed_of(program, source, 50) == 50
    assert program.map("sources").keys() == []
    assert (verdict(program, from4("10.1.2.3")), verdict(program, from6("fd00:1::1"))) == ("DENIED", "DENIED")


# --- over a veth pair


def arrived(net, frames: list[bytes]) -> int:
    """Send frames from `b`, then one that is no IP and always passes; how many of the former `a` gets to see."""
    net.a.drain()
    for packet in frames:
        net.b.send(packet)
    net.b.send(ether(b"the last one" + bytes(40), 0x88B5, dest="ff:ff:ff:ff:ff:ff", source=net.b.mac))
    count = 0
    for got in net.a.frames(5):
        if b"the last one" in got:
            return count
        count += b"counted" in got
    raise AssertionError("the last frame did not arrive")


@pytest.mark.parametrize("mode", ["drv", "skb"])
def test_on_an_interface(attach, net, mode):
    settings = {"limits.pps": "1", "limits.burst": "5"}
    program = attach("xdp_filter", settings, f"xdp:{net.a.ifname}:{mode},netns={net.a.ns.name}")
    program.deny("10.77.1.0/24")
    program.deny("fd77:1::/32")

    def sent(source: str, vlans: tuple[int, ...] = ()) -> bytes:
        ip, to = (ipv6, net.a.ip6) if ":" in source else (ipv4, net.a.ip4)
        return ether(ip(source, to, udp(1, 2, b"counted")), source=net.b.mac, dest=net.a.mac, vlans=vlans)

    for source in ("10.77.1.7", "fd77:1::7"):
        assert arrived(net, [sent(source)] * 5) == 0
        assert arrived(net, [sent(source, (3,))] * 5) == 0
    for source in ("10.77.0.2", "10.77.0.3", "fd77::2"):
        assert arrived(net, [sent(source)] * 3 + [sent(source, (3,))] * 5) == 5
        assert arrived(net, [sent(source)] * 3) == 0
    found = {name: count for name, (count, _) in program.counters().items()}
    assert found.pop("PASSED") >= 15  # the kernel of `b` may say something about multicast meanwhile
    assert found == {"NOT_IP": 10, "DENIED": 20, "LIMITED": 18}


@pytest.mark.parametrize("mode", ["drv", "skb"])
def test_samples_name_the_interface(attach, net, mode):
    settings = {"sampling": "on", "sample_one_in": "1"}
    program = attach("xdp_filter", settings, f"xdp:{net.a.ifname}:{mode},netns={net.a.ns.name}")
    sent = ether(ipv4("10.77.0.2", net.a.ip4, udp(1, 2, b"counted")), source=net.b.mac, dest=net.a.mac)
    assert arrived(net, [sent]) == 1
    assert untimed(program.events()).count(event_of(sent, "PASSED", ifindex=net.a.ifindex)) == 1
