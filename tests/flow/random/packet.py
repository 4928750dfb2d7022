"""Statements that read and write the packet and the context."""

from __future__ import annotations

from elfpatch.kernel.abi import PROG_TYPE_XDP
from tests.flow.random.choices import Choices
from tests.flow.random.insns import alu, branch, copy, load, store
from tests.flow.random.scope import NUMBERS, Scope
from tests.flow.random.tree import Asm, Label, Statement


def packet_load(gen: Choices, scope: Scope) -> Statement:
    dst, size = gen.random.choice(scope.kept()), gen.random.choice((1, 2, 4, 8))
    off = gen.random.randrange(100)
    scope.wrote(dst)
    return packet(gen, scope, off + size, load(size, dst, 1, off))


def packet_store(gen: Choices, scope: Scope) -> Statement:
    size, off = gen.random.choice((1, 2, 4, 8)), gen.random.randrange(14, 60)
    return packet(gen, scope, off + size, store(size, 1, off, gen.random.choice(NUMBERS)))


def packet(gen: Choices, scope: Scope, needed: int, access: Asm) -> Statement:
    """`access` through r1, when the packet has `needed` bytes."""
    data, end = (0, 4) if gen.kind == PROG_TYPE_XDP else (76, 80)
    skip = gen.label()
    scope.live -= {1, 2, 3}
    scope.known = {reg: value for reg, value in scope.known.items() if reg in scope.live}
    made: Statement = [load(4, 1, 6, data), load(4, 2, 6, end), copy(3, 1), alu("add", 3, imm=needed)]
    return [*made, branch(">", 3, skip, src=2), access, Label(skip)]


def context(gen: Choices, scope: Scope) -> Statement:
    """Fields of the context: rx_queue_index, or len, mark and cb of an skb, of which some can be written."""
    dst = gen.destination(scope)
    if gen.kind == PROG_TYPE_XDP:
        scope.wrote(dst)
        return [load(4, dst, 6, 16)]
    if gen.chance(0.4):
        return [store(4, 6, gen.random.choice((8, 48, 52, 64)), gen.operand(scope))]
    scope.wrote(dst)
    return [load(4, dst, 6, gen.random.choice((0, 8, 48, 52, 64)))]


def legacy_load(gen: Choices, scope: Scope) -> Statement:
    """LD_ABS, LD_IND: beyond the packet's end they end the program."""
    size = gen.random.choice((0x10, 0x08, 0x00))
    if gen.chance(0.5):
        made: Statement = [Asm(0x20 | size, imm=gen.random.randrange(80))]
    else:
        index = gen.random.choice(NUMBERS)
        made = [copy(2, index), alu("and", 2, imm=15), Asm(0x40 | size, src=2, imm=gen.random.randrange(40))]
    scope.called()
    return made
