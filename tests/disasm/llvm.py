"""llvm-objdump's text of BPF code, translated into the verifier's syntax.

Only LLVM's text is translated, ours is left alone, and each rule takes one form of instruction whole: what no rule
takes is an error, and a number, register or size that the printers disagree on survives as a difference.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 60.0  # seconds
# The newest instruction set: a superset of the older ones, and each object is decoded by what it holds.
COMMAND = ("llvm-objdump-19", "-d", "-z", "--no-show-raw-insn", "--mcpu=v4")


@dataclass(frozen=True)
class Seen:
    """A line of llvm-objdump: the text, and where a jump goes as slot of the section, None when it is not named."""

    section: str
    slot: int
    text: str
    target: int | None


def disassembly(*paths: Path) -> list[list[Seen]]:
    """Every instruction of every executable section, in order, of each object. The objects must be of one byte order:
    llvm-objdump reads all of them in that of the first."""
    if not paths:
        return []
    done = subprocess.run([*COMMAND, *map(str, paths)], capture_output=True, text=True, timeout=TIMEOUT, check=True)
    first, *texts = re.split(r"^.*:\tfile format elf64-bpf$", done.stdout, flags=re.MULTILINE)
    assert (first.strip(), len(texts)) == ("", len(paths))
    return [[seen for section in _sections(text) for seen in section] for text in texts]


def _sections(text: str) -> Iterator[list[Seen]]:
    for part in text.split("\nDisassembly of section ")[1:]:
        title, *lines = part.splitlines()
        name = title.removesuffix(":")
        found = [(label[2], int(label[1], 16)) for line in lines if (label := _LABEL.fullmatch(line))]
        names = Counter(label for label, _ in found)
        # A linker may leave several local labels of one name, which then say nothing.
        labels = {name: 0} | {label: address for label, address in found if names[label] == 1}
        yield [_seen(name, insn, labels) for line in lines if (insn := _INSN.fullmatch(line))]


_LABEL = re.compile(r"([0-9a-f]{16}) <(.*)>:")
_INSN = re.compile(r"\s*([0-9]+):\s+(.*?)(?: <([^<>]+?)(?:\+0x([0-9a-f]+))?>)?\s*")


def _seen(section: str, insn: re.Match[str], labels: dict[str, int]) -> Seen:
    slot, text, label, offset = insn.groups()
    if label is None or label not in labels:
        return Seen(section, int(slot), text, None)
    return Seen(section, int(slot), text, _signed(labels[label] + int(offset or "0", 16)) // 8)


def _signed(address: int) -> int:
    """A jump to before the section's start has an address below 0, which LLVM prints in 64 bits."""
    return address - (1 << 64) if address >> 63 else address


# --- translation ------------------------------------------------------------------------------------------------

_N = r"(-?0x[0-9a-f]+)"
_R, _W, _REG = r"r(\d+)", r"w(\d+)", r"([rw])(\d+)"
_PLACE = r"r(\d+) ([+-]) 0x([0-9a-f]+)"
_BINARY = r"(\+=|-=|\*=|/=|s/=|\|=|&=|<<=|>>=|s>>=|%=|s%=|\^=|=)"
_JUMP = r"([+-]0x[0-9a-f]+)"
_COMPARE = r"(==|!=|>|>=|<|<=|s>|s>=|s<|s<=|&)"
_BITS = {"u8": 8, "u16": 16, "u32": 32, "u64": 64}


def _s(number: str) -> str:
    return str(int(number, 16))


def _u(number: str, bits: int = 32) -> str:
    return hex(int(number, 16) & ((1 << bits) - 1))


def _off(number: str) -> str:
    return f"{int(number, 16):+d}"


def _at(m: re.Match[str], group: int) -> str:
    """The address of three groups: register, sign, offset."""
    register, sign, number = m.group(group, group + 1, group + 2)
    return f"(r{register} {sign}{int(number, 16)})"


def _half(letter: str, size: str) -> str:
    """LLVM writes w for a register of which a load or store uses less than 64 bits; the verifier always writes r."""
    assert letter == ("r" if _BITS[size] == 64 else "w"), (letter, size)
    return "r"


def _atomic(size: str, letter: str, name: str) -> str:
    _half(letter, size)
    return f"atomic{'64' if size == 'u64' else ''}_{name}(({size} *)"


