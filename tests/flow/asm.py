"""A small assembler: instructions and labels in a row.

    assemble(ld(1, map=0, offset=4), load(2, 1), jump("==", 2, 7, "seven"), mov(0, 0), leave(), "seven", leave())

A register operand is `r(n)`, a number is an immediate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from elfpatch import index as ix
from elfpatch import insn as isa
from elfpatch.flow.program import Code, code_of
from elfpatch.insn import Insn

ALU = dict(zip("+= -= *= /= |= &= <<= >>= neg %= ^= = s>>= end".split(), range(0, 0xE0, 0x10), strict=True))
CONDITIONS = {"==": 1, ">": 2, ">=": 3, "&": 4, "!=": 5, "s>": 6, "s>=": 7, "<": 0xA, "<=": 0xB, "s<": 0xC, "s<=": 0xD}
SIZES = {4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18}


@dataclass(frozen=True)
class r:  # noqa: N801
    """A register as operand."""

    number: int


@dataclass(frozen=True)
class Item:
    """An instruction; `label` names the target of a jump, call or function address. `map`: (row, offset or None)."""

    insn: Insn
    second: Insn | None = None
    label: str = ""
    map: tuple[int, int | None] | None = None


Operand = int | r


def _source(operand: Operand) -> tuple[int, int, int]:
    """(source bit, src, imm)"""
    return (8, operand.number, 0) if isinstance(operand, r) else (0, 0, operand)


def alu(op: str, dst: int, operand: Operand, *, bits: int = 64, off: int = 0) -> Item:
    bit, src, imm = _source(operand)
    return Item(Insn((7 if bits == 64 else 4) | bit | ALU[op], dst, src, off, imm))


def mov(dst: int, operand: Operand, *, bits: int = 64, off: int = 0) -> Item:
    return alu("=", dst, operand, bits=bits, off=off)


def ld(dst: int, value: int = 0, *, map: int | None = None, offset: int | None = None, func: str = "") -> Item:
    """LD_IMM64 of a number, a map (no offset), a byte of a data map, or a function."""
    low, high = _word(value), _word(value >> 32)
    if map is not None:
        kind = isa.PSEUDO_MAP_FD if offset is None else isa.PSEUDO_MAP_VALUE
        return Item(Insn(0x18, dst, kind, 0, 0), Insn(0, 0, 0, 0, offset or 0), map=(map, offset))
    return Item(Insn(0x18, dst, isa.PSEUDO_FUNC if func else 0, 0, low), Insn(0, 0, 0, 0, high), func)


def load(dst: int, base: int, off: int = 0, *, size: int = 4, signed: bool = False) -> Item:
    return Item(Insn((0x81 if signed else 0x61) | SIZES[size], dst, base, off, 0))


def store(base: int, off: int, operand: Operand, *, size: int = 4) -> Item:
    bit, src, imm = _source(operand)
    return Item(Insn((0x63 if bit else 0x62) | SIZES[size], base, src, off, imm))


def jump(condition: str, dst: int, operand: Operand, label: str, *, bits: int = 64) -> Item:
    bit, src, imm = _source(operand)
    return Item(Insn((5 if bits == 64 else 6) | bit | CONDITIONS[condition] << 4, dst, src, 0, imm), label=label)


def goto(label: str, *, far: bool = False) -> Item:
    return Item(Insn(0x06 if far else 0x05, 0, 0, 0, 0), label=label)


def may_goto(label: str) -> Item:
    return Item(Insn(0xE5, 0, 0, 0, 0), label=label)


def call(target: int | str) -> Item:
    """A helper by number, or a function by label."""
    if isinstance(target, str):
        return Item(Insn(0x85, 0, isa.PSEUDO_CALL, 0, 0), label=target)
    return Item(Insn(0x85, 0, 0, 0, target))


def leave() -> Item:
    return Item(Insn(0x95, 0, 0, 0, 0))


def _word(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def labels_of(*items: Item | str) -> dict[str, int]:
    """The slot of each label."""
    found, slot = {}, 0
    for item in items:
        if isinstance(item, str):
            found[item] = slot
        else:
            slot += 1 if item.second is None else 2
    return found


def assemble(*items: Item | str, big_endian: bool = False, **records: Any) -> Code:
    """The program, with `refs` of the maps it names; `records` as `code_of` takes them."""
    labels = labels_of(*items)
    placed: list[Insn] = []
    refs: dict[int, tuple[int, int, int]] = {}
    for item in items:
        if isinstance(item, str):
            continue
        slot = len(placed)
        if item.map is not None:
            row, offset = item.map
            refs[slot] = (ix.FIXUP_MAP_FD if offset is None else ix.FIXUP_MAP_VALUE, row, offset or 0)
        placed.append(_aimed(item.insn, labels[item.label] - slot - 1) if item.label else item.insn)
        if item.second is not None:
            placed.append(item.second)
    data = bytearray(8 * len(placed))
    for slot, insn in enumerate(placed):
        isa.encode_into(data, slot, insn, big_endian=big_endian)
    return code_of(bytes(data), refs, big_endian=big_endian, **records)


def _aimed(insn: Insn, distance: int) -> Insn:
    if insn.opcode in (0x85, 0x18, 0x06):
        return Insn(insn.opcode, insn.dst, insn.src, insn.off, distance)
    return Insn(insn.opcode, insn.dst, insn.src, distance, insn.imm)


def plain(insn: Insn) -> tuple[int, int, int, int, int]:
    """An instruction to compare."""
    return (insn.opcode, insn.dst, insn.src, insn.off, insn.imm)


def same(code: Code, *items: Item | str) -> bool:
    """Whether a program's instructions are these."""
    return code.encode() == assemble(*items).encode()
