"""Addresses as text and as the bytes of a packet: IPv4, IPv6, MAC, and prefixes of them (CIDR).

Bytes are always in network order, whatever the object's byte order is.
"""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.patch.number import is_hex, short


def ipv4_bytes(text: str) -> bytes:
    """4 bytes of a dotted quad. No leading zeros (inet_aton reads them as octal), no short forms."""
    parts = text.split(".")
    if len(parts) == 4:
        for part in parts:
            if not (part.isdecimal() and part.isascii() and len(part) < 4 and int(part) < 256):
                break
            if len(part) > 1 and part[0] == "0":
                raise BadValue(f"`{short(text)}` has a leading zero", hint="write each part in plain decimal")
        else:
            return bytes(map(int, parts))
    raise BadValue(f"`{short(text)}` is not an IPv4 address", hint="like 10.0.0.5")


def ipv4_text(data: bytes) -> str:
    """The dotted quad of 4 bytes."""
    return ".".join(map(str, data))


def ipv6_bytes(text: str) -> bytes:
    """16 bytes of an IPv6 address. An IPv4 address is refused: mapping it must be written out."""
    from _socket import AF_INET6, inet_pton

    try:
        return inet_pton(AF_INET6, text)
    except (OSError, ValueError):
        pass
    if looks_ipv4(text):
        raise BadValue(
            f"`{short(text)}` is an IPv4 address, IPv6 is needed", hint=f"IPv4-mapped would be ::ffff:{text}"
        )
    if "%" in text:
        raise BadValue(f"`{short(text)}` has a zone", hint="leave out `%` and what follows")
    raise BadValue(f"`{short(text)}` is not an IPv6 address", hint="like 2001:db8::1")


def ipv6_text(data: bytes) -> str:
    """The shortest text of 16 bytes."""
    from _socket import AF_INET6, inet_ntop

    return inet_ntop(AF_INET6, data)


def mac_bytes(text: str) -> bytes:
    """6 bytes of `aa:bb:cc:dd:ee:ff` or `aa-bb-cc-dd-ee-ff`."""
    for separator in (":", "-"):
        parts = text.split(separator)
        if len(parts) == 6 and all(len(part) == 2 and is_hex(part) for part in parts):
            return bytes(int(part, 16) for part in parts)
    raise BadValue(f"`{short(text)}` is not a MAC address", hint="like 02:00:00:00:00:01")


def mac_text(data: bytes) -> str:
    """`aa:bb:cc:dd:ee:ff` of 6 bytes."""
    return data.hex(":")


def looks_ipv4(text: str) -> bool:
    """Whether this is a dotted quad, without complaint."""
    try:
        ipv4_bytes(text)
    except BadValue:
        return False
    return True


def looks_address(text: str) -> str:
    """Which format `text` has the shape of: ipv4, ipv6, mac, cidr or ""."""
    host, slash, bits = text.partition("/")
    for name, parse in (("ipv4", ipv4_bytes), ("mac", mac_bytes), ("ipv6", ipv6_bytes)):
        try:
            parse(host)
        except BadValue:
            continue
        if slash:
            return "cidr" if bits.isdecimal() else ""
        return name
    return ""


def prefix_parts(text: str, length: int) -> tuple[bytes, int]:
    """Network address and prefix length of `10.0.0.0/8` (`length` 4) or `2001:db8::/32` (`length` 16 bytes).

    Raises BadValue when bits of the host part are set: which network is meant would be a guess.
    """
    host, slash, bits = text.partition("/")
    address = ipv4_bytes(host) if length == 4 else ipv6_bytes(host)
    if not slash:
        raise BadValue(f"`{short(text)}` has no prefix length", hint=f"one address is {host}/{8 * length}")
    if not (bits.isdecimal() and bits.isascii() and len(bits) < 4 and (bits == "0" or bits[0] != "0")):
        raise BadValue(f"`{short(bits)}` is not a prefix length", hint=f"0 to {8 * length}")
    prefix = int(bits)
    if prefix > 8 * length:
        raise BadValue(f"prefix length {prefix} is outside 0..{8 * length}")
    network = masked(address, prefix)
    if network != address:
        raise BadValue(f"`{short(text)}` has host bits set", hint=f"the network is {prefix_text(network, prefix)}")
    return address, prefix


def prefix_text(network: bytes, prefix: int) -> str:
    """`NETWORK/PREFIX` of 4 or 16 bytes."""
    return f"{ipv4_text(network) if len(network) == 4 else ipv6_text(network)}/{prefix}"


def mask_bytes(prefix: int, length: int) -> bytes:
    """The netmask of a prefix length, `length` bytes."""
    bits = 8 * length
    return ((1 << bits) - (1 << bits - prefix)).to_bytes(length, "big")


def mask_prefix(mask: bytes) -> int | None:
    """The prefix length of a netmask, None when its ones are not all in front."""
    prefix = int.from_bytes(mask, "big").bit_count()
    return prefix if mask_bytes(prefix, len(mask)) == mask else None


def masked(address: bytes, prefix: int) -> bytes:
    """The address with its host bits cleared."""
    mask = mask_bytes(prefix, len(address))
    return bytes(left & right for left, right in zip(address, mask, strict=True))
