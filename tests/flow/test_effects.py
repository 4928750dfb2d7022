"""What instructions read and write, with the verifier as oracle: it names each register that is read before it is
written."""

from __future__ import annotations

import os
import re

import pytest

from elfpatch import insn as isa
from elfpatch.disasm import text
from elfpatch.flow.effects import DETAILED, effect
from elfpatch.flow.program import Uncertain
from elfpatch.insn import Insn
from elfpatch.kernel import bpf
from tests.support.require import require_root

SOCKET_FILTER = 1
FRAME, BASE, OTHER = 10, 7, 8
MOVES = [Insn(op, BASE, OTHER, off, 0) for op in (0xBC, 0xBF) for off in (0, 8, 16)] + [Insn(0xBF, BASE, OTHER, 32, 0)]
ATOMICS = [
    Insn(opcode, BASE, OTHER, -8, imm)
    for opcode in (0xC3, 0xDB)
    for imm in (0, 0x40, 0x50, 0xA0, 1, 0x41, 0x51, 0xA1, 0xE1, 0xF1, 0x110)
]


def encoded(*insns: Insn) -> bytes:
    data = bytearray(8 * len(insns))
    for slot, insn in enumerate(insns):
        isa.encode_into(data, slot, insn)
    return bytes(data)


def known(insn: Insn) -> bool:
    try:
        effect(insn)
    except Uncertain:
        return False
    return True


def test_every_instruction_that_the_disassembler_knows_is_known() -> None:
    """All opcodes with some operands. `gotox` and `callx` go where no analysis here sees."""
    for opcode in range(256):
        for src in (0, 1, 2):
            for imm in (0, 16, 0xF1, 0x100):
                for off in (0, 1, 8):
                    insn = Insn(opcode, 0, src, off, imm)
                    second = Insn(0, 0, 0, 0, 0) if opcode == isa.LD_IMM64 else None
                    shown = text(insn, second)
                    if "unknown:" not in shown and "gotox" not in shown and "callx" not in shown:
                        assert known(insn), shown


@pytest.mark.parametrize("opcode", [0x00, 0x0D, 0x8D, 0x99, 0xF5, 0xFF, 0xE7, 0x8F, 0x8E, 0x38])
def test_unknown_opcodes_are_uncertain(opcode: int) -> None:
    assert not known(Insn(opcode, 0, 0, 0, 0))


def test_registers_that_do_not_exist_are_uncertain() -> None:
    assert not known(Insn(0xBF, 11, 0, 0, 0))
    assert not known(Insn(0xBF, 0, 12, 0, 0))
    assert not known(Insn(0xBF, FRAME, 0, 0, 0))


def _computing() -> list[Insn]:
    made = [*MOVES]
    for kind in (0x04, 0x07):
        for op in (0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xA0, 0xC0):
            made += [Insn(kind | op, BASE, 0, 0, 1), Insn(kind | op | 8, BASE, OTHER, 0, 0)]
        made += [Insn(kind | 0x80, BASE, 0, 0, 0), Insn(kind | 0xB0, BASE, 0, 0, 5)]
    made += [Insn(0x37, BASE, 0, 1, 3), Insn(0x9F, BASE, OTHER, 1, 0)]  # signed
    made += [Insn(op, BASE, 0, 0, bits) for op in (0xD4, 0xDC, 0xD7) for bits in (16, 32, 64)]
    return made


def _branches() -> list[Insn]:
    made = []
    for kind in (0x05, 0x06):
        for op in (0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xA0, 0xB0, 0xC0, 0xD0):
            made += [Insn(kind | op, BASE, 0, 0, 1), Insn(kind | op | 8, BASE, OTHER, 0, 0)]
    return made


def _accesses() -> list[Insn]:
    made = [Insn(op, OTHER, BASE, -8, 0) for op in (0x61, 0x69, 0x71, 0x79, 0x81, 0x89, 0x91)]
    made += [Insn(op, BASE, 0, -8, 1) for op in (0x62, 0x6A, 0x72, 0x7A)]
    made += [Insn(op, BASE, OTHER, -8, 0) for op in (0x63, 0x6B, 0x73, 0x7B)]
    made += [*ATOMICS, Insn(0xDB, OTHER, BASE, -8, 0x100), Insn(0xC3, OTHER, BASE, -8, 0x100)]
    return made


