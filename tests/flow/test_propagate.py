from __future__ import annotations

import struct

import pytest

from elfpatch.flow.graph import build
from elfpatch.flow.lattice import CONTEXT, ELSEWHERE, UNKNOWN, Address, Constant, MapHandle, Value
from elfpatch.flow.program import Code
from elfpatch.flow.propagate import Facts, nothing_known, propagate
from elfpatch.insn import Insn
from tests.flow.asm import (
    Item,
    alu,
    assemble,
    call,
    goto,
    jump,
    labels_of,
    ld,
    leave,
    load,
    may_goto,
    mov,
    r,
    store,
)

RODATA = bytes.fromhex("00 01 80 ff 78 56 34 12 ff ff ff ff ff ff ff ff")


def rodata(row: int, offset: int, size: int) -> int | None:
    """Map 0 is constant, 16 bytes."""
    return int.from_bytes(RODATA[offset : offset + size], "little") if row == 0 and offset + size <= 16 else None


def facts_of(code: Code, **options: bool) -> Facts:
    return propagate(code, build(code), rodata, **options)


def value(register: int, *items: Item | str) -> Value:
    """What a register holds at the label `end` of a program."""
    return facts_of(assemble(*items, "end", mov(0, 0), leave())).states[labels_of(*items, "end")["end"]][register]


def test_a_program_starts_with_its_context_and_nothing_else_known() -> None:
    assert facts_of(assemble(leave())).states[0] == (UNKNOWN, CONTEXT, *(UNKNOWN,) * 9)


def test_moves_carry_values() -> None:
    assert value(1, mov(1, -1)) == Constant((1 << 64) - 1)
    assert value(1, mov(1, -1, bits=32)) == Constant(0xFFFFFFFF)
    assert value(2, ld(1, 0x1122334455667788), mov(2, r(1))) == Constant(0x1122334455667788)
    assert value(2, ld(1, 0x1122334455667788), mov(2, r(1), bits=32)) == Constant(0x55667788)
    assert value(2, mov(1, 0x80), mov(2, r(1), off=8)) == Constant((1 << 64) - 128)
    assert value(2, mov(1, 0x80), mov(2, r(1), bits=32, off=8)) == Constant(0xFFFFFF80)


def test_arithmetic_on_constants() -> None:
    assert value(1, mov(1, 6), alu("*=", 1, 7)) == Constant(42)
    assert value(1, mov(1, -1), alu("+=", 1, 2, bits=32)) == Constant(1)
    assert value(1, mov(1, 6), mov(2, 7), alu("-=", 1, r(2))) == Constant((1 << 64) - 1)
    assert value(1, mov(1, 6), alu("+=", 1, r(3))) is UNKNOWN


@pytest.mark.parametrize("op", ["/=", "%=", "neg", "end"])
def test_what_the_verifier_forgets_is_some_number(op: str) -> None:
    assert value(1, mov(1, 6), alu(op, 1, 16 if op == "end" else 0 if op == "neg" else 2)) is ELSEWHERE


def test_a_shift_by_the_width_is_some_number() -> None:
    assert value(1, mov(1, 1), mov(2, 63), alu("<<=", 1, r(2))) == Constant(1 << 63)
    assert value(1, mov(1, 1), mov(2, 64), alu("<<=", 1, r(2))) is ELSEWHERE
    assert value(1, mov(1, 1), mov(2, 32), alu("<<=", 1, r(2), bits=32)) is ELSEWHERE


def test_addresses_move_by_constants() -> None:
    assert value(1, ld(1, map=0, offset=4)) == Address(0, 4)
    assert value(1, ld(1, map=0, offset=4), alu("+=", 1, 8), alu("-=", 1, 2)) == Address(0, 10)
    assert value(2, ld(1, map=0, offset=4), mov(2, 3), alu("+=", 2, r(1))) == Address(0, 7)
    assert value(2, ld(1, map=0, offset=4), mov(2, 3), alu("-=", 2, r(1))) is ELSEWHERE
    assert value(1, ld(1, map=0, offset=4), alu("+=", 1, 8, bits=32)) is ELSEWHERE
    assert value(1, ld(1, map=0, offset=4), alu("*=", 1, 1)) is ELSEWHERE
    assert value(1, ld(1, map=0, offset=4), alu("+=", 1, 0x7FFFFFFF)) is ELSEWHERE
    assert value(1, ld(1, map=2)) == MapHandle(2)
    assert value(2, ld(1, map=2), mov(2, r(1), bits=32)) is ELSEWHERE


def test_loads_of_constant_data() -> None:
    at = ld(1, map=0, offset=0)
    assert value(2, at, load(2, 1, 4)) == Constant(0x12345678)
    assert value(2, at, load(2, 1, 2, size=1)) == Constant(0x80)
    assert value(2, at, load(2, 1, 2, size=1, signed=True)) == Constant((1 << 64) - 128)
    assert value(2, at, load(2, 1, 8, size=8)) == Constant((1 << 64) - 1)
    assert value(2, at, alu("+=", 1, 6), load(2, 1, -2, size=2)) == Constant(0x5678)


