"""An index into an object: appended as section `.elfpatch`, so that the template is the object itself.

The original bytes stay where they are but for the ELF header, whose section header offset, count and name-table number
change. After them come the section names (a copy with one more), the section headers (a copy with the name table's
row changed and one row more) and the index, which ends the file. Every other tool sees one unknown section more. An
object that has such a section already, because another tool rewrote a template, keeps its row, changed.
"""

from __future__ import annotations

import struct

from elfpatch import index as ix
from elfpatch.code import as_compiled, ready
from elfpatch.errors import BadObject
from elfpatch.template.compile import compile_object

SECTION_NAME = b".elfpatch\0"
_SHT_PROGBITS = 1
_ROW = 64


def original(data: bytes) -> bytes:
    """The object without an index that `build` appended: the bytes from which it was made, values as they are now. An
    index that is damaged, or not of this object, is left where it is."""
    try:
        block = ix.find(data)
        if block is None:
            return data
        index = ix.Index(block)
        ix.verify(index, data)
    except BadObject:
        return data
    return as_compiled(index, index.elf_header + data[ix.ELF_HEADER_SIZE : index.object_size])


def build(data: bytes, stem: str, asked: tuple[str, ...] = ()) -> bytes:
    """The object with a fresh index. An index that it already carries is replaced, also one that another tool has moved
    or made stale (`llvm-strip` and `llvm-objcopy` rewrite the file, and keep the section). `asked`: names of variables
    that are to be immediates. Branch sites and immediates get the form that every loader takes."""
    plain = original(data)
    index = compile_object(plain, stem, replace_stale=True, asked=asked)
    return embed(ready(ix.Index(index), plain), ix.with_trailer(index))


def embed(data: bytes, block: bytes) -> bytes:
    """Append `block` as section `.elfpatch`; a section of that name is made to point to it."""
    order = ">" if data[5] == 2 else "<"
    (table,) = struct.unpack_from(order + "Q", data, 40)
    count, names_number = struct.unpack_from(order + "HH", data, 60)
    rows = bytearray(data[table : table + count * _ROW])
    names = _names(data, order, rows, names_number)
    out = bytearray(data)
    stale = _row_named(SECTION_NAME, order, rows, names)
    if stale is None:
        stale = count
        rows += struct.pack(order + "IIQQQQIIQQ", len(names), _SHT_PROGBITS, *([0] * 8))
        names += SECTION_NAME
        names_at = _append(out, bytes(names), 1)
        struct.pack_into(order + "QQ", rows, names_number * _ROW + 24, names_at, len(names))
    table_at = -(-len(out) // 8) * 8
    index_at = table_at + len(rows)
    # type | flags, address, offset, size | link, info | alignment, size of an entry
    struct.pack_into(order + "IQQQQIIQQ", rows, stale * _ROW + 4, _SHT_PROGBITS, 0, 0, index_at, len(block), 0, 0, 8, 0)
    _append(out, bytes(rows), 8)
    out += block
    struct.pack_into(order + "Q", out, 40, table_at)
    struct.pack_into(order + "H", out, 60, len(rows) // _ROW)
    return bytes(out)


def _row_named(name: bytes, order: str, rows: bytearray, names: bytearray) -> int | None:
    """The number of the first section of that name (which ends with NUL)."""
    for number in range(len(rows) // _ROW):
        (at,) = struct.unpack_from(order + "I", rows, number * _ROW)
        if names[at : at + len(name)] == name:
            return number
    return None


def _names(data: bytes, order: str, rows: bytearray, number: int) -> bytearray:
    offset, size = struct.unpack_from(order + "QQ", rows, number * _ROW + 24)
    return bytearray(data[offset : offset + size])


def _append(out: bytearray, data: bytes, alignment: int) -> int:
    out += bytes(-len(out) % alignment)
    at = len(out)
    out += data
    return at
