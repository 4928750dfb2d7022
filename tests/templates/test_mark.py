"""mark: every packet gets the mark `foo`."""

from __future__ import annotations

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
