"""Enums: names and numbers, and with the format `flags` sets of them."""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.index import SIGNED, Enumerator, Index, Type
from elfpatch.patch.describe import type_text
from elfpatch.patch.number import parse_integer, short
from elfpatch.patch.place import Place
from elfpatch.patch.scalar import number_of


def encode(index: Index, place: Place, kind: Type, value: object) -> int:
    """The number of an enum's value, given as text (names, a number) or as data. Raises BadValue."""
    known = enumerators(index, kind)
    flags = place.format == "flags"
    if isinstance(value, str):
        if flags:
            number = 0
            for part in value.split("|"):
                number |= _one(index, kind, known, part.strip(" "), flags)
            return number
        return _one(index, kind, known, value, flags)
    return _known(index, kind, known, number_of(value), flags)


def show(index: Index, place: Place, kind: Type, number: int) -> str:
    """The name of an enum's number, with flags several; "" when it has none."""
    known = enumerators(index, kind)
    for name, value in known:
        if value == number:
            return name
    if place.format != "flags":
        return ""
    names, rest = [], number
    for name, value in known:
        if value > 0 and value & rest and value & number == value:
            names.append(name)
            rest &= ~value
    return "" if rest else "|".join(names) or "0"


def enumerators(index: Index, kind: Type) -> list[tuple[str, int]]:
    """Names and values of an enum, signed where it is."""
    found = []
    for row in index.rows(Enumerator, kind.first, kind.members):
        value = row.value - (1 << 64) if kind.flags & SIGNED and row.value >> 63 else row.value
        found.append((row.name, value))
    return found


def _one(index: Index, kind: Type, known: list[tuple[str, int]], text: str, flags: bool) -> int:
    for name, number in known:
        if name == text:
            return number
    if text[:1].isdecimal() or text[:1] == "-":
        return _known(index, kind, known, parse_integer(text), flags)
    from elfpatch.patch.names import did_you_mean

    hint = did_you_mean(text, [name for name, _ in known], "names")
    raise BadValue(f"`{short(text)}` is not a name of {type_text(index, kind)}", hint=hint)


def _known(index: Index, kind: Type, known: list[tuple[str, int]], number: int, flags: bool) -> int:
    """`number` if it is one of the enum's, or with `flags` made of them."""
    if any(number == value for _, value in known):
        return number
    every = 0
    for _, value in known:
        every |= value
    if flags and number >= 0 and not number & ~every:
        return number
    choices = ", ".join(f"{name} = {value}" for name, value in known[:12])
    raise BadValue(f"{number} is not a value of {type_text(index, kind)}", hint=choices)
