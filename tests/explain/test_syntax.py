"""capstone's text where it is right, ours with a mark where it is not."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import capstone
import pytest

from elfpatch import insn as isa
from elfpatch.explain.listing import stages
from elfpatch.explain.syntax import MARK
from elfpatch.explain.syntax import capstone as as_capstone
from tests.explain.support import OBJECTS, one
from tests.support.cli import Cli

V3 = OBJECTS / "clang-19-v3"


def nothing(slot: int, insn: isa.Insn) -> str:
    return ""


def text_of(insn: isa.Insn, *more: isa.Insn) -> str:
    code = bytearray(isa.SIZE * (1 + len(more)))
    for slot, one_insn in enumerate((insn, *more)):
        isa.encode_into(code, slot, one_insn)
    return as_capstone(bytes(code), False, nothing)[0]


@pytest.mark.parametrize(
    ("insn", "text"),
    [
        (isa.Insn(0xB7, 1, 0, 0, 5), "mov64 r1, 0x5"),
        (isa.Insn(0x61, 2, 1, 4, 0), "ldxw r2, [r1+0x4]"),
        (isa.Insn(0x15, 1, 0, 3, 0), "jeq r1, 0x0, +0x3"),
        (isa.Insn(0x85, 0, 0, 0, 1), "call 0x1 <bpf_map_lookup_elem>"),
        (isa.Insn(0x95, 0, 0, 0, 0), "exit"),
    ],
)
def test_what_capstone_knows_is_its_own_text(insn: isa.Insn, text: str) -> None:
    assert text_of(insn) == text


@pytest.mark.parametrize(
    ("insn", "text"),
    [
        (isa.Insn(0x16, 1, 0, 3, 0), "(16) if w1 == 0x0 goto pc+3"),  # a 32-bit jump
        (isa.Insn(0x06, 0, 0, 0, 9), "(06) gotol pc+9"),
        (isa.Insn(0xE5, 0, 0, 2, 0), "(e5) may_goto pc+2"),
        (isa.Insn(0x81, 1, 2, 0, 0), "(81) r1 = *(s32 *)(r2 +0)"),
        (isa.Insn(0xD7, 1, 0, 0, 32), "(d7) r1 = bswap32 r1"),
        (isa.Insn(0xDB, 1, 2, 0, 0xE1), "(db) r2 = atomic64_xchg((u64 *)(r1 +0), r2)"),
        (isa.Insn(0xBF, 1, 2, 8, 0), "(bf) r1 = (s8)r2"),
        (isa.Insn(0x37, 1, 0, 1, 3), "(37) r1 s/= 3"),
        (isa.Insn(0x9F, 1, 2, 1, 0), "(9f) r1 s%= r2"),
    ],
)
def test_what_capstone_gets_wrong_is_ours_and_marked(insn: isa.Insn, text: str) -> None:
    assert text_of(insn) == text + MARK


def test_a_map_keeps_its_name() -> None:
    program = one(V3 / "plain.o", "plain", syntax="capstone")
    texts = {insn.slot: insn.text for insn in program.insns}
    assert texts[1] == "(18) r1 = &mark" + MARK
    assert texts[3] == "ldxw r7, [r1]"
    assert texts[5] == "call 0x4 <sum>"


def test_the_mark_is_the_last_word() -> None:
    program = one(V3 / "keys.o", "keys", syntax="capstone")
    jumps = [stages(insn)[0] for insn in program.insns if insn.target is not None]
    assert any(text.endswith(f">{MARK}") for text in jumps)
    assert all(text.endswith((f">{MARK}", ">")) for text in jumps)


def test_every_known_encoding_has_a_text() -> None:
    """And it is capstone's own unless it is marked: what capstone skips as data is not taken for an instruction."""
    reader = capstone.Cs(capstone.CS_ARCH_BPF, capstone.CS_MODE_BPF_EXTENDED | capstone.CS_MODE_LITTLE_ENDIAN)
    fields = ((0x01, 16), (0x01, 0), (0x21, 0), (0x00, 1), (0x00, 0))  # registers, imm
    checked = set()
    for opcode, (registers, imm) in product(range(256), fields):
        code = bytes((opcode, registers, 0, 0, imm, 0, 0, 0))
        (text,) = as_capstone(code, False, nothing).values()
        if not text.endswith(MARK):
            (their,) = reader.disasm(code, 0)
            assert text.partition(" <")[0] == f"{their.mnemonic} {their.op_str}".strip()
            checked.add(opcode)
    assert len(checked) > 80


def test_big_endian_is_ours_throughout(cli: Cli) -> None:
    path = str(OBJECTS / "big-endian" / "plain.o")
    made = cli.ok("explain", "-j", "--syntax", "capstone", path).json["programs"][0]["insns"]
    ours = cli.ok("explain", "-j", path).json["programs"][0]["insns"]
    assert [insn["text"] for insn in made] == [insn["text"] + MARK for insn in ours]


def test_capstone_is_imported_only_when_asked_for() -> None:
    probe = "import sys; from elfpatch.cli.main import main; main(sys.argv[1:]); sys.exit('capstone' in sys.modules)"
    mark = str(OBJECTS.parent / "templates" / "mark.o")
    words = [sys.executable, "-c", probe, "explain", mark]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    assert subprocess.run([*words, "--syntax", "capstone"], capture_output=True, check=False).returncode == 1
