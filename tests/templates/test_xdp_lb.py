"""xdp_lb: flows to the VIP go to backends, evenly by weight, and stay where they are."""

from __future__ import annotations

import array
import fcntl
import math
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.net import NetNs
from tests.support.packets import (
    ACK,
    ETH_ARP,
    HOST_MAC,
    ICMP,
    IPIP,
    UDP,
    arp,
    checksum,
    ether,
    icmp,
    ip4,
    ipv4,
    ipv6,
    mac,
    tcp,
    udp,
)
from tests.templates.support import XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX

SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17

VIP, SOURCE, CLIENT = "203.0.113.9", "10.9.9.9", "198.51.100.7"
SERVICE = {"service.vip": VIP, "service.port": "80", "service.source": SOURCE, "service.seed": "12345"}
REDIRECT = SERVICE | {"service.forward": "LB_REDIRECT"}


def backends(*weights: int, **more: str) -> dict[str, str]:
    """Backends 10.0.0.1, 10.0.0.2, ... of these weights; a weight of -1 leaves the place empty."""
    made = {}
    for number, weight in enumerate(weights):
        if weight < 0:
            continue
        at = f"backends[{number}]"
        made |= {f"{at}.address": f"10.0.0.{number + 1}", f"{at}.mac": f"02:00:00:00:01:{number + 1:02x}"}
        made[f"{at}.weight"] = str(weight)
        made |= {f"{at}.{name}": value for name, value in more.items()}
    return made


def request(client: str = CLIENT, port: int = 50000, **more) -> bytes:
    return ether(ipv4(client, VIP, tcp(port, 80, b"GET"), dont_fragment=True, **more))


def random_flows(count: int) -> list[tuple[str, int]]:
    rng = random.Random(1)
    return [(socket.inet_ntoa(rng.randbytes(4)), rng.randrange(1024, 65536)) for _ in range(count)]


def chosen(program, packet: bytes) -> int:
    """The number (from 0) of the backend that a packet was sent to, whichever way."""
    result = program.run(packet)
    assert result.verdict in (XDP_TX, XDP_REDIRECT)
    return result.packet[5] - 1


def only(program) -> str:
    (name,) = program.counters()
    return name


# --- forwarding


def test_encapsulation_wraps_the_packet_as_it_is(load):
    program = load("xdp_lb", SERVICE | backends(-1, 1))
    packet = request(tos=0x2E)
    result = program.run(packet)
    assert result.verdict == XDP_TX
    outer = ipv4(SOURCE, "10.0.0.2", packet[14:], protocol=IPIP, dont_fragment=True, tos=0x2E)
    assert result.packet == ether(outer, source=HOST_MAC, dest="02:00:00:00:01:02")
    assert checksum(result.packet[14:34]) == 0
    assert program.counters() == {"FORWARDED": (1, len(packet))}


def test_an_encapsulated_packet_may_be_fragmented_when_the_inner_one_may(load):
    program = load("xdp_lb", SERVICE | backends(1))
    packet = ether(ipv4(CLIENT, VIP, tcp(1, 80)))
    assert program.run(packet).packet[14:34] == ipv4(SOURCE, "10.0.0.1", packet[14:], protocol=IPIP)[:20]


def test_without_a_source_the_vip_is_the_source(load):
    program = load("xdp_lb", SERVICE | {"service.source": "0.0.0.0"} | backends(1))
    assert program.run(request()).packet[26:34] == ip4(VIP) + ip4("10.0.0.1")


def test_redirection_changes_only_the_ethernet_addresses(load):
    program = load("xdp_lb", REDIRECT | backends(-1, -1, 7))
    packet = request()
    result = program.run(packet)
    assert (result.verdict, result.packet) == (XDP_TX, mac("02:00:00:00:01:03") + mac(HOST_MAC) + packet[12:])
    assert program.counters() == {"FORWARDED": (1, len(packet))}


@pytest.mark.parametrize("service", [SERVICE, REDIRECT], ids=["encapsulate", "redirect"])
def test_a_backend_may_be_behind_another_interface(load, service):
    program = load("xdp_lb", service | backends(1, ifindex="1"))
    result = program.run(request())
    assert (result.verdict, result.packet[:12]) == (XDP_REDIRECT, mac("02:00:00:00:01:01") + mac(HOST_MAC))


