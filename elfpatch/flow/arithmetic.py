"""The operations on known values, for those whose results the verifier knows too.

The optimiser must not call dead what the verifier finds live, so the operations on which the verifier gives a constant
up have no result here: division and remainder, byte swaps, negation, and shifts by the width or more
(kernel/bpf/verifier.c: is_safe_to_compute_dst_reg_range). `tests/flow/test_verifier.py` asks the kernel about each.
"""

from __future__ import annotations

from elfpatch.flow import effects as fx

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MASKS = {32: 0xFFFFFFFF, 64: 0xFFFFFFFFFFFFFFFF}


def signed(value: int, bits: int) -> int:
    """The low `bits` bits as a signed number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def unsigned(value: int) -> int:
    """A number as 64 bits."""
    return value & MASKS[64]


def fits_move(value: int) -> bool:
    """Whether one move puts the 64-bit unsigned value into a register: its imm is 32 bits, which the 64-bit form
    extends by sign and the 32-bit form by zeros."""
    return value < 1 << 32 or value >= (1 << 64) - (1 << 31)


_RESULTS: dict[int, Callable[[int, int], int]] = {
    fx.ADD: lambda a, b: a + b,
    fx.SUB: lambda a, b: a - b,
    fx.MUL: lambda a, b: a * b,
    fx.OR: lambda a, b: a | b,
    fx.AND: lambda a, b: a & b,
    fx.XOR: lambda a, b: a ^ b,
    fx.MOV: lambda a, b: b,
}


def compute(operation: int, left: int, right: int, bits: int) -> int | None:
    """`left operation right` in 64-bit arithmetic, or in 32-bit, which clears the upper half. None: not known."""
    mask = MASKS[bits]
    left &= mask
    if operation in _RESULTS:
        return _RESULTS[operation](left, right & mask) & mask
    if right >= bits:  # of a 32-bit shift too the verifier looks at all 64 bits of the distance
        return None
    if operation == fx.LSH:
        return left << right & mask
    if operation == fx.RSH:
        return left >> right
    if operation == fx.ARSH:
        return signed(left, bits) >> right & mask
    return None


_UNSIGNED: dict[int, Callable[[int, int], bool]] = {
    fx.JEQ: lambda a, b: a == b,
    fx.JNE: lambda a, b: a != b,
    fx.JGT: lambda a, b: a > b,
    fx.JGE: lambda a, b: a >= b,
    fx.JLT: lambda a, b: a < b,
    fx.JLE: lambda a, b: a <= b,
    fx.JSET: lambda a, b: a & b != 0,
}
_SIGNED: dict[int, Callable[[int, int], bool]] = {
    fx.JSGT: lambda a, b: a > b,
    fx.JSGE: lambda a, b: a >= b,
    fx.JSLT: lambda a, b: a < b,
    fx.JSLE: lambda a, b: a <= b,
}


def compare(condition: int, left: int, right: int, bits: int) -> bool:
    """Whether a branch on the low `bits` bits of two values is taken."""
    if condition in _SIGNED:
        return _SIGNED[condition](signed(left, bits), signed(right, bits))
    return _UNSIGNED[condition](left & MASKS[bits], right & MASKS[bits])
