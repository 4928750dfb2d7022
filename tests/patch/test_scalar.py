"""Numbers: what each scalar type takes, and what it refuses."""

import pytest

from .synthetic import Builder, patched, refusal, shown, value_bytes

ORDERS = pytest.mark.parametrize("big", [False, True], ids=["little", "big"])


def scalars(big=False):
    b = Builder(big=big)
    for size in (1, 2, 4, 8, 16):
        b.var(f"u{8 * size}", b.int(size))
        b.var(f"s{8 * size}", b.int(size, signed=True))
    b.var("be16", b.int(2, be=True)).var("be32", b.int(4, be=True)).var("be64", b.int(8, be=True))
    b.var("flag", b.bool()).var("letter", b.char(signed=False)).var("ratio", b.float()).var("hook", b.pointer())
    return b.template()


@ORDERS
@pytest.mark.parametrize(
    "text, number",
    [
        ("0", 0),
        ("42", 42),
        ("0x2a", 42),
        ("0X2A", 42),
        ("0o17", 15),
        ("0b1010_1010", 170),
        ("1_0", 10),
        ("255", 255),
    ],
)
def test_integers_are_read_in_every_base(big, text, number):
    image = patched(scalars(big), f"u8={text}", f"u64={text}")
    assert value_bytes(image, "u8") == bytes([number])
    assert value_bytes(image, "u64") == number.to_bytes(8, "big" if big else "little")


@pytest.mark.parametrize(
    "text",
    ["010", "00", "0_1", "-010", "", " 1", "1 ", "1\n", "+1", "1.0", "1e3", "_1", "1_", "1__0", "0x", "0x_1", "0xg"]
    + [
        "-",
        "--1",
        "0b2",
        "0o8",
        "0x-1",
        "\uff10",
        "\u0663",
        "1,2",
        "true",
        "1" * 5000,
        "0x" + "f" * 5000,
        "1\0",
        "0x1\n",
    ],
)
def test_what_is_no_integer_is_refused(text):
    assert "u32" in refusal(scalars(), f"u32={text}")


def test_a_leading_zero_is_answered_with_both_readings():
    assert "decimal is 10, octal is 0o10" in refusal(scalars(), "u32=010")


@ORDERS
@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_the_range_of_every_width_is_exact(big, size):
    template, order, bits = scalars(big), "big" if big else "little", 8 * size
    top, low, high = (1 << bits) - 1, -(1 << bits - 1), (1 << bits - 1) - 1
    assert value_bytes(patched(template, f"u{bits}={top}"), f"u{bits}") == b"\xff" * size
    for number in (low, high, -1):
        image = patched(template, f"s{bits}={number}")
        assert value_bytes(image, f"s{bits}") == number.to_bytes(size, order, signed=True)
        assert shown(image, f"s{bits}") == str(number)
    assert f"0..{top}" in refusal(template, f"u{bits}={top + 1}")
    assert "unsigned" in refusal(template, f"u{bits}=-1")
    for number in (low - 1, high + 1):
        assert f"{low}..{high}" in refusal(template, f"s{bits}={number}")


def test_network_order_types_are_big_endian_in_every_object():
    for big in (False, True):
        image = patched(scalars(big), "be16=80", "be32=1", "be64=2")
        assert value_bytes(image, "be16") == b"\0P"
        assert value_bytes(image, "be32") == b"\0\0\0\1"
        assert value_bytes(image, "be64") == b"\0\0\0\0\0\0\0\2"


def test_an_address_literal_is_unambiguous_for_be32_only():
    assert value_bytes(patched(scalars(), "be32=10.0.0.5"), "be32") == b"\x0a\0\0\5"
    line = refusal(scalars(), "u32=10.0.0.1")
    assert "tag the variable with format ipv4" in line and "__be32" in line
    assert "duration" in refusal(scalars(), "u64=250ms")
    assert "size" in refusal(scalars(), "u64=64Ki")


@pytest.mark.parametrize(
    "text, byte", [("true", 1), ("On", 1), ("YES", 1), ("1", 1)] + [("false", 0), ("off", 0), ("No", 0), ("0", 0)]
)
def test_bool(text, byte):
    b = Builder()
    template = b.var("flag", b.bool(), bytes([1 - byte])).template()
    assert value_bytes(patched(template, f"flag={text}"), "flag") == bytes([byte])


@pytest.mark.parametrize("text", ["2", "", "t", "enabled", " true", "-1"])
def test_not_a_bool(text):
    assert "true, false, on, off, yes, no, 1 or 0" in refusal(scalars(), f"flag={text}")


def test_char_is_a_small_integer_and_never_guessed():
    assert value_bytes(patched(scalars(), "letter=5"), "letter") == b"\5"
    assert "the code of `A` is 65" in refusal(scalars(), "letter=A")


def test_floats_and_pointers_are_refused_with_the_reason():
    assert "BPF has no floating point" in refusal(scalars(), "ratio=1.5")
    assert "known only to the kernel" in refusal(scalars(), "hook=0")
    assert value_bytes(patched(scalars(), hexes=["ratio=0000803f"]), "ratio") == b"\0\0\x80\x3f"


