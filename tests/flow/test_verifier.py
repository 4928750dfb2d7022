"""Where the analysis says what a branch does, the kernel's verifier knows it too, and the result is what runs.

Every operation with chosen operands: the program compares the result with the one computed here. The verifier removes
the instruction that the wrong result would lead to, which it does only when it has found the same constant.
"""

from __future__ import annotations

import itertools
import os

import pytest

from elfpatch.errors import SyscallFailed
from elfpatch.flow import effects as fx
from elfpatch.flow.arithmetic import compare, compute
from elfpatch.flow.lattice import Constant, is_elsewhere
from elfpatch.flow.program import Code, heads
from elfpatch.flow.propagate import nothing_known
from elfpatch.insn import Insn
from elfpatch.kernel import bpf
from elfpatch.patch.specialise import specialise
from tests.flow.asm import ALU, CONDITIONS, Item, alu, assemble, call, jump, labels_of, ld, leave, load, mov, r, store
from tests.flow.kernel import SCHED_CLS, SOCKET_FILTER, kept_by_kernel
from tests.flow.test_propagate import RODATA, facts_of, value
from tests.support.require import require_root

NUMBERS = [0, 1, 31, 63, 64, 0x7FFFFFFF, 0x80000000, 1 << 63, (1 << 64) - 1, 0xDEADBEEF12345678]
PAIRS = list(itertools.product(NUMBERS, NUMBERS))
PACKET = bytes(64)
COMPUTED = [op for op in ALU if op not in ("neg", "end", "=", "/=", "%=")]


def spec(code: Code) -> bpf.ProgSpec:
    return bpf.ProgSpec(SOCKET_FILTER, code.encode(), "GPL")


def left(code: Code) -> set[int]:
    return kept_by_kernel(spec(code), list(heads(code)))


def result(code: Code) -> int:
    fd = bpf.prog_load(spec(code))
    try:
        return bpf.prog_test_run(fd, PACKET).retval
    finally:
        os.close(fd)


def expecting(*items: Item, register: int, known: int) -> tuple[Code, int]:
    """A program that returns 7 when `register` holds `known`, and the slot of the instruction it then does not run."""
    whole: tuple[Item | str, ...] = (
        *items,
        ld(9, known),
        mov(0, 7),
        jump("==", register, r(9), "out"),
        "wrong",
        mov(0, 8),
        "out",
        leave(),
    )
    return assemble(*whole), labels_of(*whole)["wrong"]


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("op", COMPUTED)
def test_results_are_those_of_the_kernel_and_of_the_verifier(op: str, bits: int) -> None:
    known = 0
    for one, other in PAIRS:
        expected = compute(ALU[op], one, other, bits)
        if expected is None:
            continue
        known += 1
        code, wrong = expecting(ld(1, one), ld(2, other), alu(op, 1, r(2), bits=bits), register=1, known=expected)
        assert wrong not in left(code), (one, other)
        assert result(code) == 7, (one, other)
    assert known >= len(NUMBERS) * 3


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_branches_go_where_the_kernel_and_the_verifier_go(condition: str, bits: int) -> None:
    for one, other in PAIRS:
        items = (
            ld(1, one),
            ld(2, other),
            mov(0, 7),
            jump(condition, 1, r(2), "out", bits=bits),
            mov(0, 8),
            "out",
            leave(),
        )
        code = assemble(*items)
        taken = compare(CONDITIONS[condition] << 4, one, other, bits)
        assert (6 not in left(code)) == taken, (one, other)
        assert result(code) == (7 if taken else 8), (one, other)


@pytest.mark.parametrize("number", NUMBERS)
def test_moves(number: int) -> None:
    for bits, off in itertools.product((32, 64), (0, 8, 16, 32)):
        if (bits, off) == (32, 32):
            continue
        items = (ld(1, number), mov(2, r(1), bits=bits, off=off))
        expected = value(2, *items)
        assert isinstance(expected, Constant)
        code, wrong = expecting(*items, register=2, known=expected.value)
        assert wrong not in left(code)
        assert result(code) == 7


@pytest.mark.parametrize("immediate", [0, 1, -1, 0x7FFFFFFF, -(1 << 31)])
def test_immediates_are_sign_extended(immediate: int) -> None:
    for bits, op in itertools.product((32, 64), ("=", "+=", "^=", "&=")):
        items = (ld(1, NUMBERS[-1]), alu(op, 1, immediate, bits=bits))
        expected = value(1, *items)
        assert isinstance(expected, Constant)
        code, wrong = expecting(*items, register=1, known=expected.value)
        assert wrong not in left(code)
        assert result(code) == 7


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_loads_of_frozen_data(size: int, signed: bool) -> None:
    if signed and size == 8:
        return
    fd = bpf.map_create(2, 4, len(RODATA), 1, 1 << 7)
    try:
        bpf.map_update(fd, bytes(4), RODATA)
        bpf.map_freeze(fd)
        for offset in range(len(RODATA) - size + 1):
            items = (ld(1, map=0, offset=8), alu("+=", 1, offset - 8), load(2, 1, 0, size=size, signed=signed))
            expected = value(2, *items)
            assert isinstance(expected, Constant)
            code, wrong = expecting(*items, register=2, known=expected.value)
            code.insns[0].imm = fd
            assert wrong not in left(code), offset
            assert result(code) == 7, offset
    finally:
        os.close(fd)


