"""The parts of a place: what follows a variable's name in a path, `.member` and `[index]`, and what there is to walk.

Members of anonymous structs and unions are members of what contains them, as in C.
"""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.index import ARRAY, SETTABLE, STRUCT, UNION, Index, Member, Meta, Section, Type, Variable
from elfpatch.patch.number import parse_integer, short
from elfpatch.patch.place import Place, resolve, unambiguous, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Place",
    "array_index",
    "element",
    "elements",
    "leaves",
    "leaves_of",
    "member",
    "named_members",
    "own_members",
    "resolve",
    "unambiguous",
    "whole",
]

# --- following a path -------------------------------------------------------------------------------------------


def follow(index: Index, place: Place, rest: str) -> Place:
    """The place that `rest` of a path leads to from `place`. Raises BadValue."""
    while rest:
        place, rest = _step(index, place, rest)
    return place


def located(index: Index, path: str) -> tuple[int, Variable, str, str]:
    """`name@SECTION+0xOFFSET...`: one of several variables of this name."""
    name, _, location = path.partition("@")
    found = index.variables_named(name)
    if not found:
        raise unknown(index, name)
    for row, variable in found:
        label = f"{index.row(Section, variable.section).name}+{variable.offset:#x}"
        rest = location[len(label) :]
        if location.startswith(label) and rest[:1] in ("", ".", "["):
            used = f"{name}@{label}" if len(found) > 1 else name
            return row, variable, used, rest
    choices = ", ".join(f"{name}@{index.row(Section, v.section).name}+{v.offset:#x}" for _, v in found)
    raise BadValue(f"no {name} is at `{short(location)}`", hint=f"there is {choices}")


def unknown(index: Index, name: str) -> BadValue:
    """The error for a name that no variable has."""
    from elfpatch.patch.names import did_you_mean

    variables = list(index.rows(Variable))
    known = [variable.name for variable in variables if variable.flags & SETTABLE]
    first = name.partition(".")[0]
    hint = did_you_mean(first if first and name not in known else name, known, "variables that can be set")
    return BadValue(f"there is no variable `{short(name)}`" if name else "the path names no variable", hint=hint)


def _step(index: Index, place: Place, rest: str) -> tuple[Place, str]:
    """The place one `.member` or `[index]` further and what follows."""
    if rest[0] == "[":
        number, bracket, after = rest[1:].partition("]")
        if not bracket:
            raise BadValue(f"`{short(rest)}` after {place.path} has no closing bracket")
        return element(index, place, array_index(number, place)), after
    if rest[0] != ".":
        raise BadValue(f"`{short(rest)}` after {place.path} is neither a .member nor an [index]")
    end = 1
    while end < len(rest) and rest[end] not in ".[":
        end += 1
    return member(index, place, rest[1:end]), rest[end:]


def array_index(text: str, place: Place) -> int:
    """The number inside brackets."""
    try:
        return parse_integer(text)
    except BadValue as error:
        raise BadValue(f"the index of {place.path} is wrong: {error.what}", hint=error.hint) from None


def element(index: Index, place: Place, number: int) -> Place:
    """Element `number` of the array at `place`. Raises BadValue when it is no array or the number is outside."""
    kind = place.type
    if kind is None or kind.kind != ARRAY:
        raise BadValue(f"{place.path} is not an array{_is(index, kind)}")
    if not 0 <= number < kind.count:
        inside = f"0..{kind.count - 1}" if kind.count else "nothing: the array is empty"
        raise BadValue(f"index {number} of {place.path} is outside {inside}")
    return next(elements(index, place, number, number + 1))


def elements(index: Index, place: Place, first: int = 0, end: int | None = None) -> Iterator[Place]:
    """The elements of the array at `place`, all or those from `first` to before `end`."""
    kind = place.type
    assert kind is not None
    inner = index.row(Type, kind.ref)
    meta = _handed_down(place.meta, kind, inner)
    bits = 8 * inner.size
    for number in range(first, kind.count if end is None else end):
        at = place.bit_offset + number * bits
        yield Place(f"{place.path}[{number}]", place.row, place.variable, inner, meta, at, bits)


