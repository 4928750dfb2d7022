"""Types in words: `u16[4][2]`, `struct endpoint`, `enum mode`."""

from __future__ import annotations

from elfpatch.index import (
    ARRAY,
    BOOL,
    CHAR,
    ENUM,
    INT,
    KIND_NAMES,
    NETWORK_ORDER,
    SIGNED,
    STRUCT,
    UNION,
    Index,
    Type,
)


def type_text(index: Index, kind: Type) -> str:
    """How the type reads in a message: close to C, integers as s8..u128 where C's own name depends on the machine."""
    dimensions = ""
    while kind.kind == ARRAY:
        if kind.typedef:
            return kind.typedef + dimensions
        dimensions += f"[{kind.count}]"
        kind = index.row(Type, kind.ref)
    return _base_text(kind) + dimensions


def integer_text(kind: Type) -> str:
    """`u32`, `s64`, `be16`: the short name of an integer type."""
    if kind.flags & NETWORK_ORDER:
        return f"be{8 * kind.size}"
    return f"{'s' if kind.flags & SIGNED else 'u'}{8 * kind.size}"


def _base_text(kind: Type) -> str:
    if kind.kind == INT:
        return kind.typedef if kind.typedef.startswith("__be") else integer_text(kind)
    if kind.kind == BOOL:
        return "static key" if kind.size > 1 else "bool"
    if kind.kind == CHAR:
        return "char"
    name = kind.typedef or kind.name
    if kind.kind in (STRUCT, UNION, ENUM):
        word = KIND_NAMES[kind.kind]
        return name if kind.typedef or name.startswith(word) else f"{word} {name or '{...}'}"
    return name or KIND_NAMES[kind.kind]
