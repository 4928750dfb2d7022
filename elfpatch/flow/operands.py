"""Operands that are known: a register that always holds one number becomes an imm.

The move that filled the register then often feeds nothing and goes (`liveness.py`), as if a compiler had known the
number. The verifier must take the new form wherever it takes the old one, on every kernel, so some stay:

    division by 0, shifts by the width or more   refused as an imm, allowed of a register (check_alu_op)
    numbers of more than 32 bits                 an imm is extended by sign
    stores through the context                   of an imm refused before Linux 6.4 ("BPF_ST stores into R1 ctx")
    stores on the stack                          what an imm leaves there is not known before Linux 6.3, and after a
                                                 register it is (check_stack_write_fixed_off)

A number on the left of a comparison is brought to the right. On the left of arithmetic it stays: `r2 = 7; r2 += r1` as
`r2 = r1; r2 += 7` is no shorter.
"""

from __future__ import annotations

from elfpatch import insn as isa
from elfpatch.flow import effects as fx
from elfpatch.flow.arithmetic import signed
from elfpatch.flow.lattice import Constant, State, Value, is_elsewhere
from elfpatch.insn import Insn

_SHIFTS = (fx.LSH, fx.RSH, fx.ARSH)
_DIVISIONS = (fx.DIV, fx.MOD)
_STORE = isa.CLASS_STX | isa.MODE_MEM

# By the condition of a comparison, that of the same one with its sides exchanged
_EXCHANGED = {
    fx.JEQ: fx.JEQ, fx.JNE: fx.JNE, fx.JSET: fx.JSET,
    fx.JGT: fx.JLT, fx.JGE: fx.JLE, fx.JLT: fx.JGT, fx.JLE: fx.JGE,
    fx.JSGT: fx.JSLT, fx.JSGE: fx.JSLE, fx.JSLT: fx.JSGT, fx.JSLE: fx.JSGE,
}  # fmt: skip


def with_imm(insn: Insn, regs: State) -> Insn | None:
    """The instruction with an imm in the place of a register, of which `regs` knows the number; None when it is to
    stay."""
    kind = insn.opcode & 7
    if kind == isa.CLASS_STX:
        return _store(insn, regs) if insn.opcode & 0xE7 == _STORE else None
    if not insn.opcode & isa.SOURCE_REG:
        return None
    if kind in (isa.CLASS_ALU, isa.CLASS_ALU64):
        return _arithmetic(insn, regs)
    return _comparison(insn, regs) if fx.is_conditional(insn) else None


def _arithmetic(insn: Insn, regs: State) -> Insn | None:
    """Moves are not among them: a move of a number is a number (`propagate.py`)."""
    operation, bits = insn.opcode & 0xF0, 64 if insn.opcode & 7 == isa.CLASS_ALU64 else 32
    if operation in (fx.MOV, fx.NEG, fx.END) or (insn.off and operation not in _DIVISIONS):
        return None
    right = regs[insn.src]
    imm = _imm(right, bits)
    if imm is None or (imm == 0 and operation in _DIVISIONS):
        return None
    if operation in _SHIFTS and isinstance(right, Constant) and right.value >= bits:  # of 32-bit shifts too: all bits
        return None
    return Insn(insn.opcode & ~isa.SOURCE_REG, insn.dst, 0, insn.off, imm)


def _comparison(insn: Insn, regs: State) -> Insn | None:
    kind, bits = insn.opcode & 7, 64 if insn.opcode & 7 == isa.CLASS_JMP else 32
    imm = _imm(regs[insn.src], bits)
    if imm is not None:
        return Insn(insn.opcode & ~isa.SOURCE_REG, insn.dst, 0, insn.off, imm)
    imm = _imm(regs[insn.dst], bits)
    if imm is not None:
        return Insn(kind | _EXCHANGED[insn.opcode & 0xF0], insn.src, 0, insn.off, imm)
    return None


def _store(insn: Insn, regs: State) -> Insn | None:
    size = fx.SIZES[insn.opcode & 0x18]
    value = regs[insn.src]
    imm = _imm(value, 64 if size == 8 else 32)
    if imm is None or not is_elsewhere(regs[insn.dst]):
        return None
    if size < 4:
        imm &= (1 << 8 * size) - 1
    return Insn(isa.CLASS_ST | insn.opcode & ~7, insn.dst, 0, insn.off, imm)


def _imm(value: Value, bits: int) -> int | None:
    """The imm that stands for the low `bits` bits of a number."""
    if not isinstance(value, Constant):
        return None
    number = signed(value.value, bits)
    return number if -(1 << 31) <= number < 1 << 31 else None
