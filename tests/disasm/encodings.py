"""Instructions of every opcode, with the operands at which something changes."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

from elfpatch import disasm
from elfpatch import insn as isa
from elfpatch.insn import Insn

REGISTERS = (0, 1, 11)  # 11 to 15 do not exist
OFFSETS = (0, 1, -1, 8, 16, 32, -32768)
# values and edges; widths of END (64 is 0x40); numbers of helpers; every operation of the atomics, and what is none
IMMEDIATES = (
    *(0, 1, -1, 3, 7, 10, 11, 212, 0x7FFFFFFF, -0x80000000),
    *(16, 32, 0x40, 0x41, 0x50, 0x51, 0xA0, 0xA1, 0xE1, 0xF1, 0x100, 0x110, 0xF0),
)
# (opcode, dst, src, off, imm) of the second slot of an LD_IMM64: only imm may be set
SECONDS = (
    *((0, 0, 0, 0, 0), (0, 0, 0, 0, -1), (0, 0, 0, 0, 0x12345678)),
    *((0xB7, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 1, 0)),
)


@dataclass(slots=True)
class Encoding:
    first: Insn
    second: Insn | None
    text: str

    @property
    def known(self) -> bool:
        return not is_unknown(self.text)

    def code(self, big: bool) -> bytes:
        slots = [self.first] if self.second is None else [self.first, self.second]
        made = bytearray(len(slots) * isa.SIZE)
        for number, insn in enumerate(slots):
            isa.encode_into(made, number, insn, big_endian=big)
        return bytes(made)


def is_unknown(text: str) -> bool:
    return text[5:].startswith("unknown")


@functools.cache
def encodings() -> list[Encoding]:
    """0.4 million of them, a few percent known."""
    made = []
    for opcode in range(256):
        seconds = [Insn(*second) for second in SECONDS] if opcode == isa.LD_IMM64 else [None]
        for dst, src, off, imm in itertools.product(REGISTERS, REGISTERS, OFFSETS, IMMEDIATES):
            insn = Insn(opcode, dst, src, off, imm)
            made += [Encoding(insn, second, disasm.text(insn, second)) for second in seconds]
    return made
