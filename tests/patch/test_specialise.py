from __future__ import annotations

import struct
from typing import Any

from elfpatch.flow.graph import build
from elfpatch.flow.program import Code
from elfpatch.flow.propagate import propagate
from elfpatch.flow.rewrite import constant_load
from elfpatch.insn import Insn
from elfpatch.patch.specialise import Specialised, prune, specialise, tail_calls
from tests.flow.asm import Item, alu, assemble, call, goto, jump, ld, leave, load, mov, plain, r, same, store
from tests.flow.test_layout import functions, lines, read_lines

SWITCH, LIMIT, BIG, MINUS = 0, 4, 8, 16
DATA = struct.pack("<IIQi", 0, 7, 1 << 40, -2)


def rodata(row: int, offset: int, size: int) -> int | None:
    """Map 0: a switch that is off, a limit of 7, a big number and a negative one."""
    return int.from_bytes(DATA[offset : offset + size], "little") if row == 0 and offset + size <= len(DATA) else None


def made(*items: Item | str, **records: Any) -> Specialised:
    """The program specialised; doing it again changes nothing."""
    done = specialise(assemble(*items, **records), rodata)
    again = specialise(done.code, rodata)
    assert described(again.code) == described(done.code)
    assert again.removed == {}
    assert again.moved == list(range(len(done.code.insns)))
    return done


def described(code: Code) -> tuple[object, ...]:
    return (code.encode(), code.refs, code.starts, code.func_info, code.line_info, code.core_relos, code.global_starts)


CONFIGURED = (
    ld(1, map=0, offset=SWITCH), load(2, 1), jump("==", 2, 0, "off"),
    ld(3, map=1), call("cold"), "off", ld(1, map=0, offset=LIMIT), load(0, 1), leave(),
    "cold", mov(0, 1), leave(),
)  # fmt: skip


def test_a_switch_that_is_off_costs_nothing() -> None:
    done = made(*CONFIGURED)
    assert same(done.code, mov(0, 7), leave())
    assert done.code.refs == {}
    assert done.folded == {9: 7}
    assert done.decided == {3: True}
    assert done.moved == [-1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, -1, -1]


def test_every_removed_instruction_has_its_reason() -> None:
    branch = "the branch at 3 (if r2 == 0x0) is always taken"
    unused = "its result is not used"
    assert made(*CONFIGURED).removed == {
        0: unused,
        1: unused,
        2: "folded to 0x0, which needs no register",
        3: branch,
        4: f"unreachable: {branch}",
        5: f"unreachable: {branch}",
        6: f"unreachable: {branch}",
        7: unused,
        8: unused,
        11: "unreachable: nothing that runs refers to the function at 11",
        12: "unreachable: nothing that runs refers to the function at 11",
    }


def test_a_switch_that_is_on_costs_nothing_either() -> None:
    done = specialise(assemble(*CONFIGURED), lambda row, offset, size: 1)
    assert same(done.code, call("cold"), mov(0, 1), leave(), "cold", mov(0, 1), leave())
    assert done.decided == {3: False}
    assert done.removed[3] == "the branch at 3 (if r2 == 0x0) is never taken"


def test_without_constant_data_nothing_is_folded() -> None:
    code = assemble(*CONFIGURED[:-3], "cold", mov(0, 1), leave())
    done = specialise(code, lambda row, offset, size: None)
    assert (done.folded, done.decided) == ({}, {})
    assert [insn.opcode for insn in done.code.insns].count(0x61) == 2


def test_a_load_becomes_the_shortest_instruction_that_holds_its_value() -> None:
    def folded(item: Item) -> list[tuple[int, int, int, int, int]]:
        code = made(ld(1, map=0, offset=0), item, leave()).code
        return [plain(insn) for insn in code.insns[:-1]]

    assert folded(load(0, 1, LIMIT)) == [(0xB7, 0, 0, 0, 7)]
    assert folded(load(0, 1, MINUS)) == [(0xB4, 0, 0, 0, -2)]  # as 32 bits: the upper half is clear
    assert folded(load(0, 1, MINUS, signed=True)) == [(0xB7, 0, 0, 0, -2)]
    assert folded(load(0, 1, BIG, size=8)) == [(0x18, 0, 0, 0, 0), (0, 0, 0, 0, 1 << 8)]


