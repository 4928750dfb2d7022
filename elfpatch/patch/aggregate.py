"""Structs, unions and arrays from JSON or TOML data, and back to JSON.

An object names members; those it leaves out keep their bytes. An object that names all of them also zeroes the
padding between them. A union takes exactly one member. An array takes all its elements, or an object from index to
element for some of them. Every problem of a value is reported, not only the first one.
"""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.index import ARRAY, BOOL, ENUM, INT, STRUCT, UNION, Index, Type
from elfpatch.patch import scalar, text
from elfpatch.patch.bits import read_bits
from elfpatch.patch.describe import type_text
from elfpatch.patch.number import short
from elfpatch.patch.path import array_index, element, elements, member, named_members, own_members
from elfpatch.patch.place import Place
from elfpatch.patch.shape import text_form
from elfpatch.patch.value import encode_one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Write = tuple[Place, "bytes | int"]

EXACT_IN_JSON = 1 << 53  # larger integers are written as strings: many readers of JSON have only doubles


class Collector:
    """The writes and the problems of one value."""

    __slots__ = ("index", "writes", "errors")

    def __init__(self, index: Index) -> None:
        self.index = index
        self.writes: list[Write] = []
        self.errors: list[tuple[Place, BadValue]] = []

    def attempt(self, place: Place, action: Callable[[], list[Write]]) -> bool:
        """Do `action`; keep its writes or its error. True when it went well."""
        try:
            self.writes += action()
        except BadValue as error:
            self.errors.append((place, error))
            return False
        return True


def collect(into: Collector, place: Place, value: object) -> bool:
    """Add the writes of `value` (data, or text in the `--set` grammar) at `place`. True when it is complete: nothing
    of `place` keeps its old bytes."""
    kind = place.type
    if kind is None or kind.kind not in (STRUCT, UNION, ARRAY):
        return into.attempt(place, lambda: [(place, encode_one(into.index, place, value))])
    if isinstance(value, str):
        return into.attempt(place, lambda: [(place, text.encode(into.index, place, value))])
    if kind.kind == ARRAY:
        return _array(into, place, kind, value)
    return _members(into, place, kind, value)


def _wrong(into: Collector, place: Place, needed: str, value: object) -> bool:
    assert place.type is not None
    what = type_text(into.index, place.type)
    into.errors.append((place, BadValue(f"{what} needs {needed}, not {scalar.data_name(value)}")))
    return False


def _array(into: Collector, place: Place, kind: Type, value: object) -> bool:
    index = into.index
    if isinstance(value, dict):
        for key, inner in value.items():
            try:
                at = element(index, place, array_index(str(key), place))
            except BadValue as error:
                into.errors.append((place, error))
            else:
                collect(into, at, inner)
        return False
    if not isinstance(value, list | tuple):
        return _wrong(into, place, f"an array of {kind.count} (or an object from index to element)", value)
    if len(value) != kind.count:
        some = ", ".join(f'"{number}": ...' for number in range(min(len(value), kind.count, 1) or 1))
        hint = f"for some of them use an object: {{{some}}}"
        into.errors.append((place, BadValue(f"{len(value)} elements given, there are exactly {kind.count}", hint=hint)))
        return False
    first = len(into.writes)
    complete = True
    for at, inner in zip(elements(index, place), value, strict=True):
        complete = collect(into, at, inner) and complete
    if complete and index.row(Type, kind.ref).kind in scalar.NUMBERS:
        into.writes[first:] = [(place, b"".join(data for _, data in into.writes[first:] if isinstance(data, bytes)))]
    return complete


def _members(into: Collector, place: Place, kind: Type, value: object) -> bool:
    if not isinstance(value, dict):
        return _wrong(into, place, "an object", value)
    first = len(into.writes)
    found: dict[str, object] = {}
    for name, inner in value.items():
        try:
            member(into.index, place, str(name))
        except BadValue as error:
            into.errors.append((place, error))
        else:
            found[str(name)] = inner
    complete = _own(into, place, kind, found) and len(found) == len(value)
    return complete and _pad(into, place, len(into.writes) - first)