def test_a_backend_whose_way_is_unknown_gets_nothing(load):
    settings = REDIRECT | backends(1) | {"backends[0].mac": "00:00:00:00:00:00"}
    program = load("xdp_lb", settings)
    assert (program.run(request()).verdict, only(program)) == (XDP_DROP, "NO_NEIGHBOUR")


def test_no_backend_no_packet(load):
    program = load("xdp_lb", SERVICE | backends(0, 0))
    assert (program.run(request()).verdict, only(program)) == (XDP_DROP, "NO_BACKEND")


@pytest.mark.parametrize("room, verdict", [(-1, "TOO_LONG"), (0, "FORWARDED")])
@pytest.mark.parametrize("service, more", [(SERVICE, 20), (REDIRECT, 0)], ids=["encapsulate", "redirect"])
def test_packets_longer_than_the_mtu_are_dropped(load, service, more, room, verdict):
    length = len(request()) - 14 + more + room
    program = load("xdp_lb", service | {"service.mtu": str(length)} | backends(1))
    assert program.run(request()).verdict == (XDP_TX if verdict == "FORWARDED" else XDP_DROP)
    assert only(program) == verdict


@pytest.mark.parametrize("service", [SERVICE, REDIRECT], ids=["encapsulate", "redirect"])
def test_without_encapsulation_all_is_redirected(load, service):
    length = len(request()) - 14  # there is room for no other header, and none is counted
    program = load("xdp_lb", service | {"encap": "off", "service.mtu": str(length)} | backends(-1, -1, 7))
    packet = request()
    result = program.run(packet)
    assert (result.verdict, result.packet) == (XDP_TX, mac("02:00:00:00:01:03") + mac(HOST_MAC) + packet[12:])
    assert program.counters() == {"FORWARDED": (1, len(packet))}


# --- what is the service's


def test_everything_else_passes_untouched(load):
    program = load("xdp_lb", SERVICE | backends(1, 1))
    packets = [
        ether(ipv4(CLIENT, "203.0.113.10", tcp(1, 80))),
        ether(ipv4(CLIENT, VIP, tcp(1, 81))),
        ether(ipv4(CLIENT, VIP, tcp(80, 1))),
        ether(ipv4(CLIENT, VIP, udp(1, 80))),
        ether(ipv4(VIP, CLIENT, tcp(80, 1))),
        ether(ipv4(CLIENT, VIP, icmp())),
        ether(ipv4(CLIENT, VIP, tcp(1, 80)), vlans=(5,)),
        ether(ipv6("fd00::1", "fd00::2", tcp(1, 80))),
        ether(arp("02:00:00:00:00:02", "10.0.0.1", VIP), ETH_ARP),
    ]
    for packet in packets:
        result = program.run(packet)
        assert (result.verdict, result.packet) == (XDP_PASS, packet)
    assert program.counters() == {"PASSED": (len(packets), sum(map(len, packets)))}


def test_without_a_port_every_port_is_the_service(load):
    program = load("xdp_lb", SERVICE | {"service.port": "0"} | backends(1))
    for port in (1, 80, 65535):
        assert program.run(ether(ipv4(CLIENT, VIP, tcp(1, port)))).verdict == XDP_TX


def test_udp_can_be_the_service(load):
    program = load("xdp_lb", SERVICE | {"service.protocol": "LB_UDP", "service.port": "53"} | backends(1))
    assert program.run(ether(ipv4(CLIENT, VIP, udp(1, 53)))).verdict == XDP_TX
    assert program.run(ether(ipv4(CLIENT, VIP, tcp(1, 53)))).verdict == XDP_PASS


def test_options_are_looked_over(load):
    program = load("xdp_lb", REDIRECT | backends(1, 1, 1, 1))
    plain, padded = request(), ether(ipv4(CLIENT, VIP, tcp(50000, 80, b"GET"), options=b"\1\1\1\0\1\1\1\0"))
    assert chosen(program, plain) == chosen(program, padded)


def test_what_cannot_be_read_is_dropped(load):
    program = load("xdp_lb", SERVICE | backends(1))
    good = request()[14:]
    for packet in (
        ether(good[:19], 0x0800),
        ether(b"\x65" + good[1:], 0x0800),
        ether(b"\x44" + good[1:], 0x0800),
        ether(b"\x4f" + good[1:40], 0x0800),
        ether(good[:23], 0x0800),
        ether(ipv4(CLIENT, VIP, b"", protocol=ICMP), 0x0800),
        ether(ipv4(CLIENT, VIP, icmp(3, 4, bytes(4) + good[:21])), 0x0800),
    ):
        assert (program.run(packet).verdict, only(program)) == (XDP_DROP, "MALFORMED")


