"""Aggregates that one text names: char[N], u8[N] and addresses as `--set` takes them, prefixes (CIDR), raw `hex:`."""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.index import ARRAY, Index, Type
from elfpatch.patch import scalar
from elfpatch.patch.address import (
    ipv4_bytes,
    ipv4_text,
    ipv6_bytes,
    ipv6_text,
    looks_address,
    mac_bytes,
    mac_text,
    mask_bytes,
    mask_prefix,
    masked,
    prefix_parts,
    prefix_text,
)
from elfpatch.patch.describe import type_text
from elfpatch.patch.number import check_range, hex_bytes, short
from elfpatch.patch.place import Place
from elfpatch.patch.shape import misfit, prefix_shape, text_form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PARSE: dict[str, Callable[[str], bytes]] = {"ipv4": ipv4_bytes, "ipv6": ipv6_bytes, "mac": mac_bytes}
_SHOW: dict[str, Callable[[bytes], str]] = {"ipv4": ipv4_text, "ipv6": ipv6_text, "mac": mac_text}


def encode(index: Index, place: Place, text: str) -> bytes:
    """The bytes of an aggregate given as text. Raises BadValue when no text names this type."""
    kind = place.type
    assert kind is not None
    wrong = misfit(index, place)
    if wrong is not None:
        raise wrong
    form = text_form(index, place)
    if form == "char":
        return _chars(place, kind, text)
    if text.startswith("hex:"):
        data = hex_bytes(text[4:], kind.size, type_text(index, kind))
        return _check_octets(index, place, data) if form == "bytes" else data
    if form == "bytes":
        return _octets(index, place, kind, text)
    if form == "cidr":
        return _prefix(index, place, kind, text)
    if form:
        return _PARSE[form](text)
    raise BadValue(
        f"{type_text(index, kind)} takes no single text",
        hint=f"--set-json '{place.path}={'[...]' if kind.kind == ARRAY else '{...}'}', or set its "
        f"{'elements' if kind.kind == ARRAY else 'members'} one by one",
    )


def show(index: Index, place: Place, raw: bytes) -> str | None:
    """The text of an aggregate, which `encode` reads back to the same bytes; None when it has none."""
    form = text_form(index, place)
    if form == "char":
        return _chars_text(raw)
    if form == "bytes":
        return mac_text(raw) if len(raw) == 6 else f"hex:{raw.hex()}"
    if form == "cidr":
        return _prefix_text(index, place, raw)
    return _SHOW[form](raw) if form else None


def _chars(place: Place, kind: Type, text: str) -> bytes:
    """NUL-padded UTF-8; the last byte stays NUL, for programs read up to it."""
    if "\0" in text:
        raise BadValue("the text holds a NUL, where it would end")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise BadValue("the text is not valid UTF-8", hint=f"raw bytes: --set-hex {place.path}=...") from None
    if len(data) >= max(kind.size, 1):
        raise BadValue(f"the text has {len(data)} bytes, char[{kind.size}] holds {max(kind.size - 1, 0)} and a NUL")
    return data.ljust(kind.size, b"\0")


def _chars_text(raw: bytes) -> str | None:
    """The text before the padding, None when the bytes are not such a text."""
    text = raw.rstrip(b"\0")
    if len(text) == len(raw) or 0 in text:
        return None
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def _octets(index: Index, place: Place, kind: Type, text: str) -> bytes:
    """u8[N] without a tag: a MAC when N is 6, IPv6 when N is 16."""
    if kind.size == 6 and (":" in text or "-" in text):
        return mac_bytes(text)
    if kind.size == 16 and (":" in text or "." in text):
        return ipv6_bytes(text)
    form = looks_address(text)
    hint = f"hex: and {2 * kind.size} digits, or --set-json with an array"
    if form == "ipv4" and kind.size == 4:
        hint = "tag the variable with format ipv4 (a BTF declaration tag, see config.h) for addresses"
    raise BadValue(f"`{short(text)}` is not bytes for u8[{kind.size}]", hint=hint)


def _check_octets(index: Index, place: Place, data: bytes) -> bytes:
    """`data`, when each byte is inside the limits that a tag declares for the elements."""
    if place.meta is not None and (place.meta.minimum or place.meta.maximum):
        low, high = int(place.meta.minimum or 0), int(place.meta.maximum or 255)
        for number in data:
            check_range(number, low, high, "the declared limits of an element")
    return data


# --- prefixes ---------------------------------------------------------------------------------------------------


def _prefix(index: Index, place: Place, kind: Type, text: str) -> bytes:
    shape = prefix_shape(index, place)
    assert shape is not None
    size = shape.address.bit_size // 8
    network, prefix = prefix_parts(text, size)
    parts = [(shape.address, network)]
    if shape.mask is not None:
        parts.append((shape.mask, mask_bytes(prefix, size)))
    if shape.length is not None:
        length = scalar.encode(index, shape.length, prefix)
        assert isinstance(length, bytes)
        parts.append((shape.length, length))
    buffer = bytearray(kind.size)
    for inner, data in parts:
        start = (inner.bit_offset - place.bit_offset) // 8
        buffer[start : start + len(data)] = data
    return bytes(buffer)


def _prefix_text(index: Index, place: Place, raw: bytes) -> str | None:
    shape = prefix_shape(index, place)
    assert shape is not None
    network = _part(place, shape.address, raw)
    if shape.mask is not None:
        prefix = mask_prefix(_part(place, shape.mask, raw))
    else:
        assert shape.length is not None
        prefix = scalar.decode(index, shape.length, _part(place, shape.length, raw))
    if prefix is None or not 0 <= prefix <= 8 * len(network) or masked(network, prefix) != network:
        return None
    return prefix_text(network, prefix)


def _part(place: Place, inner: Place, raw: bytes) -> bytes:
    start = (inner.bit_offset - place.bit_offset) // 8
    return raw[start : start + inner.bit_size // 8]
