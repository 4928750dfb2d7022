"""Value sets of the fixtures and of the shipped templates: as elfpatch is given them, and as the C source is."""

from __future__ import annotations

from dataclasses import dataclass, field

Settings = dict[str, str]


@dataclass(frozen=True)
class ValueSet:
    """`settings` for `--set`, and the same as the macros V_NAME of the source. `whole` also has values that an object
    file cannot hold (`.bss`)."""

    name: str
    settings: Settings
    macros: dict[str, str] = field(default_factory=dict)


def same(name: str, **values: str) -> ValueSet:
    """Values whose text is the same for both."""
    return ValueSet(name, values, values)


_LOW = {"v_u8": "0", "v_s8": "-128", "v_u16": "0", "v_s16": "-32768", "v_u32": "0", "v_s32": "-2147483648"}
_HIGH = {"v_u8": "255", "v_s8": "127", "v_u16": "60000", "v_s16": "32767", "v_u32": "4294967295", "v_s32": "2147483647"}
_U64, _S64 = (1 << 64) - 1, (1 << 63) - 1

FIXTURES: dict[str, list[ValueSet]] = {
    "scalars": [
        ValueSet(
            "lowest",
            _LOW
            | {"v_u64": "0", "v_s64": str(-_S64 - 1), "v_bool": "off", "v_tiny": "TINY_A", "v_sign": "SIGN_ZERO"}
            | {"v_text": "", "v_bytes": "00:00:00:00:00:00", "v_be16": "0", "v_be32": "0", "d_u32": "0"}
            | {"v_wide": "1", "d_s64": str(-_S64 - 1), **{f"v_grid[{n // 3}][{n % 3}]": "0" for n in range(6)}},
            _LOW
            | {"v_u64": "0", "v_s64": f"(-{_S64}LL - 1)", "v_bool": "false", "v_tiny": "TINY_A", "v_sign": "SIGN_ZERO"}
            | {"v_text": '""', "v_bytes": "{ 0 }", "v_be16": "0", "v_be32": "0", "d_u32": "0", "v_grid": "{ { 0 } }"}
            | {"v_wide": "WIDE_ONE", "d_s64": f"(-{_S64}LL - 1)"},
        ),
        ValueSet(
            "highest",
            _HIGH
            | {"v_u64": str(_U64), "v_s64": str(_S64), "v_bool": "on", "v_tiny": "TINY_TOP", "v_sign": "SIGN_NEG"}
            | {"v_text": "a" * 15, "v_bytes": "hex:ffffffffffff", "v_be16": "0xffff", "v_be32": "4294967295"}
            | {"v_wide": str(_U64), "d_u32": "0xffffffff", "d_s64": str(_S64)}
            | {f"v_grid[{n // 3}][{n % 3}]": "65535" for n in range(6)},
            _HIGH
            | {"v_u64": f"{_U64}ULL", "v_s64": f"{_S64}LL", "v_bool": "true", "v_tiny": "TINY_TOP"}
            | {"v_sign": "SIGN_NEG", "v_text": f'"{"a" * 15}"', "v_bytes": "{ 255, 255, 255, 255, 255, 255 }"}
            | {"v_be16": "0xffff", "v_be32": "0xffffffff", "v_wide": "WIDE_TOP", "d_u32": "0xffffffff"}
            | {"d_s64": f"{_S64}LL", "v_grid": "{ { 65535, 65535, 65535 }, { 65535, 65535, 65535 } }"},
        ),
        ValueSet(
            "some",
            {"v_u16": "0xbeef", "v_text": "patched", "v_bytes": "02:03:04:05:06:07", "v_grid[1][2]": "99"}
            | {"v_be16": "443", "v_be32": "0x0a000005", "v_char": "65"},
            {"v_u16": "0xbeef", "v_text": '"patched"', "v_bytes": "{ 2, 3, 4, 5, 6, 7 }", "v_char": "'A'"}
            | {"v_grid": "{ { 1, 2, 3 }, { 4, 5, 99 } }", "v_be16": "0xbb01", "v_be32": "0x0500000a"},
        ),
    ],
    "structs": [
        ValueSet(
            "members",
            {"cfg.ip4": "10.0.0.5", "cfg.mac": "02:00:00:00:00:05", "cfg.word": "0x12345678", "cfg.y": "7"}
            | {"cfg.z": "-7", "cfg.inner.b": "-32768", "cfg.inner.c[1]": "4294967295", "cfg.either.whole": "1311768467"}
            | {"cfg.f3": "7", "cfg.f7": "127", "cfg.s5": "-16", "cfg.f13": "8191", "cfg.f40": str((1 << 40) - 1)}
            | {"cfg.yes": "true", "cfg.name": "veth7", "tight.b": "4294967295", "tight.c": str(_U64)}
            | {"table[2].b": "-1", "table[0].c[1]": "77"},
            {
                "cfg": ".ip4 = 0x0500000a, .mac = { 2, [5] = 5 }, .word = 0x12345678, .y = 7, .z = -7, .inner = { 1, "
                "-32768, { 3, 4294967295 } }, .either.whole = 1311768467, .f3 = 7, .f7 = 127, .s5 = -16, .f13 = 8191, "
                f'.f40 = {(1 << 40) - 1}, .yes = 1, .name = "veth7"',
                "tight": f"{{ 1, 4294967295, {_U64}ULL }}",
                "table": "{ { 1, -1, { 10, 77 } }, { 2, -2, { 20, 21 } }, { 3, -1, { 30, 31 } } }",
            },
        ),
        ValueSet(
            "other bits",
            {"cfg.f3": "2", "cfg.f7": "85", "cfg.s5": "15", "cfg.f13": "4097", "cfg.f40": str(0x8000000001)}
            | {"cfg.low": "1", "cfg.high": "0xffff", "cfg.x": "255", "cfg.name": "", "cfg.mac": "ff:ff:ff:ff:ff:ff"},
            {
                "cfg": ".ip4 = 0x0100000a, .mac = { 255, 255, 255, 255, 255, 255 }, .inner = { 1, -2, { 3, 4 } }, "
                ".low = 1, .high = 0xffff, .x = 255, .f3 = 2, .f7 = 85, .s5 = 15, .f13 = 4097, .f40 = 0x8000000001"
            },
        ),
    ],
    "sections": [
        ValueSet(
            "all",
            {"plain": "100", "cold": "101", "ro": "102", "ro_extra": "103", "counter": "104", "hidden": "105"},
            {"plain": "100", "cold": "101", "ro": "102", "ro_extra": "103", "counter": "104", "hidden": "105"},
        ),
        same("top", plain="4294967295", cold="4294967295", ro="4294967295", ro_extra="0", hidden="0"),
    ],
    "calls": [
        same("more", rounds="10", step="1000000", bonus="18446744073709551615"),
        same("none", rounds="0", step="0", bonus="0"),
        same("other", rounds="3", step="4294967295"),
    ],
    "maps": [same("slot 3", which="3"), same("empty slot", which="2"), same("outside", which="4000000000")],
    "core": [same("zero", add="0"), same("some", add="1000")],
    "packets": [
        ValueSet(
            "strict",
            {"ttl": "1", "drop_port": "2000", "strict": "yes"},
            {"ttl": "1", "drop_port": "2000", "strict": "true"},
        ),
        same("lenient", ttl="255", drop_port="65535", strict="false"),
    ],
    "cgroup": [ValueSet("deny", {"allow": "no", "blocked_port": "443"}, {"allow": "false", "blocked_port": "443"})],
    "plain": [
        ValueSet(
            "typed",
            {"mark": "7", "addend": "65535", "table[0]": "18446744073709551615", "table[3]": "0"},
            {"mark": "7", "addend": "65535", "table": "{ 18446744073709551615ULL, 2, 3, 0 }"},
        ),
    ],
    "stamp": [same("one", version="1", writable="2"), same("top", version="4294967295", writable="0")],
}

