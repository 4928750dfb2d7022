"""The registers and stack slots of a function, and which of them may be read at a point of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1
NUMBERS = (7, 8, 9)  # registers
SCRATCH = (1, 2, 3, 4, 5)
SLOTS = range(-64, 0, 8)  # stack slots that statements use
COUNTER_SLOT, KEY_SLOT, VALUE_SLOT = -72, -80, -96


@dataclass
class Scope:
    """What may be read at a point of a function, and which values are known there."""

    live: set[int]
    ctx: bool
    entry: bool = False
    may_leave: bool = True  # a return value other than that at the end is allowed
    slots: set[int] = field(default_factory=set)
    known: dict[int, int] = field(default_factory=dict)
    depth: int = 0
    looping: bool = False

    def inner(self) -> Scope:
        return replace(self, live=set(self.live), slots=set(self.slots), known=dict(self.known), depth=self.depth + 1)

    def kept(self) -> list[int]:
        """The registers that hold a number across calls."""
        return [reg for reg in NUMBERS if reg in self.live]

    def join(self, left: Scope, right: Scope) -> None:
        self.live = left.live & right.live
        self.slots = left.slots & right.slots
        self.known = {reg: value for reg, value in left.known.items() if right.known.get(reg) == value}

    def wrote(self, reg: int, value: int | None = None) -> None:
        self.live.add(reg)
        self.known.pop(reg, None)
        if value is not None:
            self.known[reg] = value & MASK64

    def called(self, *, result: bool = True) -> None:
        """After a call r1 to r5 cannot be read, and r0 holds its result, if it has one."""
        self.live -= {0, *SCRATCH}
        self.known = {reg: value for reg, value in self.known.items() if reg in self.live}
        if result:
            self.wrote(0)