def test_constants_survive_their_encoding() -> None:
    edges = (1 << 31, 1 << 32, 1 << 63, (1 << 64) - (1 << 32), (1 << 64) - (1 << 31), 1 << 64)
    for value in (0, 1, *(number for edge in edges for number in (edge - 1, edge) if number < 1 << 64)):
        insns = constant_load(3, value)
        code = assemble(Item(insns[0], insns[1] if len(insns) == 2 else None), leave())
        after = propagate(code, build(code), rodata).states[len(insns)][3]
        assert getattr(after, "value", None) == value


def test_arithmetic_on_constants_becomes_a_move_where_one_holds_the_result() -> None:
    big = (ld(1, map=0, offset=BIG), load(2, 1, size=8))
    done = made(*big, mov(0, r(2)), alu(">>=", 0, 38), leave())
    assert same(done.code, mov(0, 4), leave())
    assert done.computed == {4: 4}
    wide = ld(2, 1 << 40)
    assert same(made(*big, alu("+=", 2, 1), mov(0, r(2)), leave()).code, wide, alu("+=", 2, 1), mov(0, r(2)), leave())
    assert same(made(mov(1, 3), alu("-=", 1, 4, bits=32), mov(0, r(1)), leave()).code, mov(0, -1, bits=32), leave())


def test_numbers_of_64_bits_become_moves_where_one_holds_them() -> None:
    kept = (ld(2, 1 << 31 | 1 << 40), alu("+=", 0, r(2)), leave())
    assert same(made(ld(0, 7), *kept).code, mov(0, 7), *kept)
    assert same(made(ld(0, 0xFFFFFFFE), *kept).code, mov(0, -2, bits=32), *kept)
    relos = struct.pack("<IIII", 0, 1, 2, 0)
    assert same(made(ld(0, 7), *kept, core_relos=relos).code, ld(0, 7), *kept)


LIMITED = (ld(1, map=0, offset=LIMIT), load(2, 1))  # r2 is 7


def test_operands_that_are_known_become_imms_and_what_filled_the_register_goes() -> None:
    done = made(load(6, 1, 76), *LIMITED, load(0, 6), alu("+=", 0, r(2)), store(6, 4, r(2)), leave())
    assert same(done.code, load(6, 1, 76), load(0, 6), alu("+=", 0, 7), store(6, 4, 7), leave())
    assert done.code.refs == {}
    assert done.moved == [0, -1, -1, -1, 1, 2, 3, 4]
    assert done.removed == {
        1: "its result is not used",
        2: "its result is not used",
        3: "folded to 0x7, which needs no register",
    }
    assert (done.folded, done.computed) == ({}, {})


def test_a_number_on_the_left_of_a_comparison_goes_to_the_right() -> None:
    items = (load(6, 1, 76), *LIMITED, load(0, 6), jump("<", 2, r(0), "out", bits=32), mov(0, 0), "out", leave())
    rest = (mov(0, 0), "out", leave())
    assert same(made(*items).code, load(6, 1, 76), load(0, 6), jump(">", 0, 7, "out", bits=32), *rest)


def test_a_register_that_is_needed_for_itself_stays() -> None:
    items = (*LIMITED, load(6, 7), alu("+=", 6, r(2)), mov(1, r(7)), call(1), mov(0, r(6)), leave())
    done = made(*items)
    assert same(done.code, mov(2, 7), load(6, 7), alu("+=", 6, 7), *items[4:])
    assert done.folded == {2: 7}


def test_operands_of_relocated_instructions_stay() -> None:
    items = (mov(2, 7), load(0, 6), alu("+=", 0, r(2)), leave())
    done = made(*items, core_relos=struct.pack("<IIII", 16, 1, 2, 0))
    assert same(done.code, *items)


def test_stores_through_the_context_and_on_the_stack_keep_their_register() -> None:
    """Old kernels refuse an imm there, or do not follow it."""
    items = (mov(2, 7), store(1, 8, r(2)), store(10, -8, r(2)), mov(0, 0), leave())
    assert same(made(*items).code, *items)


def test_pruning_makes_nothing_an_imm() -> None:
    items = (ld(2, 7), load(0, 1), alu("+=", 0, r(2)), leave())
    assert same(prune(assemble(*items)).code, *items)


def test_moves_of_numbers_stay_as_they_are_written() -> None:
    items = (mov(0, 5, bits=32), store(10, -8, r(0)), mov(0, -5), leave())
    assert same(made(*items).code, *items)


