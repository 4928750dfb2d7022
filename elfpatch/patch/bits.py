"""Bit ranges of a buffer, in the numbering that BTF uses.

Bit `n` lies in byte `n // 8`. Little-endian objects count the bits of a byte from the least significant one,
big-endian ones from the most significant one; either way a bit-field is one contiguous range and ranges of members
that share no storage do not overlap.
"""

from __future__ import annotations


def read_bits(data: bytes | bytearray, first: int, size: int, *, big: bool) -> int:
    """The `size` bits from bit `first` as an unsigned number."""
    start, end = first // 8, (first + size + 7) // 8
    word = int.from_bytes(data[start:end], "big" if big else "little")
    return word >> _shift(first, size, end - start, big) & (1 << size) - 1


def write_bits(data: bytearray, first: int, size: int, value: int, *, big: bool) -> None:
    """Put the unsigned number `value` into the `size` bits from bit `first`; all other bits stay."""
    start, end = first // 8, (first + size + 7) // 8
    order = "big" if big else "little"
    shift = _shift(first, size, end - start, big)
    word = int.from_bytes(data[start:end], order)  # type: ignore[arg-type]
    word = word & ~((1 << size) - 1 << shift) | value << shift
    data[start:end] = word.to_bytes(end - start, order)  # type: ignore[arg-type]


def _shift(first: int, size: int, length: int, big: bool) -> int:
    """How far above the word's least significant bit the range starts, in a word of `length` bytes."""
    return 8 * length - first % 8 - size if big else first % 8