_RULES: list[tuple[str, Callable[[re.Match[str]], str]]] = [
    (rf"{_REG} {_BINARY} {_N}", lambda m: f"{m[1]}{m[2]} {m[3]} {_s(m[4])}"),
    (rf"{_REG} {_BINARY} \1(\d+)", lambda m: m[0]),
    (rf"{_REG} = -\1\2", lambda m: m[0]),
    (rf"{_REG} = \(s(8|16)\)\1(\d+)|{_R} = \(s32\){_R}", lambda m: m[0]),
    (rf"{_R} = (bswap|be|le)(16|32|64) r\1", lambda m: m[0]),
    (
        rf"{_R} = addr_space_cast\({_R}, {_N}, {_N}\)",
        lambda m: f"r{m[1]} = addr_space_cast(r{m[2]}, {_s(m[3])}, {_s(m[4])})",
    ),
    (rf"{_R} = {_N} ll", lambda m: f"r{m[1]} = {_u(m[2], 64)}"),
    (rf"ld_pseudo\tr(\d+), 0x1, {_N}", lambda m: f"r{m[1]} = map[fd:{_s(m[2])}]"),
    (rf"r0 = \*\((u8|u16|u32) \*\)skb\[{_N}\]", lambda m: f"r0 = *({m[1]} *)skb[{_s(m[2])}]"),
    (rf"r0 = \*\((u8|u16|u32) \*\)skb\[{_R}\]", lambda m: f"r0 = *({m[1]} *)skb[r{m[2]} + ?]"),
    (rf"{_R} = \*\((s8|s16|s32) \*\)\({_PLACE}\)", lambda m: f"r{m[1]} = *({m[2]} *){_at(m, 3)}"),
    (rf"{_REG} = \*\((u\d+) \*\)\({_PLACE}\)", lambda m: f"{_half(m[1], m[3])}{m[2]} = *({m[3]} *){_at(m, 4)}"),
    (rf"\*\((u\d+) \*\)\({_PLACE}\) = {_N}", lambda m: f"*({m[1]} *){_at(m, 2)} = {_s(m[5])}"),
    (rf"\*\((u\d+) \*\)\({_PLACE}\) = {_REG}", lambda m: f"*({m[1]} *){_at(m, 2)} = {_half(m[5], m[1])}{m[6]}"),
    (
        rf"lock \*\((u32|u64) \*\)\({_PLACE}\) (\+=|\|=|&=|\^=) {_REG}",
        lambda m: f"lock *({m[1]} *){_at(m, 2)} {m[5]} {_half(m[6], m[1])}{m[7]}",
    ),
    (
        rf"{_REG} = atomic_(fetch_(?:add|or|and|xor))\(\((u32|u64) \*\)\({_PLACE}\), \1\2\)",
        lambda m: f"r{m[2]} = {_atomic(m[4], m[1], m[3])}{_at(m, 5)}, r{m[2]})",
    ),
    (rf"{_R} = xchg_64\({_PLACE}, r\1\)", lambda m: f"r{m[1]} = atomic64_xchg((u64 *){_at(m, 2)}, r{m[1]})"),
    (rf"{_W} = xchg32_32\({_PLACE}, w\1\)", lambda m: f"r{m[1]} = atomic_xchg((u32 *){_at(m, 2)}, r{m[1]})"),
    (
        rf"r0 = cmpxchg_64\({_PLACE}, r0, {_R}\)",
        lambda m: f"r0 = atomic64_cmpxchg((u64 *){_at(m, 1)}, r0, r{m[4]})",
    ),
    (
        rf"w0 = cmpxchg32_32\({_PLACE}, w0, {_W}\)",
        lambda m: f"r0 = atomic_cmpxchg((u32 *){_at(m, 1)}, r0, r{m[4]})",
    ),
    (
        rf"if {_REG} {_COMPARE} \1(\d+) goto {_JUMP}",
        lambda m: f"if {m[1]}{m[2]} {m[3]} {m[1]}{m[4]} goto pc{_off(m[5])}",
    ),
    (
        rf"if {_REG} {_COMPARE} {_N} goto {_JUMP}",
        lambda m: f"if {m[1]}{m[2]} {m[3]} {_u(m[4])} goto pc{_off(m[5])}",
    ),
    (rf"(goto|gotol|may_goto) {_JUMP}", lambda m: f"{m[1]} pc{_off(m[2])}"),
    (rf"call {_N}", lambda m: f"call ?{_s(m[1])}"),
    (rf"callx {_R}", lambda m: m[0]),
    (r"exit", lambda m: m[0]),
    (r"<unknown>", lambda m: "unknown"),
]  # fmt: skip
_COMPILED = [(re.compile(pattern), rule) for pattern, rule in _RULES]


@functools.cache
def verifier_syntax(text: str) -> str:
    """The verifier's text, `?` where LLVM does not say: a call's kind, and the offset of an indirect packet load."""
    for pattern, rule in _COMPILED:
        if match := pattern.fullmatch(text):
            return rule(match)
    raise AssertionError(f"llvm-objdump prints a form that is not translated: {text!r}")
