"""Arrays and structs that one text names: char[N], u8[N], addresses, prefixes."""

import pytest

from .synthetic import Builder, patched, refusal, shown, value_bytes


def arrays(big=False):
    b = Builder(big=big)
    u8, u16, u32, char = b.int(1), b.int(2), b.int(4), b.char()
    b.var("name", b.array(char, 8), b"default").var("one", b.array(char, 1))
    for size in (3, 4, 6, 16):
        b.var(f"b{size}", b.array(u8, size))
    ipv4, ipv6, mac = b.meta(format="ipv4"), b.meta(format="ipv6"), b.meta(format="mac")
    b.var("ip", b.array(u8, 4), meta=ipv4).var("ip6", b.array(u8, 16), meta=ipv6).var("hw", b.array(u8, 6), meta=mac)
    b.var("ip6w", b.array(u32, 4), meta=ipv6).var("ips", b.array(u32, 3), meta=ipv4)
    b.var("hws", b.array(u8, 2, 6), meta=mac).var("bad", b.array(u8, 5), meta=mac)
    b.var("ip1", b.array(u32, 1), meta=ipv4).var("halves", b.array(u16, 2), meta=ipv4)
    in6 = b.struct("in6_addr", ("", b.union("", ("u6_addr8", b.array(u8, 16)), ("u6_addr16", b.array(u16, 8)))))
    b.var("host6", in6).var("host4", b.struct("in_addr", ("s_addr", b.int(4, be=True))))
    b.var("own6", b.union("v6addr", ("p", b.array(u32, 4)), ("addr", b.array(u8, 16))), meta=ipv6)
    b.var("limited", b.array(u8, 3), meta=b.meta(minimum=1, maximum=9)).var("words", b.array(u16, 3))
    return b.template()


@pytest.mark.parametrize(
    "setting, data",
    [
        ("name=", b"\0" * 8),
        ("name=abcdefg", b"abcdefg\0"),
        ("name=a b=c,d", b"a b=c,d\0"),
        ("name=é", "é".encode().ljust(8, b"\0")),
        ("name=hex:0", b"hex:0\0\0\0"),
        ("one=", b"\0"),
        ("b3=hex:0aFf00", b"\x0a\xff\0"),
        ("b6=hex:010203040506", b"\1\2\3\4\5\6"),
        ("b6=aa:bb:cc:00:11:22", b"\xaa\xbb\xcc\0\x11\x22"),
        ("b6=AA-BB-CC-00-11-22", b"\xaa\xbb\xcc\0\x11\x22"),
        ("b16=::1", b"\0" * 15 + b"\1"),
        ("b16=::ffff:10.0.0.1", b"\0" * 10 + b"\xff\xff\x0a\0\0\1"),
        ("ip=10.0.0.5", b"\x0a\0\0\5"),
        ("ip=hex:0a000005", b"\x0a\0\0\5"),
        ("ip6=fe80::2", b"\xfe\x80" + b"\0" * 13 + b"\2"),
        ("ip6w=fe80::2", b"\xfe\x80" + b"\0" * 13 + b"\2"),
        ("hw=02:00:00:00:00:01", b"\2\0\0\0\0\1"),
        ("ips[1]=10.0.0.5", b"\x0a\0\0\5"),
        ("ip1[0]=10.0.0.5", b"\x0a\0\0\5"),
        ("hws[1]=02:00:00:00:00:01", b"\2\0\0\0\0\1"),
        ("host6=2001:db8::1", b"\x20\1\x0d\xb8" + b"\0" * 11 + b"\1"),
        ("host4=10.0.0.5", b"\x0a\0\0\5"),
        ("own6=2001:db8::1", b"\x20\1\x0d\xb8" + b"\0" * 11 + b"\1"),
        ("limited=hex:010209", b"\1\2\x09"),
    ],
)
@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
def test_texts(setting, data, big):
    image = patched(arrays(big), setting)
    path = setting.partition("=")[0]
    assert value_bytes(image, path) == data
    assert value_bytes(patched(arrays(big), f"{path}={shown(image, path)}"), path) == data


@pytest.mark.parametrize(
    "setting, words",
    [
        ("name=abcdefgh", "the text has 8 bytes, char[8] holds 7 and a NUL"),
        ("name=ééééa", "the text has 9 bytes"),
        ("name=a\0b", "NUL"),
        ("name=\udc80", "not valid UTF-8"),
        ("one=a", "char[1] holds 0 and a NUL"),
        ("b3=hex:0102", "2 bytes given, u8[3] has exactly 3"),
        ("b3=hex:01020304", "4 bytes given, u8[3] has exactly 3"),
        ("b3=hex:010", "not whole bytes"),
        ("b3=hex:01 203", "not a row of hexadecimal digits"),
        ("b3=010203", "hex: and 6 digits"),
        ("b4=10.0.0.1", "tag the variable with format ipv4"),
        ("b6=aa:bb:cc:dd:ee", "not a MAC address"),
        ("b6=aa:bb-cc:dd:ee:ff", "not a MAC address"),
        ("b6=aabbccddeeff", "hex: and 12 digits"),
        ("b16=10.0.0.1", "IPv4-mapped would be ::ffff:10.0.0.1"),
        ("b16=1:2", "not an IPv6 address"),
        ("ip=10.0.0.1.2", "not an IPv4 address"),
        ("ip=aa", "not an IPv4 address"),
        ("ip6=10.0.0.5", "::ffff:10.0.0.5"),
        ("hw=10.0.0.5", "not a MAC address"),
        ("bad=aa:bb:cc:dd:ee:ff", "tagged mac but its type u8[5] cannot hold one (it needs 6 bytes: u8[6])"),
        ("ips=10.0.0.1", "tagged ipv4 but its type u32[3]"),
        ("halves=10.0.0.1", "tagged ipv4 but its type u16[2]"),
        ("limited=hex:01020a", "10 is outside 1..9"),
        ("words=1", "--set-json 'words=[...]'"),
        ("host4=1", "not an IPv4 address"),
    ],
)
def test_refusals(setting, words):
    assert words in refusal(arrays(), setting)


