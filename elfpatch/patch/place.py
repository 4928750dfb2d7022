"""A place: some bits of a variable, and how a path comes to name them.

A path is `name{.member|[index]}`, with `object:` in front where two objects use one name. A variable's own name may
hold dots (clang names a function's statics `fn.var`), so the longest name that exists wins. Where several statics share
a name, `name@SECTION+0xOFFSET` picks one. What comes after the name is for `path`, which most applies do without.
"""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.index import KEY, SETTABLE, Index, Meta, Section, Type, Variable
from elfpatch.patch.number import short


class Place:
    """A range of a variable's bits and what BTF and the declaration tags say of it.

    `bit_offset` counts from the variable's start, as `Member.bit_offset` does. `type` is None where the object has no
    BTF for the variable, and for the padding of a struct (`padding`). `meta` is the tag that applies: the member's or
    variable's own, handed down through arrays to their elements. `section` is a row in SECTIONS, `offset` the first
    byte counted from the section's start, `size` the bytes it takes (of a bit-field those that hold it); `start` is its
    first bit counted from there. `form` and `bounds` are what `shape.text_form` and `scalar.bounds` found, once asked;
    `told` is what `record` last made of which value.
    """

    __slots__ = (
        "path",
        "row",
        "variable",
        "type",
        "meta",
        "bit_offset",
        "bit_size",
        "bitfield",
        "padding",
        "section",
        "offset",
        "size",
        "start",
        "form",
        "bounds",
        "told",
    )

    def __init__(
        self,
        path: str,
        row: int,
        variable: Variable,
        kind: Type | None,
        meta: Meta | None,
        bit_offset: int,
        bit_size: int,
        bitfield: bool = False,
        padding: bool = False,
    ) -> None:
        self.path = path
        self.row = row
        self.variable = variable
        self.type = kind
        self.meta = meta
        self.bit_offset = bit_offset
        self.bit_size = bit_size
        self.bitfield = bitfield
        self.padding = padding
        self.section = variable.section
        self.offset = variable.offset + bit_offset // 8
        self.size = (bit_offset % 8 + bit_size + 7) // 8
        self.start = 8 * variable.offset + bit_offset
        self.form: str | None = None
        self.bounds: tuple[int, int] | None = None
        self.told: tuple[bytes | int, list[tuple[str, str]]] | None = None

    @property
    def description(self) -> str:
        return self.meta.description if self.meta else ""

    @property
    def format(self) -> str:
        """What its declaration tag says it holds: ipv4, duration, ... or ""."""
        return self.meta.format if self.meta else ""

    def __repr__(self) -> str:
        return f"Place({self.path!r}, section {self.section}, bits {self.bit_offset}+{self.bit_size})"


def position(place: Place) -> tuple[int, int, int]:
    """Sorts places by sections and bits, each before what it contains."""
    return place.section, place.start, -place.bit_size


# --- resolving --------------------------------------------------------------------------------------------------


def resolve(index: Index, path: str) -> Place:
    """The place a path names, settable or not. Raises BadValue with the nearest names when there is none."""
    body = _without_object(index, path)
    row, variable, name, rest = _variable(index, body)
    place = whole(index, row, variable, name)
    if rest:
        from elfpatch.patch.path import follow

        return follow(index, place, rest)
    return place


def whole(index: Index, row: int, variable: Variable, name: str = "") -> Place:
    """The place of a whole variable. `name` is how its path calls it, by default what makes it unambiguous."""
    kind = index.row(Type, variable.type) if variable.type >= 0 else None
    meta = index.row(Meta, variable.meta) if variable.meta >= 0 else None
    return Place(name or unambiguous(index, variable), row, variable, kind, meta, 0, 8 * variable.size)


def unambiguous(index: Index, variable: Variable) -> str:
    """The variable's name, with its section and offset when another one shares it."""
    if len(index.variables_named(variable.name)) < 2:
        return variable.name
    return f"{variable.name}@{index.row(Section, variable.section).name}+{variable.offset:#x}"


def require_settable(place: Place) -> None:
    """Raise BadValue, with the reason the compiler wing found, when setting the variable would change nothing."""
    if not place.variable.flags & SETTABLE:
        why = place.variable.why_not or "the program does not read it"
        raise BadValue(f"{place.variable.name} cannot be set: {why}", hint="--force writes it nevertheless")


def _without_object(index: Index, path: str) -> str:
    stem, colon, rest = path.partition(":")
    if not colon:
        return path
    if stem != index.info.stem:
        raise BadValue(f"there is no object `{short(stem)}` here", hint=f"the object is {index.info.stem}")
    return rest


def _variable(index: Index, path: str) -> tuple[int, Variable, str, str]:
    """Row, variable, the name used and what follows it: the longest prefix of `path` that names a variable."""
    if "@" in path:
        from elfpatch.patch.path import located

        return located(index, path)
    head = path.partition("[")[0]
    name = head
    while name:
        found = index.variables_named(name)
        if len(found) == 1:
            return (*found[0], name, path[len(name) :])
        if found and all(variable.flags & KEY and not variable.flags & SETTABLE for _, variable in found):
            raise BadValue(f"{name} cannot be set: {found[0][1].why_not}")
        if found:
            choices = ", ".join(unambiguous(index, variable) for _, variable in found)
            raise BadValue(f"{len(found)} variables are named {name}", hint=f"name one of them: {choices}")
        name = name.rpartition(".")[0]
    from elfpatch.patch.path import unknown

    raise unknown(index, head)
