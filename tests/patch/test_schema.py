"""The JSON Schema accepts what elfpatch accepts and refuses what it refuses."""

import json
import re

import pytest

from elfpatch.errors import ElfpatchError
from elfpatch.patch.image import make_image
from elfpatch.patch.schema import schema
from elfpatch.patch.setting import from_mapping

from .synthetic import Builder

IS = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
}


def valid(rules, value) -> bool:
    """A validator for the keywords that the schema uses; any other keyword fails the test."""
    if isinstance(rules, bool):
        return rules
    return all(KEYWORDS[key](rules, rule, value) for key, rule in rules.items() if not key.startswith("x-"))


def _object(check):
    return lambda rules, rule, value: not isinstance(value, dict) or check(rules, rule, value)


def _matching(rules, key):
    found = [rules["properties"][key]] if key in rules.get("properties", {}) else []
    return found + [rule for pattern, rule in rules.get("patternProperties", {}).items() if re.search(pattern, key)]


def _equal(one, other):
    return one == other and isinstance(one, bool) == isinstance(other, bool)


KEYWORDS = {
    **dict.fromkeys(("$schema", "title", "description", "default"), lambda rules, rule, value: True),
    "type": lambda rules, rule, value: IS[rule](value),
    "enum": lambda rules, rule, value: any(_equal(value, one) for one in rule),
    "minimum": lambda rules, rule, value: not IS["integer"](value) or value >= rule,
    "maximum": lambda rules, rule, value: not IS["integer"](value) or value <= rule,
    "pattern": lambda rules, rule, value: not isinstance(value, str) or re.search(rule, value) is not None,
    "maxLength": lambda rules, rule, value: not isinstance(value, str) or len(value) <= rule,
    "minItems": lambda rules, rule, value: not isinstance(value, list) or len(value) >= rule,
    "maxItems": lambda rules, rule, value: not isinstance(value, list) or len(value) <= rule,
    "items": lambda rules, rule, value: not isinstance(value, list) or all(valid(rule, one) for one in value),
    "anyOf": lambda rules, rule, value: any(valid(one, value) for one in rule),
    "oneOf": lambda rules, rule, value: sum(valid(one, value) for one in rule) == 1,
    "allOf": lambda rules, rule, value: all(valid(one, value) for one in rule),
    "not": lambda rules, rule, value: not valid(rule, value),
    "required": _object(lambda rules, rule, value: all(name in value for name in rule)),
    "properties": _object(
        lambda rules, rule, value: all(valid(sub, value[key]) for key, sub in rule.items() if key in value)
    ),
    "patternProperties": _object(
        lambda rules, rule, value: all(
            valid(sub, one) for pattern, sub in rule.items() for key, one in value.items() if re.search(pattern, key)
        )
    ),
    "additionalProperties": _object(
        lambda rules, rule, value: all(_matching(rules, key) or valid(rule, one) for key, one in value.items())
    ),
}


def template():
    b = Builder(stem="gate")
    u8, u16, u32, u64, be32 = b.int(1), b.int(2), b.int(4), b.int(8), b.int(4, be=True)
    mode = b.enum("mode", {"OFF": 0, "ON": 1})
    halves = b.struct("", ("low", u16), ("high", u16))
    ep = b.struct(
        "ep",
        ("id", u8, 0, b.meta("identity", required=1, minimum=1, maximum=9)),
        ("ip", u32, 0, b.meta(format="ipv4")),
        ("mac", b.array(u8, 6)),
        ("f", u8, 3),
        ("", b.union("", ("raw", u32), ("", halves))),
        ("net", b.struct("net", ("a", be32), ("len", u8)), 0, b.meta(format="cidr")),
    )
    b.var("ep", ep).var("mode", mode).var("on", b.bool()).var("name", b.array(b.char(), 4))
    b.var("access", b.enum("acc", {"R": 1, "W": 2}), meta=b.meta(format="flags"))
    b.var("wait", u64, meta=b.meta("how long", "ms", "duration")).var("room", u64, meta=b.meta(format="size"))
    b.var("ports", b.array(u16, 3)).var("grid", b.array(u8, 2, 2)).var("addr", be32).var("s", b.int(4, signed=True))
    b.var("key", b.union("key", ("a", u8), ("b", u16))).var("raw", -1, size=4).var("ip6", b.array(u8, 16))
    b.var("fn.var", u32).var("twin", u8).var("twin", u8).var("ratio", b.float()).var("folded", u32, flags=0)
    b.var("huge", b.array(u64, 1 << 18), section=".bss")
    return b.template()


