"""Which registers become imms, and which stay; `test_verifier.py` asks the kernel whether that changes anything."""

from __future__ import annotations

import itertools

import pytest

from elfpatch.flow.arithmetic import compare
from elfpatch.flow.effects import effect
from elfpatch.flow.lattice import CONTEXT, ELSEWHERE, UNKNOWN, Address, Constant, MapHandle, Value
from elfpatch.flow.operands import with_imm
from elfpatch.insn import Insn
from tests.flow.asm import ALU, CONDITIONS, Item, alu, jump, load, mov, plain, r, store

LEFT, RIGHT = 1, 2  # registers
ALL_ONES = (1 << 64) - 1
OPERATIONS = [op for op in ALU if op not in ("=", "neg", "end")]
Plain = tuple[int, int, int, int, int]


def imm_form(item: Item, left: Value = UNKNOWN, right: Value = UNKNOWN) -> Plain | None:
    """What stands for an instruction between registers with these values."""
    made = with_imm(item.insn, (UNKNOWN, left, right, *(UNKNOWN,) * 8))
    return None if made is None else plain(made)


def same_as(item: Item) -> Plain:
    return plain(item.insn)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("op", OPERATIONS)
def test_the_right_operand_of_arithmetic(op: str, bits: int) -> None:
    item = alu(op, LEFT, r(RIGHT), bits=bits)
    assert imm_form(item, right=Constant(5)) == same_as(alu(op, LEFT, 5, bits=bits))
    assert imm_form(item, left=Constant(5)) is None
    for other in (UNKNOWN, ELSEWHERE, CONTEXT, Address(0, 5), MapHandle(5)):
        assert imm_form(item, right=other) is None


@pytest.mark.parametrize("bits", [32, 64])
def test_what_the_verifier_would_refuse_as_an_imm_stays(bits: int) -> None:
    for op in ("/=", "%="):
        assert imm_form(alu(op, LEFT, r(RIGHT), bits=bits), right=Constant(0)) is None
    for op in ("<<=", ">>=", "s>>="):
        item = alu(op, LEFT, r(RIGHT), bits=bits)
        assert imm_form(item, right=Constant(bits - 1)) == same_as(alu(op, LEFT, bits - 1, bits=bits))
        for distance in (bits, bits + 1, 1 << 32, 1 << 32 | 3, ALL_ONES):
            assert imm_form(item, right=Constant(distance)) is None


@pytest.mark.parametrize("op", ["/=", "%="])
def test_a_division_by_the_low_half_of_a_number_that_is_0_stays(op: str) -> None:
    assert imm_form(alu(op, LEFT, r(RIGHT), bits=32), right=Constant(1 << 32)) is None


@pytest.mark.parametrize(
    ("number", "as_64", "as_32"),
    [
        (0x7FFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF),
        (0x80000000, None, -0x80000000),
        (0xFFFFFFFF, None, -1),
        (0x100000005, None, 5),
        (ALL_ONES - 0x7FFFFFFF, -0x80000000, -0x80000000),
        (ALL_ONES - 0x80000000, None, 0x7FFFFFFF),
        (ALL_ONES, -1, -1),
    ],
)
def test_an_imm_is_extended_by_sign_to_64_bits(number: int, as_64: int | None, as_32: int) -> None:
    for bits, imm in ((64, as_64), (32, as_32)):
        found = imm_form(alu("+=", LEFT, r(RIGHT), bits=bits), right=Constant(number))
        assert found == (None if imm is None else same_as(alu("+=", LEFT, imm, bits=bits)))
        found = imm_form(jump("==", LEFT, r(RIGHT), "", bits=bits), right=Constant(number))
        assert found == (None if imm is None else same_as(jump("==", LEFT, imm, "", bits=bits)))


def test_signed_division_stays_signed() -> None:
    assert imm_form(alu("/=", LEFT, r(RIGHT), off=1), right=Constant(5)) == same_as(alu("/=", LEFT, 5, off=1))


