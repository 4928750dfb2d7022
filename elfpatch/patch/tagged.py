"""Integers that a declaration tag gives another spelling: addresses, durations, sizes; and what to tell who uses such a
spelling where no tag allows it."""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.index import NETWORK_ORDER, Index, Type
from elfpatch.patch import units
from elfpatch.patch.address import ipv4_bytes, ipv4_text, ipv6_bytes, ipv6_text, looks_address
from elfpatch.patch.describe import type_text
from elfpatch.patch.number import parse_integer
from elfpatch.patch.place import Place
from elfpatch.patch.shape import misfit

_EXAMPLES = {"ipv4": '"10.0.0.5"', "ipv6": '"2001:db8::1"'}


def encode_text(index: Index, place: Place, kind: Type, text: str) -> int | bytes:
    """The number that `text` says, or of an address the bytes."""
    wrong = misfit(index, place)
    if wrong is not None:
        raise wrong
    form = place.format
    unit = place.meta.unit if place.meta else ""
    network = kind.flags & NETWORK_ORDER
    if form == "ipv6":
        return ipv6_bytes(text)
    if form == "ipv4" and not (network and "." not in text):
        return ipv4_bytes(text)
    if form == "duration":
        return units.duration_number(text, unit)
    if form == "size":
        return units.size_number(text, unit)
    if network and "." in text and kind.size == 4 and not place.bitfield:
        return ipv4_bytes(text)
    try:
        return parse_integer(text)
    except BadValue as error:
        hint = _other_reading(index, kind, text)
        if hint:
            raise BadValue(error.what, hint=hint) from None
        raise


def check_number(index: Index, place: Place, kind: Type, number: int) -> None:
    """Raise BadValue when a bare number is no value for the tag: the byte order of an address would be a guess."""
    wrong = misfit(index, place)
    if wrong is not None:
        raise wrong
    form = place.format
    if form == "ipv6" or (form == "ipv4" and not kind.flags & NETWORK_ORDER):
        raise BadValue(f"{number} is not an address", hint="a string like " + _EXAMPLES[form])


def show(place: Place, kind: Type, raw: bytes, number: int) -> str:
    """The spelling that the tag of `place` asks for."""
    form = place.format
    unit = place.meta.unit if place.meta else ""
    if form == "ipv4" and kind.size == 4:
        return ipv4_text(raw)
    if form == "ipv6" and kind.size == 16:
        return ipv6_text(raw)
    if form == "duration":
        return units.duration_text(number, unit)
    if form == "size":
        return units.size_text(number, unit)
    return str(number)


def _other_reading(index: Index, kind: Type, text: str) -> str:
    """What a user who wrote this for a plain integer must do."""
    form = looks_address(text)
    what = type_text(index, kind)
    if form == "ipv4" and kind.size == 4:
        return (
            f"{what} is a plain integer here; for addresses tag the variable with format ipv4 (a BTF declaration tag, "
            "see config.h) or declare it __be32"
        )
    if form:
        return f"{what} is a plain integer here; for a value like this declare another type with format {form}"
    for name, parse in (("duration", units.duration_number), ("size", units.size_number)):
        try:
            parse(text, "")
        except BadValue:
            continue
        return f"{what} is a plain integer here; tag the variable with format {name} (see config.h) for such values"
    return ""
