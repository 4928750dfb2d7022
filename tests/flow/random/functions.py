"""Functions beside the entry, and the statements that call them."""

from __future__ import annotations

from elfpatch.insn import LD_IMM64, PSEUDO_FUNC
from tests.flow.random.arithmetic import arithmetic
from tests.flow.random.choices import FUNCTIONS, Callee, Choices
from tests.flow.random.insns import EXIT, alu, branch, call, call_helper, copy, load, map_value, mov, store, store_imm
from tests.flow.random.maps import RESULT
from tests.flow.random.scope import NUMBERS, SCRATCH, SLOTS, Scope
from tests.flow.random.tree import Asm, Function, Label, Seq, Statement

LOOP = 181  # bpf_loop


def prologue(gen: Choices, scope: Scope, arguments: list[int]) -> Statement:
    """Keep the context, give r7 r8 r9 and some stack slots a value."""
    made: Statement = [copy(6, 1)] if scope.ctx else []
    scope.live = set(arguments)
    for reg in NUMBERS:
        if arguments and gen.chance(0.5):
            made.append(copy(reg, gen.random.choice(arguments)))
            scope.wrote(reg)
        else:
            value = gen.number()
            made.append(mov(reg, value))
            scope.wrote(reg, value)
    for slot in gen.random.sample(SLOTS, 2):
        made.append(store_imm(8, 10, slot, gen.number()))
        scope.slots.add(slot)
    return made


def epilogue(gen: Choices, scope: Scope) -> Statement:
    """Report r7 r8 r9 and leave with some number in r0."""
    made: Statement = [map_value(1, RESULT, 0)]
    made += [store(8, 1, 8 * at, reg) for at, reg in enumerate(NUMBERS)]
    return [*made, *leave(gen, scope)]


def leave(gen: Choices, scope: Scope) -> Statement:
    made: Statement = []
    if 0 not in scope.live or gen.chance(0.7):
        made.append(copy(0, gen.random.choice(sorted(scope.live - set(SCRATCH) - {0}))))
    if gen.chance(0.4):
        made.append(alu("xor", 0, imm=gen.number()))
    return [*made, Asm(EXIT)]


def new_function(gen: Choices, *, looping: bool) -> Callee:
    """A new function; one that is called in a loop has none itself, or the verifier would walk too far."""
    gen.begun += 1
    loops = gen.loops
    is_global = gen.with_btf and gen.chance(0.25)
    ctx = not is_global and gen.chance(0.7)
    count = 2 if is_global else gen.random.randint(0, 5 - ctx)
    scope = Scope(live=set(), ctx=ctx, looping=looping)
    label = gen.label()
    body = prologue(gen, scope, list(range(1 + ctx, 1 + ctx + count)))
    body += gen.block(scope, gen.random.randint(1, 5))
    body += leave(gen, scope)
    gen.functions.append(Function(label, is_global, Seq(tuple(body))))
    gen.callable.append(Callee(label, ctx, count, gen.loops > loops))
    return gen.callable[-1]


def new_callback(gen: Choices) -> int:
    """A function for bpf_loop: r1 is the round, r2 points to a stack slot of the caller."""
    gen.begun += 1
    scope = Scope(live=set(), ctx=False, looping=True, may_leave=False)
    label = gen.label()
    body = prologue(gen, scope, [1])
    body += [load(8, 3, 2, 0), alu("add", 3, src=1), store(8, 2, 0, 3)] if gen.chance(0.6) else []
    body += gen.block(scope, gen.random.randint(1, 3))
    go_on = gen.label()
    body += [mov(0, 0), branch("!=", gen.random.choice(NUMBERS), go_on, imm=gen.number()), mov(0, 1)]
    body += [Label(go_on), Asm(EXIT)]
    gen.functions.append(Function(label, False, Seq(tuple(body))))
    return label


def call_function(gen: Choices, scope: Scope, *, fresh: bool = False) -> Statement:
    able = [callee for callee in gen.callable if scope.ctx >= callee.ctx and scope.looping + callee.loops < 2]
    if gen.begun < FUNCTIONS and (fresh or not able or gen.chance(0.4)):
        callee = new_function(gen, looping=scope.looping)
    elif able:
        callee = gen.random.choice(able)
    else:
        return arithmetic(gen, scope)
    if callee.ctx and not scope.ctx:
        return arithmetic(gen, scope)
    first = 1 + callee.ctx
    made: Statement = [copy(1, 6)] if callee.ctx else []
    for reg in range(first, first + callee.numbers):
        made.append(mov(reg, gen.number()) if gen.chance(0.3) else copy(reg, gen.random.choice(NUMBERS)))
    gen.loops += callee.loops
    scope.called()
    return [*made, call(callee.label)]


def looped_callback(gen: Choices, scope: Scope) -> Statement:
    # Never zero rounds: Linux 6.18 then takes the callback for dead code, removes it, and fails to jit what is left
    # ("verifier bug: No program to jit", EFAULT).
    gen.loops += 1
    slot = gen.random.choice(SLOTS)
    label = new_callback(gen)
    made: Statement = [store(8, 10, slot, gen.random.choice(NUMBERS))]
    if gen.chance(0.5):
        made.append(mov(1, gen.random.randint(1, 6)))
    else:
        made += [copy(1, gen.random.choice(NUMBERS)), alu("and", 1, imm=3), alu("add", 1, imm=1)]
    made += [Asm(LD_IMM64, 2, PSEUDO_FUNC, to=label), copy(3, 10), alu("add", 3, imm=slot), mov(4, 0)]
    scope.called()
    scope.slots.add(slot)
    return [*made, call_helper(LOOP)]