def _own(into: Collector, place: Place, kind: Type, value: dict[str, object]) -> bool:
    """The members in `value`, all known to exist, those of anonymous members as theirs. True when complete."""
    index = into.index
    if kind.kind == UNION:
        chosen = _chosen(index, place, value)
        if len(chosen) != 1:
            known = ", ".join(name for name, _ in named_members(index, place))
            what = f"a union takes exactly one member, {len(chosen)} are given" if chosen else "no member is named"
            into.errors.append((place, BadValue(what, hint=f"one of {known}")))
            return False
    complete = True
    for name, inner in own_members(index, place):
        present = name in value if name else any(deep in value for deep, _ in named_members(index, inner))
        if present:
            whole = collect(into, inner, value[name]) if name else _anonymous(into, inner, value)
            complete = complete and whole
        elif kind.kind == STRUCT:
            complete = False
    return complete


def _chosen(index: Index, place: Place, value: dict[str, object]) -> list[str]:
    """Which members of a union are meant, an anonymous struct in it counting as one."""
    chosen = []
    for name, inner in own_members(index, place):
        if name in value or (not name and any(deep in value for deep, _ in named_members(index, inner))):
            chosen.append(name)
    return chosen


def _anonymous(into: Collector, place: Place, value: dict[str, object]) -> bool:
    assert place.type is not None
    inside = {name: value[name] for name, _ in named_members(into.index, place) if name in value}
    first = len(into.writes)
    return _own(into, place, place.type, inside) and _pad(into, place, len(into.writes) - first)


def _pad(into: Collector, place: Place, count: int) -> bool:
    """Zero what the last `count` writes leave of `place`."""
    spans = sorted((inner.bit_offset, inner.bit_offset + inner.bit_size) for inner, _ in into.writes[-count:])
    position = place.bit_offset
    assert place.type is not None  # whose size leaves out what a flexible array member holds
    for start, end in [*spans, (place.bit_offset + 8 * place.type.size, 0)]:
        if start > position:
            into.writes.append(_zeros(place, position, start - position))
        position = max(position, end)
    return True


def _zeros(place: Place, bit_offset: int, bit_size: int) -> Write:
    aligned = not bit_offset % 8 and not bit_size % 8
    gap = Place(
        f"{place.path} (padding)",
        place.row,
        place.variable,
        None,
        None,
        bit_offset,
        bit_size,
        bitfield=not aligned,
        padding=True,
    )
    return gap, bytes(bit_size // 8) if aligned else 0


# --- back to data -----------------------------------------------------------------------------------------------


def data_of(index: Index, place: Place, raw: bytes | int) -> object:
    """The value at `place` as JSON holds it; `collect` reads it back to the same bytes (padding aside)."""
    kind = place.type
    if kind is None:
        assert isinstance(raw, bytes)
        return f"hex:{raw.hex()}"
    if kind.kind not in (STRUCT, UNION, ARRAY) or isinstance(raw, int):
        return _scalar_data(index, place, kind, raw)
    if text_form(index, place):
        shown = text.show(index, place, raw)
        if shown is not None:
            return shown
    if kind.kind == ARRAY:
        return [data_of(index, inner, part(index, place, inner, raw)) for inner in elements(index, place)]
    members = list(own_members(index, place))
    if kind.kind == UNION and members:
        members = [max(members, key=lambda item: item[1].bit_size)]
    found: dict[str, object] = {}
    for name, inner in members:
        value = data_of(index, inner, part(index, place, inner, raw))
        if name:
            found[name] = value
        elif isinstance(value, dict):
            found.update(value)
    return found


def part(index: Index, place: Place, inner: Place, raw: bytes) -> bytes | int:
    """The bytes (bit pattern of a bit-field) of `inner` out of those of `place`, which contains it."""
    start = inner.bit_offset - place.bit_offset
    if inner.bitfield:
        return read_bits(raw, start, inner.bit_size, big=index.big_endian)
    return raw[start // 8 : (start + inner.bit_size) // 8]


def _scalar_data(index: Index, place: Place, kind: Type, raw: bytes | int) -> object:
    shown = scalar.show(index, place, raw)
    if kind.kind == BOOL and shown in ("true", "false"):
        return shown == "true"
    if kind.kind in (INT, ENUM) or kind.kind in scalar.NUMBERS:
        number = scalar.decode(index, place, raw)
        if shown == str(number) and abs(number) < EXACT_IN_JSON:
            return number
    return short(shown, 1 << 16)
