"""Statements that read and write the stack and what the program reports."""

from __future__ import annotations

from tests.flow.random.branches import conditional
from tests.flow.random.choices import Choices
from tests.flow.random.insns import ATOMIC, CMPXCHG, SIZES, load, map_value, mov, store, store_imm
from tests.flow.random.maps import DATA_SIZE, REPORTED, RESULT, RODATA
from tests.flow.random.scope import SLOTS, Scope
from tests.flow.random.tree import Asm, Statement


def stack(gen: Choices, scope: Scope) -> Statement:
    if scope.slots and gen.chance(0.5):
        size, dst = gen.random.choice((1, 2, 4, 8)), gen.destination(scope)
        off = gen.random.choice(sorted(scope.slots)) + gen.random.randrange(8 // size) * size
        scope.wrote(dst)
        return [load(size, dst, 10, off, sign=size < 8 and gen.chance(0.3))]
    if scope.slots and gen.chance(0.5):
        size = gen.random.choice((1, 2, 4))
        off = gen.random.choice(sorted(scope.slots)) + gen.random.randrange(8 // size) * size
    else:
        size, off = 8, gen.random.choice(SLOTS)
        scope.slots.add(off)
    if gen.chance(0.3):
        return [store_imm(size, 10, off, gen.number())]
    return [store(size, 10, off, gen.operand(scope))]


def spill(gen: Choices, scope: Scope) -> Statement:
    """A pointer to constants goes over the stack."""
    base, slot = gen.pointer(scope), gen.random.choice(SLOTS)
    scope.slots.discard(slot)
    other, dst = gen.pointer(scope), gen.destination(scope)
    scope.wrote(dst)
    made: Statement = [map_value(base, gen.random.choice(RODATA), 8), store(8, 10, slot, base)]
    return [*made, load(8, other, 10, slot), load(4, dst, other, gen.random.choice((0, 4, 8)))]


def report(gen: Choices, scope: Scope) -> Statement:
    base, size = gen.pointer(scope), gen.random.choice((1, 2, 4, 8))
    off = gen.random.randrange(REPORTED // size, DATA_SIZE // size) * size
    where = gen.random.randint(0, off)
    made: Statement = [map_value(base, RESULT, where)]
    if gen.chance(0.3):
        return [*made, store_imm(size, base, off - where, gen.number())]
    return [*made, store(size, base, off - where, gen.operand(scope))]


def atomic(gen: Choices, scope: Scope) -> Statement:
    """An atomic operation on the result; what it fetches, into its source or into r0, decides a branch."""
    base, size, src = gen.pointer(scope), gen.random.choice((4, 8)), gen.operand(scope)
    off = gen.random.randrange(REPORTED // size, DATA_SIZE // size) * size
    made: Statement = [map_value(base, RESULT, 0)]
    fetched: int | None
    if gen.chance(0.3):
        op, fetched = CMPXCHG, 0
        made += [mov(0, gen.number())] if 0 not in scope.live or gen.chance(0.5) else []
    else:
        name = gen.random.choice(sorted(ATOMIC))
        op, fetched = ATOMIC[name], src if "ch" in name else None
    made.append(Asm(0xC3 | SIZES[size], base, src, off, op))
    if fetched is None:
        return made
    scope.wrote(fetched)
    return made + conditional(gen, scope, fetched, None) if scope.depth < 3 and gen.chance(0.4) else made
