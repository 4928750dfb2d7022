"""Which variable, member or element lies at an address of a data section."""

from __future__ import annotations

from bisect import bisect_right

from elfpatch.index import ARRAY, STRUCT, UNION, Index, Type, Variable
from elfpatch.patch.path import Place, element, own_members, whole
from elfpatch.patch.shape import ADDRESS_SIZES, text_form
from elfpatch.patch.value import brief

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from elfpatch.patch.image import Image

_SHOWN = 40  # characters of a value


class Places:
    """The variables of an index by where they lie."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._sections: dict[int, list[tuple[int, int, Variable]]] = {}
        for row, variable in enumerate(index.rows(Variable)):
            self._sections.setdefault(variable.section, []).append((variable.offset, row, variable))
        for found in self._sections.values():
            found.sort(key=_start)

    def variable(self, section: int, offset: int) -> Place | None:
        """The variable that covers a byte of a data section (row of SECTIONS)."""
        found = self._sections.get(section, [])
        number = bisect_right(found, offset, key=_start) - 1
        if number < 0:
            return None
        start, row, variable = found[number]
        return whole(self._index, row, variable) if offset < start + variable.size else None

    def starting(self, section: int, offset: int) -> Place | None:
        """The largest place that starts at an address; when none does, the smallest that it points into."""
        place = self.variable(section, offset)
        while place is not None and place.offset != offset:
            inner = next(self._parts(place, offset, 1), None)
            if inner is None:
                break
            place = inner
        return place

    def holding(self, section: int, offset: int, size: int) -> Place | None:
        """The smallest place that holds `size` bytes; of a union's members the one where it is no larger than that."""
        place = self.variable(section, offset)
        if place is None or offset + size > place.offset + place.size:
            return None
        return self._smallest(place, offset, size)

    def _smallest(self, place: Place, offset: int, size: int) -> Place:
        found = [self._smallest(inner, offset, size) for inner in self._parts(place, offset, size)]
        return next((inner for inner in found if is_whole(inner, offset, size)), found[0] if found else place)

    def _parts(self, place: Place, offset: int, size: int) -> Iterator[Place]:
        """The members or the element of a place that hold these bytes; of a union it may be several."""
        kind = place.type
        if kind is None:
            return
        if kind.kind == ARRAY:
            each = self._index.row(Type, kind.ref).size
            number = (offset - place.offset) // each if each else kind.count
            if number < kind.count and offset + size <= place.offset + (number + 1) * each:
                yield element(self._index, place, number)
        elif kind.kind in (STRUCT, UNION) and text_form(self._index, place) not in ADDRESS_SIZES:
            for _, inner in own_members(self._index, place):
                if not inner.bitfield and inner.offset <= offset and offset + size <= inner.offset + inner.size:
                    yield inner


def is_whole(place: Place, offset: int, size: int) -> bool:
    """Whether these bytes are all of a place."""
    return (place.offset, place.size) == (offset, size)


def address_text(place: Place, offset: int) -> str:
    """How an address inside a place is named: `ep.ip4`, or `name+3`."""
    return place.path if place.offset == offset else f"{place.path}+{offset - place.offset}"


def value_text(image: Image, place: Place, offset: int, size: int) -> str:
    """The value of `size` bytes at `offset` of a place's section: as the place's type has it when they are the whole of
    it, else a number."""
    index = image.template.index
    if is_whole(place, offset, size):
        shown = brief(index, place, image.raw(place))
        return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."
    held = image.bytes_at(place.section, offset, size)
    return f"{int.from_bytes(held, 'big' if index.big_endian else 'little'):#x}"


def _start(entry: tuple[int, int, Variable]) -> int:
    return entry[0]