# --- enums ------------------------------------------------------------------------------------------------------


def enums(big=False):
    b = Builder(big=big)
    b.var("mode", b.enum("mode", {"OFF": 0, "ON": 1, "AUDIT": 4}))
    b.var("delta", b.enum("delta", {"DOWN": -1, "UP": 1}))
    b.var("tiny", b.enum("tiny", {"A": 0, "B": 200}, size=1))
    b.var("huge", b.enum("huge", {"LOW": 1, "TOP": (1 << 64) - 1}, size=8))
    b.var("deep", b.enum("deep", {"BOTTOM": -(1 << 63)}, size=8))
    flags = b.enum("flags", {"NONE": 0, "R": 1, "W": 2, "X": 4, "RW": 3})
    b.var("access", flags, meta=b.meta(format="flags")).var("plain", flags)
    return b.template()


@ORDERS
@pytest.mark.parametrize(
    "setting, size, number",
    [
        ("mode=AUDIT", 4, 4),
        ("mode=4", 4, 4),
        ("mode=0x1", 4, 1),
        ("delta=DOWN", 4, 0xFFFFFFFF),
        ("delta=-1", 4, 0xFFFFFFFF),
        ("tiny=B", 1, 200),
        ("huge=TOP", 8, (1 << 64) - 1),
        ("deep=BOTTOM", 8, 1 << 63),
        ("access=R|X", 4, 5),
        ("access=R | W", 4, 3),
        ("access=0", 4, 0),
        ("access=7", 4, 7),
        ("access=RW|X", 4, 7),
    ],
)
def test_enum(big, setting, size, number):
    path = setting.partition("=")[0]
    assert value_bytes(patched(enums(big), setting), path) == number.to_bytes(size, "big" if big else "little")


@pytest.mark.parametrize(
    "setting, words",
    [
        ("mode=AUDTI", "did you mean AUDIT?"),
        ("mode=audit", "did you mean AUDIT?"),
        ("mode=2", "2 is not a value of enum mode (OFF = 0, ON = 1, AUDIT = 4)"),
        ("mode=-1", "-1 is not a value"),
        ("mode=", "is not a name"),
        ("mode=04", "leading zero"),
        ("plain=R|W", "`R|W` is not a name"),
        ("access=8", "8 is not a value"),
        ("access=R|", "is not a name"),
        ("access=R,W", "is not a name"),
        ("access=-1", "-1 is not a value"),
    ],
)
def test_not_of_the_enum(setting, words):
    assert words in refusal(enums(), setting)


def test_enums_are_shown_by_name():
    image = patched(enums(), "mode=4", "access=5", "delta=-1", "huge=TOP")
    assert [shown(image, path) for path in ("mode", "access", "delta", "huge", "plain")] == [
        "AUDIT",
        "R|X",
        "DOWN",
        "TOP",
        "NONE",
    ]


# --- bit-fields -------------------------------------------------------------------------------------------------


def fields(big=False):
    b = Builder(big=big)
    u32, s16 = b.int(4), b.int(2, signed=True)
    mode = b.enum("mode", {"OFF": 0, "ON": 1, "FAR": 9})
    kind = b.struct(
        "bits", ("a", u32, 3), ("b", u32, 13), ("c", u32, 16), ("n", s16, 5), ("on", b.bool(), 1), ("m", mode, 3)
    )
    return b.var("f", kind, b"\xff" * 8).template()


def test_bit_fields_change_their_own_bits_only():
    little = patched(fields(), "f.b=0")
    assert value_bytes(little, "f")[:4] == bytes([0b111, 0, 0xFF, 0xFF])
    big = patched(fields(True), "f.b=0")
    assert value_bytes(big, "f")[:4] == bytes([0b11100000, 0, 0xFF, 0xFF])


@ORDERS
def test_bit_fields_keep_to_their_width(big):
    template = fields(big)
    assert "0..7 (a 3-bit field)" in refusal(template, "f.a=8")
    assert "-16..15" in refusal(template, "f.n=16")
    assert "-16..15" in refusal(template, "f.n=-17")
    assert "0..7" in refusal(template, "f.m=FAR")
    image = patched(template, "f.a=5", "f.b=8191", "f.c=0xabcd", "f.n=-16", "f.on=no", "f.m=ON")
    assert [shown(image, f"f.{name}") for name in ("a", "b", "c", "n", "on", "m")] == [
        "5",
        "8191",
        "43981",
        "-16",
        "false",
        "ON",
    ]


def test_bit_fields_take_no_hex():
    assert "not whole bytes" in refusal(fields(), hexes=["f.a=07"])
    assert "`hex:07` is not an integer" in refusal(fields(), "f.a=hex:07")


# --- tags -------------------------------------------------------------------------------------------------------