# The same of an object without BTF: integers with a width
WITHOUT_BTF = [
    ValueSet(
        "widths",
        {"mark": "u32:7", "addend": "u16:65535", "table": "hex:" + "ff" * 8 + "00" * 24},
        {"mark": "7", "addend": "65535", "table": "{ 18446744073709551615ULL, 0, 0, 0 }"},
    )
]

TEMPLATES: dict[str, list[Settings]] = {
    "mark": [{"foo": "0"}, {"foo": "42"}, {"foo": "4294967295"}],
    "endpoint": [
        {"ep.id": "7", "ep.ip4": "10.0.0.2", "ep.mac": "02:00:00:00:00:02"},
        {"ep.id": "4294967295", "ep.ip4": "10.0.0.1", "ep.policy.mode": "POLICY_ENFORCE", "ep.policy.ports[0]": "443"},
        {
            "ep.ip4": "192.168.1.5",
            "ep.ip6": "fd00::2",
            "ep.policy.mode": "POLICY_ENFORCE",
            "ep.policy.ports[15]": "65535",
        },
    ],
    "xdp_filter": [
        {"limits.pps": "0", "dry_run": "true"},
        {"limits.pps": "1", "limits.burst": "2", "limits.prefix4": "1", "limits.prefix6": "1"},
    ],
    "xdp_lb": [
        {
            "service.vip": "10.0.0.5",
            "service.port": "443",
            "service.source": "10.0.0.9",
            "backends[0].address": "10.1.0.1",
        }
        | {"backends[0].weight": "1", "backends[15].address": "10.1.0.2", "backends[15].weight": "65535"},
        {
            "service.vip": "10.0.0.5",
            "service.port": "80",
            "service.hash": "LB_HASH_SOURCE",
            "service.seed": "4294967295",
        }
        | {"service.source": "10.0.0.9", "backends[3].address": "10.1.0.1", "backends[3].weight": "5"},
    ],
    "connect4": [
        {"proxy.ip4": "127.0.0.1", "proxy.port": "3128", "rules[0].net": "10.0.0.0/8", "rules[0].port": "443"},
        {"proxy.ip4": "255.255.255.255", "proxy.port": "65535", "proxy.udp": "true", "rules[7].net": "192.168.1.5/32"},
    ],
}
