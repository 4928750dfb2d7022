"""The JSON Schema (draft 2020-12) of a template's values: what a `-f` file may hold."""

from __future__ import annotations

from elfpatch.index import (
    ARRAY,
    BOOL,
    CHAR,
    ENUM,
    INT,
    KIND_NAMES,
    NETWORK_ORDER,
    SETTABLE,
    STRUCT,
    UNION,
    Index,
    Section,
    Type,
    Variable,
)
from elfpatch.patch import scalar
from elfpatch.patch.aggregate import data_of
from elfpatch.patch.describe import type_text
from elfpatch.patch.enumeration import enumerators
from elfpatch.patch.path import element, named_members, own_members
from elfpatch.patch.place import Place, whole
from elfpatch.patch.shape import text_form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.patch.image import Template

    Schema = dict[str, object]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
INTEGER = "^-?(0|[1-9][0-9]*(_[0-9]+)*|0[xX][0-9a-fA-F]+(_[0-9a-fA-F]+)*|0[oO][0-7]+(_[0-7]+)*|0[bB][01]+(_[01]+)*)$"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(\.{_OCTET}){{3}}"
_IPV6 = r"[0-9a-fA-F:]*:[0-9a-fA-F:.]*"
_PAIR = "[0-9a-fA-F]{2}"
PATTERNS = {
    "ipv4": f"^{_IPV4}$",
    "ipv6": f"^{_IPV6}$",
    "mac": f"^({_PAIR}(:{_PAIR}){{5}}|{_PAIR}(-{_PAIR}){{5}})$",
    "cidr": f"^({_IPV4}|{_IPV6})/[0-9]{{1,3}}$",
    "duration": r"^-?([0-9]+(\.[0-9]+)?[a-zA-Z\u00b5\u03bc]+)+$",
    "size": r"^[0-9]+(\.[0-9]+)?[a-zA-Z]+$",
}
DEFAULT_SHOWN = 4096  # bytes: the default of a larger variable is left out
_BOOL = ["true", "false", "on", "off", "yes", "no", "1", "0"]


def schema(template: Template) -> Schema:
    """The schema as JSON data: one property for each settable variable, nested as the types are.

    A key may also be a longer path (`ep.ip4`, `ports[2]`) or name the object (`prog:foo`); the values of those are
    left to elfpatch. Nothing is `required`: what one file leaves out another file or `--set` may give.
    """
    index = template.index
    properties: Schema = {}
    dotted = set()
    longer = []
    for row, variable in enumerate(index.rows(Variable)):
        if not variable.flags & SETTABLE:
            continue
        place = whole(index, row, variable)
        properties[place.path] = _variable(template, place)
        dotted.add(place.path.partition(".")[0] if "@" not in place.path else place.path)
        if place.type is not None and place.type.kind in (STRUCT, UNION, ARRAY):
            longer.append(f"^{_escaped(place.path)}[.\\[]")
    for head in dotted - properties.keys():  # TOML reads the bare key `fn.var` as `var` inside `fn`
        properties[head] = {"type": "object"}
    stem = index.info.stem
    return {
        "$schema": DIALECT,
        "title": f"values of {stem}",
        "type": "object",
        "properties": properties,
        "patternProperties": dict.fromkeys([*longer, f"^{_escaped(stem)}:"], True),
        "additionalProperties": False,
    }


def _variable(template: Template, place: Place) -> Schema:
    """A variable's schema, with its default and where it is."""
    index = template.index
    described = of_place(index, place)
    raw = template.raw(place)
    if place.size <= DEFAULT_SHOWN:
        described["default"] = data_of(index, place, raw)
    described["x-elfpatch"] = {
        "type": type_text(index, place.type) if place.type else "unknown",
        "section": index.row(Section, place.section).name,
        "offset": place.offset,
        "size": place.size,
    }
    return described


def of_place(index: Index, place: Place) -> Schema:
    """The schema of one place. The tags' description, unit, and `required` are annotations."""
    kind = place.type
    if kind is None:
        found = _untyped(place)
    elif kind.kind == ARRAY:
        found = _array(index, place, kind)
    elif kind.kind in (STRUCT, UNION):
        found = _members(index, place, kind)
    else:
        found = _scalar(index, place, kind)
    meta = place.meta
    if meta is not None:
        annotations = {"description": meta.description, "x-unit": meta.unit, "x-required": bool(meta.required)}
        found = {**{key: value for key, value in annotations.items() if value}, **found}
    return found


