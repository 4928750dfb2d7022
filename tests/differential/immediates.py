"""Values of the immediates of fixtures/objects/src/immediates.bpf.c and fetch.bpf.c, for elfpatch and for C."""

from __future__ import annotations

from tests.differential.values import ValueSet

_U64, _S64 = (1 << 64) - 1, (1 << 63) - 1


def _set(
    name: str, scalars: dict[str, tuple[str, str]], ports: list[int], peer: dict[str, str], c_peer: str
) -> ValueSet:
    settings = {name: text for name, (text, _) in scalars.items()}
    settings |= {f"ports[{number}]": str(port) for number, port in enumerate(ports)}
    settings |= {f"peer.{member}": text for member, text in peer.items()}
    macros = {name: text for name, (_, text) in scalars.items()}
    macros |= {"ports": f"{{ {', '.join(map(str, ports))} }}", "peer": c_peer}
    return ValueSet(name, settings, macros)


def _same(**values: int | str) -> dict[str, tuple[str, str]]:
    return {name: (str(value), str(value)) for name, value in values.items()}


# Compilers before clang 15 have no 64-bit enums in BTF: those values are numbers
IMMEDIATES = [
    _set(
        "lowest",
        _same(i_u8=0, i_u16=0, i_u32=0, i_u64=0, i_s8=-128, i_s16=-32768, hidden=0, i_tiny="TINY_A", i_sign="SIGN_ZERO")
        | {"i_s32": (str(-(1 << 31)), "(-2147483647 - 1)"), "i_s64": (str(-_S64 - 1), f"(-{_S64}LL - 1)")}
        | {"i_bool": ("off", "false"), "i_wide": ("1", "WIDE_ONE")},
        [0, 0, 0, 0],
        {"id": "0", "mac": "hex:000000000000", "ip6": "::", "net.length": "0", "net.base": "0"},
        ".id = 0",
    ),
    _set(
        "highest",
        _same(i_u8=255, i_u16=60000, i_u32=(1 << 32) - 1, i_s8=127, i_s16=32767, i_s32=(1 << 31) - 1, i_tiny="TINY_TOP")
        | _same(hidden=(1 << 32) - 1, i_sign="SIGN_NEG")
        | {"i_u64": (str(_U64), f"{_U64}ULL"), "i_s64": (str(_S64), f"{_S64}LL"), "i_bool": ("yes", "true")}
        | {"i_wide": (str(_U64), "WIDE_TOP")},
        [65535, 65535, 65535, 65535],
        {"id": str((1 << 32) - 1), "mac": "hex:ffffffffffff", "ip6": ":".join(["ffff"] * 8)}
        | {"net.length": "255", "net.base": str(_U64)},
        ".id = 0xffffffff, .mac = { 255, 255, 255, 255, 255, 255 }, .ip6 = { .in6_u.u6_addr8 = { "
        + ", ".join(["255"] * 16)
        + f" }} }}, .net = {{ 255, {_U64}ULL }}",
    ),
    _set(
        "some",
        _same(i_u8=0x81, i_u16=443, i_u32=0x80000001, i_s8=-1, i_s16=-2, i_s32=-3, i_s64=-4, i_sign="SIGN_POS")
        | _same(hidden=3, i_tiny="TINY_B")
        | {"i_u64": (str(0x8000000000000001), "0x8000000000000001ULL"), "i_bool": ("on", "true")}
        | {"i_wide": (str(0x123456789A), "WIDE_BIG")},
        [42, 64, 98, 946],
        {"id": "0x01020304", "mac": "hex:020304050607", "ip6": "2001:db8:1:2:3:4:5:6"}
        | {"net.length": "64", "net.base": str(0x0102030405060708)},
        ".id = 0x01020304, .mac = { 2, 3, 4, 5, 6, 7 }, .ip6 = { .in6_u.u6_addr8 = { 0x20, 1, 0xd, 0xb8, 0, 1, 0, 2, "
        "0, 3, 0, 4, 0, 5, 0, 6 } }, .net = { 64, 0x0102030405060708ULL }",
    ),
]

# As `--immediate` has it: what is stored whole may be an address, so the caller must say that it is none
FETCHED = (
    "IDENTITY",
    "PORT",
    "NODE_MAC_1",
    "NODE_MAC_2",
    "COOKIE:value",
    "NODE_IP_1:value",
    "NODE_IP_2:value",
    "LIMIT",
)


def _fetch(name: str, identity: int, port: int, cookie: int, limit: int, mac: bytes, ip: bytes) -> ValueSet:
    """Little-endian machines: a part of an address is as on the wire."""
    low = {"IDENTITY": str(identity), "PORT": str(port), "COOKIE": str(cookie), "LIMIT": str(limit)}
    parts = {"NODE_MAC_1": mac[:4], "NODE_MAC_2": mac[4:] + bytes(2), "NODE_IP_1": ip[:8], "NODE_IP_2": ip[8:]}
    macros = {**low, "COOKIE": f"{cookie}ULL", "NODE_MAC": ", ".join(map(str, mac)), "NODE_IP": ", ".join(map(str, ip))}
    return ValueSet(name, low | {part: str(int.from_bytes(raw, "little")) for part, raw in parts.items()}, macros)


FETCH = [
    _fetch("zero", 0, 0, 0, 0, bytes(6), bytes(16)),
    _fetch("top", (1 << 32) - 1, 65535, _U64 - 1, (1 << 32) - 1, b"\xff" * 6, b"\xff" * 16),
    _fetch("some", 0x80000001, 443, 0x8000000000000001, 7, bytes.fromhex("02a1b2c3d4e5"), bytes(range(0xF0, 0x100))),
]
