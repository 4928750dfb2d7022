"""What is said of every fixture's programs holds together, and agrees with what a load would be given."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from elfpatch import disasm
from elfpatch import index as ix
from elfpatch import insn as isa
from elfpatch.cli.explain import explained
from elfpatch.deploy.prepare import ready
from elfpatch.deploy.select import Wanted
from elfpatch.explain.document import document
from elfpatch.patch.code import program_code
from elfpatch.patch.image import Image
from tests.explain.support import EVERY, OBJECTS, images, name_of, one, programs
from tests.support.cli import Cli

V3 = OBJECTS / "clang-19-v3"
BOTH = pytest.mark.parametrize("specialize", [False, True], ids=["as it is", "specialised"])


def loaded(image: Image, row: ix.Program, number: int, specialize: bool) -> bytes:
    """The instructions that a load would give to the kernel."""
    return bytes(ready(image, Wanted(number, row, row.type, row.attach_type), specialize=specialize).insns)


@BOTH
@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_a_document_holds_together(path: Path, specialize: bool) -> None:
    image, _ = images(path)
    big = image.template.index.big_endian
    for row, program in programs(path, specialize=specialize):
        made: Any = document(program)
        assert made["notes"] == []
        code, _ = program_code(image, row)
        check_slots(made, len(row.insns) // isa.SIZE)
        assert "".join(insn["raw"] for insn in made["insns"]) == code.hex()
        check_texts(made, code, big)
        check_blocks(made, code, big)
        check_moves(made, transformed=specialize or made["transformed"])


def check_slots(made: Any, count: int) -> None:
    slots = [slot for insn in made["insns"] for slot in range(insn["slot"], insn["slot"] + insn["slots"])]
    assert slots == list(range(count))


def check_texts(made: Any, code: bytes, big: bool) -> None:
    """Without a name the text is the decoder's; a name stands where the decoder has a number."""
    plain = {line.slot: line for line in disasm.lines(code, big_endian=big)}
    assert sorted(plain) == [insn["slot"] for insn in made["insns"]]
    for insn in made["insns"]:
        line = plain[insn["slot"]]
        name = insn["operand"]
        if name is None or line.text.startswith(f"(85) call {name}#"):
            assert insn["text"] == line.text
        else:
            assert line.insn.opcode in (isa.CALL, isa.LD_IMM64)
            assert insn["text"] in (f"(85) call {name}", f"(18) r{line.insn.dst} = {name}")


def check_blocks(made: Any, code: bytes, big: bool) -> None:
    blocks = made["blocks"]
    assert blocks[0]["first"] == 0
    assert all(left["end"] == right["first"] for left, right in pairwise(blocks))
    assert blocks[-1]["end"] == len(code) // isa.SIZE
    firsts = {block["id"] for block in blocks}
    lines = disasm.lines(code, big_endian=big)
    assert {target for line in lines if (target := disasm.target(line.slot, line.insn)) is not None} <= firsts
    assert {function["start"] for function in made["functions"]} <= firsts
    states = {insn["slot"]: insn["state"] for insn in made["insns"]}
    for block in blocks:
        assert {edge["block"] for edge in block["successors"]} <= firsts
        kinds = [edge["kind"] for edge in block["successors"]]
        assert kinds in ([], ["fall"], ["taken"], ["fall", "taken"], ["never", "always"], ["always", "never"])
        inside = {states[slot] for slot in range(block["first"], block["end"]) if slot in states}
        assert inside - {"removed"} <= {block["state"]}
        assert inside == {"removed"} if block["state"] == "removed" else block["state"] in inside


def check_moves(made: Any, *, transformed: bool) -> None:
    at = 0
    for insn in made["insns"]:
        if insn["state"] == "removed":
            assert (insn["new_slot"], insn["new_slots"]) == (None, 0)
            assert insn["removed_because"]
        else:
            assert (insn["new_slot"], insn["removed_because"]) == (at, None)
            at += insn["new_slots"]
    assert at == made["summary"]["insns_after"]
    assert transformed or at == made["summary"]["insns_before"]


def counts_instructions(insn: isa.Insn) -> bool:
    """Whether an instruction names another one by its distance, which changes when others are removed."""
    jump = insn.opcode & 7 in (isa.CLASS_JMP, isa.CLASS_JMP32)
    return jump or (insn.opcode == isa.LD_IMM64 and insn.src == isa.PSEUDO_FUNC)


