"""Rows of the maps that a program may name, and their sizes.

RODATA are frozen, one element of DATA_SIZE bytes; so is DATA, but it can be written; RESULT is the same, for what a
program reports. TABLE has TABLE_ENTRIES elements, JUMPS is a prog array.
"""

from __future__ import annotations

RODATA = (0, 1)
DATA, RESULT, TABLE, JUMPS = 2, 3, 4, 5
DATA_SIZE = 64
TABLE_ENTRIES, TABLE_SIZE = 4, 16
REPORTED = 24  # bytes of RESULT that the entry's epilogue writes
