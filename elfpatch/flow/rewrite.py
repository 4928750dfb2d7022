"""What stands for an instruction once its values are known: one that says them."""

from __future__ import annotations

from elfpatch import insn as isa
from elfpatch.flow.arithmetic import fits_move, signed
from elfpatch.flow.operands import with_imm
from elfpatch.flow.program import Code
from elfpatch.flow.propagate import Facts
from elfpatch.insn import Insn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.flow.layout import Edits


def rewritten(code: Code, facts: Facts) -> Edits:
    """By the first slot of each instruction that can run and that is to be another one, what stands for it. None of
    them changes what is known behind it, so the facts hold for the new program too."""
    edits: Edits = {}
    for slot, regs in facts.states.items():
        insn = code.insns[slot]
        taken = facts.decided.get(slot)
        if slot in facts.folded:
            edits[slot] = constant_load(insn.dst, facts.folded[slot])
        elif slot in facts.computed:
            edits[slot] = constant_load(insn.dst, facts.computed[slot])
        elif taken is not None:
            edits[slot] = [Insn(isa.JA, 0, 0, insn.off, 0)] if taken else []
        elif slot not in code.opaque and (other := with_imm(insn, regs)) is not None:
            edits[slot] = [other]
    return edits


def constant_load(register: int, value: int) -> list[Insn]:
    """The shortest instruction that puts a 64-bit unsigned value into a register."""
    if fits_move(value):
        negative = 1 << 31 <= value < 1 << 32  # as an imm; the 32-bit move clears the upper half all the same
        return [Insn(isa.MOV32_IMM if negative else isa.MOV64_IMM, register, 0, 0, signed(value, 32))]
    return [Insn(isa.LD_IMM64, register, 0, 0, signed(value, 32)), Insn(0, 0, 0, 0, signed(value >> 32, 32))]