def test_arithmetic_with_an_off_of_no_known_meaning_stays() -> None:
    assert imm_form(alu("+=", LEFT, r(RIGHT), off=1), right=Constant(5)) is None


def test_moves_and_byte_swaps_are_no_operands() -> None:
    swap = Item(Insn(0xDC, LEFT, 0, 0, 16))  # to big-endian: the bit that elsewhere means a register
    for item in (mov(LEFT, r(RIGHT)), mov(LEFT, r(RIGHT), off=8), mov(LEFT, r(RIGHT), off=1), swap):
        assert with_imm(item.insn, (Constant(5),) * 11) is None


def test_what_has_an_imm_keeps_it() -> None:
    for item in (alu("+=", LEFT, 3), jump("==", LEFT, 3, ""), store(LEFT, 0, 3), load(LEFT, RIGHT)):
        assert with_imm(item.insn, (Constant(5),) * 11) is None


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_either_side_of_a_comparison(condition: str, bits: int) -> None:
    item = jump(condition, LEFT, r(RIGHT), "", bits=bits)
    item.insn.off = 9
    on_the_right = imm_form(item, right=Constant(5))
    assert on_the_right == (item.insn.opcode & ~8, LEFT, 0, 9, 5)
    on_the_left = imm_form(item, left=Constant(5))
    assert on_the_left is not None
    assert on_the_left[1:] == (RIGHT, 0, 9, 5)
    exchanged = on_the_left[0]
    assert exchanged & 0x0F == (6 if bits == 32 else 5)
    for one, other in itertools.product((0, 5, 7, 1 << 31, 1 << 63, ALL_ONES), repeat=2):
        taken = compare(CONDITIONS[condition] << 4, one, other, bits)
        assert compare(exchanged & 0xF0, other, one, bits) == taken
    assert imm_form(item) is None
    assert imm_form(item, left=CONTEXT, right=MapHandle(1)) is None


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_stores_of_numbers(size: int) -> None:
    item = store(LEFT, 4, r(RIGHT), size=size)
    assert imm_form(item, left=ELSEWHERE, right=Constant(5)) == same_as(store(LEFT, 4, 5, size=size))
    assert imm_form(item, left=Address(0, 0), right=Constant(5)) == same_as(store(LEFT, 4, 5, size=size))
    assert imm_form(item, left=ELSEWHERE, right=UNKNOWN) is None
    for base in (CONTEXT, UNKNOWN):
        assert imm_form(item, left=base, right=Constant(5)) is None


def test_a_store_writes_the_low_bytes_of_a_number() -> None:
    def imm(size: int, number: int) -> int | None:
        found = imm_form(store(LEFT, 4, r(RIGHT), size=size), left=ELSEWHERE, right=Constant(number))
        return None if found is None else found[4]

    assert [imm(size, ALL_ONES - 1) for size in (1, 2, 4, 8)] == [0xFE, 0xFFFE, -2, -2]
    assert [imm(size, 0x123456789ABC) for size in (1, 2, 4, 8)] == [0xBC, 0x9ABC, 0x56789ABC, None]
    assert [imm(size, 0x80000000) for size in (1, 2, 4, 8)] == [0, 0, -0x80000000, None]


def test_atomics_take_no_imm() -> None:
    for operation in (0x00, 0x01, 0xE1, 0xF1, 0x110):
        assert imm_form(Item(Insn(0xDB, LEFT, RIGHT, 0, operation)), left=ELSEWHERE, right=Constant(5)) is None


def test_every_form_is_one_that_the_verifier_takes() -> None:
    """`pure` is for arithmetic that may go: not what the verifier refuses."""
    numbers = (0, 1, 31, 32, 63, 64, 1 << 31, 1 << 32, ALL_ONES)
    for op, bits, number in itertools.product(OPERATIONS, (32, 64), numbers):
        made = with_imm(alu(op, LEFT, r(RIGHT), bits=bits).insn, (Constant(number),) * 11)
        assert made is None or effect(made).pure