def _scalar(index: Index, place: Place, kind: Type) -> Schema:
    low, high = scalar.bounds(place)
    number: Schema = {"type": "integer", "minimum": low, "maximum": high}
    raw = [] if place.bitfield else [_hex(place.size)]
    if kind.kind == BOOL:
        words = "|".join(_any_case(word) for word in _BOOL)
        return _any({"type": "boolean"}, {"enum": [0, 1]}, _pattern(f"^({words})$"), *raw)
    if kind.kind == ENUM:
        return _any(*_enum(index, place, kind), *raw)
    if kind.kind not in (INT, CHAR):
        return _any(*raw) if raw else {"not": {}, "description": f"a {KIND_NAMES[kind.kind]} takes no value"}
    form = place.format if not place.bitfield else ""
    network = bool(kind.flags & NETWORK_ORDER)
    if form in ("ipv4", "ipv6") and kind.kind == INT:
        plain = [number, _pattern(INTEGER)] if network and form == "ipv4" else []
        return _any(_pattern(PATTERNS[form]), *plain, *raw)
    texts = [_pattern(INTEGER)]
    if form in ("duration", "size"):
        texts.append(_pattern(PATTERNS[form]))
    elif network and kind.size == 4 and not place.bitfield:
        texts.append(_pattern(PATTERNS["ipv4"]))
    return _any(number, *texts, *raw)


def _enum(index: Index, place: Place, kind: Type) -> list[Schema]:
    known = enumerators(index, kind)
    names = [name for name, _ in known]
    if place.format == "flags":
        one = "|".join([*names, "[0-9][0-9a-fA-FxXoObB_]*"])
        return [_pattern(rf"^ *({one}) *(\| *({one}) *)*$"), {"type": "integer"}]
    return [{"enum": [*names, *dict.fromkeys(value for _, value in known)]}, _pattern(INTEGER)]


def _array(index: Index, place: Place, kind: Type) -> Schema:
    items = of_place(index, element(index, place, 0)) if kind.count else {}
    whole_array: Schema = {"type": "array", "items": items, "minItems": kind.count, "maxItems": kind.count}
    some: Schema = {"type": "object", "patternProperties": {"^[0-9]": items}, "additionalProperties": False}
    form = text_form(index, place)
    texts: list[Schema] = []
    if form == "char":
        texts.append({"type": "string", "maxLength": max(kind.size - 1, 0)})
    elif form:
        texts += [_pattern(PATTERNS[form])] if form in PATTERNS else _octets(kind)
        texts.append(_hex(kind.size))
    elif not place.bitfield:
        texts.append(_hex(kind.size))
    return _any(*texts, whole_array, some)


def _octets(kind: Type) -> list[Schema]:
    form = {6: "mac", 16: "ipv6"}.get(kind.size)
    return [_pattern(PATTERNS[form])] if form else []


def _members(index: Index, place: Place, kind: Type) -> Schema:
    properties: Schema = {name: of_place(index, inner) for name, inner in named_members(index, place)}
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    limits = list(_one_of_each_union(index, place, kind))
    if limits:
        found["allOf"] = limits
    form = text_form(index, place)
    texts = [_pattern(PATTERNS[form])] if form else []
    return _any(found, *texts, _hex(kind.size))


def _one_of_each_union(index: Index, place: Place, kind: Type) -> list[Schema]:
    """Of a union's members exactly one, of an anonymous union's at most one."""
    limits: list[Schema] = []
    groups = []
    for name, inner in own_members(index, place):
        names = [name] if name else [deep for deep, _ in named_members(index, inner)]
        groups.append(names)
        if not name and inner.type is not None and kind.kind == STRUCT and inner.type.kind in (STRUCT, UNION):
            limits += _optional(_one_of_each_union(index, inner, inner.type), names)
    if kind.kind == UNION:
        choices: list[Schema] = [_mentions(names) for names in groups if names]
        limits.append({"oneOf": choices})
    return limits


def _optional(limits: list[Schema], names: list[str]) -> list[Schema]:
    """The limits of an anonymous union, only where one of its members is given."""
    return [{"anyOf": [{"not": _mentions(names)}, limit]} for limit in limits]


def _mentions(names: list[str]) -> Schema:
    return {"anyOf": [{"required": [name]} for name in names]}


def _untyped(place: Place) -> Schema:
    found = [_hex(place.size)]
    if place.bit_size in (8, 16, 32, 64, 128):
        found.append(_pattern(f"^(be|s|u){place.bit_size}:{INTEGER[1:]}"))
    return _any(*found)


def _hex(size: int) -> Schema:
    return _pattern(f"^hex:[0-9a-fA-F]{{{2 * size}}}$")


def _pattern(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def _any(*choices: Schema) -> Schema:
    return dict(choices[0]) if len(choices) == 1 else {"anyOf": list(choices)}


def _any_case(word: str) -> str:
    return "".join(f"[{char}{char.upper()}]" if char.isalpha() else char for char in word)


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in "^$\\.*+?()[]{}|/" else char for char in text)
