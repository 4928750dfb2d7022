"""Packets as bytes: pure functions from fields to headers, each header with its payload.

    ether(ipv4("10.0.0.1", "10.0.0.2", udp(1000, 53, b"x")))

Lengths and checksums are right unless a test says otherwise (`udp(..., checksum=0)`). TCP, UDP and ICMPv6 checksums
cover the addresses, so those headers are functions that the IP header calls: a `Payload`, or plain bytes.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

Payload = Callable[[bytes, bytes], bytes]  # (source, destination) as on the wire -> header and data

ETH_IPV4, ETH_ARP, ETH_VLAN, ETH_IPV6, ETH_QINQ = 0x0800, 0x0806, 0x8100, 0x86DD, 0x88A8
ICMP, IPIP, TCP, UDP, FRAGMENT, AH, ICMP6 = 1, 4, 6, 17, 44, 51, 58
SYN, ACK, RST = 0x02, 0x10, 0x04

HOST_MAC, PEER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ip4(text: str) -> bytes:
    return socket.inet_aton(text)


def ip6(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _pseudo(source: bytes, dest: bytes, protocol: int, length: int) -> bytes:
    if len(source) == 4:
        return source + dest + struct.pack(">BBH", 0, protocol, length)
    return source + dest + struct.pack(">IHBB", length, 0, 0, protocol)


def _body(payload: bytes | Payload, source: bytes, dest: bytes) -> bytes:
    return payload if isinstance(payload, bytes) else payload(source, dest)


# --- link layer


def ether(
    payload: bytes,
    kind: int | None = None,
    *,
    source: str = PEER_MAC,
    dest: str = HOST_MAC,
    vlans: tuple[int, ...] = (),
) -> bytes:
    """An Ethernet frame. `kind` (the EtherType) is read off an IP header when not given; `vlans` are VLAN ids from
    the outermost: with two or more, all but the innermost are 802.1ad."""
    if kind is None:
        kind = ETH_IPV6 if payload[0] >> 4 == 6 else ETH_IPV4
    tags = b""
    for left, vlan in zip(range(len(vlans), 0, -1), vlans, strict=True):
        tags += struct.pack(">HH", ETH_QINQ if left > 1 else ETH_VLAN, vlan)
    return mac(dest) + mac(source) + tags + struct.pack(">H", kind) + payload


def arp(
    sender_mac: str, sender: str, target: str, *, operation: int = 1, target_mac: str = "00:00:00:00:00:00"
) -> bytes:
    """An ARP packet for Ethernet and IPv4; operation 1 asks, 2 answers."""
    head = struct.pack(">HHBBH", 1, ETH_IPV4, 6, 4, operation)
    return head + mac(sender_mac) + ip4(sender) + mac(target_mac) + ip4(target)


# --- network layer


def ipv4(
    source: str,
    dest: str,
    payload: bytes | Payload = b"",
    *,
    protocol: int | None = None,
    options: bytes = b"",
    offset: int = 0,
    more: bool = False,
    dont_fragment: bool = False,
    tos: int = 0,
    ttl: int = 64,
    ident: int = 0,
) -> bytes:
    """An IPv4 packet. `offset` is the fragment's, in bytes; `options` are padded to words by the caller."""
    body = _body(payload, ip4(source), ip4(dest))
    if protocol is None:
        protocol = getattr(payload, "protocol", UDP)
    ihl = 5 + len(options) // 4
    flags = offset // 8 | more << 13 | dont_fragment << 14
    head = struct.pack(">BBHHHBBH", 0x40 | ihl, tos, ihl * 4 + len(body), ident, flags, ttl, protocol, 0)
    head += ip4(source) + ip4(dest) + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body


def ipv6(
    source: str,
    dest: str,
    payload: bytes | Payload = b"",
    *,
    next_header: int | None = None,
    extensions: tuple[tuple[int, bytes], ...] = (),
) -> bytes:
    """An IPv6 packet. `extensions` are (protocol number, bytes from the third on) of headers in between; the first two
    bytes, next header and length, are put in front (a fragment header has no length: its second byte is 0)."""
    body = _body(payload, ip6(source), ip6(dest))
    following = getattr(payload, "protocol", UDP) if next_header is None else next_header
    for number, rest in reversed(extensions):
        length = {FRAGMENT: 0, AH: (len(rest) + 2) // 4 - 2}.get(number, (len(rest) + 2) // 8 - 1)
        body = struct.pack(">BB", following, length) + rest + body
        following = number
    return struct.pack(">IHBB", 6 << 28, len(body), following, 64) + ip6(source) + ip6(dest) + body


def fragment6(offset: int, *, more: bool = False) -> tuple[int, bytes]:
    """An IPv6 fragment header for `extensions`; `offset` in bytes."""
    return FRAGMENT, struct.pack(">HI", offset | more, 1)


# --- transport


def _payload(protocol: int, build: Payload) -> Payload:
    build.protocol = protocol  # type: ignore[attr-defined]
    return build


def udp(source: int, dest: int, data: bytes = b"") -> Payload:
    def build(src: bytes, dst: bytes) -> bytes:
        length = 8 + len(data)
        head = struct.pack(">HHH", source, dest, length)
        total = checksum(_pseudo(src, dst, UDP, length) + head + b"\0\0" + data)
        return head + struct.pack(">H", total or 0xFFFF) + data

    return _payload(UDP, build)


def tcp(source: int, dest: int, data: bytes = b"", *, flags: int = SYN, seq: int = 1) -> Payload:
    def build(src: bytes, dst: bytes) -> bytes:
        head = struct.pack(">HHIIBBH", source, dest, seq, 0, 5 << 4, flags, 65535)
        total = checksum(_pseudo(src, dst, TCP, 20 + len(data)) + head + b"\0\0\0\0" + data)
        return head + struct.pack(">HH", total, 0) + data

    return _payload(TCP, build)


def icmp(kind: int = 8, code: int = 0, data: bytes = b"\0\1\0\1") -> Payload:
    """ICMP; `data` is all after the checksum."""

    def build(src: bytes, dst: bytes) -> bytes:
        total = checksum(struct.pack(">BBH", kind, code, 0) + data)
        return struct.pack(">BBH", kind, code, total) + data

    return _payload(ICMP, build)


def icmp6(kind: int = 128, code: int = 0, data: bytes = b"\0\1\0\1") -> Payload:
    """ICMPv6; `data` is all after the checksum."""

    def build(src: bytes, dst: bytes) -> bytes:
        head = struct.pack(">BB", kind, code)
        total = checksum(_pseudo(src, dst, ICMP6, 4 + len(data)) + head + b"\0\0" + data)
        return head + struct.pack(">H", total) + data

    return _payload(ICMP6, build)


def neighbour(kind: int, target: str) -> Payload:
    """Neighbour solicitation (135) or advertisement (136)."""
    return icmp6(kind, data=bytes(4) + ip6(target))
