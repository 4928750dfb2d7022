"""The tree that a program is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from elfpatch.insn import LD_IMM64


@dataclass(frozen=True)
class Asm:
    """One instruction. `to`: label of a jump, call or PSEUDO_FUNC. `ref`: (kind, map row, offset) of an LD_IMM64.
    `late`: what the loader puts in place of the constant only after specialisation, as CO-RE does. `site`: a branch
    that may be turned into one that always or never jumps."""

    opcode: int
    dst: int = 0
    src: int = 0
    off: int = 0
    imm: int = 0
    high: int = 0
    to: int | None = None
    ref: tuple[int, int, int] | None = None
    late: int | None = None
    site: bool = False

    @property
    def width(self) -> int:
        return 2 if self.opcode == LD_IMM64 else 1


@dataclass(frozen=True)
class Label:
    number: int


@dataclass(frozen=True)
class Seq:
    """A statement, or a list of them."""

    items: tuple[Asm | Label | Seq, ...]


@dataclass(frozen=True)
class Function:
    label: int
    is_global: bool
    body: Seq


@dataclass(frozen=True)
class Program:
    """`functions[0]` is the entry. `with_btf`: it is loaded with func_info and line_info."""

    kind: int
    functions: tuple[Function, ...]
    rodata: tuple[bytes, ...]
    with_btf: bool


Statement = list["Asm | Label | Seq"]


def instructions(seq: Seq) -> list[Asm]:
    found: list[Asm] = []
    for item in seq.items:
        if isinstance(item, Seq):
            found += instructions(item)
        elif isinstance(item, Asm):
            found.append(item)
    return found


def with_sites(program: Program, jumps: Callable[[int], Asm]) -> Program:
    """The program with every site replaced: `jumps(label)` is called for them in order."""

    def changed(seq: Seq) -> Seq:
        return Seq(tuple(change(item) for item in seq.items))

    def change(item: Asm | Label | Seq) -> Asm | Label | Seq:
        if isinstance(item, Seq):
            return changed(item)
        return jumps(item.to) if isinstance(item, Asm) and item.site and item.to is not None else item

    functions = (replace(function, body=changed(function.body)) for function in program.functions)
    return replace(program, functions=tuple(functions))
