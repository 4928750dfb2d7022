"""The smallest program that still fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.flow.random.tree import Asm, Function, Program, Seq, instructions

SHRINK_SECONDS = 30


def shrink(program: Program, fails: Callable[[Program], bool], seconds: float = SHRINK_SECONDS) -> Program:
    """Leave statements and instructions out, large ones first, as long as the program still fails."""
    until = time.monotonic() + seconds
    progress = True
    while progress and time.monotonic() < until:
        progress = False
        for candidate in sorted(smaller(program), key=length):
            if time.monotonic() > until:
                break
            if fails(candidate):
                program, progress = candidate, True
                break
    return program


def length(program: Program) -> int:
    return sum(len(instructions(function.body)) for function in program.functions)


def smaller(program: Program) -> Iterator[Program]:
    """The program without one item of its tree, for every item."""
    if program.with_btf:
        yield replace(program, with_btf=False)
    for at, function in enumerate(program.functions):
        for body in without_one(function.body):
            changed = Function(function.label, function.is_global, body)
            yield replace(program, functions=(*program.functions[:at], changed, *program.functions[at + 1 :]))


def without_one(seq: Seq) -> Iterator[Seq]:
    for at, item in enumerate(seq.items):
        before, after = seq.items[:at], seq.items[at + 1 :]
        if isinstance(item, Asm) or (isinstance(item, Seq) and instructions(item)):
            yield Seq((*before, *after))
        if isinstance(item, Seq):
            yield from (Seq((*before, inner, *after)) for inner in without_one(item))
