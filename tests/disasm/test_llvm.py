"""Instructions as llvm-objdump-19 prints them, in both byte orders: all of the fixtures and of the Debian corpus, and
every encoding of each opcode."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from elfpatch import disasm
from elfpatch import insn as isa
from elfpatch.disasm import Line
from elfpatch.insn import Insn
from tests.disasm.elf import Code, code_sections, is_big_endian, write_object
from tests.disasm.encodings import Encoding, encodings
from tests.disasm.llvm import Seen, disassembly, verifier_syntax
from tests.support import corpus
from tests.support.require import require

ROOT = Path(__file__).parents[2]
FIXTURES = sorted((ROOT / "fixtures").rglob("*.o"))
LEAST_FIXTURE_INSNS, LEAST_CORPUS_INSNS = 8_000, 30_000  # seen: 8,609 and 33,142

Lister = Callable[[Code], list[Line]]


@pytest.fixture(autouse=True)
def llvm() -> None:
    require("llvm-objdump-19")


def listing(code: Code) -> list[Line]:
    return disasm.lines(code.data, big_endian=code.big)


def _as_far_as_llvm_says(body: str, insn: Insn) -> str:
    """LLVM's text does not say what kind a call is (the number is compared), nor what is added to the index register of
    a packet load. Both are held by the kernel's own text, in test_kernel.py."""
    if insn.opcode == isa.CALL:
        return re.sub(r"^call (?:pc\+?|[a-z0-9_-]+#)(-?\d+)", r"call ?\1", body)
    if insn.opcode & 0xE7 == isa.MODE_IND:
        return re.sub(r" \+ -?\d+\]$", " + ?]", body)
    return body


def _difference(line: Line, seen: Seen) -> str:
    opcode, _, body = line.text.partition(" ")
    wanted = verifier_syntax(seen.text)
    got = _as_far_as_llvm_says(body, line.insn)
    goes = disasm.target(line.slot, line.insn)
    if got != wanted or opcode != f"({line.insn.opcode:02x})" or line.slot != seen.slot:
        return f"{line.slot}: {line.text}   llvm {seen.slot}: {seen.text}"
    if seen.target is not None and goes != seen.target:
        return f"{line.slot}: {line.text} goes to {goes}   llvm: {seen.target}"
    return ""


def compare(*paths: Path, lister: Lister = listing) -> tuple[int, list[str]]:
    """(instructions compared, differences) of all code of some objects."""
    count, differences = 0, []
    for big in (False, True):
        alike = [path for path in paths if is_big_endian(path) == big]
        for path, theirs in zip(alike, disassembly(*alike), strict=True):
            ours = [(code.name, line) for code in code_sections(path) for line in lister(code)]
            assert [name for name, _ in ours] == [seen.section for seen in theirs], path
            found = [_difference(line, seen) for (_, line), seen in zip(ours, theirs, strict=True)]
            count += len(ours)
            differences += [f"{path.name}: {one}" for one in found if one]
    return count, differences


def test_fixtures() -> None:
    count, found = compare(*FIXTURES)
    assert found == []
    assert count >= LEAST_FIXTURE_INSNS


def test_corpus() -> None:
    paths = corpus.objects()
    assert len({is_big_endian(path) for path in paths}) == 2
    count, found = compare(*paths)
    assert found == []
    assert count >= LEAST_CORPUS_INSNS


# --- encodings that no compiler of ours writes ------------------------------------------------------------------

NOT_IN_LLVM_19 = "LLVM 19 does not know it: {}"


def _beyond_llvm(encoding: Encoding) -> str:
    """Why llvm-objdump-19 cannot be asked about an encoding, "" when it can."""
    insn = encoding.first
    if insn.opcode == isa.LD_IMM64 and insn.src:
        return "prints `ld_pseudo rD, SRC, IMM`, without the second slot"
    atomic = insn.opcode & 0xE7 == isa.MODE_ATOMIC | isa.CLASS_STX
    if atomic and insn.imm in (isa.ATOMIC_LOAD_ACQUIRE, isa.ATOMIC_STORE_RELEASE):
        return NOT_IN_LLVM_19.format("it looks at 8 bits of imm and prints another atomic instruction")
    if insn.opcode == isa.JA | isa.SOURCE_REG:
        return NOT_IN_LLVM_19.format("gotox")
    if insn.opcode == isa.CALL | isa.SOURCE_REG and insn.imm:
        return "prints `callx r0`: takes the register from dst, where LLVM 18 and older did not put it"
    return ""


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
def test_every_known_encoding(big: bool, tmp_path: Path) -> None:
    asked = [one for one in encodings() if one.known and not _beyond_llvm(one)]
    path = tmp_path / "all.o"
    write_object(path, b"".join(one.code(big) for one in asked), big=big)
    count, found = compare(path)
    assert (count, found) == (len(asked), [])
    assert count > 10_000


def test_llvm_knows_no_opcode_that_we_do_not(tmp_path: Path) -> None:
    """Of each opcode that we never know, in any form, LLVM must say `<unknown>`."""
    ours = {one.first.opcode for one in encodings() if one.known}
    rest = [one for one in encodings() if one.first.opcode not in ours and one.first.imm in (0, 1, 16)]
    path = tmp_path / "rest.o"
    write_object(path, b"".join(one.code(False) for one in rest), big=False)
    assert {seen.text for seen in disassembly(path)[0]} == {"<unknown>"}
    assert len({one.first.opcode for one in rest}) == 256 - len(ours)


# --- the comparison can fail ------------------------------------------------------------------------------------

SPOILT: dict[str, Callable[[Insn], Insn]] = {
    "dst": lambda i: Insn(i.opcode, (i.dst + 1) % 10, i.src, i.off, i.imm),
    "src": lambda i: Insn(i.opcode, i.dst, (i.src + 1) % 10, i.off, i.imm),
    "off": lambda i: Insn(i.opcode, i.dst, i.src, i.off + 1, i.imm),
    "imm": lambda i: Insn(i.opcode, i.dst, i.src, i.off, i.imm ^ 1),
    "size": lambda i: Insn(i.opcode ^ 0x10, i.dst, i.src, i.off, i.imm),
    "class": lambda i: Insn(i.opcode ^ 3, i.dst, i.src, i.off, i.imm),
}


@pytest.mark.parametrize("field", sorted(SPOILT))
def test_a_misprinted_field_is_a_difference(field: str) -> None:
    """A printer that reads one field wrong, on a real object: every instruction in which the field means something
    differs from LLVM's text."""

    def wrong(code: Code) -> list[Line]:
        made = listing(code)
        for line in made:
            spoilt = SPOILT[field](line.insn)
            if line.width == 1 and disasm.text(spoilt, None) != line.text:
                line.text = f"({line.insn.opcode:02x}) {disasm.text(spoilt, None)[5:]}"
                spoils.append(line.slot)
        return made

    spoils: list[int] = []
    path = ROOT / "fixtures" / "objects" / "clang-19-v4" / "packets.o"
    _, found = compare(path, lister=wrong)
    # A call whose kind alone changed looks the same to LLVM.
    assert len(spoils) > 20
    assert len(found) >= len(spoils) * 0.9


def test_a_wrong_jump_target_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    right = disasm.target
    monkeypatch.setattr(disasm, "target", lambda slot, insn: None if (to := right(slot, insn)) is None else to + 1)
    assert len(compare(ROOT / "fixtures" / "objects" / "clang-19-v4" / "packets.o")[1]) > 10
