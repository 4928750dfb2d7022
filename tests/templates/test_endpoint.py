"""endpoint: spoofed sources never leave, ports as the policy says, everything is counted."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

import pytest

from tests.support.packets import (
    ACK,
    AH,
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    ETH_VLAN,
    ICMP6,
    RST,
    SYN,
    TCP,
    UDP,
    arp,
    ether,
    fragment6,
    icmp,
    icmp6,
    ipv4,
    ipv6,
    neighbour,
    tcp,
    udp,
)
from tests.templates.support import TC_NEXT, TC_SHOT, event_of, untimed

MAC, IP4, IP6 = "02:00:00:00:00:05", "10.0.0.5", "fd00::5"
LOCAL6 = "fe80::ff:fe00:5"  # the EUI-64 of MAC
OTHER_MAC, OTHER4, OTHER6 = "02:00:00:00:00:06", "10.0.0.6", "fd00::6"
PEER4, PEER6 = "192.0.2.1", "2001:db8::1"

SELF = {"ep.id": "77", "ep.ip4": IP4, "ep.ip6": IP6, "ep.mac": MAC}
POLICY = SELF | {"ep.policy.mode": "POLICY_ENFORCE", "ep.policy.ports[0]": "443", "ep.policy.ports[15]": "53"}


def frame(payload: bytes, kind: int | None = None, *, source: str = MAC, vlans: tuple[int, ...] = ()) -> bytes:
    return ether(payload, kind, source=source, vlans=vlans)


def said(source: str, source_mac: str = MAC, **more) -> bytes:
    return frame(arp(source_mac, source, "10.0.0.1", **more), ETH_ARP)


def verdicts(program, packets: list[bytes]) -> list[str]:
    """The verdict of each packet by the counter that it moved; bytes and return value are checked on the way."""
    names = []
    for packet in packets:
        before = program.counters()
        result = program.run(packet)
        after = program.counters()
        moved = [name for name in after if after[name] != before.get(name)]
        assert len(moved) == 1
        packets_before, bytes_before = before.get(moved[0], (0, 0))
        assert after[moved[0]] == (packets_before + 1, bytes_before + len(packet))
        passes = moved[0] in ("PASSED", "AUDITED")
        assert result.verdict == (TC_NEXT if passes else TC_SHOT)
        assert result.packet == packet
        names.append(moved[0])
    return names


def all_are(program, verdict: str, packets: list[bytes]) -> None:
    assert verdicts(program, packets) == [verdict] * len(packets)


# --- sources


def test_own_packets_pass_and_carry_the_identity(load):
    program = load("endpoint", SELF)
    for packet in (
        frame(ipv4(IP4, PEER4, udp(1000, 9, b"x"))),
        frame(ipv4(IP4, PEER4, tcp(1000, 9))),
        frame(ipv4(IP4, PEER4, icmp())),
        frame(ipv6(IP6, PEER6, tcp(1000, 9))),
        frame(ipv6(LOCAL6, "ff02::1", icmp6())),
        said(IP4),
    ):
        result = program.run(packet)
        assert (result.verdict, result.mark) == (TC_NEXT, 77)


def test_without_an_identity_the_mark_stays(load):
    program = load("endpoint", SELF | {"ep.id": "0"})
    before = bytearray(192)
    struct.pack_into("I", before, 8, 9)
    assert program.run(frame(ipv4(IP4, PEER4, icmp())), bytes(before)).mark == 9


def test_a_foreign_ethernet_source_is_dropped(load):
    program = load("endpoint", SELF)
    all_are(
        program,
        "SPOOFED_MAC",
        [frame(ipv4(IP4, PEER4, icmp()), source=OTHER_MAC), frame(arp(MAC, IP4, PEER4), ETH_ARP, source=OTHER_MAC)]
        # each byte counts
        + [frame(b"\0" * 46, 0x88CC, source=MAC[:at] + "7f" + MAC[at + 2 :]) for at in range(0, 17, 3)],
    )


def test_without_a_mac_address_the_ethernet_source_is_not_checked(load):
    program = load("endpoint", {key: value for key, value in SELF.items() if key != "ep.mac"})
    all_are(program, "PASSED", [frame(ipv4(IP4, PEER4, icmp()), source=OTHER_MAC), said(IP4, OTHER_MAC)])
    all_are(program, "PASSED", [frame(ipv6("fe80::1234", "ff02::1", icmp6()))])
    all_are(program, "SPOOFED_IP4", [frame(ipv4(OTHER4, PEER4, icmp()))])


def test_a_foreign_ipv4_source_is_dropped(load):
    program = load("endpoint", SELF)
    all_are(
        program,
        "SPOOFED_IP4",
        [
            frame(ipv4(OTHER4, PEER4, udp(1, 2))),
            frame(ipv4("0.0.0.0", "255.255.255.255", udp(68, 67))),
            frame(ipv4(OTHER4, PEER4, udp(1, 2)), vlans=(5,)),
            frame(ipv4(OTHER4, PEER4, udp(1, 2)), vlans=(5, 6)),
            frame(ipv4(OTHER4, PEER4, b"x" * 8, offset=64)),
        ],
    )


def test_an_endpoint_without_ipv4_sends_none(load):
    program = load("endpoint", SELF | {"ep.ip4": "0.0.0.0"})
    all_are(program, "SPOOFED_IP4", [frame(ipv4(source, PEER4, icmp())) for source in (IP4, "0.0.0.0")])


def test_arp_speaks_only_for_the_endpoint(load):
    program = load("endpoint", SELF)
    all_are(
        program,
        "PASSED",
        [said(IP4), said(IP4, operation=2), said("0.0.0.0"), frame(said(IP4)[14:], ETH_ARP, vlans=(5,))],
    )
    all_are(
        program,
        "SPOOFED_ARP",
        [said(OTHER4), said(OTHER4, operation=2), said(IP4, OTHER_MAC), said("0.0.0.0", OTHER_MAC)],
    )
    good = said(IP4)[14:]
    all_are(
        program,
        "MALFORMED",
        [frame(good[:17], ETH_ARP), frame(b"\0\6" + good[2:], ETH_ARP), frame(good[:4] + b"\4" + good[5:], ETH_ARP)],
    )


def test_a_foreign_ipv6_source_is_dropped(load):
    program = load("endpoint", SELF)
    all_are(
        program,
        "SPOOFED_IP6",
        [
            frame(ipv6(source, PEER6, udp(1, 2)), vlans=vlans)
            for source in (
                OTHER6,
                "fd01::5",
                "fd00::1:0:0:5",
                "fd00:0:1::5",
                "::",
                "fe80::1",
                "fe80:1::ff:fe00:5",
                "fe80::1:0:ff:fe00:5",
                "fec0::ff:fe00:5",
            )
            for vlans in ((), (5,))
        ],
    )


def test_a_configured_link_local_address_takes_the_place_of_the_derived_one(load):
    program = load("endpoint", SELF | {"ep.ip6_local": "fe80::abcd"})
    assert verdicts(program, [frame(ipv6(source, PEER6, icmp6())) for source in ("fe80::abcd", LOCAL6)]) == [
        "PASSED",
        "SPOOFED_IP6",
    ]


def test_an_address_may_be_sought_but_only_ones_own(load):
    program = load("endpoint", SELF)
    all_are(
        program,
        "PASSED",
        [
            frame(ipv6("::", "ff02::1:ff00:5", neighbour(135, IP6))),  # duplicate address detection
            frame(ipv6("::", "ff02::1:ff00:5", neighbour(135, LOCAL6))),
            frame(ipv6("::", "ff02::2", icmp6(133))),  # router solicitation
            frame(ipv6("::", "ff02::16", icmp6(143), extensions=((0, bytes.fromhex("05020000") + b"\1\0"),))),  # MLD
        ],
    )
    all_are(program, "SPOOFED_NDP", [frame(ipv6("::", "ff02::1:ff00:6", neighbour(135, OTHER6)))])
    all_are(program, "SPOOFED_IP6", [frame(ipv6("::", PEER6, icmp6(128))), frame(ipv6("::", PEER6, tcp(1, 2)))])


def test_neighbour_discovery_speaks_only_for_the_endpoint(load):
    program = load("endpoint", SELF)
    all_are(
        program,
        "PASSED",
        [frame(ipv6(IP6, PEER6, neighbour(136, IP6))), frame(ipv6(LOCAL6, PEER6, neighbour(136, LOCAL6)))],
    )
    all_are(program, "PASSED", [frame(ipv6(IP6, PEER6, neighbour(135, PEER6)))])
    all_are(
        program,
        "SPOOFED_NDP",
        [
            frame(ipv6(IP6, PEER6, neighbour(136, OTHER6))),
            frame(ipv6(IP6, PEER6, neighbour(136, OTHER6), extensions=((60, bytes(6)),))),  # behind an option header
            frame(ipv6(LOCAL6, "ff02::1", icmp6(134, data=bytes(12)))),  # router advertisement
            frame(ipv6(LOCAL6, PEER6, icmp6(137, data=bytes(36)))),  # redirect
        ],
    )
    all_are(program, "MALFORMED", [frame(ipv6(IP6, PEER6, icmp6(136, data=bytes(8))))])
    without = load("endpoint", {key: value for key, value in SELF.items() if key != "ep.ip6"})
    all_are(without, "SPOOFED_NDP", [frame(ipv6(LOCAL6, PEER6, neighbour(136, "::")))])


# --- ports


def test_only_listed_ports_pass(load):
    program = load("endpoint", POLICY)
    for to, passes in ((443, True), (53, True), (80, False), (0, False), (444, False), (0xBB01, False)):
        all_are(
            program,
            "PASSED" if passes else "DENIED_PORT",
            [
                frame(ipv4(IP4, PEER4, udp(443, to))),
                frame(ipv4(IP4, PEER4, tcp(443, to))),
                frame(ipv4(IP4, PEER4, tcp(443, to, flags=ACK))),
                frame(ipv4(IP4, PEER4, tcp(443, to), options=b"\1\1\1\0"), vlans=(9,)),
                frame(ipv4(IP4, PEER4, udp(443, to)), vlans=(9, 10)),
                frame(ipv6(IP6, PEER6, udp(443, to))),
                frame(ipv6(IP6, PEER6, tcp(443, to), extensions=((0, bytes(6)), (60, bytes(14))))),
                frame(ipv6(IP6, PEER6, tcp(443, to), extensions=(fragment6(0, more=True),))),
                frame(ipv6(IP6, PEER6, tcp(443, to), extensions=((AH, bytes(22)),))),
            ],
        )


def test_an_empty_list_lets_no_port_through(load):
    program = load("endpoint", SELF | {"ep.policy.mode": "POLICY_ENFORCE"})
    all_are(program, "DENIED_PORT", [frame(ipv4(IP4, PEER4, udp(1, to))) for to in (0, 53, 443)])


def test_icmp_and_arp_always_pass_other_protocols_when_allowed(load):
    packets = [
        frame(ipv4(IP4, PEER4, bytes(8), protocol=47)),
        frame(ipv6(IP6, PEER6, bytes(8), next_header=41)),
        frame(bytes(46), 0x88CC),
    ]
    program = load("endpoint", POLICY)
    all_are(program, "PASSED", [frame(ipv4(IP4, PEER4, icmp())), frame(ipv6(IP6, PEER6, icmp6())), said(IP4)])
    all_are(program, "DENIED_PROTOCOL", packets)
    all_are(load("endpoint", POLICY | {"ep.policy.other": "true"}), "PASSED", packets)
    all_are(load("endpoint", SELF), "PASSED", packets)


def test_sctp_and_its_like_have_ports_too(load):
    program = load("endpoint", POLICY)
    for protocol in (132, 33, 136):
        head = struct.pack(">HHI", 1, 443, 0), struct.pack(">HHI", 443, 1, 0)
        assert verdicts(program, [frame(ipv4(IP4, PEER4, one, protocol=protocol)) for one in head]) == [
            "PASSED",
            "DENIED_PORT",
        ]


def test_answers_leave_only_when_the_endpoint_serves(load):
    answers = [frame(ipv4(IP4, PEER4, tcp(443, 50000, flags=flags))) for flags in (SYN | ACK, ACK, RST)]
    answers += [frame(ipv4(IP4, PEER4, udp(443, 50000))), frame(ipv6(IP6, PEER6, tcp(443, 50000, flags=ACK)))]
    all_are(load("endpoint", POLICY), "DENIED_PORT", answers)
    serving = load("endpoint", POLICY | {"ep.policy.serve": "true"})
    all_are(serving, "PASSED", answers)
    opening = frame(ipv4(IP4, PEER4, tcp(443, 50000, flags=SYN)))
    all_are(serving, "DENIED_PORT", [opening, frame(ipv4(IP4, PEER4, tcp(80, 50000, flags=ACK)))])


def test_audit_counts_but_does_not_drop(load):
    program = load("endpoint", POLICY | {"ep.policy.mode": "POLICY_AUDIT"})
    all_are(program, "AUDITED", [frame(ipv4(IP4, PEER4, bytes(8), protocol=47)), frame(bytes(46), 0x88CC)])
    assert verdicts(program, [frame(ipv4(IP4, PEER4, udp(1, to))) for to in (443, 80)]) == ["PASSED", "AUDITED"]
    # what is spoofed or broken is dropped in every mode
    assert verdicts(program, [frame(ipv4(OTHER4, PEER4, udp(1, 443))), frame(ipv4(IP4, PEER4, b"xyz"))]) == [
        "SPOOFED_IP4",
        "MALFORMED",
    ]
    assert program.run(frame(ipv4(IP4, PEER4, udp(1, 80)))).mark == 77


def test_a_disabled_policy_looks_at_no_port(load):
    program = load("endpoint", POLICY | {"ep.policy.mode": "POLICY_DISABLED"})
    all_are(program, "PASSED", [frame(ipv4(IP4, PEER4, udp(1, 80))), frame(ipv4(IP4, PEER4, b"xyz"))])
    all_are(program, "SPOOFED_IP4", [frame(ipv4(OTHER4, PEER4, udp(1, 443)))])


# --- fragments


def test_fragments_are_judged_by_the_first(load):
    program = load("endpoint", POLICY)
    assert verdicts(
        program,
        [
            frame(ipv4(IP4, PEER4, udp(1, 443), more=True)),
            frame(ipv4(IP4, PEER4, udp(1, 80), more=True)),
            frame(ipv4(IP4, PEER4, udp(1, 80), offset=16)),  # looks like ports, but is not
            frame(ipv6(IP6, PEER6, udp(1, 80), extensions=(fragment6(16),))),
            frame(ipv6(IP6, PEER6, udp(1, 80), extensions=(fragment6(0),))),
        ],
    ) == ["PASSED", "DENIED_PORT", "PASSED", "PASSED", "DENIED_PORT"]


def test_fragments_that_could_hide_or_rewrite_a_header_are_dropped(load):
    program = load("endpoint", POLICY)
    all_are(
        program,
        "MALFORMED",
        [
            frame(ipv4(IP4, PEER4, b"\0\1", protocol=UDP, more=True)),
            frame(ipv4(IP4, PEER4, bytes(8), protocol=TCP, offset=8)),
            frame(ipv6(IP6, PEER6, bytes(8), next_header=TCP, extensions=(fragment6(8),))),
        ],
    )
    # what follows the header of a later fragment is payload, even if it is said to begin with an option header
    all_are(program, "PASSED", [frame(ipv6(IP6, PEER6, b"\0\7", next_header=60, extensions=(fragment6(8),)))])
    # a later fragment of ICMPv6 is no message of its own
    all_are(program, "PASSED", [frame(ipv6(IP6, PEER6, bytes(8), next_header=ICMP6, extensions=(fragment6(8),)))])


# --- broken packets


def test_what_cannot_be_read_is_dropped(load):
    program = load("endpoint", POLICY)
    whole4, whole6 = ipv4(IP4, PEER4, udp(1, 443)), ipv6(IP6, PEER6, udp(1, 443))
    all_are(
        program,
        "MALFORMED",
        [
            frame(whole4[:19], vlans=(5,)),  # untagged, TEST_RUN itself would refuse it
            frame(b"\x65" + whole4[1:], 0x0800),
            frame(b"\x44" + whole4[1:], 0x0800),
            frame(whole4[:22]),
            frame(whole6[:39], vlans=(5,)),
            frame(b"\x40" + whole6[1:], 0x86DD),
            frame(whole6[:42]),
            frame(b"\0\1", 0x8100),
            frame(whole4, vlans=(1, 2, 3)),
            frame(ipv6(IP6, PEER6, udp(1, 443), extensions=((60, bytes(6)),) * 8)),
            frame(ipv6(IP6, PEER6, b"", next_header=0)),
        ],
    )
    all_are(program, "PASSED", [frame(ipv6(IP6, PEER6, udp(1, 443), extensions=((60, bytes(6)),) * 7))])


@pytest.mark.parametrize("port", [1, 255, 256, 65535])
@pytest.mark.parametrize("slot", [0, 7, 15])
def test_every_slot_of_the_list_counts(loader, port, slot):
    program = loader.load(
        "endpoint", SELF | {"ep.policy.mode": "POLICY_ENFORCE", f"ep.policy.ports[{slot}]": str(port)}
    )
    all_are(program, "PASSED", [frame(ipv4(IP4, PEER4, udp(1, port)))])
    all_are(program, "DENIED_PORT", [frame(ipv4(IP4, PEER4, udp(1, port ^ 2)))])


# --- static keys

PASSING = frame(ipv4(IP4, PEER4, udp(1, 443, b"long enough for more than a head" * 3)))
JUDGED = [
    (PASSING, "PASSED"),
    (frame(ipv4(OTHER4, PEER4, udp(1, 443))), "SPOOFED_IP4"),
    (frame(ipv4(IP4, PEER4, udp(1, 80))), "DENIED_PORT"),
    (frame(ipv4(IP4, PEER4, b"ab")), "MALFORMED"),
    (said(IP4), "PASSED"),
]
ALL_EVENTS = [event_of(packet, verdict, id=77) for packet, verdict in JUDGED]


def test_by_default_nothing_is_reported(load):
    program = load("endpoint", POLICY)
    assert verdicts(program, [packet for packet, _ in JUDGED]) == [verdict for _, verdict in JUDGED]
    assert program.events() == []


def test_debug_reports_every_packet(load):
    program = load("endpoint", POLICY | {"debug": "on"})
    start = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert verdicts(program, [packet for packet, _ in JUDGED]) == [verdict for _, verdict in JUDGED]
    events = program.events()
    assert untimed(events) == ALL_EVENTS
    times = [start, *(event.time for event in events), time.clock_gettime_ns(time.CLOCK_MONOTONIC)]
    assert times == sorted(times)


def test_drops_alone_can_be_reported(load):
    program = load("endpoint", POLICY | {"notify_drops": "on"})
    all_are(program, "PASSED", [PASSING])
    assert program.events() == []
    for packet, _ in JUDGED:
        program.run(packet)
    assert untimed(program.events()) == [event for event in ALL_EVENTS if event.verdict != "PASSED"]


def test_what_is_only_audited_is_no_drop(load):
    audit = POLICY | {"ep.policy.mode": "POLICY_AUDIT"}
    denied, spoofed = JUDGED[2][0], JUDGED[1][0]
    program = load("endpoint", audit | {"notify_drops": "on"})
    assert verdicts(program, [denied, spoofed]) == ["AUDITED", "SPOOFED_IP4"]
    assert untimed(program.events()) == [event_of(spoofed, "SPOOFED_IP4", id=77)]
    program = load("endpoint", audit | {"debug": "on"})
    program.run(denied)
    assert untimed(program.events()) == [event_of(denied, "AUDITED", id=77)]


def test_a_packet_is_never_reported_twice(load):
    program = load("endpoint", POLICY | {"debug": "on", "notify_drops": "on"})
    for packet, _ in JUDGED:
        program.run(packet)
    assert untimed(program.events()) == ALL_EVENTS


def test_without_accounting_nothing_is_counted(load):
    program = load("endpoint", POLICY | {"accounting": "off"})
    results = [program.run(packet) for packet, _ in JUDGED]
    assert [result.verdict == TC_NEXT for result in results] == [verdict == "PASSED" for _, verdict in JUDGED]
    assert results[0].mark == 77
    assert program.counters() == {}


def test_a_reader_that_is_slow_stops_no_packet(load):
    """A buffer of 64 KiB has room for 682 events of 88 bytes and their heads; what comes then is lost."""
    program = load("endpoint", POLICY | {"debug": "on"})
    assert program.run(PASSING, repeat=1000).verdict == TC_NEXT
    assert program.counters()["PASSED"][0] == 1000
    assert len(program.events()) == 682
    short, verdict = JUDGED[3]
    for packet in (short, PASSING, short):
        program.run(packet)
    # Where a packet ends, nothing is left of the event that was in the same place before.
    of_short, of_passing = event_of(short, verdict, id=77), ALL_EVENTS[0]
    assert untimed(program.events()) == [of_short, of_passing, of_short]


# --- over a veth pair: `b` is the endpoint, the filter is on the host's end, `a`


def of_b(net) -> dict[str, str]:
    return {"ep.ip4": net.b.ip4, "ep.ip6": net.b.ip6, "ep.mac": net.b.mac}


def arrived(net, frames: dict[str, bytes]) -> set[str]:
    """Send frames from `b`, each with its own payload; the names of those that `a` gets to see.

    A packet socket for all protocols would see them before tc does; one for a single protocol sees them after it.
    """
    sockets = [
        net.a.ns.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
        for kind in (ETH_IPV4, ETH_IPV6, ETH_VLAN)
    ]
    try:
        for packet in frames.values():
            with contextlib.suppress(OSError):  # ENOBUFS: dropped at egress
                net.b.send(packet)
        net.b.send(ether(ipv4(net.b.ip4, net.a.ip4, udp(1, 443, b"the last one")), source=net.b.mac, dest=net.a.mac))
        sockets[0].settimeout(5)
        seen = []
        while b"the last one" not in (got := sockets[0].recv(2000)):
            seen.append(got)
        for other in sockets[1:]:
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    seen.append(other.recv(2000))
    finally:
        for each in sockets:
            each.close()
    return {name for name in frames if any(got.endswith(b"<" + name.encode() + b">") for got in seen)}


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_only_what_the_endpoint_may_send_arrives(attach, net, hook):
    settings = of_b(net) | {"ep.policy.mode": "POLICY_ENFORCE", "ep.policy.ports[3]": "443"}
    program = attach("endpoint", settings, f"{hook}:{net.a.ifname}:ingress,netns={net.a.ns.name}")
    b, a = net.b, net.a

    def sent(name: str, source: str = "", to: int = 443, *, source_mac: str = "", vlans: tuple[int, ...] = ()) -> bytes:
        source = source or b.ip4
        ip, dest = (ipv6, a.ip6) if ":" in source else (ipv4, a.ip4)
        payload = ip(source, dest, udp(1000, to, b"<" + name.encode() + b">"))
        return ether(payload, source=source_mac or b.mac, dest=a.mac, vlans=vlans)

    good = {
        "own4": {},
        "own6": {"source": b.ip6},
        "own4 vlan": {"vlans": (5,)},
        "own6 qinq": {"source": b.ip6, "vlans": (5, 6)},
    }
    bad = {
        "foreign4": {"source": "10.77.0.9"},
        "foreign6": {"source": "fd77::9"},
        "foreign mac": {"source_mac": "02:00:00:00:00:99"},
        "foreign4 vlan": {"source": "10.77.0.9", "vlans": (5,)},  # the kernel has taken the tag out
        "foreign4 qinq": {"source": "10.77.0.9", "vlans": (5, 6)},
        "port": {"to": 80},
        "port6": {"source": b.ip6, "to": 80},
        "port vlan": {"to": 80, "vlans": (5,)},
    }
    frames = {name: sent(name, **how) for name, how in (good | bad).items()}
    assert arrived(net, frames) == set(good)
    found = {name: count for name, (count, _) in program.counters().items()}
    assert found.pop("PASSED") >= 5  # the kernel of `b` may say something about multicast meanwhile
    assert found == {"SPOOFED_IP4": 3, "SPOOFED_IP6": 1, "SPOOFED_MAC": 1, "DENIED_PORT": 3}


def test_events_name_the_interface(attach, net):
    settings = of_b(net) | {"ep.id": "9", "notify_drops": "on"}
    program = attach("endpoint", settings, f"tcx:{net.a.ifname}:ingress,netns={net.a.ns.name}")
    own, foreign = (
        ether(ipv4(source, net.a.ip4, udp(1, 2, b"<a packet>")), source=net.b.mac, dest=net.a.mac)
        for source in (net.b.ip4, "10.77.0.9")
    )
    assert arrived(net, {"a packet": own}) == {"a packet"}
    assert arrived(net, {"a packet": foreign}) == set()
    assert untimed(program.events()) == [event_of(foreign, "SPOOFED_IP4", id=9, ifindex=net.a.ifindex)]


def test_connections_open_only_to_allowed_ports(attach, net):
    settings = of_b(net) | {"ep.policy.mode": "POLICY_ENFORCE", "ep.policy.ports[0]": "443", "ep.id": "7"}
    attach("endpoint", settings, f"tcx:{net.a.ifname}:ingress,netns={net.a.ns.name}")
    for family, to in ((socket.AF_INET, net.a.ip4), (socket.AF_INET6, net.a.ip6)):
        for port, opens in ((443, True), (80, False)):
            with (
                net.a.ns.socket(family, socket.SOCK_STREAM) as server,
                net.b.ns.socket(family, socket.SOCK_STREAM) as client,
            ):
                server.bind((to, port))
                server.listen()
                client.settimeout(5 if opens else 0.3)
                if not opens:
                    with pytest.raises(TimeoutError):
                        client.connect((to, port))
                    continue
                client.connect((to, port))
                connection, _ = server.accept()
                echo = threading.Thread(
                    target=lambda peer: peer.sendall(peer.recv(1 << 20, socket.MSG_WAITALL)), args=(connection,)
                )
                echo.start()
                data = bytes(range(256)) * 4096  # segmentation offload makes packets of it that are larger than the MTU
                client.sendall(data)
                back = b""
                while len(back) < len(data):
                    back += client.recv(1 << 20)
                echo.join(5)
                connection.close()
                assert back == data


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_at_egress_of_its_own_interface_it_works_as_well(attach, net, hook):
    attach("endpoint", of_b(net), f"{hook}:{net.b.ifname}:egress,netns={net.b.ns.name}")
    frames = {
        name: ether(ipv4(source, net.a.ip4, udp(1, 2, b"<" + name.encode() + b">")), source=net.b.mac, dest=net.a.mac)
        for name, source in (("own", net.b.ip4), ("foreign", "10.77.0.9"))
    }
    assert arrived(net, frames) == {"own"}
