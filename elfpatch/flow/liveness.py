"""Which results are used: strongly live registers, backwards over the edges that can be taken.

*Strongly* live: an instruction that only computes makes its operands live when its own result is. So a chain of
computations that ends nowhere is dead as a whole, also one that goes round a loop.

What the verifier forbids in a dead computation (arithmetic on some pointers, reading a register that was never
written) goes with it: a program that is rejected for nothing else loads without it.
"""

from __future__ import annotations

from elfpatch import insn as isa
from elfpatch.flow import effects as fx
from elfpatch.flow.graph import Block, Graph
from elfpatch.flow.program import Code
from elfpatch.flow.propagate import Facts
from elfpatch.insn import Insn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from elfpatch.flow.layout import Edits

_FIRST_ARGUMENT = 1


def dead_definitions(code: Code, graph: Graph, facts: Facts, edits: Edits, arguments: Callable[[int], int]) -> set[int]:
    """The slots of the instructions that can run, do nothing but compute, and whose results no one uses: moves,
    arithmetic, LD_IMM64s, and loads of constant data, which are moves in `edits`. `arguments(helper)`: how many
    registers a helper reads."""
    return _Liveness(code, graph, facts, edits, arguments).run()


class _Liveness:
    def __init__(self, code: Code, graph: Graph, facts: Facts, edits: Edits, arguments: Callable[[int], int]) -> None:
        self.code = code
        # Of the instructions as they will be written; none: a branch that is never taken
        stands = {slot: fx.effect(insns[0]) if insns else fx.Effect(0, 0) for slot, insns in edits.items()}
        self.effects = graph.effects | stands
        self.calls = {slot for slot in facts.states if code.insns[slot].opcode == isa.CALL}
        self.arguments = arguments
        self.blocks = [block for block in graph.blocks if facts.reaches(block.first)]
        self.live_in: dict[int, int] = {block.first: 0 for block in self.blocks}
        self.successors = {block.first: _taken(block, facts) for block in self.blocks}
        # Whom a change of a block's live-in concerns: those before it, and of a function's first block the callers
        self.dependants: dict[int, list[Block]] = {first: [] for first in self.live_in}
        for block in self.blocks:
            for first in {*self.successors[block.first], *(target for _, target in block.calls)}:
                self.dependants[first].append(block)

    def run(self) -> set[int]:
        pending = {block.first: block for block in self.blocks}
        while pending:
            _, block = pending.popitem()  # the last one first: liveness flows backwards
            live = self.through(block, None)
            if live != self.live_in[block.first]:
                self.live_in[block.first] = live
                pending.update((other.first, other) for other in self.dependants[block.first])
        dead: set[int] = set()
        for block in self.blocks:
            self.through(block, dead)
        return dead

    def through(self, block: Block, dead: set[int] | None) -> int:
        """What is live before a block, given what is behind it. Dead definitions are put into `dead`."""
        live = 0
        for first in self.successors[block.first]:
            live |= self.live_in[first]
        for slot in reversed(block.slots):
            effect = self.effects[slot]
            if effect.pure and not effect.defs & live and slot not in self.code.opaque:
                if dead is not None:
                    dead.add(slot)
            else:
                live = live & ~effect.defs | effect.uses
                if slot in self.calls:
                    live |= self.call_uses(slot, self.code.insns[slot])
        return live

    def call_uses(self, slot: int, insn: Insn) -> int:
        """The argument registers that a call reads."""
        if slot in self.code.opaque or insn.src == isa.PSEUDO_KFUNC_CALL:
            return fx.ARGUMENTS
        if insn.src == 0:
            return (1 << self.arguments(insn.imm)) - 1 << _FIRST_ARGUMENT & fx.ARGUMENTS
        start = slot + 1 + insn.imm
        # A global function is verified by its prototype: each argument of it must be there, used or not
        return fx.ARGUMENTS if start in self.code.global_starts else self.live_in[start] & fx.ARGUMENTS


def _taken(block: Block, facts: Facts) -> list[int]:
    return [successor.first for successor, kind in block.successors if (block.first, kind) in facts.edges]
