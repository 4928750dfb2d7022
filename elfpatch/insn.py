"""One eBPF instruction: its layout and the opcodes that both wings look at (RFC 9669)."""

from __future__ import annotations

import struct

SIZE = 8

LD_IMM64 = 0x18  # two slots; the second has opcode 0
CALL = 0x85

# src_reg of LD_IMM64
PSEUDO_MAP_FD, PSEUDO_MAP_VALUE, PSEUDO_BTF_ID, PSEUDO_FUNC = 1, 2, 3, 4
# src_reg of CALL
PSEUDO_CALL, PSEUDO_KFUNC_CALL = 1, 2


class Insn:
    """opcode (u8), dst and src (registers 0..15), off (s16), imm (s32)."""

    __slots__ = ("dst", "imm", "off", "opcode", "src")

    def __init__(self, opcode: int, dst: int, src: int, off: int, imm: int) -> None:
        self.opcode = opcode
        self.dst = dst
        self.src = src
        self.off = off
        self.imm = imm


def decode(code: bytes | bytearray | memoryview, number: int, *, big_endian: bool = False) -> Insn:
    """Instruction slot `number` of `code`. A big-endian object has dst in the high nibble of byte 1."""
    opcode, registers, off, imm = struct.unpack_from(">BBhi" if big_endian else "<BBhi", code, number * SIZE)
    high, low = registers >> 4, registers & 15
    dst, src = (high, low) if big_endian else (low, high)
    return Insn(opcode, dst, src, off, imm)


def encode_into(code: bytearray, number: int, insn: Insn, *, big_endian: bool = False) -> None:
    """Write an instruction to slot `number` of `code`."""
    registers = insn.dst << 4 | insn.src if big_endian else insn.src << 4 | insn.dst
    struct.pack_into(
        ">BBhi" if big_endian else "<BBhi", code, number * SIZE, insn.opcode, registers, insn.off, insn.imm
    )
