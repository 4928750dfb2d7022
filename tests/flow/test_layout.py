from __future__ import annotations

import struct

import pytest

from elfpatch.flow.layout import lay_out, needless_jumps
from elfpatch.flow.program import Uncertain
from elfpatch.insn import Insn
from tests.flow.asm import Item, alu, assemble, call, goto, jump, ld, leave, may_goto, mov, same

NOTHING: list[Insn] = []


def lines(*slots: int) -> bytes:
    """A line_info record at each slot, its line the old slot."""
    return b"".join(struct.pack("<IIII", slot, 1, 2, slot << 10) for slot in slots)


def read_lines(data: bytes) -> list[tuple[int, int]]:
    """(slot, line)"""
    return [(slot, line >> 10) for slot, _, _, line in struct.iter_unpack("<IIII", data)]


def functions(*slots: int) -> bytes:
    """A func_info record at each slot, its type the old slot."""
    return b"".join(struct.pack("<II", slot, slot + 100) for slot in slots)


def relocations(*slots: int) -> bytes:
    return b"".join(struct.pack("<IIII", slot * 8, slot, 2, 0) for slot in slots)


def test_without_edits_everything_stays() -> None:
    items = (
        ld(1, map=3, offset=8),
        "head",
        jump("==", 1, 0, "out"),
        call("f"),
        goto("head"),
        "out",
        leave(),
        "f",
        leave(),
    )
    code = assemble(*items, func_info=functions(0, 6), line_info=lines(0, 2, 6), core_relos=relocations(0))
    made, moved = lay_out(code, {})
    assert made.encode() == code.encode()
    assert moved == list(range(7))
    for name in ("refs", "starts", "func_info", "line_info", "core_relos", "opaque", "global_starts"):
        assert getattr(made, name) == getattr(code, name)


def test_jumps_over_what_is_removed_get_shorter_in_both_directions() -> None:
    items = ("head", mov(1, 1), jump("==", 1, 0, "out"), mov(2, 2), may_goto("head"), "out", leave())
    made, moved = lay_out(assemble(*items), {2: NOTHING})
    assert same(made, "head", mov(1, 1), jump("==", 1, 0, "out"), may_goto("head"), "out", leave())
    assert moved == [0, 1, -1, 2, 3]


def test_jumps_over_what_grows_get_longer() -> None:
    wide = ld(3, 1 << 40)
    assert wide.second is not None
    items = ("head", jump("<", 1, 9, "out", bits=32), mov(3, 3), goto("head", far=True), "out", leave())
    made, moved = lay_out(assemble(*items), {1: [wide.insn, wide.second]})
    assert same(made, "head", jump("<", 1, 9, "out", bits=32), wide, goto("head", far=True), "out", leave())
    assert moved == [0, 1, 3, 4]


def test_a_jump_to_what_is_removed_goes_to_what_follows() -> None:
    items = (jump("==", 1, 0, "x"), mov(2, 1), "x", mov(3, 1), mov(4, 1), leave())
    made, _ = lay_out(assemble(*items), {2: NOTHING})
    assert same(made, jump("==", 1, 0, "x"), mov(2, 1), "x", mov(4, 1), leave())


def test_calls_and_function_addresses_find_their_functions() -> None:
    items = (
        call("g"),
        ld(2, func="f"),
        call("f"),
        leave(),
        "f",
        mov(1, 1),
        call("g"),
        leave(),
        "g",
        mov(1, 2),
        leave(),
    )
    code = assemble(*items, global_starts={8})
    made, _ = lay_out(code, {5: NOTHING, 0: NOTHING})
    assert same(made, ld(2, func="f"), call("f"), leave(), "f", call("g"), leave(), "g", mov(1, 2), leave())
    assert made.starts == [0, 4, 6]
    assert made.global_starts == {6}


def test_the_address_of_a_function_that_comes_nearer() -> None:
    code = assemble(ld(2, func="f"), mov(1, 1), leave(), "f", leave())
    made, _ = lay_out(code, {2: NOTHING})
    assert same(made, ld(2, func="f"), leave(), "f", leave())


@pytest.mark.parametrize("slots", [(0, 2, 1), (0, 1, 1)])
def test_lines_that_are_not_in_order_are_uncertain(slots: tuple[int, ...]) -> None:
    code = assemble(mov(1, 1), mov(1, 2), mov(1, 3), leave(), line_info=lines(*slots))
    with pytest.raises(Uncertain, match="not in order"):
        lay_out(code, {0: NOTHING})


def test_a_function_that_is_gone_leaves_no_start_and_no_record() -> None:
    items = (call("f"), mov(0, 0), leave(), "f", mov(0, 1), leave(), "g", mov(0, 2), leave())
    code = assemble(*items, func_info=functions(0, 3, 5), line_info=lines(0, 3, 5), global_starts={3, 5})
    made, _ = lay_out(code, {0: NOTHING, 3: NOTHING, 4: NOTHING})
    assert made.starts == [0, 2]
    assert made.global_starts == {2}
    assert made.func_info == struct.pack("<IIII", 0, 100, 2, 105)
    assert read_lines(made.line_info) == [(0, 0), (2, 5)]


