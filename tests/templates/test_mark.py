"""mark: every packet gets the mark `foo`."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.support.packets import ETH_ARP, arp, ether, ipv4, ipv6, tcp, udp
from tests.templates.support import TC_NEXT

PACKETS = {
    "ipv4": ether(ipv4("10.0.0.2", "10.0.0.1", udp(1000, 2000, b"payload"))),
    "ipv6": ether(ipv6("fd00::2", "fd00::1", tcp(1000, 2000))),
    "vlan": ether(ipv4("10.0.0.2", "10.0.0.1", udp(1000, 2000)), vlans=(7,)),
    "arp": ether(arp("02:00:00:00:00:02", "10.0.0.2", "10.0.0.1"), ETH_ARP),
}


@pytest.mark.parametrize("foo", ["1", "42", "0xdeadbeef", "4294967295"])
def test_every_packet_gets_the_mark_and_goes_on_unchanged(load, foo):
    mark = load("mark", {"foo": foo})
    for packet in PACKETS.values():
        result = mark.run(packet)
        assert (result.verdict, result.mark, result.packet) == (TC_NEXT, int(foo, 0), packet)


def test_an_earlier_mark_is_replaced(load):
    mark = load("mark", {"foo": "42"})
    before = bytearray(192)
    struct.pack_into("I", before, 8, 7)
    assert mark.run(PACKETS["ipv4"], bytes(before)).mark == 42


def test_without_a_value_the_mark_is_cleared(load):
    mark = load("mark", {})
    before = bytearray(192)
    struct.pack_into("I", before, 8, 7)
    assert mark.run(PACKETS["ipv4"], bytes(before)).mark == 0


# --- over a veth pair

SO_RCVMARK, SO_MARK = 75, 36


@pytest.mark.parametrize("hook", ["tcx", "tc"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_mark_arrives_with_the_packet(attach, net, family, hook):
    """What a socket behind the hook is told with each datagram (SO_RCVMARK)."""
    with net.a.udp_socket(5000, family=family) as receiver, net.b.udp_socket(family=family) as sender:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVMARK, 1)
        receiver.settimeout(5)
        for target, foo in (("", 0), (f"{hook}:{net.a.ifname}:ingress,netns={net.a.ns.name}", 4242)):
            if target:
                attach("mark", {"foo": str(foo)}, target)
            sender.sendto(b"hello", receiver.getsockname()[:2])
            data, control, _, _ = receiver.recvmsg(100, 100)
            marks = [
                struct.unpack("I", value)[0]
                for level, kind, value in control
                if (level, kind) == (socket.SOL_SOCKET, SO_MARK)
            ]
            assert (data, marks or [0]) == (b"hello", [foo])
