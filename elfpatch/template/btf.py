"""BTF and BTF.ext: the types of an object and what its instructions say of themselves.

Layout: Documentation/bpf/btf.rst of Linux. `Btf` keeps the section's bytes beside the decoded types, because what the
kernel is given is the same bytes with a few fields mended in place (`kernel_ready`): type ids stay what they were.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from attrs import frozen

from elfpatch.errors import BadObject

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)
QUALIFIERS = (VOLATILE, CONST, RESTRICT, TYPE_TAG)

INT_SIGNED, INT_CHAR, INT_BOOL = 1, 2, 4
VAR_STATIC, VAR_GLOBAL = 0, 1
FUNC_STATIC, FUNC_GLOBAL = 0, 1

_HEADER = 24
_MAX_DEPTH = 64


@frozen
class BtfMember:
    name: str
    type: int
    bit_offset: int
    bit_size: int  # > 0: a bit-field


@frozen
class BtfVarSec:
    type: int
    offset: int
    size: int


@frozen
class BtfType:
    """One type. `size` or `ref` is set as the kind wants it; `at` is where its record starts in the section."""

    id: int
    kind: int
    name: str
    at: int
    kind_flag: bool
    vlen: int
    size: int
    ref: int
    encoding: int = 0  # INT
    bits: int = 0  # INT
    count: int = 0  # ARRAY elements
    linkage: int = 0  # VAR
    component: int = -1  # DECL_TAG
    members: tuple[BtfMember, ...] = ()
    enumerators: tuple[tuple[str, int], ...] = ()
    variables: tuple[BtfVarSec, ...] = ()


def _bad(what: str, where: str = ".BTF") -> BadObject:
    return BadObject(what, where=where, hint="the object's BTF is damaged")


class Btf:
    """The types of an object, by id from 1; id 0 is void."""

    def __init__(self, data: bytes, big_endian: bool) -> None:
        self.data = data
        self.order = ">" if big_endian else "<"
        self.types: list[BtfType] = []
        try:
            self._parse()
        except struct.error:
            raise _bad("a type record ends outside the section") from None
        self._tags: dict[tuple[int, int], list[str]] = {}
        for kind in self.types:
            if kind.kind == DECL_TAG:
                self._tags.setdefault((kind.ref, kind.component), []).append(kind.name)

    def _parse(self) -> None:
        if len(self.data) < _HEADER:
            raise _bad("the header is truncated")
        magic, version, _, header_size, type_off, type_len, str_off, str_len = struct.unpack_from(
            self.order + "HBBIIIII", self.data
        )
        if magic != 0xEB9F or version != 1:
            raise _bad(f"magic {magic:#x} and version {version} are not known")
        self.types_at = header_size + type_off
        strings_at = header_size + str_off
        strings_end = strings_at + str_len
        self.types_end = self.types_at + type_len
        if self.types_end > len(self.data) or strings_end > len(self.data) or header_size < _HEADER:
            raise _bad("types or strings end outside the section")
        self.strings = self.data[strings_at:strings_end]
        position = self.types_at
        while position < self.types_end:
            record, position = self._type(position, len(self.types) + 1)
            self.types.append(record)
        if position != self.types_end:
            raise _bad("the last type ends outside the section")

    def string(self, offset: int) -> str:
        if offset >= len(self.strings):
            if offset == 0:
                return ""
            raise _bad(f"string offset {offset} is outside the string table")
        end = self.strings.find(b"\0", offset)
        if end < 0:
            raise _bad(f"the string at {offset} does not end")
        return self.strings[offset:end].decode("utf-8", "surrogateescape")

    def _type(self, at: int, number: int) -> tuple[BtfType, int]:
        name_off, info, size_or_ref = struct.unpack_from(self.order + "III", self.data, at)
        kind, vlen, flag = info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31)
        name, after = self.string(name_off), at + 12
        size, ref = (size_or_ref, 0) if kind in (INT, STRUCT, UNION, ENUM, ENUM64, DATASEC, FLOAT) else (0, size_or_ref)
        base = (number, kind, name, at, flag, vlen, size, ref)
        if kind == INT:
            (word,) = struct.unpack_from(self.order + "I", self.data, after)
            return BtfType(*base, encoding=word >> 24 & 0xF, bits=word & 0xFF), after + 4
        if kind == ARRAY:
            element, _index, count = struct.unpack_from(self.order + "III", self.data, after)
            return BtfType(*base[:-1], element, count=count), after + 12
        if kind in (STRUCT, UNION):
            members = tuple(self._member(after + 12 * i, flag) for i in range(vlen))
            return BtfType(*base, members=members), after + 12 * vlen
        if kind == ENUM:
            values = [struct.unpack_from(self.order + "Ii", self.data, after + 8 * i) for i in range(vlen)]
            return BtfType(*base, enumerators=tuple((self.string(n), v) for n, v in values)), after + 8 * vlen
        if kind == ENUM64:
            wide = [struct.unpack_from(self.order + "III", self.data, after + 12 * i) for i in range(vlen)]
            return (
                BtfType(*base, enumerators=tuple((self.string(n), low | high << 32) for n, low, high in wide)),
                after + 12 * vlen,
            )
        if kind == DATASEC:
            parts = [struct.unpack_from(self.order + "III", self.data, after + 12 * i) for i in range(vlen)]
            return BtfType(*base, variables=tuple(BtfVarSec(*part) for part in parts)), after + 12 * vlen
        if kind == VAR:
            (linkage,) = struct.unpack_from(self.order + "I", self.data, after)
            return BtfType(*base, linkage=linkage), after + 4
        if kind == DECL_TAG:
            (component,) = struct.unpack_from(self.order + "i", self.data, after)
            return BtfType(*base, component=component), after + 4
        if kind == FUNC_PROTO:
            return BtfType(*base), after + 8 * vlen
        if kind in (PTR, FWD, TYPEDEF, FUNC, FLOAT, *QUALIFIERS):
            return BtfType(*base), after
        raise _bad(f"type {number} has kind {kind}, which is not known")

    def _member(self, at: int, bit_fields: bool) -> BtfMember:
        name, ref, offset = struct.unpack_from(self.order + "III", self.data, at)
        if bit_fields:
            return BtfMember(self.string(name), ref, offset & 0xFFFFFF, offset >> 24)
        return BtfMember(self.string(name), ref, offset, 0)

    def type(self, number: int) -> BtfType:
        """The type of this id (not 0)."""
        if not 1 <= number <= len(self.types):
            raise _bad(f"type id {number} does not exist")
        return self.types[number - 1]

    def of_kind(self, kind: int) -> Iterator[BtfType]:
        return (record for record in self.types if record.kind == kind)

    def tags(self, number: int, component: int = -1) -> list[str]:
        """The declaration tags of a type, or of its member `component`."""
        return self._tags.get((number, component), [])

    def strip(self, number: int, kinds: tuple[int, ...] = (*QUALIFIERS, TYPEDEF)) -> BtfType | None:
        """The first type in the chain that is of none of these kinds; None for void."""
        for _ in range(_MAX_DEPTH):
            if number == 0:
                return None
            record = self.type(number)
            if record.kind not in kinds:
                return record
            number = record.ref
        raise _bad(f"the chain of typedefs and qualifiers at type {number} does not end")

    def qualified(self, number: int, qualifier: int) -> bool:
        """Whether a qualifier stands anywhere in the chain; C puts an array's into its elements."""
        for _ in range(_MAX_DEPTH):
            if number == 0:
                return False
            record = self.type(number)
            if record.kind == qualifier:
                return True
            if record.kind not in (*QUALIFIERS, TYPEDEF, ARRAY):
                return False
            number = record.ref
        raise _bad(f"the chain of typedefs and qualifiers at type {number} does not end")

    def size_of(self, number: int, depth: int = 0) -> int:
        """The size in bytes of a type."""
        if depth > _MAX_DEPTH:
            raise _bad(f"type {number} contains itself")
        record = self.strip(number)
        if record is None:
            return 0
        if record.kind == PTR:
            return 8
        if record.kind == ARRAY:
            return record.count * self.size_of(record.ref, depth + 1)
        return record.size


