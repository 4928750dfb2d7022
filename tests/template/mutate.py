"""Damaged objects, made from whole ones by a seeded generator."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_REL = 1, 2, 3, 9

# Values that tend to be handled wrongly: small ones, and those beside a power of two
TELLING = [*range(10), 0x10, 0x18, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF8]
TELLING += [0xFFFFFFFF, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


@dataclass(frozen=True)
class Header:
    """A section header: where it is, and of what it speaks."""

    at: int
    type: int
    offset: int
    size: int


def byte_order(data: bytes) -> str:
    return ">" if data[5] == 2 else "<"


def headers(data: bytes) -> list[Header]:
    order = byte_order(data)
    (table,) = struct.unpack_from(order + "Q", data, 40)
    (count,) = struct.unpack_from(order + "H", data, 60)
    found = []
    for at in range(table, table + 64 * count, 64):
        kind, offset, size = struct.unpack_from(order + "4xI16xQQ", data, at)
        found.append(Header(at, kind, offset, size))
    return found


def boundaries(data: bytes) -> list[int]:
    """Where the ELF header, sections and the table of their headers start and end."""
    found = {0, 1, 16, 63, 64, len(data) - 1}
    for header in headers(data):
        found |= {header.at, header.at + 64, header.offset, header.offset + (header.size if header.type != 8 else 0)}
    return sorted(at for at in found if at < len(data))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to eight fields of the object changed; of ten, one cut off as well."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        rng.choice([_byte, _section_header, _elf_header, _in_symbols, _in_relocations, _in_contents, _in_contents])(
            out, data, rng
        )
    return bytes(out[: rng.randrange(len(out) + 1)] if rng.random() < 0.1 else out)


def _put(out: bytearray, data: bytes, at: int, code: str, value: int) -> None:
    size = struct.calcsize("<" + code)
    if at + size <= len(out):
        struct.pack_into(byte_order(data) + code, out, at, value & ((1 << 8 * size) - 1))


def _byte(out: bytearray, data: bytes, rng: random.Random) -> None:
    out[rng.randrange(len(out))] = rng.randrange(256)


def _section_header(out: bytearray, data: bytes, rng: random.Random) -> None:
    at, code = rng.choice([(0, "I"), (4, "I"), (8, "Q"), (24, "Q"), (32, "Q"), (40, "I"), (44, "I"), (56, "Q")])
    _put(out, data, rng.choice(headers(data)).at + at, code, rng.choice([*TELLING, rng.randrange(1 << 16)]))


def _elf_header(out: bytearray, data: bytes, rng: random.Random) -> None:
    at, code = rng.choice([(4, "B"), (5, "B"), (6, "B"), (16, "H"), (18, "H"), (40, "Q"), (52, "H"), (58, "H")])
    at, code = rng.choice([(at, code), (60, "H"), (62, "H")])
    _put(out, data, at, code, rng.choice(TELLING))


def _in(out: bytearray, data: bytes, rng: random.Random, kinds: tuple[int, ...]) -> None:
    """A 32-bit word of a section of these types, more often than not any, else one near its start."""
    there = [h for h in headers(data) if h.type in kinds and h.size >= 8 and h.offset + h.size <= len(data)]
    if there:
        header = rng.choice(there)
        words = header.size // 4 if rng.random() < 0.8 else min(6, header.size // 4)
        value = rng.choice([*TELLING, rng.randrange(64), rng.randrange(1 << 16), rng.randrange(1 << 32)])
        _put(out, data, header.offset + 4 * rng.randrange(words), "I", value)


def _in_symbols(out: bytearray, data: bytes, rng: random.Random) -> None:
    _in(out, data, rng, (SHT_SYMTAB,))


def _in_relocations(out: bytearray, data: bytes, rng: random.Random) -> None:
    _in(out, data, rng, (SHT_REL,))


def _in_contents(out: bytearray, data: bytes, rng: random.Random) -> None:
    """Instructions, BTF, BTF.ext, maps, data."""
    _in(out, data, rng, (SHT_PROGBITS,))
