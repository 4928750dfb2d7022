"""Statements that branch."""

from __future__ import annotations

from dataclasses import replace

from tests.flow.random.arithmetic import change
from tests.flow.random.choices import FUNCTIONS, Choices
from tests.flow.random.constants import load_constant
from tests.flow.random.functions import call_function, epilogue, leave
from tests.flow.random.insns import GOTO, GOTOL, JUMP, alu, branch, load, map_value, mov, signed, wide_constant
from tests.flow.random.maps import DATA, RODATA
from tests.flow.random.scope import SCRATCH, Scope
from tests.flow.random.tree import Asm, Label, Seq, Statement


def decided(gen: Choices, scope: Scope) -> Statement:
    """A branch on a value that is known, beside that value."""
    made: Statement = []
    if not scope.known or gen.chance(0.5):
        made += load_constant(gen, scope)
    reg = gen.random.choice(sorted(scope.known))
    for _ in range(gen.random.choice((0, 0, 1, 2))):
        made += change(gen, scope, reg)
    return made + conditional(gen, scope, reg, scope.known.get(reg))


def undecided(gen: Choices, scope: Scope) -> Statement:
    return conditional(gen, scope, gen.operand(scope), None)


def conditional(gen: Choices, scope: Scope, reg: int, value: int | None) -> Statement:
    """`if reg ... {} else {}`; either part may be missing or leave the function."""
    other, end = gen.label(), gen.label()
    *made, jump = condition(gen, scope, reg, value, other)
    assert isinstance(jump, Asm)
    made.append(replace(jump, site=True))
    left, right = scope.inner(), scope.inner()
    first = arm(gen, left)
    # A decided branch that leaves takes all behind it along, so that is rare.
    if scope.may_leave and scope.depth < 2 and not scope.looping and gen.chance(0.15 if value is None else 0.03):
        first += epilogue(gen, left) if scope.entry else leave(gen, left)
        scope.join(right, right)
        return [*made, Seq(tuple(first)), Label(other)]
    if gen.chance(0.5):
        second = arm(gen, right)
        scope.join(left, right)
        return [*made, Seq(tuple(first)), goto(gen, end), Label(other), Seq(tuple(second)), Label(end)]
    scope.join(left, right)
    return [*made, Seq(tuple(first)), Label(other)]


def condition(gen: Choices, scope: Scope, reg: int, value: int | None, to: int) -> Statement:
    """A conditional jump on `reg`; when `value` is known, the other operand is equal to it or near."""
    cond, wide = gen.random.choice(sorted(JUMP)), gen.chance(0.6)
    if value is None or gen.chance(0.15):
        src = gen.operand(scope)
        if gen.chance(0.4):
            return [branch(cond, reg, to, src=src, wide=wide)]
        return [branch(cond, reg, to, imm=gen.number(), wide=wide)]
    near = value + gen.random.choice((0, 0, 0, 1, -1, 1 << 31, 1 << 32))
    if gen.chance(0.4) and len(set(SCRATCH) - {reg}) > 0:
        src = gen.random.choice(sorted(set(SCRATCH) - {reg}))
        scope.wrote(src, near)
        return [wide_constant(src, near), branch(cond, reg, to, src=src, wide=wide)]
    return [branch(cond, reg, to, imm=signed(near, 32), wide=wide)]


def arm(gen: Choices, scope: Scope) -> Statement:
    """What a branch leads to; mostly it can be told from what the program reports that it ran."""
    made: Statement = []
    if gen.chance(0.6):
        made.append(alu("add", reg := gen.random.choice(scope.kept()), imm=gen.any32()))
        scope.wrote(reg)
    if gen.begun < FUNCTIONS and gen.chance(0.3):
        made.append(Seq(tuple(call_function(gen, scope, fresh=True))))
    return made + gen.block(scope, gen.random.randint(0 if made else 1, 3))


def merged(gen: Choices, scope: Scope) -> Statement:
    """A pointer, or a number, that is one constant or another."""
    other, end = gen.label(), gen.label()
    made = condition(gen, scope, reg := gen.operand(scope), scope.known.get(reg), other)
    base, dst = gen.pointer(scope), gen.destination(scope)
    if gen.chance(0.5):
        arms = [map_value(base, gen.random.choice((*RODATA, DATA)), gen.random.randrange(48)) for _ in range(2)]
        scope.live.discard(base)
        after: Statement = [load(gen.random.choice((1, 2, 4, 8)), dst, base, gen.random.randrange(8))]
        scope.wrote(dst)
    else:
        arms = [mov(dst, gen.random.choice((1, 2))) for _ in range(2)]
        scope.wrote(dst)
        after = []
    return [*made, arms[0], goto(gen, end), Label(other), arms[1], Label(end), *after]


def goto(gen: Choices, to: int) -> Asm:
    return Asm(GOTOL, to=to) if gen.chance(0.3) else Asm(GOTO, to=to)
