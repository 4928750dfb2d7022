"""What one instruction reads and writes, and whether it does nothing else.

Registers are a bit mask, bit n for rn. Only encodings that the kernel takes are known; anything else raises
`Uncertain`, for an instruction of a later kernel may jump, or write what this table does not say.
"""

from __future__ import annotations

from elfpatch import insn as isa
from elfpatch.flow.program import Uncertain
from elfpatch.insn import Insn

R0 = 1 << 0
R6 = 1 << 6
ARGUMENTS = 0b111110  # r1..r5
CALLER_SAVED = R0 | ARGUMENTS

JA, JA32, EXIT, MAY_GOTO = isa.JA, isa.JA32, 0x95, 0xE5

_SIZE_WORD, _SIZE_HALF, _SIZE_BYTE, _SIZE_DOUBLE = 0x00, 0x08, 0x10, 0x18
SIZES = {_SIZE_WORD: 4, _SIZE_HALF: 2, _SIZE_BYTE: 1, _SIZE_DOUBLE: 8}

ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR, MOV, ARSH, END = (op << 4 for op in range(14))
JEQ, JGT, JGE, JSET, JNE, JSGT, JSGE = (op << 4 for op in range(1, 8))
JLT, JLE, JSLT, JSLE = (op << 4 for op in range(0xA, 0xE))
CONDITIONS = frozenset((JEQ, JGT, JGE, JSET, JNE, JSGT, JSGE, JLT, JLE, JSLT, JSLE))

_FRAME = 10
_ADDRESS_SPACE_CAST = 1  # off of a MOV
_SIGN_EXTENSIONS = (8, 16, 32)  # off of a MOV: how many bits
_FETCHES = frozenset(
    op | isa.ATOMIC_FETCH for op in (isa.ATOMIC_ADD, isa.ATOMIC_OR, isa.ATOMIC_AND, isa.ATOMIC_XOR)
) | {isa.ATOMIC_XCHG}

# The classes of instructions whose effect depends on off or imm; of others it does on opcode and registers alone
DETAILED = (isa.CLASS_ALU, isa.CLASS_ALU64, isa.CLASS_STX)


class Effect:
    """The registers that an instruction reads and writes. `pure`: it does nothing else, so that without a use of its
    result it can go. Of a call only what every call does: its arguments are not among `uses`."""

    __slots__ = ("defs", "pure", "uses")

    def __init__(self, uses: int, defs: int, *, pure: bool = False) -> None:
        self.uses = uses
        self.defs = defs
        self.pure = pure


def is_conditional(insn: Insn) -> bool:
    """Whether it is a branch that compares (may_goto, which counts, is none)."""
    return insn.opcode & 7 in (isa.CLASS_JMP, isa.CLASS_JMP32) and insn.opcode & 0xF0 in CONDITIONS


def jump_target(insn: Insn, slot: int) -> int | None:
    """The slot that a jump at `slot` goes to when it is taken; None for what is no jump."""
    if insn.opcode == JA32:
        return slot + 1 + insn.imm
    if insn.opcode in (JA, MAY_GOTO) or is_conditional(insn):
        return slot + 1 + insn.off
    return None


def effect(insn: Insn) -> Effect:
    """The effect of an instruction (of its first slot, when it is an LD_IMM64). Raises Uncertain when it is unknown."""
    kind = insn.opcode & 7
    found = None
    if insn.dst <= _FRAME and insn.src <= _FRAME:
        if kind in (isa.CLASS_ALU, isa.CLASS_ALU64):
            found = _arithmetic(insn)
        elif kind in (isa.CLASS_JMP, isa.CLASS_JMP32):
            found = _jump(insn)
        elif kind == isa.CLASS_LD:
            found = _load(insn)
        else:
            found = _memory(insn)
    if found is None:
        raise Uncertain(f"an unknown instruction, opcode {insn.opcode:#04x}")
    if found.defs & 1 << _FRAME:
        raise Uncertain("an instruction that writes r10")
    return found