def kernel_ready(btf: Btf, layout: dict[str, dict[int, int]], sizes: dict[str, int], hidden: set[str]) -> bytes:
    """The BTF as the kernel takes it: sections sized, their variables at their offsets and in order, hidden functions
    static, and what GNU C 12 writes and the kernel refuses put right.

    `layout[section][var type id]` is a variable's offset, `sizes[section]` a section's size; a DATASEC that is not in
    `sizes` (externs) becomes a struct, as libbpf does for kernels without the kind.
    """
    data = bytearray(btf.data)
    order = btf.order
    filler = next(btf.of_kind(INT), None)
    for record in btf.types:
        if record.kind == DATASEC:
            if record.name in sizes and record.variables:
                _lay_out(data, order, record, layout.get(record.name, {}), sizes[record.name])
            else:
                _as_struct(data, order, record, filler)
        elif record.kind == FUNC and (not record.name or record.vlen > FUNC_GLOBAL):
            # Functions without a name (GNU C, for helper pointers) and external ones are refused by btf_func_check; a
            # pointer to the prototype needs neither name nor linkage.
            struct.pack_into(order + "III", data, record.at, 0, PTR << 24, record.ref)
        elif record.kind == FUNC and record.name in hidden:
            struct.pack_into(order + "I", data, record.at + 4, FUNC << 24 | FUNC_STATIC)
        elif record.kind == VAR and record.linkage > VAR_GLOBAL:
            struct.pack_into(order + "I", data, record.at + 12, VAR_GLOBAL)
        elif record.kind == INT and record.encoding == INT_SIGNED | INT_CHAR:
            # "Unsupported encoding": one bit at most may be set (btf_int_check_meta)
            (word,) = struct.unpack_from(order + "I", data, record.at + 12)
            struct.pack_into(order + "I", data, record.at + 12, word & 0xF0FFFFFF | INT_SIGNED << 24)
    return bytes(data)


