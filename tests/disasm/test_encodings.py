"""Every opcode with every kind of operand: no text is printed twice, nothing raises, nothing is skipped."""

from __future__ import annotations

import struct
from collections import defaultdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elfpatch import disasm
from elfpatch import insn as isa
from elfpatch.insn import Insn
from tests.disasm.encodings import encodings, is_unknown


def test_every_known_encoding_has_a_text_of_its_own() -> None:
    by_text = defaultdict(list)
    for one in encodings():
        by_text[one.text].append(one)
    shared = {text: found for text, found in by_text.items() if len(found) > 1 and found[0].known}
    # The kernel does not look at off of `exit`; LLVM 18 and older write the register of callx into imm, newer ones
    # into dst.
    assert set(shared) <= {"(95) exit", *(f"(8d) callx r{number}" for number in range(11))}
    assert all(one.first.opcode in (0x95, 0x8D) for found in shared.values() for one in found)


def test_an_unknown_one_shows_its_fields() -> None:
    texts = {one.text for one in encodings() if not one.known and one.second is None}
    assert len(texts) == sum(not one.known and one.second is None for one in encodings())
    assert disasm.text(Insn(0xBF, 1, 2, -1, 5), None) == "(bf) unknown: dst=1 src=2 off=-1 imm=0x5"


KNOWN = [
    "18", *("20 28 30 40 48 50".split()),  # LD: LD_IMM64; skb[imm], skb[reg + imm]
    *("61 69 71 79 81 89 91".split()),  # LDX: zero- and sign-extending
    *("62 6a 72 7a".split()), *("63 6b 73 7b".split()), *("c3 cb d3 db".split()),  # ST, STX, atomics
    *(f"{op:x}{low}" for op in range(0xD) for low in "4c7f" if op != 8), "84", "87",  # ALU, ALU64; NEG: imm only
    "d4", "dc", "d7",  # byte orders
    *(f"{op:x}{low}" for op in (1, 2, 3, 4, 5, 6, 7, 0xA, 0xB, 0xC, 0xD) for low in "5d6e"),  # conditional jumps
    "05", "06", "0d", "85", "8d", "95", "e5",  # goto, gotol, gotox, call, callx, exit, may_goto
]  # fmt: skip


def test_which_opcodes_are_known() -> None:
    seen = {one.first.opcode for one in encodings() if one.known}
    assert seen == {int(opcode, 16) for opcode in KNOWN}


@given(st.binary(max_size=96), st.booleans())
@example(b"\x18" + bytes(7), False)  # an LD_IMM64 without its second slot
@example(bytes.fromhex("1801000005000000b700000000000000"), False)  # with a second slot that is none
@example(b"\x95\x00\x00", True)
def test_a_listing_covers_all_bytes(code: bytes, big: bool) -> None:
    made = disasm.lines(code, big_endian=big)
    slot = 0
    for line in made:
        assert line.slot == slot
        raw = code[slot * isa.SIZE : (slot + line.width) * isa.SIZE]
        assert line.text.startswith(f"({raw[0]:02x}) ")
        if len(raw) == line.width * isa.SIZE:
            back = bytearray(isa.SIZE)
            isa.encode_into(back, 0, line.insn, big_endian=big)
            assert back == raw[: isa.SIZE]
            second = isa.decode(raw, 1, big_endian=big) if line.width == 2 else None
            assert line.text == disasm.text(line.insn, second)
        slot += line.width
    assert slot == -(-len(code) // isa.SIZE)


def test_width_and_value_of_an_imm64() -> None:
    good = struct.pack("<BBhiBBhi", 0x18, 1, 0, -2, 0, 0, 0, -0x7FFFFFFF)
    (line,) = disasm.lines(good)
    assert (line.width, line.imm64, line.text) == (2, 0x80000001FFFFFFFE, "(18) r1 = 0x80000001fffffffe")
    first, second = disasm.lines(good[:8] + bytes.fromhex("b700000007000000"))
    assert (first.width, is_unknown(first.text), first.imm64) == (1, True, -2)
    assert (second.slot, second.text) == (1, "(b7) r0 = 7")  # what is no second slot is read for itself
    (cut,) = disasm.lines(good[:13])[1:]
    assert cut.text == "(00) unknown: 5 bytes of 8"


SOURCES = [
    (1, 5, 0, "map[fd:5]"),
    (2, 5, 8, "map[fd:5][0]+8"),
    (3, 77, 0, "btf[id:77]"),
    (3, 77, 4, "btf[fd:4][id:77]"),
    (4, 3, 0, "subprog[+3]"),
    (5, 2, 0, "map[idx:2]"),
    (6, 2, 16, "map[idx:2][0]+16"),
]


@pytest.mark.parametrize(("src", "low", "high", "wanted"), SOURCES)
def test_what_an_imm64_refers_to(src: int, low: int, high: int, wanted: str) -> None:
    assert disasm.text(Insn(0x18, 3, src, 0, low), Insn(0, 0, 0, 0, high)) == f"(18) r3 = {wanted}"


def test_names_are_asked_for_and_used() -> None:
    code = b"".join(
        struct.pack("<BBhi", *fields)
        for fields in [
            *[(0x18, 1, 0, 0), (0, 0, 0, 8)],
            *[(0x85, 0x10, 0, -1), (0x85, 0, 0, 1), (0x85, 0x20, 0, 9), (0xB7, 0, 0, 0), (0x95, 0, 0, 0)],
        ]
    )
    asked: list[int] = []

    def operand(slot: int, insn: Insn) -> str:
        asked.append(slot)
        return {0: "map[.rodata]+8", 2: "helper_function"}.get(slot, "")

    texts = [line.text for line in disasm.lines(code, operand=operand)]
    assert asked == [0, 2, 3, 4]
    assert texts[:2] == ["(18) r1 = map[.rodata]+8", "(85) call helper_function"]
    assert texts[2:4] == ["(85) call bpf_map_lookup_elem#1", "(85) call kernel-function#9"]


@pytest.mark.parametrize(
    ("fields", "goes"),
    [
        ((0x05, 0, 0, -3, 0), 8),
        ((0x06, 0, 0, 0, 100000), 100011),
        ((0xE5, 0, 0, 2, 0), 13),
        ((0x15, 1, 0, 5, 0), 16),
        ((0xDE, 1, 2, 32767, 0), 32778),
        ((0x15, 1, 1, 5, 0), None),  # reserved field: no jump
        ((0x0D, 1, 0, 0, 0), None),
        ((0x85, 0, 1, 0, 5), None),
        ((0x95, 0, 0, 0, 0), None),
        ((0x07, 1, 0, 0, 5), None),
        ((0x15, 11, 0, 5, 0), None),
    ],
)
def test_where_a_jump_goes(fields: tuple[int, int, int, int, int], goes: int | None) -> None:
    assert disasm.target(10, Insn(*fields)) == goes
