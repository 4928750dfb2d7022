"""Bounded loops."""

from __future__ import annotations

from tests.flow.random.branches import goto
from tests.flow.random.choices import Choices
from tests.flow.random.insns import MAY_GOTO, alu, branch, load, map_value, mov, store, store_imm
from tests.flow.random.maps import DATA, DATA_SIZE, RODATA
from tests.flow.random.scope import COUNTER_SLOT, NUMBERS, SCRATCH, Scope
from tests.flow.random.tree import Asm, Label, Seq, Statement


def loop(gen: Choices, scope: Scope) -> Statement:
    """A bounded loop; its counter is in a register or on the stack."""
    gen.loops += 1
    counter = gen.random.choice((*NUMBERS, None))
    inner = scope.inner()
    inner.looping, inner.live, inner.known = True, set(NUMBERS) - {counter}, {}
    make = gen.random.choice((do_loop, while_loop, may_goto_loop))
    made = make(gen, inner, counter, gen.label(), gen.label())
    scope.live, scope.known = set(NUMBERS), {}
    scope.slots &= inner.slots
    return [*_zero(counter), *made]


def rounds(gen: Choices, inner: Scope) -> Seq:
    return Seq(tuple(gen.block(inner, gen.random.randint(1, 3))))


def do_loop(gen: Choices, inner: Scope, counter: int | None, again: int, end: int) -> Statement:
    used, step = _step(counter)
    return [Label(again), rounds(gen, inner), *step, branch("<", used, again, imm=gen.random.randint(1, 5))]


def while_loop(gen: Choices, inner: Scope, counter: int | None, again: int, end: int) -> Statement:
    """Its bound comes from a map."""
    bound = gen.random.choice(sorted(inner.live))
    inner.live.discard(bound)
    made = unknown_bound(gen, bound)
    used, read = _read(counter)
    _, step = _step(counter)
    made += [Label(again), *read, branch(gen.random.choice((">=", "s>=")), used, end, src=bound)]
    return [*made, rounds(gen, inner), *step, goto(gen, again), Label(end)]


def may_goto_loop(gen: Choices, inner: Scope, counter: int | None, again: int, end: int) -> Statement:
    used, read = _read(counter)
    _, step = _step(counter)
    made: Statement = [Label(again), Asm(MAY_GOTO, to=end), *read]
    made.append(branch(">", used, end, imm=gen.random.randint(1, 5)))
    return [*made, rounds(gen, inner), *step, goto(gen, again), Label(end)]


def unknown_bound(gen: Choices, reg: int) -> Statement:
    base = gen.random.choice(SCRATCH)
    where = gen.random.randrange(DATA_SIZE)
    made: Statement = [map_value(base, gen.random.choice((DATA, *RODATA)), where), load(1, reg, base, 0)]
    return [*made, alu("and", reg, imm=gen.random.choice((3, 7)))]


def _zero(counter: int | None) -> Statement:
    return [mov(counter, 0)] if counter is not None else [store_imm(8, 10, COUNTER_SLOT, 0)]


def _read(counter: int | None) -> tuple[int, Statement]:
    """The register that holds the counter, and the code that puts it there."""
    return (counter, []) if counter is not None else (0, [load(8, 0, 10, COUNTER_SLOT)])


def _step(counter: int | None) -> tuple[int, Statement]:
    """Count a round; the register that holds the counter then."""
    if counter is not None:
        return counter, [alu("add", counter, imm=1)]
    return 0, [load(8, 0, 10, COUNTER_SLOT), alu("add", 0, imm=1), store(8, 10, COUNTER_SLOT, 0)]
