"""Opcodes, and what makes one instruction of them."""

from __future__ import annotations

from elfpatch.index import FIXUP_MAP_FD, FIXUP_MAP_VALUE
from elfpatch.insn import CALL, LD_IMM64, PSEUDO_CALL, PSEUDO_MAP_FD, PSEUDO_MAP_VALUE
from tests.flow.random.tree import Asm

ALU = {
    "add": 0x00, "sub": 0x10, "mul": 0x20, "div": 0x30, "or": 0x40, "and": 0x50, "lsh": 0x60, "rsh": 0x70,
    "mod": 0x90, "xor": 0xA0, "mov": 0xB0, "arsh": 0xC0,
}  # fmt: skip
NEG, END = 0x80, 0xD0
JUMP = {
    "==": 0x10, ">": 0x20, ">=": 0x30, "&": 0x40, "!=": 0x50, "s>": 0x60, "s>=": 0x70, "<": 0xA0, "<=": 0xB0,
    "s<": 0xC0, "s<=": 0xD0,
}  # fmt: skip
SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
ATOMIC = {"add": 0x00, "or": 0x40, "and": 0x50, "xor": 0xA0, "fetch add": 0x01, "fetch and": 0x51, "xchg": 0xE1}
CMPXCHG = 0xF1
GOTO, GOTOL, MAY_GOTO, EXIT = 0x05, 0x06, 0xE5, 0x95


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def alu(op: str, dst: int, *, src: int | None = None, imm: int = 0, wide: bool = True, off: int = 0) -> Asm:
    base = ALU[op] | (0x07 if wide else 0x04)
    return Asm(base, dst, 0, off, imm) if src is None else Asm(base | 0x08, dst, src, off)


def mov(dst: int, imm: int) -> Asm:
    return alu("mov", dst, imm=imm)


def copy(dst: int, src: int) -> Asm:
    return alu("mov", dst, src=src)


def wide_constant(dst: int, value: int) -> Asm:
    return Asm(LD_IMM64, dst, imm=signed(value, 32), high=signed(value >> 32, 32))


def map_value(dst: int, row: int, offset: int) -> Asm:
    return Asm(LD_IMM64, dst, PSEUDO_MAP_VALUE, high=offset, ref=(FIXUP_MAP_VALUE, row, offset))


def map_fd(dst: int, row: int) -> Asm:
    return Asm(LD_IMM64, dst, PSEUDO_MAP_FD, ref=(FIXUP_MAP_FD, row, 0))


def load(size: int, dst: int, base: int, off: int, *, sign: bool = False) -> Asm:
    return Asm(0x81 | SIZES[size] if sign else 0x61 | SIZES[size], dst, base, off)


def store(size: int, base: int, off: int, src: int) -> Asm:
    return Asm(0x63 | SIZES[size], base, src, off)


def store_imm(size: int, base: int, off: int, imm: int) -> Asm:
    return Asm(0x62 | SIZES[size], base, 0, off, imm)


def branch(cond: str, dst: int, to: int, *, src: int | None = None, imm: int = 0, wide: bool = True) -> Asm:
    base = JUMP[cond] | (0x05 if wide else 0x06)
    return Asm(base, dst, imm=imm, to=to) if src is None else Asm(base | 0x08, dst, src, to=to)


def call_helper(number: int) -> Asm:
    return Asm(CALL, imm=number)


def call(label: int) -> Asm:
    return Asm(CALL, src=PSEUDO_CALL, to=label)