GOOD = [
    {"ep": {"id": 1, "ip": "10.0.0.1", "mac": "aa:bb:cc:dd:ee:ff", "f": 7, "raw": 1, "net": "10.0.0.0/8"}},
    {"ep": {"low": 1, "high": 2, "net": {"a": "10.0.0.0", "len": 8}}},
    {"ep": {"low": 1, "mac": [1, 2, 3, 4, 5, 6]}},
    {"ep": "hex:" + "00" * 28},
    {"ep.id": 1, "ports[2]": 5, "gate:mode": "ON"},
    {"mode": "ON", "on": True, "name": "eth", "access": "R|W"},
    {"mode": 1, "on": "Yes", "name": [101, 0, 0, 0], "access": 3},
    {"mode": "0x1", "on": 0},
    {"wait": "250ms", "room": "64Ki", "addr": "10.0.0.1", "s": "-0x10"},
    {"wait": 5, "room": "1_000", "addr": 5, "s": -5},
    {"ports": [1, "0x2", 3], "grid": {"1": {"0": 5}}},
    {"ports": {"2": 1}, "grid": [[1, 2], [3, 4]]},
    {"key": {"a": 1}, "raw": "u32:5", "ip6": "::1"},
    {"key": "hex:0102", "raw": "hex:01020304", "ip6": "hex:" + "0" * 32},
    {"fn.var": 1},
    {"fn": {"var": 1}},
    {"ratio": "hex:00000000"},
]
BAD = [
    {"nope": 1},
    {"folded": 1},
    {"twin": 1},
    {"ep": {"idd": 1}},
    {"ep": {"id": 0}},
    {"ep": {"id": 10}},
    {"ep": {"id": True}},
    {"ep": {"ip": 5}},
    {"ep": {"ip": "10.0.0"}},
    {"ep": {"f": 8}},
    {"ep": {"raw": 1, "low": 1}},
    {"ep": {"mac": [1, 2, 3]}},
    {"ep": {"net": "10.0.0.0"}},
    {"ep": 5},
    {"ep": "hex:00"},
    {"mode": "ONN"},
    {"mode": 7},
    {"on": 2},
    {"on": "maybe"},
    {"name": "abcd"},
    {"access": "R|Q"},
    {"s": 1 << 31},
    {"s": None},
    {"s": "010"},
    {"s": []},
    {"ports": [1, 2]},
    {"ports": [1, 2, -1]},
    {"ports": {"a": 1}},
    {"grid": [1, 2, 3, 4]},
    {"key": {}},
    {"key": {"a": 1, "b": 2}},
    {"raw": 5},
    {"ratio": 1},
]


def accepted(mapping) -> bool:
    try:
        make_image(template(), from_mapping(mapping, "values.json", 0))
    except ElfpatchError:
        return False
    return True


@pytest.mark.parametrize("mapping", GOOD, ids=str)
def test_accepted_by_both(mapping):
    assert accepted(mapping)
    assert valid(schema(template()), mapping)


@pytest.mark.parametrize("mapping", BAD, ids=str)
def test_refused_by_both(mapping):
    assert not accepted(mapping)
    assert not valid(schema(template()), mapping)


def test_defaults_are_valid_values():
    found = schema(template())
    for name, rules in found["properties"].items():
        if "default" in rules and name not in ("access",):
            default = dict(rules["default"]) if isinstance(rules["default"], dict) else rules["default"]
            if name == "ep":
                default["id"] = 1  # a placeholder outside its own limits
            assert valid(rules, default), name


def test_the_schema_is_plain_json_with_annotations():
    found = schema(template())
    assert json.loads(json.dumps(found)) == found
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    identity = found["properties"]["ep"]["anyOf"][0]["properties"]["id"]
    assert identity["description"] == "identity" and identity["x-required"] is True
    assert found["properties"]["wait"]["x-unit"] == "ms"
    assert found["properties"]["mode"]["x-elfpatch"]["section"] == ".data"
    assert "default" not in found["properties"]["huge"]
    assert [name for name in found["properties"] if name.startswith("twin")] == sorted(
        name for name in found["properties"] if name.startswith("twin@.data+")
    )