@BOTH
@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_what_is_kept_is_what_a_load_gives_to_the_kernel(path: Path, specialize: bool) -> None:
    image, _ = images(path)
    big = image.template.index.big_endian
    numbers = {row.name: number for number, row in enumerate(image.template.index.rows(ix.Program))}
    for row, program in programs(path, specialize=specialize):
        made: Any = document(program)
        given = loaded(image, row, numbers[row.name], specialize)
        for insn in made["insns"]:
            if insn["state"] == "removed":
                continue
            shown = bytes.fromhex(insn["new_raw"] or insn["raw"])
            start = insn["new_slot"] * isa.SIZE
            same = given[start : start + len(shown)]
            assert len(shown) == insn["new_slots"] * isa.SIZE
            distance = counts_instructions(isa.decode(shown, 0, big_endian=big))
            assert shown == same or (distance and shown[:2] == same[:2])


@pytest.mark.parametrize(
    ("setting", "cold"),
    [
        ("one.local=off", {"value += 1000;", "return cold_only(value);", "return value * 3 + 1;"}),
        ("one.local=on", {"return cold_only(value);", "return value * 3 + 1;"}),
        # Its site compares an argument, of which nothing is known. Then `one` is called by nobody.
        ("entry=on", {"value += 1000;", "return one(value);", "return value;"}),
    ],
)
def test_what_a_key_switches_off_is_cold_with_what_only_that_calls(setting: str, cold: set[str]) -> None:
    program = one(V3 / "keys.o", "keys_xdp", setting)
    states = {insn.source.text: insn.state for insn in program.insns if insn.source}
    every = {
        "value += 1000;",
        "return cold_only(value);",
        "return value * 3 + 1;",
        "return one(value);",
        "return value;",
    }
    assert {text for text in every if states[text] == "cold"} == cold


def test_edges_of_a_decided_branch_say_so() -> None:
    program = one(V3 / "keys.o", "keys_xdp", "one.local=on")
    (block,) = [block for block in program.blocks if block.first <= 35 < block.end]
    assert [(edge.block, edge.kind) for edge in block.successors] == [(36, "never"), (38, "always")]


def test_a_value_has_its_default_beside_it(cli: Cli) -> None:
    done = cli.ok("explain", "-j", "--set", "alpha=on", "--prog", "keys_xdp", str(V3 / "keys.o"))
    assert done.json["schema"] == "elfpatch/v1"
    (program,) = done.json["programs"]
    (insn,) = [insn for insn in program["insns"] if insn["slot"] == 4]
    assert insn["values"] == [
        {"kind": "key", "path": "alpha", "value": "on", "default": "off", "constant": True, "jumps": True}
    ]
    assert (insn["default_text"], insn["text"]) == ("(a5) if r2 < 0x0 goto pc+14", "(35) if r2 >= 0x0 goto pc+14")
    assert insn["source"] == {"file": "keys.bpf.c", "line": 215, "text": "if (static_branch_unlikely(&alpha)) {"}


def test_every_key_site_and_immediate_of_the_index_is_named() -> None:
    for path in (V3 / "keys.o", V3 / "immediates.o", V3 / "jump_table.o", OBJECTS / "big-endian" / "keys.o"):
        index = images(path)[0].template.index
        for row, program in programs(path):
            fixups = list(index.rows(ix.Fixup, row.first_fixup, row.fixups))
            wanted = {fixup.insn for fixup in fixups if fixup.kind in (ix.FIXUP_SITE, ix.FIXUP_IMMEDIATE)}
            named = {insn.slot for insn in program.insns if any(v.kind != "variable" for v in insn.values)}
            assert named == wanted
            assert wanted


def test_a_program_that_is_not_understood_is_shown_as_it_is() -> None:
    """A function that runs past its end: no kernel loads it, and no graph of it is drawn."""
    image, defaults = images(V3 / "plain.o")
    row = next(image.template.index.rows(ix.Program))
    row.insns = row.insns[: -isa.SIZE] + bytes((isa.MOV64_REG, 0x10)) + bytes(6)
    for specialize in (False, True):
        program = explained(image, defaults, row, "kernel", specialize=specialize)
        assert "a function runs past its end" in program.notes[0]
        assert [(block.first, block.end, block.state) for block in program.blocks] == [
            (0, 10, "live"),
            (10, 25, "live"),
        ]
        assert [insn.new_slot for insn in program.insns] == [insn.slot for insn in program.insns]
        assert len(program.notes) == 1 + specialize


def test_a_program_that_cannot_be_loaded_says_why(cli: Cli) -> None:
    path = str(OBJECTS / "stripped" / "keys_unneeded.o")
    assert "  cannot be loaded: tc:keys instruction 109" in cli.ok("explain", path).out
    found = cli.ok("explain", "--format", "json", path).json["programs"]
    assert [(program["insns"], program["blocks"]) for program in found] == [([], []), ([], [])]
    assert all("where no function starts" in program["problem"] for program in found)