def _arithmetic(insn: Insn) -> Effect | None:
    operation, of_register = insn.opcode & 0xF0, bool(insn.opcode & isa.SOURCE_REG)
    dst = 1 << insn.dst
    if operation > END or (operation == NEG and of_register):
        return None
    if operation == END:  # the bit that elsewhere chooses the operand chooses the byte order here
        return Effect(dst, dst, pure=True)
    src = 1 << insn.src if of_register else 0
    if operation != MOV:
        return Effect(dst | src, dst, pure=of_register or _is_valid(insn, operation))
    if insn.off and not (of_register and insn.off in (*_SIGN_EXTENSIONS, _ADDRESS_SPACE_CAST)):
        return None
    return Effect(src, dst, pure=insn.off != _ADDRESS_SPACE_CAST)


def _is_valid(insn: Insn, operation: int) -> bool:
    """Whether the verifier takes the imm. What it refuses must stay, for the verdict on a program is not ours."""
    if operation in (LSH, RSH, ARSH):
        return 0 <= insn.imm < (64 if insn.opcode & 7 == isa.CLASS_ALU64 else 32)
    return operation not in (DIV, MOD) or insn.imm != 0


def _jump(insn: Insn) -> Effect | None:
    if insn.opcode == isa.CALL:
        known = insn.src in (0, isa.PSEUDO_CALL, isa.PSEUDO_KFUNC_CALL)
        return Effect(0, CALLER_SAVED) if known else None
    if insn.opcode == EXIT:
        return Effect(R0, 0)
    if insn.opcode in (JA, JA32, MAY_GOTO):
        return Effect(0, 0)
    if not is_conditional(insn):
        return None
    return Effect(1 << insn.dst | (1 << insn.src if insn.opcode & isa.SOURCE_REG else 0), 0)


def _load(insn: Insn) -> Effect | None:
    if insn.opcode == isa.LD_IMM64:
        known = insn.src in (0, isa.PSEUDO_MAP_FD, isa.PSEUDO_MAP_VALUE, isa.PSEUDO_FUNC)
        return Effect(0, 1 << insn.dst, pure=known)
    mode, size = insn.opcode & 0xE0, insn.opcode & 0x18
    if mode not in (isa.MODE_ABS, isa.MODE_IND) or size == _SIZE_DOUBLE:
        return None
    # The packet is in r6, which the instruction does not name (RFC 9669, 5.4)
    return Effect(R6 | (1 << insn.src if mode == isa.MODE_IND else 0), CALLER_SAVED)


def _memory(insn: Insn) -> Effect | None:
    kind, mode, size = insn.opcode & 7, insn.opcode & 0xE0, insn.opcode & 0x18
    dst, src = 1 << insn.dst, 1 << insn.src
    if kind == isa.CLASS_LDX:
        known = mode == isa.MODE_MEM or (mode == isa.MODE_MEMSX and size != _SIZE_DOUBLE)
        return Effect(src, dst) if known else None
    if mode == isa.MODE_MEM:
        return Effect(dst if kind == isa.CLASS_ST else dst | src, 0)
    return _atomic(insn) if kind == isa.CLASS_STX and mode == isa.MODE_ATOMIC else None


def _atomic(insn: Insn) -> Effect | None:
    dst, src = 1 << insn.dst, 1 << insn.src
    if insn.imm == isa.ATOMIC_LOAD_ACQUIRE:
        return Effect(src, dst)
    if insn.imm == isa.ATOMIC_STORE_RELEASE:
        return Effect(dst | src, 0)
    if insn.imm == isa.ATOMIC_CMPXCHG:
        return Effect(dst | src | R0, R0)
    if insn.imm in _FETCHES:
        return Effect(dst | src, src)
    known = insn.imm in (isa.ATOMIC_ADD, isa.ATOMIC_OR, isa.ATOMIC_AND, isa.ATOMIC_XOR)
    return Effect(dst | src, 0) if known else None
