"""Specialising a program never changes what it does: random programs, run by the kernel before and after.

What is compared: whether the verifier takes it, and for every packet the verdict, the packet and context that come
out, and the maps the program writes. ELFPATCH_FLOW_SEED and ELFPATCH_FLOW_PROGRAMS choose the series and its length; a
failure names both for a replay, and shows the smallest program that still fails.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from random import Random

import pytest

from elfpatch.flow.program import Code
from elfpatch.patch.specialise import Specialised, prune, specialise
from tests.flow.random.assemble import assemble
from tests.flow.random.insns import GOTO, JUMP, branch
from tests.flow.random.machine import DATA_BYTES, Machine, Observed
from tests.flow.random.maps import DATA, DATA_SIZE
from tests.flow.random.program import random_program
from tests.flow.random.shrink import length, shrink
from tests.flow.random.tree import Asm, Program, instructions, with_sites
from tests.flow.random.trial import Memory, Specialise, code_before, listing, memory_of, moved_constants, trial

SEED = int(os.environ.get("ELFPATCH_FLOW_SEED", "1"))
PROGRAMS = int(os.environ.get("ELFPATCH_FLOW_PROGRAMS", "500"))

ACCEPTED_SHARE = 0.97  # of the generated programs, by the verifier
INTERESTING_SHARE = 0.2  # of the accepted programs: each of the shares that are asserted


@pytest.fixture(scope="module")
def machine(kernel: None) -> Iterator[Machine]:
    made = Machine()
    yield made
    made.close()


def failure_report(machine: Machine, number: int, program: Program) -> str:
    first = trial(machine, program).problem
    least = shrink(program, lambda candidate: bool(_failed(machine, candidate)))
    found = trial(machine, least)
    return (
        f"program {number} of series {SEED} (ELFPATCH_FLOW_SEED={SEED}): {first}\n"
        f"shrunk to {length(least)} instructions, with constants {[part.hex() for part in least.rodata]}:\n"
        f"{found.problem}\noriginal:\n{found.listing}"
    )


def _failed(machine: Machine, program: Program) -> str:
    found = trial(machine, program)
    return found.problem if found.accepted else ""


@pytest.mark.timeout(120 + PROGRAMS // 2)
def test_specialising_changes_nothing(machine: Machine) -> None:
    shares: Counter[str] = Counter()
    for number in range(PROGRAMS):
        program = random_program(SEED, number)
        found = trial(machine, program)
        if found.accepted and found.problem:
            pytest.fail(failure_report(machine, number, program), pytrace=False)
        shares.update(name for name in ("accepted", "decided", "folded", "dropped") if getattr(found, name))
    accepted = shares["accepted"]
    assert accepted >= ACCEPTED_SHARE * PROGRAMS, f"the verifier takes only {accepted} of {PROGRAMS}"
    for name in ("decided", "folded", "dropped"):
        assert shares[name] >= INTERESTING_SHARE * accepted, f"{name}: only {shares[name]} of {accepted} programs"


def wrong_bytes(code: Code, memory: Memory) -> Specialised:
    """Reads constants in the other byte order."""

    def swapped(row: int, offset: int, size: int) -> int | None:
        value = memory(row, offset, size)
        return None if value is None else int.from_bytes(value.to_bytes(size, "little"), "big")

    return specialise(code, swapped)


def writable_as_constant(code: Code, memory: Memory) -> Specialised:
    """Takes the map that programs write for a constant."""

    def more(row: int, offset: int, size: int) -> int | None:
        inside = 0 <= offset <= DATA_SIZE - size
        known = int.from_bytes(DATA_BYTES[offset : offset + size], "little") if row == DATA and inside else None
        return memory(row, offset, size) if known is None else known

    return specialise(code, more)


def late_as_known(code: Code, memory: Memory) -> Specialised:
    """Believes constants that the loader is yet to write."""
    code.opaque.clear()
    return specialise(code, memory)


def jumps_too_far(code: Code, memory: Memory) -> Specialised:
    """Retargets every conditional jump one slot behind its target."""
    made = specialise(code, memory)
    for insn in made.code.insns:
        if insn.opcode & 7 in (5, 6) and insn.opcode & 0xF0 in JUMP.values():
            insn.off += 1
    return made


@pytest.mark.parametrize("wrong", [wrong_bytes, writable_as_constant, late_as_known, jumps_too_far])
def test_mistakes_are_seen(machine: Machine, wrong: Specialise) -> None:
    """The comparison can fail: these specialisers are caught well within a series."""
    trials = (trial(machine, random_program(1, number), wrong) for number in range(500))
    assert any(found.accepted and found.problem for found in trials)


def test_specialising_again_changes_nothing() -> None:
    for number in range(min(PROGRAMS, 200)):
        program = random_program(SEED, number)
        once = specialise(code_before(assemble(program)), memory_of(program)).code
        text = listing(once)
        again = specialise(once, memory_of(program)).code
        assert listing(again) == text, f"program {number} of series {SEED}"


def labels_of_sites(program: Program) -> set[int]:
    insns = (insn for function in program.functions for insn in instructions(function.body))
    return {insn.to for insn in insns if insn.site and insn.to is not None}


def decided_branch(ons: dict[int, bool], to: int) -> Asm:
    """A conditional jump that the kernel itself decides: r10 is never null."""
    return branch("!=" if ons[to] else "==", 10, to)


def decided_goto(ons: dict[int, bool], to: int) -> Asm:
    """The same as a static key writes it: `goto to` or `goto +0`."""
    return Asm(GOTO, to=to) if ons[to] else Asm(GOTO)


def before_and_pruned(
    machine: Machine, with_branch: Program, with_goto: Program
) -> tuple[Observed | None, Observed | None, bool]:
    """What the first program does, what the second, pruned, does, and whether that took instructions away."""
    made, bare = assemble(with_branch), assemble(with_goto)
    with machine.loader(with_branch, made) as outcome:
        was, _ = outcome(code_before(made), made.late)
        after = prune(code_before(bare))
        now, _ = outcome(after.code, moved_constants(bare, after))
    return was, now, bool(after.removed)


def test_pruning_leaves_what_a_decided_branch_leaves(machine: Machine) -> None:
    """A static key of the kind `goto +N` or `goto +0` leaves code that no edge leads to; the oracle is the same program
    with branches in those places that the kernel decides."""
    ran = pruned = 0
    for number in range(min(PROGRAMS, 200)):
        switches = Random(number)
        program = random_program(SEED, number)
        ons = {label: switches.random() < 0.5 for label in labels_of_sites(program)}
        with_branch = with_sites(program, partial(decided_branch, ons))
        with_goto = with_sites(program, partial(decided_goto, ons))
        was, now, removed = before_and_pruned(machine, with_branch, with_goto)
        if was is None:
            continue
        ran += 1
        pruned += removed
        assert was == now, f"program {number} of series {SEED}"
    assert ran >= 0.5 * min(PROGRAMS, 200)
    assert pruned >= 0.5 * ran
