"""A setting at a place becomes bytes, and bytes become text again."""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.index import ARRAY, STRUCT, UNION, Index
from elfpatch.patch import scalar
from elfpatch.patch.number import hex_bytes
from elfpatch.patch.place import Place
from elfpatch.patch.setting import HEX, JSON, TEXT, Setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.patch.aggregate import Write

BRIEF = 1024  # bytes: `brief` shows no larger value
_AGGREGATES = (STRUCT, UNION, ARRAY)


def encode(index: Index, place: Place, setting: Setting, errors: list[BadValue]) -> list[Write]:
    """What the setting writes: places and their bytes (bit patterns of bit-fields). Adds every problem to `errors`."""
    if setting.kind == TEXT and (place.type is None or place.type.kind not in _AGGREGATES):
        try:
            return [(place, encode_one(index, place, setting.value))]
        except BadValue as error:
            error.where = setting.origin
            errors.append(error)
            return []
    from elfpatch.patch import aggregate

    into = aggregate.Collector(index)
    if setting.kind == HEX:
        into.attempt(place, lambda: [(place, _raw(index, place, str(setting.value)))])
    elif setting.kind == JSON:
        try:
            aggregate.collect(into, place, _parse_json(str(setting.value)))
        except BadValue as error:
            into.errors.append((place, error))
    elif setting.kind == TEXT and not isinstance(setting.value, str):
        into.errors.append((place, BadValue("the value is not text")))
    else:
        aggregate.collect(into, place, setting.value)
    for inner, problem in into.errors:
        if inner is not place and not problem.what.startswith(inner.path):
            problem.what = f"{inner.path}: {problem.what}"
        problem.where = setting.origin
        errors.append(problem)
    return into.writes


def encode_one(index: Index, place: Place, value: object) -> bytes | int:
    """The bytes (bit pattern of a bit-field) of a place that is no aggregate: a scalar by its type, `hex:` and digits,
    or a variable without BTF. Raises BadValue."""
    if isinstance(value, str) and value.startswith("hex:") and not place.bitfield:
        return _hex(index, place, value[4:])
    if place.type is None:
        from elfpatch.patch import untyped

        return untyped.encode(index, place, value)
    return scalar.encode(index, place, value)


def show(index: Index, place: Place, raw: bytes | int) -> str:
    """The value at `place` as text. What `--set` takes where it takes a text for this type, compact JSON (for
    `--set-json`) for other structs and arrays, `hex:` and digits where nothing else says it."""
    kind = place.type
    if kind is None:
        return f"hex:{raw.hex()}" if isinstance(raw, bytes) else str(raw)
    if kind.kind not in _AGGREGATES or isinstance(raw, int):
        return scalar.show(index, place, raw)
    from elfpatch.patch import text

    shown = text.show(index, place, raw)
    if shown is not None:
        return shown
    import json

    from elfpatch.patch import aggregate

    return json.dumps(aggregate.data_of(index, place, raw), separators=(",", ":"), ensure_ascii=False)


def brief(index: Index, place: Place, raw: bytes | int) -> str:
    """`show` for people: of a large array or struct only its size and whether it is zero."""
    if isinstance(raw, bytes) and len(raw) > BRIEF:
        return f"({len(raw)} bytes, {'not ' if raw.strip(bytes(1)) else ''}all zero)"
    return show(index, place, raw)


def _raw(index: Index, place: Place, digits: str) -> bytes:
    if place.bitfield:
        raise BadValue(f"{place.path} is a bit-field of {place.bit_size} bits, not whole bytes", hint="use --set")
    return _hex(index, place, digits)


def _hex(index: Index, place: Place, digits: str) -> bytes:
    from elfpatch.patch.describe import type_text

    return hex_bytes(digits, place.size, type_text(index, place.type) if place.type else place.path)


def _parse_json(source: str) -> object:
    from elfpatch.patch.files import parse_json

    return parse_json(source)
