"""One program, before and after it is specialised."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from elfpatch import disasm
from elfpatch.flow.program import Code, code_of
from elfpatch.index import FIXUP_MAP_VALUE
from elfpatch.insn import Insn
from elfpatch.patch.specialise import Specialised, specialise
from tests.flow.random.assemble import Assembled, assemble
from tests.flow.random.machine import Machine, Observed
from tests.flow.random.maps import DATA, DATA_SIZE, JUMPS, RESULT, RODATA, TABLE
from tests.flow.random.tree import Program

SPECIALISE_SECONDS = 2  # a program takes milliseconds
MAP_NAMES = {0: "rodata0", 1: "rodata1", DATA: "data", RESULT: "result", TABLE: "table", JUMPS: "jumps"}

Memory = Callable[[int, int, int], "int | None"]  # (map row, offset, size): the value, when it is constant
Specialise = Callable[[Code, Memory], Specialised]


@dataclass(frozen=True)
class Trial:
    """`problem` is "" when nothing changed; `accepted` is the verifier's word on the original."""

    accepted: bool
    problem: str = ""
    decided: bool = False
    folded: bool = False
    dropped: bool = False
    listing: str = ""


def trial(machine: Machine, program: Program, specialised: Specialise = specialise) -> Trial:
    """Load and run the program as it is and specialised."""
    made = assemble(program)
    before = code_before(made)
    with machine.loader(program, made) as outcome:
        was, log = outcome(before, made.late)
        if was is None:
            return Trial(False, log, listing=listing(before))
        try:
            with within(SPECIALISE_SECONDS):
                after = specialised(code_before(made), memory_of(program))
            now, log = outcome(after.code, moved_constants(made, after))
        except Exception:
            return Trial(True, f"specialise raised\n{traceback.format_exc()}", listing=listing(before))
    return Trial(
        True,
        difference(was, now, log),
        bool(after.decided),
        bool(after.folded),
        len(after.code.starts) < len(before.starts),
        f"{listing(before)}\nspecialised:\n{listing(after.code)}" if was != now else "",
    )


def code_before(made: Assembled) -> Code:
    return code_of(
        made.insns,
        made.refs,
        func_info=made.func_info,
        line_info=made.line_info,
        opaque=frozenset(made.late),
        global_starts=made.global_starts,
    )


def memory_of(program: Program) -> Memory:
    def memory(row: int, offset: int, size: int) -> int | None:
        if row not in RODATA or not 0 <= offset <= DATA_SIZE - size:
            return None
        return int.from_bytes(program.rodata[row][offset : offset + size], "little")

    return memory


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after so much processor time: an analysis that does not end shall name its program, too."""

    def expired(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGVTALRM, expired)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def moved_constants(made: Assembled, after: Specialised) -> dict[int, int]:
    """Where the constants that the loader puts in later are now."""
    return {after.moved[slot]: value for slot, value in made.late.items() if after.moved[slot] >= 0}


def difference(was: Observed, now: Observed | None, log: str) -> str:
    """The first thing that is not as it was, "" when there is none."""
    if now is None:
        return f"the verifier takes the original and refuses the specialised program: {log}"
    for what in (*was, *now):
        if was.get(what) != now.get(what):
            return f"{what}\n  was {_hex(was.get(what))}\n  is  {_hex(now.get(what))}"
    return ""


def _hex(data: bytes | None) -> str:
    return "missing" if data is None else data.hex(" ", 8)


def listing(code: Code) -> str:
    """The disassembly, with the names of the maps."""

    def operand(slot: int, insn: Insn) -> str:
        if slot not in code.refs:
            return ""
        kind, row, offset = code.refs[slot]
        return f"map[{MAP_NAMES[row]}]" + (f"+{offset}" if kind == FIXUP_MAP_VALUE else "")

    return "\n".join(f"{line.slot:5}: {line.text}" for line in disasm.lines(code.encode(), operand=operand))
