"""Statements that compute a number."""

from __future__ import annotations

from collections.abc import Callable

from tests.flow.random.choices import Choices
from tests.flow.random.insns import ALU, END, NEG, alu, copy, signed
from tests.flow.random.scope import MASK32, MASK64, SCRATCH, Scope
from tests.flow.random.tree import Asm, Statement


def arithmetic(gen: Choices, scope: Scope) -> Statement:
    return change(gen, scope, gen.operand(scope))


def change(gen: Choices, scope: Scope, dst: int) -> Statement:
    """Compute something new in `dst`, from what is there."""
    return unary(gen, scope, dst) if gen.chance(0.25) else binary(gen, scope, dst)


def binary(gen: Choices, scope: Scope, dst: int) -> Statement:
    op, wide = gen.random.choice(sorted(ALU)), gen.chance(0.5)
    off = 1 if op in {"div", "mod"} and gen.chance(0.4) else 0  # sdiv, smod
    shifts, bits = op in {"lsh", "rsh", "arsh"}, 64 if wide else 32
    made: Statement = []
    if gen.chance(0.5):
        src = gen.operand(scope)
        right = scope.known.get(src)
        if shifts:
            shift = gen.random.choice(sorted(set(SCRATCH) - {dst}))
            made = [copy(shift, src), alu("and", shift, imm=bits - 1)]
            src, right = shift, None if right is None else right & (bits - 1)
            scope.wrote(shift, right)
        made.append(alu(op, dst, src=src, wide=wide, off=off))
    else:
        imm = gen.random.randrange(bits) if shifts else gen.number()
        imm = imm or 3 if op in {"div", "mod"} else imm
        right = imm & MASK64
        made.append(alu(op, dst, imm=imm, wide=wide, off=off))
    left = scope.known.get(dst, 0 if op == "mov" else None)
    sure = left is not None and right is not None and not off
    scope.wrote(dst, evaluate(op, left or 0, right or 0, wide=wide) if sure else None)
    return made


def unary(gen: Choices, scope: Scope, dst: int) -> Statement:
    """neg, byte swaps, sign-extending moves."""
    wide = gen.chance(0.5)
    if gen.chance(0.6):
        src, bits = (
            gen.random.choice((dst, gen.operand(scope))),
            gen.random.choice((8, 16, 32) if wide else (8, 16)),
        )
        value = scope.known.get(src)
        moved = None if value is None else signed(value, bits) & (MASK64 if wide else MASK32)
        scope.wrote(dst, moved)
        return [alu("mov", dst, src=src, wide=wide, off=bits)]
    scope.wrote(dst)
    if gen.chance(0.4):
        return [Asm(NEG | (0x07 if wide else 0x04), dst)]
    return [Asm(END | gen.random.choice((0x07, 0x04, 0x0C)), dst, imm=gen.random.choice((16, 32, 64)))]


def evaluate(op: str, left: int, right: int, *, wide: bool) -> int:
    """What RFC 9669 says the result is, as an unsigned 64-bit number; shifts are in range."""
    bits = 64 if wide else 32
    mask = (1 << bits) - 1
    left, right = left & mask, right & mask
    results: dict[str, Callable[[], int]] = {
        "add": lambda: left + right,
        "sub": lambda: left - right,
        "mul": lambda: left * right,
        "div": lambda: left // right if right else 0,
        "mod": lambda: left % right if right else left,
        "or": lambda: left | right,
        "and": lambda: left & right,
        "xor": lambda: left ^ right,
        "lsh": lambda: left << right,
        "rsh": lambda: left >> right,
        "arsh": lambda: signed(left, bits) >> right,
        "mov": lambda: right,
    }
    return results[op]() & mask