def _complaint(insn: Insn, given: int, *, pointer: bool, then: list[Insn]) -> str:
    """Which register the verifier misses when those in the mask `given` hold something before `insn`."""
    before = [Insn(0x7A, FRAME, 0, -8, 0)]
    for number in (0, BASE, OTHER):
        if given >> number & 1:
            as_pointer = pointer and number == BASE
            before.append(Insn(0xBF, number, FRAME, 0, 0) if as_pointer else Insn(0xB7, number, 0, 0, 1))
    program = encoded(*before, insn, *then, Insn(0xB7, 0, 0, 0, 0), Insn(0x95, 0, 0, 0, 0))
    fd, errno, log = bpf.prog_load_log(bpf.ProgSpec(SOCKET_FILTER, program, "GPL"))
    if fd >= 0:
        os.close(fd)
        return ""
    missing = re.search(r"R(\d+) !read_ok", log)
    assert missing, (text(insn, None), errno, log)
    return missing[1]


@pytest.mark.parametrize(("pointer", "insns"), [(False, _computing()), (False, _branches()), (True, _accesses())])
def test_the_verifier_wants_what_is_read_and_gets_what_is_written(pointer: bool, insns: list[Insn]) -> None:
    require_root()
    for insn in insns:
        found = effect(insn)
        reads = [number for number in range(11) if found.uses >> number & 1]
        assert _complaint(insn, found.uses, pointer=pointer, then=[]) == "", text(insn, None)
        for number in reads:
            assert _complaint(insn, found.uses & ~(1 << number), pointer=pointer, then=[]) == str(number)
        for number in (0, BASE, OTHER):
            read = [Insn(0xBF, 9, number, 0, 0)]
            there = (found.uses | found.defs) >> number & 1
            assert (_complaint(insn, found.uses, pointer=pointer, then=read) == "") == bool(there), text(insn, None)


def test_only_computing_is_pure() -> None:
    assert all(effect(insn).pure for insn in _computing())
    assert not any(effect(insn).pure for insn in [*_branches(), *_accesses()])


@pytest.mark.parametrize(
    "insn", [Insn(0x37, 1, 0, 0, 0), Insn(0x94, 1, 0, 0, 0), Insn(0x64, 1, 0, 0, 32), Insn(0xC7, 1, 0, 0, 64)]
)
def test_what_the_verifier_refuses_is_not_pure(insn: Insn) -> None:
    require_root()
    assert not effect(insn).pure
    program = encoded(Insn(0xB7, 1, 0, 0, 1), insn, Insn(0xB7, 0, 0, 0, 0), Insn(0x95, 0, 0, 0, 0))
    assert bpf.prog_load_log(bpf.ProgSpec(SOCKET_FILTER, program, "GPL"))[0] < 0


def test_loads_of_the_packet_read_r6_and_lose_what_a_call_loses() -> None:
    for opcode, uses in ((0x30, 1 << 6), (0x50, 1 << 6 | 1 << 3)):
        found = effect(Insn(opcode, 0, 3 if opcode == 0x50 else 0, 0, 12))
        assert (found.uses, found.defs, found.pure) == (uses, 0b111111, False)


def test_off_and_imm_matter_to_the_detailed_classes_alone() -> None:
    def described(insn: Insn) -> tuple[int, int, bool] | None:
        try:
            found = effect(insn)
        except Uncertain:
            return None
        return found.uses, found.defs, found.pure

    for opcode in range(256):
        for src in (0, 1, 2, 4):
            details = [(off, imm) for off in (-8, 0, 1, 8, 32) for imm in (-1, 0, 1, 0x40, 0xE1, 0xF1, 0x100, 0x110)]
            seen = {described(Insn(opcode, BASE, src, off, imm)) for off, imm in details}
            assert len(seen) == 1 or opcode & 7 in DETAILED, opcode
