"""Structs, unions and arrays from JSON."""

import json

import pytest

from .synthetic import Builder, patched, refusal, refusals, shown, value_bytes

ORDERS = pytest.mark.parametrize("big", [False, True], ids=["little", "big"])


def template(big=False, fill=b"\xff"):
    b = Builder(big=big)
    u8, u16, u32, u64 = b.int(1), b.int(2), b.int(4), b.int(8)
    mode = b.enum("mode", {"OFF": 0, "ON": 1})
    halves = b.struct("", ("low", u16), ("high", u16))
    either = b.union("", ("raw", u32), ("", halves))
    key = b.union("key", ("byte", u8), ("word", u64))
    ep = b.struct(
        "ep",
        ("id", u8),
        ("ip", u32, 0, b.meta(format="ipv4")),
        ("mac", b.array(u8, 6)),
        ("mode", mode),
        ("f1", u8, 3),
        ("f2", u8, 4),
        ("", either),
        ("ports", b.array(u16, 3)),
        ("name", b.array(b.char(), 4)),
        ("big", u64),
        ("on", b.bool()),
    )
    b.var("ep", ep, fill * b.types[ep].size).var("key", key, fill * 8).var("grid", b.array(u16, 2, 2), fill * 8)
    b.var("pairs", b.array(b.struct("pair", ("a", u8), ("b", u16)), 2), fill * 8).var("foo", u32)
    return b.template()


FULL = {
    "id": 1,
    "ip": "10.0.0.5",
    "mac": "aa:bb:cc:dd:ee:ff",
    "mode": "ON",
    "f1": 5,
    "f2": 9,
    "low": 2,
    "high": 3,
    "ports": [80, 443, 8080],
    "name": "eth",
    "big": "0xffff_ffff_ffff_ffff",
    "on": True,
}


