"""Variables of objects without BTF: only their size is known, so a value says its own type: `u32:42`, `be16:80`."""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.index import Index
from elfpatch.patch.number import check_range, parse_integer, short
from elfpatch.patch.place import Place

WIDTHS = (8, 16, 32, 64, 128)


def encode(index: Index, place: Place, value: object) -> bytes:
    """The bytes of `TYPE:INTEGER`, where TYPE is s8..s128, u8..u128 (the object's byte order) or be16..be64."""
    name, colon, number_text = value.partition(":") if isinstance(value, str) else ("", "", "")
    prefix, width_text = name.rstrip("0123456789"), name.lstrip("besu")
    if not colon or prefix not in ("s", "u", "be") or width_text not in map(str, WIDTHS):
        raise BadValue(f"the object has no BTF for {place.path}, so its type is unknown", hint=_forms(place, value))
    width = int(width_text)
    if width != place.bit_size:
        raise BadValue(f"{name} has {width // 8} bytes, {place.path} has {place.size}", hint=_forms(place, number_text))
    number = parse_integer(number_text)
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if prefix == "s" else (0, (1 << width) - 1)
    check_range(number, low, high, name)
    return number.to_bytes(width // 8, "big" if index.big_endian or prefix == "be" else "little", signed=prefix == "s")


def _forms(place: Place, value: object) -> str:
    raw = f"--set-hex {place.path}= with {2 * place.size} digits"
    if place.bit_size not in WIDTHS:
        return f"it has {place.size} bytes: {raw}"
    shown = short(str(value)) if isinstance(value, str | int) and value != "" else "42"
    return f"it has {place.size} bytes: {place.path}=u{place.bit_size}:{shown}, or {raw}"