def test_a_mac_is_shown_as_one():
    assert shown(patched(arrays(), "b6=hex:aabbccddeeff"), "b6") == "aa:bb:cc:dd:ee:ff"


def test_characters_that_are_no_text_are_shown_as_an_array():
    image = patched(arrays(), hexes=["name=ff00ff0000000000"])
    assert shown(image, "name") == "[255,0,255,0,0,0,0,0]"
    again = patched(arrays(), json=[f"name={shown(image, 'name')}"])
    assert value_bytes(again, "name") == value_bytes(image, "name")
    assert patched(arrays(), *("=".join(pair) for pair in image.settings_text)).sections == image.sections


# --- prefixes ---------------------------------------------------------------------------------------------------


def prefixes(big=False):
    b = Builder(big=big)
    u8, u16, u32, be32 = b.int(1), b.int(2), b.int(4), b.int(4, be=True)
    cidr = b.meta(format="cidr")
    quad, long = b.array(u8, 4), b.array(u8, 16)
    shapes = {
        "lpm4": b.struct("lpm4", ("prefixlen", u32), ("data", quad)),
        "lpm6": b.struct("lpm6", ("prefixlen", u32), ("data", long)),
        "pair": b.struct("pair", ("prefixlen", u32), ("addr", u32)),
        "be": b.struct("be", ("addr", be32), ("len", u8)),
        "bits": b.struct("bits", ("ip", be32), ("bits", u16)),
        "masked": b.struct("masked", ("net", be32), ("netmask", be32)),
        "in6": b.struct("in6", ("a", b.struct("in6_addr", ("x", long))), ("plen", u8)),
        "none": b.struct("none", ("a", u32), ("b", u32)),
        "three": b.struct("three", ("a", be32), ("len", u8), ("c", u8)),
    }
    for name, kind in shapes.items():
        b.var(name, kind, b"\xff" * b.types[kind].size, meta=cidr)
    b.var("number", u32, meta=cidr).var("untagged", shapes["lpm4"])
    return b.template()


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
def test_a_prefix_fills_its_struct(big):
    order = "big" if big else "little"
    ten = b"\x0a\0\0\0"
    expected = {
        "lpm4": (8).to_bytes(4, order) + ten,
        "pair": (8).to_bytes(4, order) + ten,
        "be": ten + b"\x08\0\0\0",
        "bits": ten + (8).to_bytes(2, order) + b"\0\0",
        "masked": ten + b"\xff\0\0\0",
    }
    for name, data in expected.items():
        image = patched(prefixes(big), f"{name}=10.0.0.0/8")
        assert value_bytes(image, name) == data
        assert shown(image, name) == "10.0.0.0/8"
        assert image.settings_text == [(name, "10.0.0.0/8")]
    for name in ("lpm6", "in6"):
        image = patched(prefixes(big), f"{name}=2001:db8::/32")
        assert shown(image, name) == "2001:db8::/32"


@pytest.mark.parametrize(
    "setting, words",
    [
        ("lpm4=10.1.2.3/8", "has host bits set (the network is 10.0.0.0/8)"),
        ("lpm6=2001:db8::1/32", "the network is 2001:db8::/32"),
        ("lpm4=10.0.0.0/33", "prefix length 33 is outside 0..32"),
        ("lpm6=::/129", "outside 0..128"),
        ("lpm4=10.0.0.0", "one address is 10.0.0.0/32"),
        ("lpm4=10.0.0.0/", "not a prefix length"),
        ("lpm4=10.0.0.0/08", "not a prefix length"),
        ("lpm4=10.0.0.0/-1", "not a prefix length"),
        ("lpm4=::/0", "not an IPv4 address"),
        ("lpm6=10.0.0.0/8", "is an IPv4 address"),
        ("none=10.0.0.0/8", "its type struct none cannot hold one"),
        ("three=10.0.0.0/8", "a prefix length"),
        ("number=10.0.0.0/8", "tagged cidr but its type u32"),
        ("untagged=10.0.0.0/8", "takes no single text"),
    ],
)
def test_prefix_refusals(setting, words):
    assert words in refusal(prefixes(), setting)


def test_zero_and_full_prefixes():
    for text in ("0.0.0.0/0", "255.255.255.255/32", "128.0.0.0/1"):
        for name in ("lpm4", "masked"):
            assert shown(patched(prefixes(), f"{name}={text}"), name) == text