# --- the choice


def test_a_flow_stays_with_its_backend(load):
    program = load("xdp_lb", REDIRECT | backends(1, 1, 1, 1))
    for client, port in random_flows(20):
        packets = [
            ether(ipv4(client, VIP, tcp(port, 80, data, flags=ACK, seq=7), ttl=9)) for data in (b"", b"a" * 1000)
        ]
        assert len({chosen(program, packet) for packet in [*packets, request(client, port)]}) == 1


def test_patched_and_compiled_choose_alike_in_both_ways_of_forwarding(loader):
    settings = backends(5, 1, 3, 0, 9, 2, -1, 4, 65535, 1, 1, 1, 1, 1, 1, 100)
    programs = [
        loader.load("xdp_lb", way | settings, how) for way in (SERVICE, REDIRECT) for how in ("patched", "compiled")
    ]
    for client, port in random_flows(300):
        assert len({chosen(program, request(client, port)) for program in programs}) == 1


@pytest.mark.parametrize(
    "weights", [(1, 1, 1, 1), (1, 2, 3, 4), (10, 1), (100, 0, 300), (1,) * 16, (5, 1) * 8, (65535, 65535)]
)
def test_backends_get_flows_by_weight(loader, weights):
    program = loader.load("xdp_lb", REDIRECT | backends(*weights))
    count = 6000
    found = Counter(chosen(program, request(*flow)) for flow in random_flows(count))
    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        # within 4.5 standard deviations of a binomial distribution: 1 in 150,000
        assert abs(found[number] - count * share) <= 4.5 * (count * share * (1 - share)) ** 0.5, (number, found)


