"""Instructions as text: the verifier's syntax, or capstone's where that is right."""

from __future__ import annotations

from elfpatch import disasm
from elfpatch import insn as isa
from elfpatch.disasm import Line
from elfpatch.helpers import helper_name
from elfpatch.insn import Insn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Operand = Callable[[int, Insn], str]
    # (code, big-endian, what names an operand) -> the text of each instruction by its slot
    Syntax = Callable[[bytes, bool, Operand], dict[int, str]]

MARK = " (kernel syntax)"
_BSWAP, _MAY_GOTO, _GOTOX = 0xD7, 0xE5, 0x0D


def kernel(code: bytes, big_endian: bool, operand: Operand) -> dict[int, str]:
    """As the verifier's log and bpftool have it."""
    return {line.slot: line.text for line in disasm.lines(code, big_endian=big_endian, operand=operand)}


def capstone(code: bytes, big_endian: bool, operand: Operand) -> dict[int, str]:
    """As capstone 5 has it, with a helper's or function's name behind a call; MARK behind what is the kernel's."""
    texts = {}
    theirs = {} if big_endian else _theirs(code)
    for line in disasm.lines(code, big_endian=big_endian, operand=operand):
        their = theirs.get(line.slot)
        if their is None or _wrong_in_capstone(line):
            texts[line.slot] = line.text + MARK
        elif line.insn.opcode == isa.CALL:
            name = operand(line.slot, line.insn) or helper_name(line.insn.imm)
            texts[line.slot] = f"{their} <{name}>" if name else their
        else:
            texts[line.slot] = their
    return texts


def _theirs(code: bytes) -> dict[int, str]:
    from capstone import CS_ARCH_BPF, CS_MODE_BPF_EXTENDED, CS_MODE_LITTLE_ENDIAN, Cs

    reader = Cs(CS_ARCH_BPF, CS_MODE_BPF_EXTENDED | CS_MODE_LITTLE_ENDIAN)
    reader.skipdata = True
    return {
        insn.address // isa.SIZE: f"{insn.mnemonic} {insn.op_str}".strip()
        for insn in reader.disasm(code, 0)
        if insn.id  # 0: data that it skipped
    }


def _wrong_in_capstone(line: Line) -> bool:
    """What capstone 5.0.9 does not know or prints as something else; it knows BPF as of 2018, and no big-endian."""
    insn = line.insn
    kind, mode = insn.opcode & 7, insn.opcode & 0xE0
    extended = kind in (isa.CLASS_ALU, isa.CLASS_ALU64) and insn.off != 0  # printed without the extension
    return (
        kind == isa.CLASS_JMP32
        or extended
        or insn.opcode in (_BSWAP, _MAY_GOTO, _GOTOX, isa.CALL | isa.SOURCE_REG)
        or (kind == isa.CLASS_LDX and mode == isa.MODE_MEMSX)
        or (kind == isa.CLASS_STX and mode == isa.MODE_ATOMIC)  # all are xadd to it
        or (kind == isa.CLASS_LD and mode in (isa.MODE_ABS, isa.MODE_IND))  # without the offset
        or (insn.opcode == isa.LD_IMM64 and insn.src != 0)
        or "unknown" in line.text.partition(" ")[2][:7]
    )


SYNTAXES: dict[str, Syntax] = {"kernel": kernel, "capstone": capstone}
