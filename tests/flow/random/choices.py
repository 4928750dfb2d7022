"""The random choices that a program is made by."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random

from elfpatch.kernel.abi import PROG_TYPE_SCHED_CLS, PROG_TYPE_XDP
from tests.flow.random.insns import signed
from tests.flow.random.maps import DATA_SIZE, RODATA
from tests.flow.random.scope import MASK64, SCRATCH, Scope
from tests.flow.random.tree import Function, Statement

FUNCTIONS = 6  # beside the entry, at most: the kernel allows a chain of 8

EDGES = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, -1, -2, -0x80, -0x8000, -0x80000000)
WIDE_EDGES = (0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFF00000000, 0xFFFFFFFF80000000)


@dataclass(frozen=True)
class Callee:
    """A finished function: whether r1 is the context, how many numbers follow, whether it loops."""

    label: int
    ctx: bool
    numbers: int
    loops: bool


class Choices(ABC):
    """The state of one program in the making, and the choices that all statements share; all come from `random`."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.kind = random.choice((PROG_TYPE_XDP, PROG_TYPE_SCHED_CLS))
        self.with_btf = random.random() < 0.6
        self.rodata = tuple(self._constants() for _ in RODATA)
        self.labels = 0
        self.functions: list[Function] = []
        self.begun = 0  # functions, finished or not
        self.loops = 0
        self.callable: list[Callee] = []
        self.budget = random.randint(15, 70)  # statements

    def _constants(self) -> bytes:
        words = [self.random.choice((*EDGES, *WIDE_EDGES, self.random.getrandbits(64))) for _ in range(DATA_SIZE // 8)]
        return b"".join(struct.pack("<Q", word & MASK64) for word in words)

    @abstractmethod
    def block(self, scope: Scope, count: int) -> Statement:
        """Up to `count` statements, each a `Seq`: fewer when the program has enough."""

    def label(self) -> int:
        self.labels += 1
        return self.labels

    def number(self) -> int:
        """An immediate."""
        return self.random.choice((self.random.choice(EDGES), self.random.randint(-20, 20), self.any32()))

    def any32(self) -> int:
        return signed(self.random.getrandbits(32), 32)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def operand(self, scope: Scope, *, but: int | None = None) -> int:
        """A register that holds a number; those whose value is known are taken more often."""
        known = sorted(scope.known.keys() - {but})
        if known and self.chance(0.5):
            return self.random.choice(known)
        return self.random.choice(sorted(scope.live - {but}))

    def destination(self, scope: Scope) -> int:
        free = scope.kept()
        return self.random.choice((0, *SCRATCH, *free, *free))

    def pointer(self, scope: Scope) -> int:
        """A scratch register for a pointer, no longer a number."""
        reg = self.random.choice(SCRATCH)
        scope.live.discard(reg)
        scope.known.pop(reg, None)
        return reg
