"""A program made for the values that it is loaded with.

Loads of constant data, arithmetic on constants and operands that are constant become immediates, branches on them are
decided, and what then cannot run or is used by nothing is removed: a compiler's optimiser over the analyses of
`elfpatch.flow`. One pass reaches the fixed point: specialising the result again changes nothing.

When anything is uncertain (an instruction that is not known, a jump that would grow out of range) the program stays as
it is, and `why_not` says why.
"""

from __future__ import annotations

from elfpatch import insn as isa
from elfpatch.flow.graph import JUMP, Block, Graph, build
from elfpatch.flow.lattice import Constant, MapHandle
from elfpatch.flow.layout import Edits, lay_out, needless_jumps
from elfpatch.flow.liveness import dead_definitions
from elfpatch.flow.program import HELPER_TAIL_CALL, Code, Uncertain, width
from elfpatch.flow.propagate import Facts, nothing_known, propagate
from elfpatch.flow.rewrite import rewritten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from elfpatch.flow.propagate import Memory


class Specialised:
    """A program and what was done to it.

    `moved`: the new slot of each old one, -1 when it was removed. `removed`: by old slot, why. `folded`: by the old
    slot of a load, the 64-bit unsigned value that now stands for it; `computed`: the same of arithmetic, and of an
    LD_IMM64 that is a move now. `decided`: by the old slot of a branch, whether it is always taken. `why_not`: why
    nothing was done, "" when the program was understood.
    """

    __slots__ = ("code", "computed", "decided", "folded", "moved", "removed", "why_not")

    def __init__(self, code: Code, moved: list[int], removed: dict[int, str], facts: Facts, why_not: str = "") -> None:
        self.code = code
        self.moved = moved
        self.removed = removed
        self.folded = facts.folded
        self.computed = facts.computed
        self.decided = facts.decided
        self.why_not = why_not


def specialise(code: Code, memory: Memory, *, arguments: Callable[[int], int] | None = None) -> Specialised:
    """The program for constant data as in `memory` (map row, offset, size -> unsigned value, or None).
    `arguments(helper)` says how many registers a helper reads; the default knows the kernel's."""
    try:
        graph = build(code)
        facts = propagate(code, graph, memory)
        edits = rewritten(code, facts)
        dead = dead_definitions(code, graph, facts, edits, arguments or _helper_arguments())
        return _transformed(code, graph, facts, edits, dead)
    except Uncertain as uncertain:
        return _unchanged(code, uncertain)


def prune(code: Code) -> Specialised:
    """The program without what no path leads to, whatever the values: the verifier's check_cfg refuses a program that
    has such instructions, and a static key's `goto` leaves them behind."""
    try:
        graph = build(code)
        return _transformed(code, graph, propagate(code, graph, nothing_known, decide=False), {}, set())
    except Uncertain as uncertain:
        return _unchanged(code, uncertain)


def tail_calls(code: Code, facts: Facts) -> dict[int, set[int] | None]:
    """By map row, the slots of prog arrays that tail calls which can run may jump to; None: any slot. A map that is
    not there is not used for tail calls."""
    found: dict[int, set[int] | None] = {}
    for slot, state in facts.states.items():
        insn = code.insns[slot]
        if insn.opcode != isa.CALL or insn.src or insn.imm != HELPER_TAIL_CALL:
            continue
        array, index = state[2], state[3]
        rows = [array.map] if isinstance(array, MapHandle) else [row for _, row, _ in code.refs.values()]
        for row in rows:
            slots = found.setdefault(row, set())
            if slots is None or not isinstance(array, MapHandle) or not isinstance(index, Constant):
                found[row] = None
            else:
                slots.add(index.value & 0xFFFFFFFF)  # the helper's index is a u32
    return found


def _helper_arguments() -> Callable[[int], int]:
    from elfpatch.helpers import helper_arguments

    return helper_arguments


def _unchanged(code: Code, uncertain: Uncertain) -> Specialised:
    return Specialised(code, list(range(len(code.insns))), {}, Facts(), str(uncertain))


def _transformed(code: Code, graph: Graph, facts: Facts, edits: Edits, dead: set[int]) -> Specialised:
    """`edits` are of instructions that can run; those of `dead`, and what cannot run, go."""
    removed = _unreachable(code, graph, facts, _functions(graph, facts, dead))
    for slot in facts.states:
        if slot not in removed and (slot in dead or edits.get(slot) == []):
            removed[slot] = _outcome(code, facts, slot) or _unused(facts, slot)
    edits = edits | {slot: [] for slot in removed}
    for slot in needless_jumps(code, edits):
        edits[slot] = []
        removed[slot] = _outcome(code, facts, slot) or "it jumps to what is next"
    made, moved = lay_out(code, edits)
    for slot in [slot for slot in removed if width(code.insns[slot]) == 2]:
        removed[slot + 1] = removed[slot]
    for values in (facts.folded, facts.computed):
        for slot in [slot for slot in values if moved[slot] < 0]:
            del values[slot]
    return Specialised(made, moved, dict(sorted(removed.items())), facts)


def _functions(graph: Graph, facts: Facts, dead: set[int]) -> set[int]:
    """The functions that can run once the dead definitions are gone, the addresses of functions among them."""
    kept = set(graph.roots())
    pending = list(kept)
    while pending:
        for block in graph.functions[pending.pop()]:
            if not facts.reaches(block.first):
                continue
            found = {start for slot, start in block.calls if slot not in dead} - kept
            kept |= found
            pending += found
    return kept


# --- reasons ----------------------------------------------------------------------------------------------------


def _unreachable(code: Code, graph: Graph, facts: Facts, functions: set[int]) -> dict[int, str]:
    """By first slot of each instruction that cannot run, why."""
    reasons: dict[int, str] = {}
    for start, blocks in graph.functions.items():
        causes = _causes(code, facts, blocks)
        for block in blocks:
            if start not in functions:
                reason = f"unreachable: nothing that runs refers to the function at {start}"
            elif not facts.reaches(block.first):
                reason = f"unreachable: {causes.get(block.first, 'no instruction leads here')}"
            else:
                continue
            reasons.update(dict.fromkeys(block.slots, reason))
    return reasons


def _causes(code: Code, facts: Facts, blocks: list[Block]) -> dict[int, str]:
    """By first slot of a block that cannot run, the first decided branch that would lead there."""
    causes: dict[int, str] = {}
    for block in blocks:
        taken = facts.decided.get(block.last)
        if taken is None or not facts.reaches(block.first):
            continue
        outcome = _outcome(code, facts, block.last)
        pending = [successor for successor, kind in block.successors if (kind == JUMP) != taken]
        while pending:
            cut = pending.pop()
            if not facts.reaches(cut.first) and cut.first not in causes:
                causes[cut.first] = outcome
                pending += (successor for successor, _ in cut.successors)
    return causes


def _unused(facts: Facts, slot: int) -> str:
    folded = facts.folded.get(slot)
    return "its result is not used" if folded is None else f"folded to {folded:#x}, which needs no register"


def _outcome(code: Code, facts: Facts, slot: int) -> str:
    """The outcome of a decided branch in words; "" for others."""
    if slot not in facts.decided:
        return ""
    from elfpatch.disasm import text

    condition = text(code.insns[slot], None).partition(") ")[2].partition(" goto ")[0]
    return f"the branch at {slot} ({condition}) is {'always' if facts.decided[slot] else 'never'} taken"