def _lay_out(data: bytearray, order: str, record: BtfType, offsets: dict[int, int], size: int) -> None:
    struct.pack_into(order + "I", data, record.at + 8, size)
    rows = sorted(
        (offsets.get(variable.type, variable.offset), variable.type, variable.size) for variable in record.variables
    )
    for number, (offset, var, var_size) in enumerate(rows):
        struct.pack_into(order + "III", data, record.at + 12 + 12 * number, var, offset, var_size)


def _as_struct(data: bytearray, order: str, record: BtfType, filler: BtfType | None) -> None:
    """Turn a DATASEC into a nameless struct of `filler` members: both have rows of 12 bytes, so no type id moves."""
    rows = record.vlen if filler else 0
    size = filler.size if filler and rows else 0
    struct.pack_into(order + "III", data, record.at, 0, STRUCT << 24 | record.vlen, size)
    for number in range(rows):
        assert filler is not None
        struct.pack_into(order + "III", data, record.at + 12 + 12 * number, 0, filler.id, 0)


# --- BTF.ext ----------------------------------------------------------------------------------------------------


@frozen
class ExtRecords:
    """The records of one kind: `rec_size` bytes each, by section name, each starting with the byte offset of its
    instruction in that section."""

    rec_size: int
    sections: dict[str, list[bytes]]


@frozen
class BtfExt:
    func_info: ExtRecords
    line_info: ExtRecords
    core_relos: ExtRecords


NO_RECORDS = ExtRecords(0, {})


def parse_ext(data: bytes, btf: Btf) -> BtfExt:
    """Read section .BTF.ext. Raises BadObject when it is damaged."""
    try:
        return _parse_ext(data, btf)
    except struct.error:
        raise _bad("a record ends outside the section", ".BTF.ext") from None


def _parse_ext(data: bytes, btf: Btf) -> BtfExt:
    order = btf.order
    magic, version, _, header = struct.unpack_from(order + "HBBI", data)
    if magic != 0xEB9F or version != 1:
        raise _bad(f"magic {magic:#x} and version {version} are not known", ".BTF.ext")
    spans = [struct.unpack_from(order + "II", data, 8 + 8 * i) for i in range((min(header, 32) - 8) // 8)]
    parts = [
        _ext_records(data[header + offset : header + offset + length], btf, minimum)
        if length and header + offset + length <= len(data)
        else NO_RECORDS
        for (offset, length), minimum in zip(spans, (8, 16, 16), strict=False)
    ]
    while len(parts) < 3:
        parts.append(NO_RECORDS)
    return BtfExt(*parts)


def _ext_records(data: bytes, btf: Btf, minimum: int) -> ExtRecords:
    (rec_size,) = struct.unpack_from(btf.order + "I", data)
    if rec_size < minimum or rec_size % 4:
        raise _bad(f"records of {rec_size} bytes", ".BTF.ext")
    sections: dict[str, list[bytes]] = {}
    position = 4
    while position < len(data):
        name, count = struct.unpack_from(btf.order + "II", data, position)
        position += 8
        end = position + count * rec_size
        if end > len(data):
            raise _bad("a record ends outside the section", ".BTF.ext")
        rows = sections.setdefault(btf.string(name), [])
        rows.extend(data[at : at + rec_size] for at in range(position, end, rec_size))
        position = end
    return ExtRecords(rec_size, sections)