def test_a_value_that_is_used_in_another_way_keeps_its_map() -> None:
    done = made(ld(1, map=0, offset=LIMIT), load(6, 1), call(1), store(10, -8, r(6)), leave())
    assert done.code.refs == {0: (1, 0, LIMIT)}
    assert done.folded == {2: 7}


def test_branches_on_what_is_not_known_stay() -> None:
    items = (load(2, 1), mov(0, 0), jump("==", 2, 0, "out"), mov(0, 1), "out", leave())
    assert same(made(*items).code, *items)


def test_a_branch_to_what_is_next_stays() -> None:
    """The verifier learns from it, whichever way it goes."""
    items = (load(2, 1), mov(0, 0), jump("==", 2, 0, "out"), "out", leave())
    assert same(made(*items).code, *items)


def test_a_branch_that_is_always_taken_becomes_a_jump_when_something_lies_between() -> None:
    items = (
        load(6, 1), mov(0, 0), jump("==", 6, 0, "b"), mov(2, 0), jump("==", 2, 0, "out"),
        "b", mov(0, 1), "out", leave(),
    )  # fmt: skip
    assert same(
        made(*items).code, load(6, 1), mov(0, 0), jump("==", 6, 0, "b"), goto("out"), "b", mov(0, 1), "out", leave()
    )


def test_a_loop_over_a_constant_is_left_alone() -> None:
    items = (
        ld(1, map=0, offset=LIMIT), load(2, 1), mov(0, 0), "head", alu("+=", 0, 1), alu("-=", 2, 1),
        jump("!=", 2, 0, "head"), leave(),
    )  # fmt: skip
    done = made(*items)
    assert same(
        done.code, mov(2, 7), mov(0, 0), "head", alu("+=", 0, 1), alu("-=", 2, 1), jump("!=", 2, 0, "head"), leave()
    )


def test_a_callback_goes_with_the_call_that_names_it() -> None:
    items = (
        mov(6, 0), jump("==", 6, 0, "out"), mov(1, 1), ld(2, func="f"), mov(3, 0), mov(4, 0), call(181),
        "out", mov(0, 0), leave(), "f", mov(0, 0), leave(),
    )  # fmt: skip
    done = made(*items, func_info=functions(0, 10))
    assert same(done.code, mov(0, 0), leave())
    assert done.code.func_info == functions(0)


def test_a_callback_whose_address_is_not_used_goes() -> None:
    done = made(ld(2, func="f"), mov(0, 0), leave(), "f", mov(0, 0), leave(), func_info=functions(0, 4))
    assert same(done.code, mov(0, 0), leave())
    assert done.removed[4] == "unreachable: nothing that runs refers to the function at 4"


def test_a_function_that_only_a_tag_names_stays() -> None:
    items = (mov(0, 0), leave(), mov(0, 1), leave())
    done = made(*items, func_info=functions(0, 2))
    assert same(done.code, *items)
    assert done.code.starts == [0, 2]


def test_relocated_instructions_are_neither_folded_nor_removed_for_their_result() -> None:
    relos = struct.pack("<IIII", 16, 1, 2, 0) + struct.pack("<IIII", 24, 1, 2, 0)
    items = (
        ld(1, map=0, offset=0),
        load(2, 1),
        mov(3, 0),
        jump("==", 3, 0, "out"),
        mov(4, 4),
        "out",
        mov(0, 0),
        leave(),
    )
    done = made(*items, core_relos=relos)
    assert done.folded == {}
    assert done.decided == {}
    assert done.moved[:4] == [0, 1, 2, 3]


def test_relocated_instructions_that_cannot_run_go_with_their_relocation() -> None:
    relos = struct.pack("<IIII", 16, 1, 2, 0)
    done = made(mov(2, 0), jump("==", 2, 0, "out"), mov(3, 1), "out", mov(0, 0), leave(), core_relos=relos)
    assert same(done.code, mov(0, 0), leave())
    assert done.code.core_relos == b""


def test_lines_follow_their_instructions() -> None:
    done = made(*CONFIGURED, line_info=lines(0, 2, 3, 4, 7, 9, 10, 11))
    assert read_lines(done.code.line_info) == [(0, 9), (1, 10)]


def test_what_is_not_understood_stays_as_it_is() -> None:
    items = (ld(1, map=0, offset=SWITCH), load(2, 1), Item(Insn(0x0D, 2, 0, 0, 0)), mov(0, 0), leave())
    done = specialise(assemble(*items), rodata)
    assert same(done.code, *items)
    assert (done.removed, done.folded, done.decided) == ({}, {}, {})
    assert done.moved == list(range(6))
    assert done.why_not == "an unknown instruction, opcode 0x0d"