def mix(word: int) -> int:
    """The finaliser of MurmurHash3 for 32 bits."""
    word = (word ^ word >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    word = (word ^ word >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return word ^ word >> 16


@pytest.mark.parametrize(
    "weights", [(1,) * 16, (10, 1), (1, 100, 1), (5, 1, 3, 0, 9, 2, 7, 4, 65535, 1, 1, 1, 1, 100, 1, 100)]
)
def test_the_choice_is_that_of_exact_arithmetic(loader, weights):
    """Weighted rendezvous hashing in floating point; the program's table of logarithms may err only in near ties."""
    program = loader.load("xdp_lb", REDIRECT | backends(*weights))
    seed = int(SERVICE["service.seed"])

    def number(address: bytes) -> int:
        return int.from_bytes(address, sys.byteorder)

    def exact(client: str, port: int) -> int:
        ports = number(struct.pack(">H", port)) << 16 | number(struct.pack(">H", 80))
        flow = mix(mix(number(ip4(client)) ^ seed) ^ ports)
        draws = []
        for place, weight in enumerate(weights):
            if weight:
                drawn = mix(flow ^ mix(number(ip4(f"10.0.0.{place + 1}")) ^ seed))
                draws.append((-math.log((drawn + 0.5) / 2**32) / weight, place))
        return min(draws)[1]

    flows = random_flows(4000)
    wrong = sum(chosen(program, request(*flow)) != exact(*flow) for flow in flows)
    assert wrong <= 4


def test_similar_flows_spread_as_well(loader):
    """Real clients differ in few bits: consecutive ports of one address, consecutive addresses."""
    program = loader.load("xdp_lb", REDIRECT | backends(*(1,) * 8))
    for flows in (
        [(CLIENT, port) for port in range(32768, 32768 + 4000)],
        [(f"10.1.{n >> 8}.{n & 255}", 40000) for n in range(4000)],
    ):
        found = Counter(chosen(program, request(*flow)) for flow in flows)
        assert all(abs(found[number] - 500) <= 4.5 * (500 * 7 / 8) ** 0.5 for number in range(8)), found


def placed(loader, flows, *weights: int, **more: str) -> list[int]:
    program = loader.load("xdp_lb", REDIRECT | more | backends(*weights))
    return [chosen(program, request(*flow)) for flow in flows]


def test_removing_a_backend_moves_only_its_flows(loader):
    flows = random_flows(2000)
    before = placed(loader, flows, 3, 1, 2, 4)
    for gone in range(4):
        weights = [3, 1, 2, 4]
        weights[gone] = 0
        after = placed(loader, flows, *weights)
        moved = {old for old, new in zip(before, after, strict=True) if old != new}
        assert moved == {gone}


def test_a_change_of_weight_moves_flows_only_to_or_from_that_backend(loader):
    flows = random_flows(2000)
    before = placed(loader, flows, 3, 3, 3, 3)
    more = placed(loader, flows, 3, 5, 3, 3)
    assert {new for old, new in zip(before, more, strict=True) if old != new} == {1}
    less = placed(loader, flows, 3, 1, 3, 3)
    assert {old for old, new in zip(before, less, strict=True) if old != new} == {1}


def test_the_order_of_backends_means_nothing(loader):
    flows = random_flows(300)
    settings = backends(3, 1, 2, 4)
    turned = {path.replace(f"[{n}]", f"[{15 - n}]"): text for path, text in settings.items() for n in [int(path[9])]}
    one, other = (loader.load("xdp_lb", REDIRECT | made) for made in (settings, turned))
    assert [chosen(one, request(*flow)) for flow in flows] == [chosen(other, request(*flow)) for flow in flows]


def test_the_seed_changes_the_choice(loader):
    flows = random_flows(300)
    one, other = (placed(loader, flows, 1, 1, **{"service.seed": seed}) for seed in ("1", "2"))
    assert 100 < sum(a != b for a, b in zip(one, other, strict=True)) < 200


def test_hashing_by_source_keeps_a_client_together(loader):
    program = loader.load("xdp_lb", REDIRECT | {"service.hash": "LB_HASH_SOURCE"} | backends(1, 1, 1, 1))
    assert len({chosen(program, request(port=port)) for port in range(40000, 40100)}) == 1
    assert len({chosen(program, request(f"10.0.0.{host}")) for host in range(1, 60)}) == 4


# --- fragments and errors


def test_all_fragments_of_a_packet_go_together(load):
    service = REDIRECT | {"service.protocol": "LB_UDP", "service.port": "0"}
    program = load("xdp_lb", service | backends(1, 1, 1, 1, 1))
    for client, port in random_flows(50):
        whole = ipv4(client, VIP, udp(port, 53, bytes(3000)))[20:]
        pieces = [
            ether(ipv4(client, VIP, whole[at : at + 1000], protocol=UDP, offset=at, more=at < 3000, ident=9))
            for at in (0, 1000, 2000, 3000)
        ]
        assert len({chosen(program, piece) for piece in pieces}) == 1


def test_an_icmp_error_goes_to_the_backend_of_its_flow(load):
    program = load("xdp_lb", REDIRECT | backends(1, 1, 1, 1, 1))
    for client, port in random_flows(50):
        expected = chosen(program, request(client, port))
        sent = ipv4(VIP, client, tcp(80, port, bytes(1400), flags=ACK))
        for kind, code in ((3, 4), (11, 0), (12, 0)):
            error = ether(ipv4("192.0.2.254", VIP, icmp(kind, code, bytes(4) + sent[:28])))
            assert chosen(program, error) == expected


def test_other_icmp_errors_pass(load):
    program = load("xdp_lb", REDIRECT | backends(1))
    for quoted in (
        ipv4("203.0.113.10", CLIENT, tcp(80, 50000)),
        ipv4(VIP, CLIENT, tcp(81, 50000)),
        ipv4(VIP, CLIENT, udp(80, 50000, bytes(12))),
        ipv4(VIP, CLIENT, tcp(80, 50000), offset=64),
        ipv4(VIP, CLIENT, tcp(80, 50000), options=struct.pack(">HH", 80, 50000)),
    ):
        packet = ether(ipv4("192.0.2.254", VIP, icmp(3, 4, bytes(4) + quoted[:28])))
        result = program.run(packet)
        assert (result.verdict, result.packet) == (XDP_PASS, packet)


# --- over veth pairs: client -- balancer -- backend, the VIP nowhere but on the backend's loopback


@dataclass
class Network:
    client: NetNs
    balancer: NetNs
    backend: NetNs

    BACKEND = "10.78.0.2"
    BACKEND_MAC = "02:00:00:00:02:02"


@pytest.fixture
def network() -> Iterator[Network]:
    with NetNs() as client, NetNs() as balancer, NetNs() as backend:
        for ifname, ns in (("front", client), ("rear", backend)):
            balancer.ip("link", "add", ifname, "type", "veth", "peer", "name", "far", "netns", ns.name)
        for ns, ifname, address, extra in (
            (client, "far", "10.77.0.2/24", ()),
            (balancer, "front", "10.77.0.1/24", ()),
            (balancer, "rear", "10.78.0.1/24", ()),
            (backend, "far", f"{Network.BACKEND}/24", ("address", Network.BACKEND_MAC)),
        ):
            ns.ip("link", "set", ifname, *extra, "up")
            ns.ip("addr", "add", address, "dev", ifname)
        client.ip("route", "add", "default", "via", "10.77.0.1")
        backend.ip("route", "add", "default", "via", "10.78.0.1")
        backend.ip("addr", "add", f"{VIP}/32", "dev", "lo")
        for setting, value in (("ip_forward", "1"), ("conf/lo/forwarding", "0")):
            balancer.run(_write, f"/proc/sys/net/ipv4/{setting}", value)
        client.run(_checksum_in_software, "far")
        balancer.ip("neigh", "replace", Network.BACKEND, "lladdr", Network.BACKEND_MAC, "dev", "rear")
        yield Network(client, balancer, backend)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _checksum_in_software(ifname: str) -> None:
    """`ethtool -K IFNAME tx off`: packets that leave have their checksum, as on a wire, where veth leaves it open."""
    value = array.array("I", [ETHTOOL_STXCSUM, 0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, struct.pack("16sP16x", ifname.encode(), value.buffer_info()[0]))


def settings_for(**service: str) -> dict[str, str]:
    settings = {
        "service.vip": VIP,
        "service.port": "8080",
        "backends[0].address": Network.BACKEND,
        "backends[0].weight": "1",
    }
    return settings | {f"service.{name}": value for name, value in service.items()}


@pytest.mark.parametrize("mode", ["drv", "skb"])
@pytest.mark.parametrize("known", ["configured", "routed"])
def test_a_client_talks_to_a_backend_through_the_vip(attach, network, known, mode):
    """Direct server return: requests come by the balancer's XDP program, answers by ordinary routing."""
    settings = settings_for(forward="LB_REDIRECT")
    if known == "configured":
        out = network.balancer.ifindex("rear")
        settings |= {"backends[0].mac": Network.BACKEND_MAC, "backends[0].ifindex": str(out)}
    if mode == "drv":
        # A native redirect into a veth needs its far end to poll, as it does with an XDP program of its own.
        attach("xdp_filter", {}, f"xdp:far:drv,netns={network.backend.name}")
    program = attach("xdp_lb", settings, f"xdp:front:{mode},netns={network.balancer.name}")
    with (
        network.backend.socket(socket.AF_INET, socket.SOCK_STREAM) as server,
        network.client.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        server.bind((VIP, 8080))
        server.listen()
        server.settimeout(5)
        client.settimeout(5)
        client.connect((VIP, 8080))
        connection, (address, _) = server.accept()
        connection.settimeout(5)
        with connection:
            client.sendall(b"question")
            assert connection.recv(100) == b"question"
            connection.sendall(b"answer")
            assert client.recv(100) == b"answer"
    assert address == "10.77.0.2"
    assert program.counters()["FORWARDED"][0] >= 3
    assert not {"NO_BACKEND", "NO_NEIGHBOUR", "TOO_LONG", "MALFORMED"} & set(program.counters())


@pytest.mark.parametrize("mode", ["drv", "skb"])
def test_an_encapsulated_packet_reaches_the_backend(attach, network, mode):
    settings = settings_for(source="10.78.0.1", protocol="LB_UDP")
    if mode == "drv":
        attach("xdp_filter", {}, f"xdp:far:drv,netns={network.backend.name}")
    program = attach("xdp_lb", settings, f"xdp:front:{mode},netns={network.balancer.name}")
    with (
        network.backend.socket(socket.AF_INET, socket.SOCK_RAW, IPIP) as tunnel,
        network.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        tunnel.settimeout(5)
        client.sendto(b"question", (VIP, 8080))
        packet, (outer_source, _) = tunnel.recvfrom(2000)
    outer, inner = packet[:20], packet[20:]
    assert (outer_source, outer[12:20], checksum(outer)) == ("10.78.0.1", ip4("10.78.0.1") + ip4(Network.BACKEND), 0)
    assert inner[12:20] == ip4("10.77.0.2") + ip4(VIP)
    assert inner.endswith(b"question")
    assert program.counters()["FORWARDED"][0] == 1
