from __future__ import annotations

from typing import Any

from elfpatch.flow.graph import build
from elfpatch.flow.liveness import dead_definitions
from elfpatch.flow.propagate import propagate
from elfpatch.flow.rewrite import rewritten
from tests.flow.asm import Item, alu, assemble, call, goto, jump, ld, leave, load, mov, r, store
from tests.flow.test_propagate import rodata


def dead(*items: Item | str, arguments: int = 5, **records: Any) -> set[int]:
    code = assemble(*items, **records)
    graph = build(code)
    facts = propagate(code, graph, rodata)
    return dead_definitions(code, graph, facts, rewritten(code, facts), lambda helper: arguments)


def test_a_result_that_nothing_reads_is_dead() -> None:
    assert dead(mov(1, 5), mov(0, 0), leave()) == {0}


def test_the_result_of_the_program_is_read() -> None:
    assert dead(mov(0, 5), leave()) == set()


def test_a_result_that_is_overwritten_is_dead() -> None:
    assert dead(mov(0, 5), mov(0, 6), leave()) == {0}


def test_a_chain_that_ends_nowhere_is_dead_as_a_whole() -> None:
    assert dead(mov(1, 5), mov(2, r(1)), alu("+=", 2, r(1)), mov(0, 0), leave()) == {0, 1, 2}


def test_a_computation_that_only_feeds_itself_round_a_loop_is_dead() -> None:
    loop = (
        mov(1, 0),
        load(2, 6),
        "head",
        alu("+=", 1, 1),
        alu("-=", 2, 1),
        jump("!=", 2, 0, "head"),
        mov(0, 0),
        leave(),
    )
    assert dead(*loop) == {0, 2}


def test_a_result_that_one_way_reads_is_alive() -> None:
    assert dead(mov(2, 1), load(3, 6), jump("==", 3, 0, "out"), store(10, -8, r(2)), "out", mov(0, 0), leave()) == set()


def test_a_result_that_only_a_way_never_gone_reads_is_dead() -> None:
    assert dead(mov(2, 1), mov(3, 0), jump("==", 3, 0, "out"), store(10, -8, r(2)), "out", mov(0, 0), leave()) == {0, 1}


def test_loads_stay_unless_they_are_of_constant_data() -> None:
    assert dead(load(2, 6), mov(0, 0), leave()) == set()
    assert dead(ld(1, map=0, offset=0), load(2, 1), mov(0, 0), leave()) == {0, 2}
    assert dead(ld(1, map=1, offset=0), load(2, 1), mov(0, 0), leave()) == set()


def test_the_address_of_what_was_folded_is_dead() -> None:
    assert dead(ld(1, map=0, offset=0), load(0, 1), leave()) == {0}


def test_what_arithmetic_on_constants_took_is_dead() -> None:
    assert dead(mov(1, 5), mov(2, 1), alu("<<=", 1, r(2)), mov(0, r(1)), leave()) == {0, 1, 2}
    assert dead(ld(1, 1 << 40), alu("+=", 1, 1), mov(0, r(1)), leave()) == set()


def test_calls_and_what_the_loader_rewrites_stay() -> None:
    assert dead(call(7), mov(0, 0), leave()) == set()
    assert dead(mov(1, 5), mov(0, 0), leave(), opaque={0}) == set()


def test_helpers_read_as_many_arguments_as_they_have() -> None:
    items = [mov(number, number) for number in range(1, 6)]
    assert dead(*items, call(1), leave(), arguments=2) == {2, 3, 4}
    assert dead(*items, call(1), leave(), arguments=0) == {0, 1, 2, 3, 4}
    assert dead(*items, call(1), leave(), arguments=5) == set()


def test_kernel_functions_and_rewritten_calls_read_all() -> None:
    kfunc = call(1)
    kfunc.insn.src = 2
    items = [mov(number, number) for number in range(1, 6)]
    assert dead(*items, kfunc, leave(), arguments=0) == set()
    assert dead(*items, call(1), leave(), arguments=0, opaque={5}) == set()


def test_a_function_reads_what_it_reads_and_a_global_one_what_it_declares() -> None:
    items = (mov(1, r(7)), mov(2, r(7)), call("f"), leave(), "f", mov(0, r(2)), leave())
    assert dead(*items) == {0}
    assert dead(*items, global_starts={4}) == set()


def test_what_a_function_passes_on_it_reads() -> None:
    items = (mov(1, r(7)), mov(2, r(7)), call("f"), leave(), "f", call("g"), leave(), "g", mov(0, r(1)), leave())
    assert dead(*items) == {1}


def test_functions_may_stand_in_any_order() -> None:
    """What f reads is found after h was looked at, whose argument is set a block before the call."""
    items = (
        call("h"), leave(), "f", mov(0, r(1)), leave(),
        "h", mov(1, r(7)), jump("==", 6, 0, "next"), "next", call("f"), leave(),
    )  # fmt: skip
    assert dead(*items) == set()


def test_registers_that_calls_keep_are_alive_across_them() -> None:
    assert dead(mov(6, r(7)), call("f"), mov(0, r(6)), leave(), "f", mov(0, 0), leave()) == set()
    assert dead(mov(3, 1), call("f"), mov(0, 0), leave(), "f", mov(0, 0), leave()) == {0}


def test_a_jump_back_keeps_what_the_next_round_reads() -> None:
    assert (
        dead("head", load(2, 6), jump("==", 2, 0, "out"), mov(6, r(2)), goto("head"), "out", mov(0, 0), leave())
        == set()
    )