@pytest.mark.parametrize(
    "items",
    [
        (ld(1, map=1, offset=0), load(2, 1)),  # not a constant map
        (ld(1, map=0, offset=0), load(2, 1, 14)),  # beyond its end
        (ld(1, map=0, offset=0), load(2, 1, -4)),  # before its start
        (ld(1, map=0), load(2, 1)),  # the map itself
        (load(2, 1),),
        (ld(1, 64), load(2, 1)),
    ],
)
def test_other_loads_are_from_elsewhere(items: tuple[Item, ...]) -> None:
    assert value(2, *items) is ELSEWHERE


@pytest.mark.parametrize(
    "items",
    [
        (load(2, 10, -8, size=8),),  # the stack may hold the context, or an address on the stack
        (store(10, -8, r(1), size=8), load(2, 10, -8, size=8)),
        (mov(3, r(10)), alu("+=", 3, -8), load(2, 3, size=8)),
        (load(2, 3, size=8),),
        (mov(2, r(1)), alu("+=", 2, 4)),
        (mov(2, 4), alu("+=", 2, r(1))),
        (mov(2, r(10)), alu("-=", 2, 4)),
        (load(2, 1), alu("+=", 2, r(10))),
        (mov(2, r(10), off=1),),
        (load(3, 1), jump("==", 3, 0, "b"), mov(2, 1), goto("end"), "b", mov(2, r(1))),
        (Item(Insn(0x85, 0, 2, 0, 7)), mov(2, r(0))),
    ],
)
def test_what_may_be_the_context_or_the_stack_is_unknown(items: tuple[Item | str, ...]) -> None:
    assert value(2, *items) is UNKNOWN


@pytest.mark.parametrize(
    "items",
    [
        (load(2, 1),),
        (load(3, 1), load(2, 3)),
        (mov(2, r(10), bits=32),),
        (mov(2, r(1), off=32),),
        (mov(2, r(3)), alu("&=", 2, r(10))),
        (mov(2, r(3)), alu("neg", 2, 0)),
        (load(2, 1), alu("+=", 2, 14), load(3, 1), alu("+=", 2, r(3))),
        (call(1), mov(2, r(0))),
        (load(3, 1), jump("==", 3, 0, "b"), mov(2, 1), goto("end"), "b", ld(2, map=1, offset=0)),
    ],
)
def test_numbers_and_what_is_loaded_from_elsewhere_is_elsewhere(items: tuple[Item | str, ...]) -> None:
    assert value(2, *items) is ELSEWHERE


def test_a_function_that_nothing_refers_to_is_given_no_context() -> None:
    """An exception callback: r1 is a number that the program threw."""
    code = assemble(mov(0, 0), leave(), mov(0, 0), leave(), func_info=struct.pack("<IIII", 0, 1, 2, 1))
    assert facts_of(code).states[2][1] is UNKNOWN


def test_numbers_of_64_bits_that_a_move_holds() -> None:
    code = assemble(ld(1, 7), ld(2, -1), ld(3, 1 << 40), ld(4, map=0, offset=0), ld(5, map=1), leave())
    assert facts_of(code).computed == {0: 7, 2: (1 << 64) - 1}
    assert facts_of(code, decide=False).computed == {}
    assert facts_of(assemble(ld(1, 7), leave(), opaque={0})).computed == {}


def test_a_store_changes_no_register_and_no_constant() -> None:
    assert value(2, ld(1, map=0, offset=4), store(10, -8, r(1), size=8), load(2, 1)) == Constant(0x12345678)


@pytest.mark.parametrize("imm", [0x01, 0x41, 0x51, 0xA1, 0xE1])
@pytest.mark.parametrize("opcode", [0xC3, 0xDB])
def test_an_atomic_that_fetches_changes_the_register_it_took(opcode: int, imm: int) -> None:
    assert value(2, mov(2, 5), Item(Insn(opcode, 10, 2, -8, imm))) is UNKNOWN


def test_other_atomics_change_no_register_but_r0() -> None:
    known = [mov(number, number) for number in range(10)]
    for imm in (0x00, 0x40, 0x50, 0xA0, 0x110):
        items = [*known, Item(Insn(0xDB, 10, 2, -8, imm))]
        assert all(value(number, *items) == Constant(number) for number in range(10))
    exchanged = [*known, Item(Insn(0xDB, 10, 2, -8, 0xF1))]
    assert [number for number in range(10) if value(number, *exchanged) is UNKNOWN] == [0]
    acquired = [*known, Item(Insn(0xDB, 2, 10, -8, 0x100))]
    assert [number for number in range(10) if value(number, *acquired) is UNKNOWN] == [2]


def test_helpers_lose_what_the_caller_must_save() -> None:
    known = [mov(number, number) for number in range(10)]
    after = facts_of(assemble(*known, call(7), leave())).states[11]
    assert after[:6] == (ELSEWHERE, *(UNKNOWN,) * 5)
    assert after[6:10] == tuple(Constant(number) for number in range(6, 10))


