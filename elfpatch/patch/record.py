"""An image's values as text, for the record: pairs which, given with `--set`, make the same image again.

Every apply comes through here, so what only structs and arrays need is imported with the first of them.
"""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.index import ARRAY, BOOL, CHAR, INT, STRUCT, UNION, Index
from elfpatch.patch import scalar, value
from elfpatch.patch.place import Place, whole
from elfpatch.patch.setting import TEXT, Setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from elfpatch.patch.image import Image

SPELLED_OUT = 64  # an array or struct of more scalars is written as one `hex:`


def settings_text(image: Image) -> list[tuple[str, str]]:
    """The pairs, in the order of sections and offsets; no two overlap."""
    pairs: list[tuple[str, str]] = []
    for place in _separate(image):
        pairs += _pairs(image, place)
    return pairs


def _separate(image: Image) -> list[Place]:
    """The image's places without padding. Where two share bits without one containing the other (members of a union),
    or padding changed, the whole variable stands for them."""
    wholes: set[int] = set()
    before: Place | None = None
    for place in image.places:
        overlaps = (
            before is not None and before.row == place.row and place.bit_offset < before.bit_offset + before.bit_size
        )
        if overlaps or (place.padding and image.raw(place) != image.template.raw(place)):
            wholes.add(place.row)
        before = place
    found: list[Place] = []
    for place in image.places:
        if place.row not in wholes:
            if not place.padding:
                found.append(place)
        elif not found or found[-1].row != place.row:
            found.append(whole(image.template.index, place.row, place.variable))
    return found


def _pairs(image: Image, place: Place) -> list[tuple[str, str]]:
    """The pairs of one place. They follow from its bytes alone, and most instances of a template share most values: so
    the last ones are kept."""
    raw = image.raw(place)
    if place.told is None or place.told[0] != raw:
        place.told = raw, _told(image, place, raw)
    return place.told[1]


def _told(image: Image, place: Place, raw: bytes | int) -> list[tuple[str, str]]:
    """Its text, else those of what it consists of, else `hex:`."""
    index = image.template.index
    shown = _text(image, place)
    if shown is not None:
        return [(place.path, shown)]
    if place.type is not None and place.type.kind in (STRUCT, ARRAY):
        from elfpatch.patch.shape import text_form

        parts: list[Place] = []
        for inner in _parts(index, place):
            parts.append(inner)
            if len(parts) > SPELLED_OUT and text_form(index, place) != "char":
                break
        else:
            found = [(inner, shown) for inner in parts if (shown := _text(image, inner)) is not None]
            if len(found) == len(parts) and _makes(image, place, found):
                return [(inner.path, shown) for inner, shown in found]
    assert isinstance(raw, bytes)
    return [(place.path, f"hex:{raw.hex()}")]


def _text(image: Image, place: Place) -> str | None:
    """The `--set` text of a place, None when there is none that gives exactly its bytes."""
    index = image.template.index
    kind, raw = place.type, image.raw(place)
    if kind is None or kind.kind not in (STRUCT, UNION, ARRAY):
        shown: str | None = value.show(index, place, raw)
        if _reads_back(index, place, raw):
            return shown
    else:
        from elfpatch.patch import text
        from elfpatch.patch.shape import ADDRESS_SIZES, misfit, text_form

        assert isinstance(raw, bytes)
        shown = text.show(index, place, raw)
        if text_form(index, place) in ADDRESS_SIZES and misfit(index, place) is None:
            return shown  # every address has a text, and nothing limits addresses
        if shown is None and kind.kind == UNION:
            shown = f"hex:{raw.hex()}"
    return shown if shown is not None and _makes(image, place, [(place, shown)]) else None


def _reads_back(index: Index, place: Place, raw: bytes | int) -> bool:
    """Whether the text of a scalar surely gives its bytes: numbers and bools within their limits, and IPv4 addresses,
    which have none. Whatever else there is has to be tried."""
    kind = place.type
    if kind is None or kind.kind not in (INT, BOOL, CHAR):
        return False
    if place.format == "ipv4" and kind.kind == INT and kind.size == 4 and isinstance(raw, bytes):
        return True
    low, high = scalar.bounds(place)
    return place.format in ("", "port") and low <= scalar.decode(index, place, raw) <= high


def _parts(index: Index, place: Place) -> Iterator[Place]:
    """What `place` consists of, down to what one text can name; a union comes as a whole."""
    from elfpatch.patch.path import elements, own_members
    from elfpatch.patch.shape import text_form

    kind = place.type
    assert kind is not None
    struct = kind.kind == STRUCT
    for inner in (inner for _, inner in own_members(index, place)) if struct else elements(index, place):
        if inner.type is not None and inner.type.kind in (STRUCT, ARRAY) and not text_form(index, inner):
            yield from _parts(index, inner)
        else:
            yield inner


def _makes(image: Image, place: Place, pairs: list[tuple[Place, str]]) -> bool:
    """Whether `pairs`, applied to the template, give the image's bytes of `place`."""
    template = image.template
    first = place.bit_offset // 8
    buffer = bytearray(template.held(place))
    errors: list[BadValue] = []
    for inner, shown in pairs:
        for at, made in value.encode(template.index, inner, Setting(TEXT, inner.path, shown, ""), errors):
            start = at.bit_offset - 8 * first
            if isinstance(made, int):
                from elfpatch.patch.bits import write_bits

                write_bits(buffer, start, at.bit_size, made, big=template.index.big_endian)
            else:
                buffer[start // 8 : start // 8 + len(made)] = made
    return not errors and template.bits(place, bytes(buffer)) == image.raw(place)
