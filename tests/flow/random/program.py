"""A random program: its entry, and which statements there are."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from elfpatch.kernel.abi import PROG_TYPE_SCHED_CLS
from tests.flow.random.arithmetic import arithmetic
from tests.flow.random.branches import decided, merged, undecided
from tests.flow.random.choices import FUNCTIONS, Choices
from tests.flow.random.constants import constant, hole, load_constant, load_data, load_near
from tests.flow.random.functions import call_function, epilogue, looped_callback, prologue
from tests.flow.random.helpers import checksum, load_bytes, lookup, tail_call, update
from tests.flow.random.loops import loop
from tests.flow.random.memory import atomic, report, spill, stack
from tests.flow.random.packet import context, legacy_load, packet_load, packet_store
from tests.flow.random.scope import Scope
from tests.flow.random.tree import Function, Program, Seq, Statement

Maker = Callable[[Choices, Scope], Statement]


def random_program(seed: int, number: int) -> Program:
    """Program `number` of a series; the same arguments give the same program."""
    return Generator(Random(f"{seed}:{number}")).program()


class Generator(Choices):
    """Makes one program."""

    def program(self) -> Program:
        scope = Scope(live=set(), ctx=True, entry=True)
        label = self.label()
        body = prologue(self, scope, [])
        body += self.block(scope, self.random.randint(6, 14))
        body += epilogue(self, scope)
        entry = Function(label, True, Seq(tuple(body)))
        return Program(self.kind, (entry, *self.functions), self.rodata, self.with_btf)

    def block(self, scope: Scope, count: int) -> Statement:
        made: Statement = []
        for _ in range(count):
            if self.budget > 0:
                self.budget -= 1
                made.append(Seq(tuple(self.statement(scope))))
        return made

    def statement(self, scope: Scope) -> Statement:
        choices: list[tuple[int, Maker]] = [
            (22, arithmetic), (8, constant), (26, load_constant), (5, load_data),
            (4, load_near), (6, stack), (5, report), (4, atomic), (5, hole),
            (3, lookup), (2, update), (2, checksum), (7, call_function),
        ]  # fmt: skip
        if scope.depth < 3:
            choices += [(16, decided), (9, undecided), (4, merged)]
        if not scope.looping:
            choices += [(6, loop), (2, spill)]
            choices += [(3, looped_callback)] if self.with_btf and self.begun < FUNCTIONS else []
        if scope.ctx:
            choices += [(5, packet_load), (3, packet_store), (3, context), (3, load_bytes)]
            choices += [(1, tail_call)] if scope.entry or self.with_btf else []
        if scope.entry and self.kind == PROG_TYPE_SCHED_CLS:
            choices.append((2, legacy_load))
        weights, makers = zip(*choices, strict=True)
        make: Maker = self.random.choices(makers, weights)[0]
        return make(self, scope)