def test_static_functions_get_what_their_callers_pass() -> None:
    body: tuple[Item | str, ...] = ("f", mov(0, 7), jump("==", 2, 5, "out"), "wrong", mov(0, 8), "out", leave())
    calls: tuple[Item | str, ...] = (mov(1, 1), mov(2, 5), call("f"), mov(1, 2), mov(2, 5), call("f"), leave())
    code = assemble(*calls, *body)
    assert facts_of(code).decided == {8: True}
    assert labels_of(*calls, *body)["wrong"] not in left(code)
    assert result(code) == 7


# r0 and r1 hold numbers of the packet that nobody knows before, of 64 bits
UNKNOWN_NUMBERS = (
    mov(6, r(1)), Item(Insn(0x20, 0, 0, 0, 0)), mov(7, r(0)), Item(Insn(0x20, 0, 0, 0, 4)), alu("<<=", 7, 32),
    alu("|=", 0, r(7)), mov(1, r(0)),
)  # fmt: skip
PACKETS = [bytes(64), b"\xff" * 64, bytes(range(0x7A, 0xBA)), bytes(4) + b"\x80" + bytes(59)]


def results(code: Code) -> list[int]:
    """What a program returns for each packet."""
    fd = bpf.prog_load(spec(code))
    try:
        return [bpf.prog_test_run(fd, packet).retval for packet in PACKETS]
    finally:
        os.close(fd)


def with_and_without_imm(*items: Item | str) -> None:
    """A program does the same when it is specialised. (`test_operands.py` says which instructions change.)"""
    code = assemble(*items)
    assert results(specialise(code, nothing_known).code) == results(code), items


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("op", [op for op in ALU if op not in ("neg", "end", "=")])
def test_arithmetic_with_an_imm_does_the_same(op: str, bits: int) -> None:
    """Both halves of the result count."""
    shown = (mov(0, r(1)), alu(">>=", 1, 32), alu("*=", 1, 0x10001), alu("+=", 0, r(1)), leave())
    for number in NUMBERS:
        with_and_without_imm(*UNKNOWN_NUMBERS, ld(2, number), alu(op, 1, r(2), bits=bits), *shown)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_comparison_with_an_imm_goes_the_same_way(condition: str, bits: int) -> None:
    out = (mov(0, 0), leave(), "out", mov(0, 1), leave())
    for number in [*NUMBERS, 0x7A7B7C7D, 0x7E7F80817A7B7C7D]:
        for one, other in ((1, 2), (2, 1)):
            branch = jump(condition, one, r(other), "out", bits=bits)
            with_and_without_imm(*UNKNOWN_NUMBERS, ld(2, number), branch, *out)


def refused(*items: Item) -> bool:
    """By the verifier, as tc program."""
    code = assemble(*items, mov(0, 0), leave())
    try:
        os.close(bpf.prog_load(bpf.ProgSpec(SCHED_CLS, code.encode(), "GPL")))
    except SyscallFailed:
        return True
    return False


@pytest.mark.parametrize("pointer", [1, 10])
@pytest.mark.parametrize("op", ALU)
def test_what_arithmetic_makes_of_the_context_or_a_place_on_the_stack_is_no_pointer_to_them(
    op: str, pointer: int
) -> None:
    """Where the lattice says so: nothing can be stored through it."""
    off = 8 if pointer == 1 else -8  # skb->mark
    assert not refused(mov(2, r(pointer)), store(2, off, 0))
    for bits in (32, 64):
        for operands in ((2, 0), (2, r(3)), (3, r(2)))[: 1 if op == "neg" else 3]:
            items = (mov(2, r(pointer)), mov(3, 0), alu(op, *operands, bits=bits), mov(4, r(operands[0])))
            known = facts_of(assemble(*items, leave())).states[4]
            if is_elsewhere(known[4]):
                assert refused(*items, store(4, off, 0)), (op, bits, operands)


def test_the_oracle_sees_instructions_that_stay() -> None:
    """A wrong expectation leaves its instruction in; so does a branch on what is not known."""
    code, wrong = expecting(mov(1, 5), register=1, known=6)
    assert wrong in left(code)
    code = assemble(load(2, 1), mov(0, 0), jump("==", 2, 0, "out"), mov(0, 1), "out", leave())
    assert left(code) == {0, 1, 2, 3, 4}
    assert facts_of(code).decided == {}


def test_operations_without_a_result_here_are_those_the_verifier_may_forget() -> None:
    assert all(compute(op, 6, 2, 64) is None for op in (fx.DIV, fx.MOD, fx.NEG, fx.END))
