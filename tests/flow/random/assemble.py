"""A program's tree as the bytes, BTF and tables that the kernel takes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from elfpatch.insn import CALL, LD_IMM64
from tests.flow.random.insns import GOTOL
from tests.flow.random.tree import Asm, Function, Label, Program, Seq, instructions


@dataclass(frozen=True)
class Assembled:
    """A program as `code_of` takes it. `late`: slot -> the constant that the loader puts there."""

    insns: bytes
    refs: dict[int, tuple[int, int, int]]
    late: dict[int, int]
    btf: bytes
    func_info: bytes
    line_info: bytes
    global_starts: frozenset[int]


def assemble(program: Program) -> Assembled:
    """Flatten the tree. Functions that nothing refers to are left out, as the kernel refuses them."""
    functions = _referenced(program)
    flat: list[Asm] = []
    slots: list[int] = []
    labels: dict[int, int] = {}
    lines: set[int] = set()
    here = 0

    def flatten(seq: Seq) -> None:
        nonlocal here
        lines.add(here)
        for item in seq.items:
            if isinstance(item, Seq):
                flatten(item)
            elif isinstance(item, Label):
                labels[item.number] = here
            else:
                flat.append(item)
                slots.append(here)
                here += item.width

    for function in functions:
        labels[function.label] = here
        flatten(function.body)
    placed = list(zip(slots, flat, strict=True))
    starts = [labels[function.label] for function in functions]
    btf, func_info, line_info = b"", b"", b""
    if program.with_btf:
        btf = _btf(functions)
        func_info = b"".join(struct.pack("<II", start, 4 + at) for at, start in enumerate(starts))
        line_info = b"".join(
            struct.pack("<IIII", slot, 1, 1, (at + 1) << 10) for at, slot in enumerate(sorted(lines & set(slots)))
        )
    return Assembled(
        b"".join(_encoded(insn, slot, labels) for slot, insn in placed),
        {slot: insn.ref for slot, insn in placed if insn.ref},
        {slot: insn.late for slot, insn in placed if insn.late is not None},
        btf,
        func_info,
        line_info,
        frozenset(start for start, function in zip(starts, functions, strict=True) if function.is_global),
    )


def _encoded(insn: Asm, slot: int, labels: dict[int, int]) -> bytes:
    off, imm = insn.off, insn.imm
    if insn.to is not None:
        distance = labels[insn.to] - slot - 1
        if insn.opcode in {CALL, GOTOL, LD_IMM64}:
            imm = distance
        else:
            off = distance
    first = struct.pack("<BBhi", insn.opcode, insn.src << 4 | insn.dst, off, imm)
    return first if insn.width == 1 else first + struct.pack("<BBhi", 0, 0, 0, insn.high)


def _referenced(program: Program) -> list[Function]:
    """The entry and what it reaches by calls, in order."""
    by_label = {function.label: function for function in program.functions}
    wanted, pending = set(), [program.functions[0].label]
    while pending:
        label = pending.pop()
        if label not in wanted:
            wanted.add(label)
            pending += [insn.to for insn in instructions(by_label[label].body) if insn.to in by_label]
    return [function for function in program.functions if function.label in wanted]


def _btf(functions: list[Function]) -> bytes:
    """Types: 1 `int`; 2 `int (void)`, said of static functions, whose arguments the kernel sees at each call;
    3 `int (int, int)` for global ones; from 4 on one FUNC per function."""
    strings = bytearray(b"\0int\0a\0")
    kind_int, kind_func, kind_proto = 1, 12, 13
    types = struct.pack("<IIII", 1, kind_int << 24, 4, 1 << 24 | 32)
    types += struct.pack("<III", 0, kind_proto << 24, 1)
    types += struct.pack("<IIIIIII", 0, kind_proto << 24 | 2, 1, 5, 1, 5, 1)
    for at, function in enumerate(functions):
        proto = 3 if function.is_global and at else 2
        types += struct.pack("<III", len(strings), kind_func << 24 | int(function.is_global), proto)
        strings += f"f{at}\0".encode()
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + bytes(strings)
