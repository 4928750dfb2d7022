"""Just enough of ELF for these tests: read the code sections of an object, make an object of code."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

EM_BPF, SHT_PROGBITS, SHT_STRTAB, SHF_ALLOC_EXEC = 247, 1, 3, 6
_EHDR, _SHDR = "16sHHIQQQIHHHHHH", "IIQQQQIIQQ"


@dataclass(frozen=True)
class Code:
    """An executable section."""

    name: str
    data: bytes
    big: bool


def is_big_endian(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(6)[5] == 2


def code_sections(path: Path) -> list[Code]:
    """The executable sections that have bytes, in the order of the section table."""
    data = path.read_bytes()
    big = is_big_endian(path)
    order = ">" if big else "<"
    _, _, machine, _, _, _, table, _, _, _, _, entry, count, names = struct.unpack_from(order + _EHDR, data)
    assert machine == EM_BPF, path
    rows = [struct.unpack_from(order + _SHDR, data, table + number * entry) for number in range(count)]
    strings = rows[names][4]
    made = []
    for name, kind, flags, _, offset, size, *_ in rows:
        if kind == SHT_PROGBITS and flags & 4 and size:
            end = data.index(b"\0", strings + name)
            made.append(Code(data[strings + name : end].decode(), data[offset : offset + size], big))
    return made


def write_object(path: Path, code: bytes, *, big: bool) -> None:
    """A relocatable BPF object whose .text is `code`."""
    order = ">" if big else "<"
    names = b"\0.text\0.shstrtab\0"
    start = 64
    table = start + len(code) + len(names)
    table += -table % 8
    ident = b"\x7fELF" + bytes((2, 2 if big else 1, 1)) + bytes(9)
    made = struct.pack(order + _EHDR, ident, 1, EM_BPF, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    made = (made + code + names).ljust(table, b"\0")
    made += bytes(64)
    made += struct.pack(order + _SHDR, 1, SHT_PROGBITS, SHF_ALLOC_EXEC, 0, start, len(code), 0, 0, 8, 0)
    made += struct.pack(order + _SHDR, 7, SHT_STRTAB, 0, 0, start + len(code), len(names), 0, 0, 1, 0)
    path.write_bytes(made)