def test_a_program_whose_jump_would_not_reach_any_more_stays_as_it_is() -> None:
    def growing(between: int) -> tuple[Item | str, ...]:
        filler = [store(10, -8, 0) for _ in range(between - 2)]
        folded = (load(3, 1, BIG, size=8), store(10, -8, r(3), size=8))
        return (
            ld(1, map=0, offset=0),
            load(6, 2),
            jump("==", 6, 0, "out"),
            *folded,
            *filler,
            "out",
            mov(0, 0),
            leave(),
        )

    assert made(*growing(32766)).folded == {4: 1 << 40}
    code = assemble(*growing(32767))
    done = specialise(code, rodata)
    assert done.code is code
    assert (done.removed, done.folded, done.moved) == ({}, {}, list(range(len(code.insns))))
    assert done.why_not == "the jump at 3 would have to go 32768 slots far"


def test_helpers_arguments_are_asked_for() -> None:
    items = (ld(3, map=0, offset=0), load(6, 3), call(5), alu("+=", 0, r(6)), leave())
    assert same(made(*items).code, call(5), alu("+=", 0, 0), leave())
    kept = specialise(assemble(*items), rodata, arguments=lambda helper: 5)
    assert kept.code.refs == {0: (1, 0, 0)}


# --- pruning ----------------------------------------------------------------------------------------------------


def test_pruning_removes_what_no_path_leads_to_and_nothing_else() -> None:
    items = (
        ld(1, map=0, offset=0), load(2, 1), jump("==", 2, 0, "out"), mov(3, 1), goto("out"),
        "cold", mov(0, 1), call("f"), goto("back"), "out", "back", mov(0, 0), leave(), "f", mov(0, 0), leave(),
    )  # fmt: skip
    done = prune(assemble(*items, func_info=functions(0, 11), line_info=lines(0, 3, 6, 9, 11)))
    assert same(
        done.code, ld(1, map=0, offset=0), load(2, 1), jump("==", 2, 0, "out"), mov(3, 1), "out", mov(0, 0), leave()
    )
    assert (done.folded, done.decided) == ({}, {})
    assert done.code.func_info == functions(0)
    assert read_lines(done.code.line_info) == [(0, 0), (3, 3), (5, 9)]
    assert done.removed[6] == "unreachable: no instruction leads here"
    assert done.removed[11] == "unreachable: nothing that runs refers to the function at 11"


def test_pruning_what_is_all_reachable_changes_nothing() -> None:
    code = assemble(mov(0, 1), alu("+=", 0, 1), mov(1, r(0)), *CONFIGURED)
    done = prune(code)
    assert described(done.code) == described(code)
    assert done.removed == {}


# --- tail calls -------------------------------------------------------------------------------------------------


def slots(*items: Item | str) -> dict[int, set[int] | None]:
    code = assemble(*items, mov(0, 0), leave())
    return tail_calls(code, propagate(code, build(code), rodata))


def test_tail_calls_with_constant_indexes_name_their_slots() -> None:
    first = (ld(2, map=5), mov(3, 1), call(12))
    second = (ld(2, map=5), ld(3, map=0, offset=LIMIT), load(3, 3), call(12))
    assert slots(*first) == {5: {1}}
    assert slots(*first, *second) == {5: {1, 7}}
    assert slots(ld(2, map=5), mov(3, -1), call(12)) == {5: {0xFFFFFFFF}}


def test_tail_calls_that_cannot_run_name_nothing() -> None:
    assert slots(mov(6, 0), jump("==", 6, 0, "out"), ld(2, map=5), mov(3, 1), call(12), "out") == {}


def test_an_index_that_is_not_known_may_be_any() -> None:
    assert slots(ld(2, map=5), mov(3, 1), call(12), load(3, 6), ld(2, map=5), call(12)) == {5: None}
    assert slots(ld(2, map=5), load(3, 6), call(12), ld(2, map=5), mov(3, 1), call(12)) == {5: None}


def test_a_map_that_is_not_known_may_be_any() -> None:
    choice = (load(6, 1), ld(2, map=5), jump("==", 6, 0, "b"), ld(2, map=4), "b", mov(3, 1), call(12))
    assert slots(*choice) == {5: None, 4: None}
