"""Required values: a template's placeholder must not reach the kernel."""

from __future__ import annotations

from elfpatch.index import ARRAY, SETTABLE, STRUCT, Index, Variable
from elfpatch.patch.aggregate import part
from elfpatch.patch.path import elements, own_members
from elfpatch.patch.place import Place, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from elfpatch.patch.image import Image


def unset_required(image: Image) -> list[str]:
    """The paths of required variables and members that nothing set and that still hold their placeholder."""
    return [
        place.path
        for place, placeholder in image.template.required
        if not _given(image, place) and image.raw(place) == placeholder
    ]


def required_places(index: Index) -> list[tuple[Place, bytes | int]]:
    """The places of all required variables and members, with their placeholders."""
    return [
        (inner, part(index, place, inner, variable.default))
        for row, variable in enumerate(index.rows(Variable))
        if variable.default and variable.flags & SETTABLE  # what nobody reads is not asked for
        for place in (whole(index, row, variable),)
        for inner in _required(index, place)
    ]


def _required(index: Index, place: Place) -> Iterator[Place]:
    """The places in `place` (itself first) that are tagged required."""
    kind = place.type
    if place.meta is not None and place.meta.required:
        yield place
    elif kind is not None and kind.kind == STRUCT:
        for _, inner in own_members(index, place):
            yield from _required(index, inner)
    elif kind is not None and kind.kind == ARRAY:
        for inner in elements(index, place):
            inside = list(_required(index, inner))
            if not inside:  # and so it is with all other elements
                break
            yield from inside


def _given(image: Image, place: Place) -> bool:
    """Whether a value was set that shares bits with `place`."""
    end = place.bit_offset + place.bit_size
    return any(
        other.row == place.row and other.bit_offset < end and place.bit_offset < other.bit_offset + other.bit_size
        for other in image.places
    )
