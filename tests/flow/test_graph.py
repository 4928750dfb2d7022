from __future__ import annotations

import struct

import pytest

from elfpatch.flow.graph import FALL, JUMP, Block, build
from elfpatch.flow.program import Code, Uncertain
from elfpatch.insn import Insn
from tests.flow.asm import Item, assemble, call, goto, jump, ld, leave, may_goto, mov


def edges(block: Block) -> list[tuple[int, str]]:
    return [(successor.first, kind) for successor, kind in block.successors]


def shape(code: Code) -> dict[int, list[tuple[int, str]]]:
    return {block.first: edges(block) for block in build(code).blocks}


def test_a_branch_has_two_edges_and_the_fall_through_comes_first() -> None:
    code = assemble(mov(0, 0), jump("==", 1, 0, "out"), mov(0, 1), "out", leave())
    assert shape(code) == {0: [(2, FALL), (3, JUMP)], 2: [(3, FALL)], 3: []}


def test_jumps_of_either_width_have_one_edge() -> None:
    for far in (False, True):
        code = assemble(goto("out", far=far), mov(0, 1), "out", leave())
        assert shape(code) == {0: [(2, JUMP)], 1: [(2, FALL)], 2: []}


def test_may_goto_has_both_edges() -> None:
    assert shape(assemble("loop", mov(0, 0), may_goto("loop"), leave())) == {0: [(2, FALL), (0, JUMP)], 2: []}


def test_comparing_halves_has_both_edges() -> None:
    assert shape(assemble(jump("s>", 1, 0, "out", bits=32), "out", leave())) == {0: [(1, FALL), (1, JUMP)], 1: []}


def test_calls_do_not_end_a_block() -> None:
    graph = build(assemble(mov(1, 0), call("f"), ld(2, func="f"), mov(0, 0), leave(), "f", mov(0, 1), leave()))
    assert [(block.first, block.end, block.last) for block in graph.blocks] == [(0, 6, 5), (6, 8, 7)]
    assert graph.blocks[0].slots == [0, 1, 2, 4, 5]
    assert graph.blocks[0].calls == [(1, 6), (2, 6)]
    assert {start: [block.first for block in blocks] for start, blocks in graph.functions.items()} == {0: [0], 6: [6]}


def test_every_slot_belongs_to_one_block() -> None:
    code = assemble(ld(1, 5), jump("==", 1, 0, "out"), ld(2, 5), mov(0, 0), "out", leave())
    graph = build(code)
    assert [graph.block_of(slot).first for slot in range(len(code.insns))] == [0, 0, 0, 3, 3, 3, 6]


def test_a_function_that_nothing_refers_to_is_a_root() -> None:
    records = b"".join(struct.pack("<II", slot, 1) for slot in (0, 3, 5))
    code = assemble(call("f"), mov(0, 0), leave(), "f", mov(0, 0), leave(), mov(0, 0), leave(), func_info=records)
    assert build(code).roots() == [0, 5]


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ((mov(0, 0),), "runs past its end behind 0"),
        ((mov(0, 0), call("f"), "f", leave()), "runs past its end behind 1"),
        ((jump("==", 1, 0, "f"), call("f"), leave(), "f", leave()), "jump at 0 to 3 leaves its function"),
        ((Item(Insn(0x05, 0, 0, 1, 0)), ld(1, 5), leave()), "jump at 0 to 2"),
        ((Item(Insn(0x05, 0, 0, -5, 0)), leave()), "jump at 0 to -4"),
        ((Item(Insn(0x85, 0, 1, 0, 9)), leave()), "call at 0 to 10 leaves the program"),
        ((Item(Insn(0x85, 0, 1, 0, 1)), ld(1, 5), leave()), "inside an instruction"),
        ((mov(0, 0), Item(Insn(0x18, 0, 0, 0, 0))), "half an LD_IMM64"),
        ((Item(Insn(0x18, 0, 0, 0, 0)), leave()), "half an LD_IMM64"),
        ((Item(Insn(0x0D, 1, 0, 0, 0)), leave()), "unknown instruction, opcode 0x0d"),
        ((Item(Insn(0, 0, 0, 0, 0)), leave()), "unknown instruction, opcode 0x00"),
    ],
)
def test_what_no_compiler_writes_is_uncertain(items: tuple[Item | str, ...], why: str) -> None:
    with pytest.raises(Uncertain, match=why):
        build(assemble(*items))


def test_a_jump_that_is_rewritten_later_is_uncertain() -> None:
    with pytest.raises(Uncertain, match="rewritten"):
        build(assemble(jump("==", 1, 0, "out"), "out", leave(), opaque={0}))
