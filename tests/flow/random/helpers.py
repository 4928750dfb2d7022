"""Statements that call a helper of the kernel."""

from __future__ import annotations

from elfpatch.kernel.abi import PROG_TYPE_XDP
from tests.flow.random.arithmetic import arithmetic
from tests.flow.random.choices import Choices
from tests.flow.random.insns import alu, branch, call_helper, copy, load, map_fd, mov, store, store_imm
from tests.flow.random.maps import JUMPS, TABLE, TABLE_ENTRIES
from tests.flow.random.scope import KEY_SLOT, NUMBERS, SLOTS, VALUE_SLOT, Scope
from tests.flow.random.tree import Label, Statement

MAP_LOOKUP, MAP_UPDATE, TAIL_CALL, SKB_LOAD_BYTES, CSUM_DIFF, XDP_LOAD_BYTES = 1, 2, 12, 26, 28, 189


def lookup(gen: Choices, scope: Scope) -> Statement:
    """Look an element up, read it when it is there."""
    end, dst = gen.label(), gen.random.choice(scope.kept())
    key = store(4, 10, KEY_SLOT, gen.operand(scope)) if gen.chance(0.5) else store_imm(4, 10, KEY_SLOT, 2)
    made: Statement = [key, map_fd(1, TABLE), copy(2, 10), alu("add", 2, imm=KEY_SLOT), call_helper(MAP_LOOKUP)]
    made += [branch("==", 0, end, imm=0), load(8, dst, 0, 8 * gen.random.randrange(2)), Label(end)]
    scope.called(result=False)
    scope.wrote(dst)
    return made


def update(gen: Choices, scope: Scope) -> Statement:
    made: Statement = [store_imm(4, 10, KEY_SLOT, gen.random.randrange(TABLE_ENTRIES + 1))]
    made += [store(8, 10, VALUE_SLOT + at, gen.random.choice(NUMBERS)) for at in (0, 8)]
    made += [map_fd(1, TABLE), copy(2, 10), alu("add", 2, imm=KEY_SLOT), copy(3, 10)]
    made += [alu("add", 3, imm=VALUE_SLOT), mov(4, 0), call_helper(MAP_UPDATE)]
    scope.called()
    return made


def checksum(gen: Choices, scope: Scope) -> Statement:
    if not scope.slots:
        return arithmetic(gen, scope)
    slot = gen.random.choice(sorted(scope.slots))
    made: Statement = [copy(5, gen.random.choice(NUMBERS)), mov(1, 0), mov(2, 0), copy(3, 10)]
    made += [alu("add", 3, imm=slot), mov(4, gen.random.choice((4, 8))), call_helper(CSUM_DIFF)]
    scope.called()
    return made


def load_bytes(gen: Choices, scope: Scope) -> Statement:
    """The packet's bytes by a helper, which fails beyond the packet's end and fills a stack slot."""
    slot = gen.random.choice(SLOTS)
    prepare = [] if slot in scope.slots else [store_imm(8, 10, slot, 0)]
    helper = XDP_LOAD_BYTES if gen.kind == PROG_TYPE_XDP else SKB_LOAD_BYTES
    made: Statement = [*prepare, copy(1, 6), mov(2, gen.random.randrange(130)), copy(3, 10)]
    made += [alu("add", 3, imm=slot), mov(4, gen.random.choice((1, 2, 4, 8))), call_helper(helper)]
    scope.slots.add(slot)
    scope.called()
    return made


def tail_call(gen: Choices, scope: Scope) -> Statement:
    made: Statement = [copy(1, 6), map_fd(2, JUMPS)]
    made.append(mov(3, gen.random.randrange(6)) if gen.chance(0.4) else copy(3, gen.random.choice(NUMBERS)))
    scope.called(result=False)
    return [*made, call_helper(TAIL_CALL)]