def test_a_line_moves_to_the_next_of_its_instructions_that_is_left() -> None:
    code = assemble(mov(1, 1), mov(2, 2), mov(3, 3), mov(4, 4), leave(), line_info=lines(0, 2, 4))
    made, _ = lay_out(code, {0: NOTHING, 2: NOTHING, 3: NOTHING})
    assert read_lines(made.line_info) == [(0, 0), (1, 4)]


def test_the_first_instruction_left_of_a_function_has_a_line() -> None:
    items = (call("f"), leave(), "f", mov(1, 1), mov(2, 2), mov(0, 0), leave())
    code = assemble(*items, line_info=lines(0, 1, 2, 3))
    made, _ = lay_out(code, {2: NOTHING, 3: NOTHING})
    assert read_lines(made.line_info) == [(0, 0), (1, 1), (2, 3)]


def test_a_line_stays_in_its_function() -> None:
    items = (call("f"), leave(), "f", mov(0, 0), leave())
    made, _ = lay_out(assemble(*items, line_info=lines(0, 1)), {1: NOTHING})
    assert read_lines(made.line_info) == [(0, 0)]


def test_no_line_falls_into_a_wide_load() -> None:
    wide = ld(3, 1 << 40)
    assert wide.second is not None
    code = assemble(mov(3, 1), mov(4, 4), ld(5, 5), leave(), line_info=lines(0, 1, 2, 4))
    made, _ = lay_out(code, {0: [wide.insn, wide.second], 1: NOTHING})
    assert read_lines(made.line_info) == [(0, 0), (2, 2), (4, 4)]


def test_lines_out_of_order_are_uncertain() -> None:
    with pytest.raises(Uncertain, match="line_info"):
        lay_out(assemble(mov(1, 1), mov(0, 0), leave(), line_info=lines(0, 2, 1)), {})


def test_longer_records_keep_what_they_hold() -> None:
    record = struct.pack("<IIIIQ", 2, 1, 2, 5 << 10, 77)
    code = assemble(mov(1, 1), mov(2, 2), leave(), line_info=lines(0) + bytes(8) + record, line_rec=24)
    made, _ = lay_out(code, {1: NOTHING})
    assert made.line_info == lines(0) + bytes(8) + struct.pack("<IIIIQ", 1, 1, 2, 5 << 10, 77)


def test_relocations_move_in_bytes_and_go_with_their_instructions() -> None:
    code = assemble(mov(1, 1), mov(2, 2), mov(3, 3), leave(), core_relos=relocations(0, 1, 2))
    made, _ = lay_out(code, {0: NOTHING, 1: NOTHING})
    assert made.core_relos == struct.pack("<IIII", 0, 2, 2, 0)
    assert made.opaque == {0}


def test_maps_move_with_their_instructions() -> None:
    code = assemble(mov(1, 1), ld(2, map=3), ld(3, map=4, offset=12), leave())
    made, _ = lay_out(code, {0: NOTHING, 1: NOTHING})
    assert made.refs == {0: code.refs[3]}


def test_a_jump_that_grows_out_of_range_is_uncertain() -> None:
    filler = [mov(2, 0) for _ in range(32766)]
    far = assemble(jump("==", 1, 0, "out"), mov(3, 1), *filler, "out", leave())
    wide = ld(3, 1 << 40)
    assert wide.second is not None
    lay_out(far, {})
    with pytest.raises(Uncertain, match="the jump at 0 would have to go 32768"):
        lay_out(far, {1: [wide.insn, wide.second]})


def test_jumps_over_nothing_are_needless_and_so_are_those_over_such_jumps() -> None:
    items = (goto("b"), mov(1, 1), goto("a"), mov(2, 2), "a", "b", mov(0, 0), leave())
    assert needless_jumps(assemble(*items), {}) == []
    assert needless_jumps(assemble(*items), {3: NOTHING}) == [2]
    assert needless_jumps(assemble(*items), {1: NOTHING, 3: NOTHING}) == [2, 0]


def test_jumps_back_and_branches_are_not_needless() -> None:
    assert needless_jumps(assemble("head", mov(1, 1), goto("head")), {0: NOTHING}) == []
    assert needless_jumps(assemble(jump("==", 1, 0, "out"), "out", leave()), {}) == []
    assert needless_jumps(assemble(may_goto("out"), "out", leave()), {}) == []
    assert needless_jumps(assemble(goto("out"), "out", leave()), {}) == [0]
    assert needless_jumps(assemble(goto("out", far=True), "out", leave()), {}) == [0]


def test_what_a_branch_became_can_be_needless() -> None:
    items: tuple[Item | str, ...] = (jump("==", 1, 0, "out"), alu("+=", 1, 1), "out", leave())
    assert needless_jumps(assemble(*items), {0: [Insn(0x05, 0, 0, 1, 0)], 1: NOTHING}) == [0]
    assert needless_jumps(assemble(*items), {0: [Insn(0x05, 0, 0, 1, 0)]}) == []