def tagged():
    b = Builder()
    u16, u32, u64 = b.int(2), b.int(4), b.int(8)
    b.var("limit", u32, b"\5", meta=b.meta(minimum=2, maximum=10, unit="packets"))
    b.var("floor", b.int(4, signed=True), meta=b.meta(minimum=-5, maximum=-1))
    b.var("addr", u32, meta=b.meta(format="ipv4")).var("net_addr", b.int(4, be=True), meta=b.meta(format="ipv4"))
    b.var("addr6", b.int(16), meta=b.meta(format="ipv6")).var("odd", u64, meta=b.meta(format="ipv4"))
    b.var("port", u16, meta=b.meta(format="port", minimum=1)).var("wide", u32, meta=b.meta(format="port"))
    b.var("net_port", b.int(2, be=True), meta=b.meta(format="port"))
    b.var("wait", u64, meta=b.meta(format="duration")).var("ms", u32, meta=b.meta(format="duration", unit="ms"))
    b.var("room", u64, meta=b.meta(format="size")).var("kib", u16, meta=b.meta(format="size", unit="KiB"))
    b.var("burst", u32, meta=b.meta(format="size", unit="packets"))
    return b.template()


@pytest.mark.parametrize(
    "setting, data",
    [
        ("limit=2", "02000000"),
        ("limit=10", "0a000000"),
        ("floor=-5", "fbffffff"),
        ("addr=10.0.0.5", "0a000005"),
        ("net_addr=10.0.0.5", "0a000005"),
        ("net_addr=0x0a000005", "0a000005"),
        ("addr6=2001:db8::1", "20010db8000000000000000000000001"),
        ("port=65535", "ffff"),
        ("wide=443", "bb010000"),
        ("net_port=443", "01bb"),
        ("wait=250ms", (250_000_000).to_bytes(8, "little").hex()),
        ("wait=1h30m", (5400 * 10**9).to_bytes(8, "little").hex()),
        ("wait=7", "0700000000000000"),
        ("ms=1.5s", "dc050000"),
        ("room=64Ki", "0000010000000000"),
        ("room=1M", "40420f0000000000"),
        ("kib=64Mi", None),
        ("kib=4MiB", "0010"),
        ("burst=7", "07000000"),
    ],
)
def test_tagged(setting, data):
    if data is None:
        assert "65536 is outside 0..65535" in refusal(tagged(), setting)
        return
    image = patched(tagged(), setting)
    path = setting.partition("=")[0]
    assert value_bytes(image, path).hex() == data
    again = patched(tagged(), f"{path}={shown(image, path)}")
    assert value_bytes(again, path).hex() == data


@pytest.mark.parametrize(
    "setting, words",
    [
        ("limit=1", "1 is outside 2..10 (u32 with the declared limits in packets)"),
        ("limit=11", "2..10"),
        ("floor=0", "-5..-1"),
        ("addr=1", "not an IPv4 address"),
        ("addr=10.0.0", "not an IPv4 address"),
        ("addr=10.0.0.256", "not an IPv4 address"),
        ("addr=10.0.0.010", "leading zero"),
        ("addr=::1", "not an IPv4 address"),
        ("addr=10.0.0.1/8", "not an IPv4 address"),
        ("addr6=10.0.0.1", "::ffff:10.0.0.1"),
        ("addr6=fe80::1%eth0", "has a zone"),
        ("odd=10.0.0.1", "tagged ipv4 but its type u64 cannot hold one"),
        ("port=0", "1..65535"),
        ("port=65536", "1..65535"),
        ("wide=65536", "0..65535"),
        ("port=http", "not an integer"),
        ("wait=1.5ns", "not a whole number of ns"),
        ("ms=1us", "not a whole number of ms"),
        ("ms=5fortnights", "not a duration"),
        ("ms=-1s", "unsigned"),
        ("wait=1s2", "integer"),
        ("wait=s", "not a duration"),
        ("room=1.5", "not an integer"),
        ("room=1x", "not a size"),
        ("kib=1000B", "not a whole number of KiB"),
        ("burst=1Ki", "cannot be converted to packets"),
    ],
)
def test_tagged_refusals(setting, words):
    assert words in refusal(tagged(), setting)


# --- without BTF ------------------------------------------------------------------------------------------------


@ORDERS
def test_without_btf_a_value_says_its_type(big):
    b = Builder(big=big)
    template = b.var("foo", -1, size=4).var("odd", -1, size=3).var("bar", -1, size=8).template()
    order = "big" if big else "little"
    assert value_bytes(patched(template, "foo=u32:42"), "foo") == (42).to_bytes(4, order)
    assert value_bytes(patched(template, "foo=s32:-2"), "foo") == (-2).to_bytes(4, order, signed=True)
    assert value_bytes(patched(template, "foo=be32:0x1"), "foo") == b"\0\0\0\1"
    assert value_bytes(patched(template, hexes=["odd=010203"]), "odd") == b"\1\2\3"
    line = refusal(template, "foo=42")
    assert "foo=u32:42" in line and "--set-hex foo= with 8 digits" in line
    assert "u64 has 8 bytes, foo has 4" in refusal(template, "foo=u64:1")
    assert "it has 3 bytes: --set-hex" in refusal(template, "odd=1")
    assert "0..4294967295" in refusal(template, "foo=u32:-1")
    assert "has no members: the object has no BTF" in refusal(template, "foo.a=1")
    assert shown(patched(template, "foo=u32:42"), "foo") == f"hex:{(42).to_bytes(4, order).hex()}"