def _handed_down(meta: Meta | None, kind: Type, inner: Type) -> Meta | None:
    """The tag of an array as its elements see it: a format that the array as a whole fulfils is not theirs."""
    from elfpatch.patch.shape import array_format

    if meta is not None and meta.format and array_format(kind, inner, meta.format):
        return Meta(meta.description, meta.unit, "", "", "", meta.required)
    return meta


def member(index: Index, place: Place, name: str) -> Place:
    """Member `name` of the struct or union at `place`, found through anonymous ones too. Raises BadValue."""
    kind = place.type
    if kind is None or kind.kind not in (STRUCT, UNION):
        raise BadValue(f"{place.path} has no members{_is(index, kind)}")
    found = _find_member(index, place, kind, name) if name else None
    if found is None:
        from elfpatch.patch.names import did_you_mean

        known = [name for name, _ in named_members(index, place)]
        raise BadValue(f"{place.path} has no member `{short(name)}`", hint=did_you_mean(name, known, "members"))
    return found


def _find_member(index: Index, place: Place, kind: Type, name: str) -> Place | None:
    for row in index.rows(Member, kind.first, kind.members):
        if row.name == name:
            return _member_place(index, place, row)
        if not row.name and not row.bit_size:
            inner = _member_place(index, place, row)
            if inner.type is not None and inner.type.kind in (STRUCT, UNION):
                found = _find_member(index, inner, inner.type, name)
                if found is not None:
                    return found
    return None


def _member_place(index: Index, place: Place, row: Member) -> Place:
    """The place of a member row; an anonymous one keeps the path of what contains it."""
    kind = index.row(Type, row.type)
    meta = index.row(Meta, row.meta) if row.meta >= 0 else None
    path = f"{place.path}.{row.name}" if row.name else place.path
    bits = row.bit_size or 8 * kind.size
    at = place.bit_offset + row.bit_offset
    return Place(path, place.row, place.variable, kind, meta, at, bits, bool(row.bit_size))


def own_members(index: Index, place: Place) -> Iterator[tuple[str, Place]]:
    """Name and place of each member; anonymous structs and unions come as themselves, unnamed padding bit-fields not
    at all."""
    kind = place.type
    assert kind is not None
    for row in index.rows(Member, kind.first, kind.members):
        if row.name or not row.bit_size:
            yield row.name, _member_place(index, place, row)


def named_members(index: Index, place: Place) -> Iterator[tuple[str, Place]]:
    """Name and place of each member, those of anonymous structs and unions included."""
    for name, inner in own_members(index, place):
        if name:
            yield name, inner
        elif inner.type is not None and inner.type.kind in (STRUCT, UNION):
            yield from named_members(index, inner)


def _is(index: Index, kind: Type | None) -> str:
    if kind is None:
        return ": the object has no BTF for it"
    from elfpatch.patch.describe import type_text

    return f": it is {type_text(index, kind)}"


# --- walking ----------------------------------------------------------------------------------------------------


def leaves(index: Index, row: int, *, open_arrays: bool = False) -> Iterator[Place]:
    """The places of variable `row` that take a value of their own, in the order of declaration.

    Structs and unions are opened (all members of a union come) unless one text names the whole (an address, a
    prefix). Arrays are one leaf, or with `open_arrays` opened unless one text names the whole (char[N], u8[N]).
    """
    yield from _leaves(index, whole(index, row, index.row(Variable, row)), open_arrays)


def leaves_of(index: Index, place: Place) -> Iterator[Place]:
    """The places inside `place` that take a value of their own, arrays opened."""
    yield from _leaves(index, place, True)


def _leaves(index: Index, place: Place, open_arrays: bool) -> Iterator[Place]:
    from elfpatch.patch.shape import text_form

    kind = place.type
    if kind is None or text_form(index, place):
        yield place
    elif kind.kind in (STRUCT, UNION):
        for _, inner in own_members(index, place):
            yield from _leaves(index, inner, open_arrays)
    elif kind.kind == ARRAY and open_arrays:
        for inner in elements(index, place):
            yield from _leaves(index, inner, open_arrays)
    else:
        yield place