@ORDERS
def test_a_whole_struct_has_its_padding_zeroed(big):
    image = patched(template(big), json=[f"ep={json.dumps(FULL)}"])
    data = value_bytes(image, "ep")

    def number(value, size):
        return value.to_bytes(size, "big" if big else "little")

    bits = bytes([0b1011_0010 if big else 0b0100_1101])
    expected = (
        b"\1\0\0\0" + b"\x0a\0\0\5" + bytes.fromhex("aabbccddeeff") + b"\0\0" + number(1, 4) + bits + b"\0\0\0"
        + number(2, 2) + number(3, 2) + number(80, 2) + number(443, 2) + number(8080, 2) + b"eth\0" + b"\0\0"
    )  # fmt: skip
    expected = expected.ljust(-(-len(expected) // 8) * 8, b"\0") + b"\xff" * 8 + b"\1" + b"\0" * 7
    assert data == expected


def test_a_flexible_array_keeps_its_elements():
    b = Builder()
    kind = b.struct("flex", ("a", b.int(1)), ("b", b.int(2)), ("tail", b.array(b.int(1), 0)))
    t = b.var("v", kind, b"\xff" * 8, size=8).template()
    assert value_bytes(patched(t, json=['v={"a":1,"b":2,"tail":[]}']), "v") == b"\1\0\2\0\xff\xff\xff\xff"


def test_the_path_is_named_only_where_the_setting_does_not():
    assert refusal(template(), json=["foo=-1"]).startswith("--set-json foo=-1: -1 is outside")
    assert refusal(template(), json=['ep={"id":-1}']).startswith('--set-json ep={"id":-1}: ep.id: -1 is outside')


def test_members_left_out_keep_their_bytes():
    image = patched(template(), json=['ep={"id":1,"low":2}'])
    data = value_bytes(image, "ep")
    assert data[0] == 1 and value_bytes(image, "ep.low") == b"\2\0"
    changed = [at for at in range(len(data)) if data[at] != 0xFF]
    offset = image.receipt[1].offset - image.receipt[0].offset
    assert changed == [0, offset, offset + 1]


def test_some_elements_by_index():
    image = patched(template(), json=['ep={"ports":{"1":7}}', 'grid={"1":{"0":5}}'])
    assert value_bytes(image, "ep.ports") == b"\xff\xff\7\0\xff\xff"
    assert value_bytes(image, "grid") == b"\xff\xff\xff\xff\5\0\xff\xff"


def test_arrays_of_arrays_and_of_structs():
    image = patched(template(), json=["grid=[[1,2],[3,4]]", 'pairs=[{"a":1,"b":2},{"b":4,"a":3}]'])
    assert value_bytes(image, "grid") == b"\1\0\2\0\3\0\4\0"
    assert value_bytes(image, "pairs") == b"\1\0\2\0\3\0\4\0"
    assert shown(image, "pairs") == '[{"a":1,"b":2},{"a":3,"b":4}]'


def test_a_union_takes_one_member_and_zeroes_the_rest():
    assert value_bytes(patched(template(), json=['key={"byte":1}']), "key") == b"\1" + b"\0" * 7
    assert value_bytes(patched(template(), "key.byte=1"), "key") == b"\1" + b"\xff" * 7
    for value in ("{}", '{"byte":1,"word":2}'):
        assert "(one of byte, word)" in refusal(template(), json=[f"key={value}"])


def test_scalars_take_json_too():
    image = patched(template(), json=["foo=7"])
    assert value_bytes(image, "foo") == b"\7\0\0\0"
    assert value_bytes(patched(template(), json=['foo="0x10"']), "foo") == b"\x10\0\0\0"


@pytest.mark.parametrize(
    "value, words",
    [
        ('ep={"idd":1}', "ep has no member `idd` (did you mean id?)"),
        ('ep={"id":1.0}', "ep.id: 1.0 is not an integer"),
        ('ep={"id":256}', "ep.id: 256 is outside 0..255"),
        ('ep={"id":true}', "ep.id: an integer is needed, not true"),
        ('ep={"id":null}', "ep.id: an integer is needed, not null"),
        ('ep={"id":[1]}', "ep.id: an integer is needed, not an array"),
        ('ep={"id":1e2}', "is not an integer"),
        ('ep={"on":2}', "2 is outside 0..1"),
        ('ep={"on":1.0}', "a bool is needed"),
        ('ep={"mode":7}', "7 is not a value of enum mode"),
        ('ep={"mode":true}', "an integer is needed, not true"),
        ('ep={"ip":5}', "5 is not an address"),
        ('ep={"ports":[1,2]}', "ep.ports: 2 elements given, there are exactly 3"),
        ('ep={"ports":[1,2,3,4]}', "4 elements given"),
        ('ep={"ports":{"3":1}}', "index 3 of ep.ports is outside 0..2"),
        ('ep={"ports":{"a":1}}', "the index of ep.ports is wrong"),
        ('ep={"ports":{"1":1,"0x1":2}}', "overlap"),
        ('ep={"ports":5}', "needs an array of 3"),
        ('ep={"ports":[1,2,70000]}', "ep.ports[2]: 70000 is outside 0..65535"),
        ('ep={"name":"long"}', "ep.name: the text has 4 bytes"),
        ('ep={"raw":1,"low":1}', "a union takes exactly one member"),
        ("ep=[]", "needs an object, not an array"),
        ("ep=5", "needs an object, not a number"),
        ('ep={"id":1,"id":2}', "the key `id` occurs twice"),
        ('ep={"id":1', "not JSON"),
        ("ep=", "not JSON"),
        ("ep=NaN", "NaN is not a value"),
        ("foo=1.5", "1.5 is not an integer"),
        ("foo=" + "9" * 5000, "not JSON that can be read"),
        ("ep=" + "[" * 100000, "nested too deep"),
    ],
)
def test_refused(value, words):
    assert words in refusal(template(), json=[value])


def test_all_problems_of_one_value_are_reported():
    lines = refusals(template(), json=['ep={"id":256,"what":1,"ports":[70000,1,-1],"mode":"ONN"}'])
    assert len(lines) == 5


@ORDERS
def test_what_is_shown_is_read_back(big):
    image = patched(template(big, b"\0"), json=[f"ep={json.dumps(FULL)}", 'key={"word":7}'])
    for path in ("ep", "key", "grid", "pairs", "ep.ports"):
        again = patched(template(big), json=[f"{path}={shown(image, path)}"]) if path != "ep" else None
        if again:
            assert value_bytes(again, path) == value_bytes(image, path)
    data = json.loads(shown(image, "ep"))
    data.pop("raw")
    assert data["big"] == str((1 << 64) - 1) and data["ip"] == "10.0.0.5" and data["on"] is True
