"""One number: integers, bool, char, enum and bit-fields of them, as text, as data from JSON or TOML, and as bytes."""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.index import BOOL, CHAR, ENUM, INT, NETWORK_ORDER, SIGNED, Index, Type
from elfpatch.patch.number import check_range, parse_integer, short
from elfpatch.patch.place import Place

NUMBERS = (INT, BOOL, CHAR, ENUM)
_BOOLS = {"true": 1, "on": 1, "yes": 1, "1": 1, "false": 0, "off": 0, "no": 0, "0": 0}
_UNSETTABLE = {
    "float": "BPF has no floating point, so no program can compute with it",
    "pointer": "a pointer's value is known only to the kernel that loads the object",
    "opaque": "its type is unknown",
}


def encode(index: Index, place: Place, value: object) -> bytes | int:
    """The bytes of a scalar, or the bit pattern of a bit-field.

    `value` is text in the `--set` grammar, or an int or bool from JSON or TOML. Raises BadValue when it is nothing
    the type can hold; nothing is rounded, wrapped or truncated.
    """
    kind = place.type
    assert kind is not None
    if kind.kind == INT:
        parsed = _integer(index, place, kind, value)
        if isinstance(parsed, bytes):
            return parsed
        number = parsed
    elif kind.kind == BOOL:
        number = _bool(value)
    elif kind.kind == ENUM:
        from elfpatch.patch import enumeration

        number = enumeration.encode(index, place, kind, value)
    elif kind.kind == CHAR:
        number = _char(value)
    else:
        raise unsettable(index, kind)
    low, high = bounds(place)
    if not low <= number <= high:
        check_range(number, low, high, _range_text(index, place, kind))
    if place.bitfield:
        return number & (1 << place.bit_size) - 1
    return number.to_bytes(kind.size, order(index, kind), signed=number < 0)


def decode(index: Index, place: Place, raw: bytes | int) -> int:
    """The number that these bytes (or this bit pattern of a bit-field) are."""
    kind = place.type
    assert kind is not None
    signed = bool(kind.flags & SIGNED)
    if isinstance(raw, bytes):
        return int.from_bytes(raw, order(index, kind), signed=signed)
    return raw - (1 << place.bit_size) if signed and raw >> place.bit_size - 1 else raw


def show(index: Index, place: Place, raw: bytes | int) -> str:
    """The text of a scalar, which `encode` reads back to the same bytes; `hex:...` for what no other text gives."""
    kind = place.type
    assert kind is not None
    if kind.kind not in NUMBERS:
        return f"hex:{raw.hex()}" if isinstance(raw, bytes) else str(raw)
    number = decode(index, place, raw)
    text = str(number)
    if kind.kind == BOOL:
        words = ("off", "on") if kind.size > 1 else ("false", "true")  # a static key has four bytes
        text = {0: words[0], 1: words[1]}.get(number, "")
    elif kind.kind == ENUM:
        from elfpatch.patch import enumeration

        text = enumeration.show(index, place, kind, number)
    elif place.format and isinstance(raw, bytes):
        from elfpatch.patch.tagged import show as show_tagged

        text = show_tagged(place, kind, raw, number)
    return text or (f"hex:{raw.hex()}" if isinstance(raw, bytes) else str(number))


def bounds(place: Place) -> tuple[int, int]:
    """The lowest and highest number allowed: what fits the type and its tags."""
    if place.bounds is None:
        place.bounds = _bounds(place)
    return place.bounds


def _bounds(place: Place) -> tuple[int, int]:
    kind = place.type
    assert kind is not None
    if kind.kind == BOOL:
        return 0, 1
    bits = place.bit_size
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind.flags & SIGNED else (0, (1 << bits) - 1)
    meta = place.meta
    if meta is not None:
        if meta.format == "port":
            low, high = max(low, 0), min(high, 65535)
        if meta.minimum:
            low = max(low, int(meta.minimum))
        if meta.maximum:
            high = min(high, int(meta.maximum))
    return low, high


def order(index: Index, kind: Type) -> Literal["little", "big"]:
    """The byte order of a scalar in the object."""
    return "big" if index.big_endian or kind.flags & NETWORK_ORDER else "little"


def unsettable(index: Index, kind: Type) -> BadValue:
    """The error for a type that takes no value."""
    from elfpatch.index import KIND_NAMES
    from elfpatch.patch.describe import type_text

    name = KIND_NAMES[kind.kind]
    return BadValue(
        f"a {name} ({type_text(index, kind)}) cannot be set: {_UNSETTABLE[name]}", hint="raw bytes: --set-hex"
    )


# --- by kind ----------------------------------------------------------------------------------------------------


def _integer(index: Index, place: Place, kind: Type, value: object) -> int | bytes:
    """The number, or for an address its bytes."""
    if isinstance(value, str):
        if value.isdecimal() and value[0] != "0" and value.isascii() and not place.format:
            return parse_integer(value)
        from elfpatch.patch.tagged import encode_text

        return encode_text(index, place, kind, value)
    number = number_of(value)
    if place.format:
        from elfpatch.patch.tagged import check_number

        check_number(index, place, kind, number)
    return number


def number_of(value: object) -> int:
    """An int that came as data."""
    if isinstance(value, bool):
        raise BadValue(f"an integer is needed, not {str(value).lower()}")
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        raise BadValue(f"{value} is not an integer", hint="write it without point and exponent, or as a string")
    raise BadValue(f"an integer is needed, not {data_name(value)}")


def _bool(value: object) -> int:
    if isinstance(value, str):
        number = _BOOLS.get(value.lower())
        if number is None:
            raise BadValue(f"`{short(value)}` is not a bool", hint="true, false, on, off, yes, no, 1 or 0")
        return number
    if isinstance(value, int):
        return int(value)
    raise BadValue(f"a bool is needed, not {data_name(value)}")


def _char(value: object) -> int:
    if not isinstance(value, str):
        return number_of(value)
    try:
        return parse_integer(value)
    except BadValue as error:
        hint = f"the code of `{value}` is {ord(value)}" if len(value) == 1 and value.isascii() else error.hint
        raise BadValue(error.what, hint=hint) from None


def _range_text(index: Index, place: Place, kind: Type) -> str:
    """Whose range it is, for a message."""
    from elfpatch.patch.describe import integer_text, type_text

    what = f"a {place.bit_size}-bit field" if place.bitfield else ""
    if not what:
        what = integer_text(kind) if kind.kind in (INT, CHAR) else type_text(index, kind)
    meta = place.meta
    if meta is not None and (meta.minimum or meta.maximum):
        return f"{what} with the declared limits{f' in {meta.unit}' if meta.unit else ''}"
    return what


def data_name(value: object) -> str:
    """What a JSON or TOML value is, in words."""
    if value is None:
        return "null"
    for kinds, name in (
        (bool, "a boolean"),
        (int, "a number"),
        (float, "a number with a fraction"),
        (str, "a string"),
        (dict, "an object"),
        (list, "an array"),
    ):
        if isinstance(value, kinds):
            return name
    return f"a {type(value).__name__}"


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal
