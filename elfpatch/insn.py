"""One eBPF instruction: its layout and the opcodes that both wings look at (RFC 9669)."""

from __future__ import annotations

import struct

SIZE = 8

LD_IMM64 = 0x18  # two slots; the second has opcode 0
CALL = 0x85

# What elfpatch writes
JA, JA32 = 0x05, 0x06
JEQ_IMM, JNE_IMM, JLT_IMM, JGE_IMM = 0x15, 0x55, 0xA5, 0x35
MOV32_IMM, MOV64_IMM, MOV64_REG = 0xB4, 0xB7, 0xBF

# src_reg of LD_IMM64
PSEUDO_MAP_FD, PSEUDO_MAP_VALUE, PSEUDO_BTF_ID, PSEUDO_FUNC = 1, 2, 3, 4
# src_reg of CALL
PSEUDO_CALL, PSEUDO_KFUNC_CALL = 1, 2
# src_reg of LD_IMM64 in a program that the kernel gets together with an array of map fds
PSEUDO_MAP_IDX, PSEUDO_MAP_IDX_VALUE = 5, 6

# bits 0-2 of an opcode
CLASS_LD, CLASS_LDX, CLASS_ST, CLASS_STX, CLASS_ALU, CLASS_JMP, CLASS_JMP32, CLASS_ALU64 = range(8)
# bits 5-7 of a load or store
MODE_IMM, MODE_ABS, MODE_IND, MODE_MEM, MODE_MEMSX, MODE_ATOMIC = 0x00, 0x20, 0x40, 0x60, 0x80, 0xC0
# bit 3 of an arithmetic instruction or jump: the operand is src, not imm; for END: big-endian
SOURCE_REG = 0x08

# imm of an atomic instruction; each of the first four also with FETCH
ATOMIC_ADD, ATOMIC_OR, ATOMIC_AND, ATOMIC_XOR, ATOMIC_FETCH = 0x00, 0x40, 0x50, 0xA0, 0x01
ATOMIC_XCHG, ATOMIC_CMPXCHG, ATOMIC_LOAD_ACQUIRE, ATOMIC_STORE_RELEASE = 0xE1, 0xF1, 0x100, 0x110


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
