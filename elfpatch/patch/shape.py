"""Which structs, unions and arrays one text can name: character and byte arrays, addresses, prefixes."""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.index import ARRAY, CHAR, INT, NETWORK_ORDER, STRUCT, UNION, Index, Type
from elfpatch.patch.describe import type_text
from elfpatch.patch.path import named_members
from elfpatch.patch.place import Place

ADDRESS_SIZES = {"ipv4": 4, "ipv6": 16, "mac": 6}
_KNOWN_STRUCTS = {"struct in_addr": "ipv4", "struct in6_addr": "ipv6", "in_addr": "ipv4", "in6_addr": "ipv6"}
_PREFIX_NAMES = ("prefixlen", "prefix_len", "prefix", "plen", "len", "bits", "masklen", "mask_len", "cidr")
_MASK_NAMES = ("mask", "netmask")
_OF_TYPES = frozenset((*ADDRESS_SIZES, "cidr"))  # formats that not every type can hold


def array_format(kind: Type, inner: Type, form: str) -> bool:
    """Whether an array as a whole holds what its tag says, rather than each of its elements: `u8 a[4]` tagged ipv4,
    `u32 a[4]` tagged ipv6."""
    size = ADDRESS_SIZES.get(form)
    if size is None or kind.kind != ARRAY or inner.kind != INT or inner.size * kind.count != size:
        return False
    return inner.size == 1 or form == "ipv6"


def text_form(index: Index, place: Place) -> str:
    """How one text writes the aggregate at `place`: char, bytes (`hex:`), ipv4, ipv6, mac, cidr, or "" for not at
    all. Scalars give ""."""
    form = place.form
    if form is None:
        form = place.form = _text_form(index, place)
    return form


def _text_form(index: Index, place: Place) -> str:
    kind = place.type
    if kind is None or kind.kind not in (ARRAY, STRUCT, UNION):
        return ""
    form = place.format
    if kind.kind == ARRAY:
        inner = index.row(Type, kind.ref)
        if form and array_format(kind, inner, form):
            return form
        if inner.kind == CHAR:
            return "char"
        return "bytes" if inner.kind == INT and inner.size == 1 else ""
    if form in ADDRESS_SIZES and kind.size == ADDRESS_SIZES[form]:
        return form
    if form == "cidr":
        return "cidr" if prefix_shape(index, place) else ""
    return _KNOWN_STRUCTS.get(kind.name, "")


def holds_address(index: Index, place: Place) -> str:
    """ipv4 or ipv6 when `place` can be the address of a prefix by its type alone, else ""."""
    kind = place.type
    if kind is None or place.bitfield:
        return ""
    form = text_form(index, place) or place.format
    if form in ("ipv4", "ipv6"):
        return form
    bare = kind.kind in (ARRAY, STRUCT, UNION) or (kind.kind == INT and kind.size in (4, 16))
    return {4: "ipv4", 16: "ipv6"}.get(kind.size, "") if bare else ""


class Prefix:
    """How a struct holds a prefix: its address (4 or 16 bytes) and either its prefix length or its netmask."""

    __slots__ = ("address", "length", "mask")

    def __init__(self, address: Place, length: Place | None, mask: Place | None) -> None:
        self.address = address
        self.length = length
        self.mask = mask


def prefix_shape(index: Index, place: Place) -> Prefix | None:
    """How the struct at `place` holds a prefix, None when it does not: it needs exactly an address and a prefix
    length or a netmask, as `struct bpf_lpm_trie_key` and most hand-made ones do."""
    kind = place.type
    if kind is None or kind.kind != STRUCT:
        return None
    members = list(named_members(index, place))
    if len(members) != 2:
        return None
    for (name, one), (other_name, other) in (members, members[::-1]):
        if not holds_address(index, other) or _named(other_name, _PREFIX_NAMES) or _named(other_name, _MASK_NAMES):
            continue
        if _named(name, _MASK_NAMES) and one.bit_size == other.bit_size and holds_address(index, one):
            return Prefix(other, None, one)
        if one.type is not None and one.type.kind == INT and not one.bitfield and one.type.size <= 8:
            by_type = one.type.size < 4 and not one.type.flags & NETWORK_ORDER
            if _named(name, _PREFIX_NAMES) or by_type:
                return Prefix(other, one, None)
    return None


def _named(name: str, known: tuple[str, ...]) -> bool:
    name = name.lower()
    return any(name == word or name.endswith("_" + word) for word in known)


def misfit(index: Index, place: Place) -> BadValue | None:
    """The error for a place whose tag says what its type cannot hold, None when they agree."""
    form, kind = place.format, place.type
    if form not in _OF_TYPES or kind is None or text_form(index, place) == form:
        return None
    if kind.kind == INT and ADDRESS_SIZES.get(form) == kind.size and form != "mac" and not place.bitfield:
        return None
    needs = {
        "ipv4": "32 bits: u32, __be32, u8[4] or struct in_addr",
        "ipv6": "128 bits: u8[16], u32[4] or struct in6_addr",
        "mac": "6 bytes: u8[6]",
        "cidr": "a struct of an address (u32, u8[4], u8[16], ...) and a prefix length (named prefixlen, len, bits)",
    }[form]
    return BadValue(
        f"{place.path} is tagged {form} but its type {type_text(index, kind)} cannot hold one", hint=f"it needs {needs}"
    )