def test_functions_know_their_arguments_and_callers_nothing_of_results() -> None:
    code = assemble(mov(1, 1), mov(6, 6), call("f"), leave(), "f", mov(0, 1), leave())
    facts = facts_of(code)
    assert facts.states[4] == (UNKNOWN, Constant(1), *(UNKNOWN,) * 9)
    assert facts.states[3][0] is UNKNOWN
    assert facts.states[3][6] == Constant(6)
    assert facts.functions == {0, 4}


def test_the_context_stays_known_where_it_is_passed_on() -> None:
    code = assemble(mov(2, r(1)), mov(1, 0), call("f"), leave(), "f", load(0, 2), leave())
    facts = facts_of(code)
    assert facts.states[4][2] is CONTEXT
    assert facts.states[5][0] is ELSEWHERE


def test_arguments_that_callers_do_not_agree_on_are_unknown() -> None:
    code = assemble(
        mov(1, 1), mov(2, 5), call("f"), mov(1, 2), mov(2, 5), call("f"), leave(), "f", mov(0, 1), leave()
    )  # fmt: skip
    assert facts_of(code).states[7][1:3] == (ELSEWHERE, Constant(5))


def test_global_functions_and_callbacks_take_any_arguments() -> None:
    items = (
        mov(1, 1),
        ld(2, func="g"),
        call("f"),
        call("g"),
        leave(),
        "f",
        mov(0, 1),
        leave(),
        "g",
        mov(0, 1),
        leave(),
    )
    facts = facts_of(assemble(*items, global_starts={6}))
    assert facts.states[6] == facts.states[8] == (UNKNOWN,) * 11


def test_values_that_differ_where_paths_meet_are_unknown() -> None:
    choice = (jump("==", 1, 0, "b"), mov(2, 5), mov(3, 1), goto("end"), "b", mov(2, 5), mov(3, 2))
    assert value(2, *choice) == Constant(5)
    assert value(3, *choice) is ELSEWHERE


def test_a_branch_that_is_decided_sends_nothing_the_other_way() -> None:
    items = (mov(1, 0), mov(2, 5), jump("==", 1, 0, "end"), mov(2, 6))
    assert value(2, *items) == Constant(5)
    facts = facts_of(assemble(*items, "end", mov(0, 0), leave()))
    assert facts.decided == {2: True}
    assert not facts.reaches(3)
    assert facts.edges == {(0, "jump")}


def test_comparing_low_halves_ignores_the_high_ones() -> None:
    items = (ld(1, 0x100000000), jump("==", 1, 0, "end", bits=32), mov(2, 6))
    assert facts_of(assemble(*items, "end", mov(0, 0), leave())).decided == {2: True}
    items = (ld(1, 0x100000000), jump("==", 1, 0, "end"), mov(2, 6))
    assert facts_of(assemble(*items, "end", mov(0, 0), leave())).decided == {2: False}


def test_what_one_visit_concludes_a_later_one_takes_back() -> None:
    """The back edge is found to run after the loop's head was visited with r1 known to be 0."""
    code = assemble(
        mov(1, 0), mov(2, 0), "head", jump("==", 1, 5, "out"), ld(3, map=0, offset=0), alu("+=", 3, r(2)), load(4, 3),
        mov(2, 4), alu("+=", 1, 1), goto("head"), "out", mov(0, 0), leave(),
    )  # fmt: skip
    facts = facts_of(code)
    assert (facts.decided, facts.folded, facts.computed) == ({}, {}, {})
    assert facts.reaches(len(code.insns) - 1)


def test_a_constant_that_a_loop_keeps_is_kept() -> None:
    code = assemble(
        mov(6, 3), mov(1, 0), "head", alu("+=", 1, 1), jump("==", 6, 4, "head"), jump("<", 1, 10, "head"), leave()
    )
    facts = facts_of(code)
    assert facts.decided == {3: False}
    assert facts.states[2][1] is ELSEWHERE


def test_may_goto_is_never_decided() -> None:
    assert facts_of(assemble("head", mov(1, 1), may_goto("head"), leave())).edges == {(0, "jump"), (0, "fall")}


def test_what_the_loader_rewrites_is_unknown() -> None:
    code = assemble(mov(1, 5), ld(2, map=0, offset=4), load(2, 2), alu("+=", 1, 1), leave(), opaque={0, 3})
    facts = facts_of(code)
    assert facts.folded == {}
    assert facts.states[1][1] is UNKNOWN
    assert facts.states[4][2] is UNKNOWN


def test_functions_run_when_something_that_runs_refers_to_them() -> None:
    code = assemble(
        mov(1, 1), jump("==", 1, 1, "end"), call("f"), "end", ld(2, func="g"), mov(0, 0), leave(),
        "f", mov(0, 0), leave(), "g", mov(0, 0), leave(),
    )  # fmt: skip
    assert facts_of(code).functions == {0, 9}


def test_without_deciding_every_branch_goes_both_ways() -> None:
    code = assemble(mov(1, 1), jump("==", 1, 1, "end"), mov(2, 2), "end", leave())
    facts = propagate(code, build(code), nothing_known, decide=False)
    assert facts.decided == {}
    assert set(facts.states) == {0, 1, 2, 3}
