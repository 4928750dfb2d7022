"""Statements that take a constant, from the code or from a map, or what may look like one."""

from __future__ import annotations

from dataclasses import replace

from tests.flow.random.choices import WIDE_EDGES, Choices
from tests.flow.random.insns import alu, copy, load, map_value, mov, signed, store, wide_constant
from tests.flow.random.maps import DATA, DATA_SIZE, RESULT, RODATA
from tests.flow.random.scope import MASK32, SCRATCH, Scope
from tests.flow.random.tree import Statement


def constant(gen: Choices, scope: Scope) -> Statement:
    dst = gen.destination(scope)
    if gen.chance(0.5):
        value = gen.number()
        wide = gen.chance(0.6)
        scope.wrote(dst, value if wide else value & MASK32)
        return [alu("mov", dst, imm=value, wide=wide)]
    value = gen.random.choice((*WIDE_EDGES, gen.random.getrandbits(64)))
    scope.wrote(dst, value)
    return [wide_constant(dst, value)]


def hole(gen: Choices, scope: Scope) -> Statement:
    """A constant that the loader replaces after specialisation."""
    dst = gen.destination(scope)
    value, stale = gen.number(), gen.number()
    scope.wrote(dst, value)
    return [replace(mov(dst, stale), late=value)]


def load_constant(gen: Choices, scope: Scope) -> Statement:
    """Read a constant variable: directly, or at an offset that is added to the pointer."""
    row, size = gen.random.choice(RODATA), gen.random.choice((1, 2, 4, 8))
    sign = size < 8 and gen.chance(0.4)
    where = gen.random.randrange(DATA_SIZE - size + 1)
    if gen.chance(0.7):
        where &= -size
    base = gen.pointer(scope)
    made, off = point_at(gen, scope, row, base, where)
    dst = base if gen.chance(0.3) else gen.destination(scope)
    made.append(load(size, dst, base, off, sign=sign))
    value = int.from_bytes(gen.rodata[row][where : where + size], "little")
    scope.wrote(dst, signed(value, 8 * size) if sign else value)
    return made


def load_near(gen: Choices, scope: Scope) -> Statement:
    """Read constants at an index that nobody knows, or that a constant variable holds."""
    base = gen.pointer(scope)
    index = gen.random.choice(sorted(set(SCRATCH) - {base}))
    made: Statement = [copy(index, gen.operand(scope)), alu("and", index, imm=gen.random.choice((7, 15, 31)))]
    dst, size = gen.destination(scope), gen.random.choice((1, 2, 4, 8))
    made += [map_value(base, gen.random.choice(RODATA), 16), alu("add", base, src=index)]
    made.append(load(size, dst, base, gen.random.choice((-8, 0, 8)), sign=size < 8 and gen.chance(0.3)))
    scope.live -= {index, base}
    scope.known.pop(index, None)
    scope.wrote(dst)
    return made


def load_data(gen: Choices, scope: Scope) -> Statement:
    """Read, and perhaps write, what is not constant although it looks the same."""
    row, size = gen.random.choice((DATA, RESULT)), gen.random.choice((1, 2, 4, 8))
    where = gen.random.randrange(DATA_SIZE // size) * size
    base = gen.pointer(scope)
    made, off = point_at(gen, scope, row, base, where)
    if gen.chance(0.3) and scope.live:
        made.append(store(size, base, off, gen.operand(scope)))
    dst = gen.destination(scope)
    made.append(load(size, dst, base, off, sign=size < 8 and gen.chance(0.3)))
    scope.live.discard(base)
    scope.wrote(dst)
    return made


def point_at(gen: Choices, scope: Scope, row: int, base: int, where: int) -> tuple[Statement, int]:
    """Code that makes `base` point to a place of a map, short of the offset that is returned."""
    first = gen.random.randint(0, where)
    rest = where - first
    way = gen.random.choice(("here", "here", "imm", "minus", "reg", "moved"))
    if way == "imm":
        return [map_value(base, row, first), alu("add", base, imm=rest)], 0
    if way == "minus":
        return [map_value(base, row, where), alu("sub", base, imm=first)], first
    if way == "reg":
        free = sorted(set(SCRATCH) - {base})
        other = gen.random.choice(free)
        scope.wrote(other, rest)
        return [map_value(base, row, first), mov(other, rest), alu("add", base, src=other)], 0
    if way == "moved":
        other = gen.random.choice(sorted(set(SCRATCH) - {base}))
        scope.live.discard(other)
        scope.known.pop(other, None)
        return [map_value(other, row, first), copy(base, other)], rest
    return [map_value(base, row, first)], rest
