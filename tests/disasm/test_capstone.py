"""capstone 5 on little-endian code, for what it prints right: the instructions of before 2018, without 32-bit jumps,
atomics and sign extension. What it leaves out is listed by opcode, so that nothing else is left out unseen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import capstone
import pytest

from elfpatch import disasm
from elfpatch import insn as isa
from elfpatch.disasm import Line
from tests.disasm.elf import code_sections, is_big_endian
from tests.support import corpus

ROOT = Path(__file__).parents[2]
FIXTURES = sorted((ROOT / "fixtures").rglob("*.o"))

_SIZES = {"b": "u8", "h": "u16", "w": "u32", "dw": "u64"}
_ALU = {"add": "+=", "sub": "-=", "mul": "*=", "div": "/=", "or": "|=", "and": "&=", "lsh": "<<=", "rsh": ">>=",
        "mod": "%=", "xor": "^=", "mov": "=", "arsh": "s>>="}  # fmt: skip
_JUMPS = {"jeq": "==", "jgt": ">", "jge": ">=", "jset": "&", "jne": "!=", "jsgt": "s>", "jsge": "s>=", "jlt": "<",
          "jle": "<=", "jslt": "s<", "jsle": "s<="}  # fmt: skip


def _signed(text: str, bits: int) -> int:
    number = int(text, 16)
    return number - (1 << bits) if number >> bits - 1 else number


def _jump(text: str) -> str:
    return f"pc{_signed(text.lstrip('+'), 16):+d}"


def _address(text: str) -> str:
    register, _, offset = text.strip("[]").partition("+")
    return f"({register} {_signed(offset or '0', 16):+d})"


def _right(mnemonic: str, words: list[str]) -> str:
    """The verifier's text of a capstone instruction; "" when there is no rule for it."""
    if mnemonic == "lddw":
        return f"{words[0]} = {words[1]}"
    if mnemonic in ("exit", "jmp"):
        return "exit" if mnemonic == "exit" else f"goto {_jump(words[0])}"
    if mnemonic == "call":
        return f"call ?{_signed(words[0], 32)}"
    if mnemonic in _JUMPS:
        left, right, to = words
        return f"if {left} {_JUMPS[mnemonic]} {right} goto {_jump(to)}"
    if swap := re.fullmatch(r"(be|le)(16|32|64)", mnemonic):
        return f"{words[0]} = {swap[0]} {words[0]}"
    if memory := re.fullmatch(r"(ldx|stx|st)(b|h|w|dw)", mnemonic):
        size, place = _SIZES[memory[2]], _address(words[1] if memory[1] == "ldx" else words[0])
        if memory[1] == "ldx":
            return f"{words[0]} = *({size} *){place}"
        return f"*({size} *){place} = {words[1] if memory[1] == 'stx' else _signed(words[1], 32)}"
    return _arithmetic(mnemonic, words)


def _arithmetic(mnemonic: str, words: list[str]) -> str:
    name, letter = mnemonic.removesuffix("64"), "r" if mnemonic.endswith("64") else "w"
    left = words[0].replace("r", letter)
    if name == "neg":
        return f"{left} = -{left}"
    if name not in _ALU:
        return ""
    right = words[1].replace("r", letter) if words[1].startswith("r") else str(_signed(words[1], 32))
    return f"{left} {_ALU[name]} {right}"


def _wrong_in_capstone(line: Line) -> bool:
    insn = line.insn
    kind, extended = insn.opcode & 7, insn.off != 0 and insn.opcode & 7 in (isa.CLASS_ALU, isa.CLASS_ALU64)
    return (
        kind == isa.CLASS_JMP32  # no instruction to it, gotol included
        or extended  # movsx, sdiv, smod, addr_space_cast are printed without the extension
        or insn.opcode in (0xD7, 0xE5, 0x0D)  # bswap, may_goto, gotox: unknown to it
        or insn.opcode & 0xE7 == isa.MODE_MEMSX | isa.CLASS_LDX  # unknown to it
        or insn.opcode & 0xE7 == isa.MODE_ATOMIC | isa.CLASS_STX  # all are xadd to it
        or (insn.opcode == isa.LD_IMM64 and insn.src != 0)
        or insn.opcode & 0xE7 in (isa.MODE_ABS, isa.MODE_IND)  # without r0 and, like LLVM, without the offset
        or insn.opcode == isa.CALL | isa.SOURCE_REG
    )


def _compared(path: Path) -> Iterator[tuple[str, str]]:
    reader = capstone.Cs(capstone.CS_ARCH_BPF, capstone.CS_MODE_BPF_EXTENDED | capstone.CS_MODE_LITTLE_ENDIAN)
    reader.skipdata = True
    for code in code_sections(path):
        theirs = {insn.address // isa.SIZE: insn for insn in reader.disasm(code.data, 0)}
        for line in disasm.lines(code.data):
            if _wrong_in_capstone(line):
                continue
            seen = theirs[line.slot]
            body = line.text[5:]
            if line.insn.opcode == isa.CALL:
                body = re.sub(r"^call (?:pc\+?|[a-z0-9_-]+#)(-?\d+)", r"call ?\1", body)
            yield body, _right(seen.mnemonic, seen.op_str.split(", "))


@pytest.mark.parametrize("source", ["fixtures", "corpus"])
def test_what_capstone_prints_right_is_ours(source: str) -> None:
    paths = [path for path in (FIXTURES if source == "fixtures" else corpus.objects()) if not is_big_endian(path)]
    done = [pair for path in paths for pair in _compared(path)]
    assert [pair for pair in done if pair[0] != pair[1]] == []
    total = sum(len(disasm.lines(code.data)) for path in paths for code in code_sections(path))
    assert len(done) > total * 0.9
    assert len(done) > 5_000
