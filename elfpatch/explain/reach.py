"""The blocks of a program, the edges between them, and which of them can run."""

from __future__ import annotations

from elfpatch.explain.model import ALWAYS, FALL, NEVER, TAKEN, Edge
from elfpatch.flow import effects as fx
from elfpatch.flow.graph import JUMP, Graph, build
from elfpatch.flow.program import Uncertain
from elfpatch.flow.propagate import propagate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.flow.lattice import State
    from elfpatch.flow.program import Code
    from elfpatch.flow.propagate import Facts, Memory


class Reach:
    """What is known of a program's control flow.

    `blocks`: first and end slot of each block, in order; `edges` by the first slot. `reached`: the first slots of the
    blocks that can run. `why_not`: why nothing is known, "" when it is: each function is one block then, and all count
    as reached.
    """

    def __init__(self, code: Code, memory: Memory, sites: dict[int, bool]) -> None:
        """`sites`: by slot of a static key's branch, whether it jumps. That is known even where it compares a register
        of which nothing is."""
        self.why_not = ""
        self._facts: list[Facts] = []
        self._decided = dict(sites)
        try:
            graph = build(code)
        except Uncertain as uncertain:
            self.why_not = str(uncertain)
            self.blocks = list(zip(code.starts, [*code.starts[1:], len(code.insns)], strict=True))
            self.edges: dict[int, list[Edge]] = {start: [] for start in code.starts}
            self.reached = set(code.starts)
            return
        # The second also has states for what the first finds unreachable.
        self._facts = [propagate(code, graph, memory), propagate(code, graph, memory, decide=False)]
        self._decided.update(self._facts[0].decided)
        self.blocks = [(block.first, block.end) for block in graph.blocks]
        self.edges = {
            block.first: [
                Edge(successor.first, self._kind(code, block.last, kind)) for successor, kind in block.successors
            ]
            for block in graph.blocks
        }
        self.reached = self._reached(graph)

    def state(self, slot: int) -> State | None:
        """The registers before an instruction, None when it cannot be reached at all."""
        for facts in self._facts:
            if slot in facts.states:
                return facts.states[slot]
        return None

    def _kind(self, code: Code, last: int, kind: str) -> str:
        taken = self._decided.get(last) if fx.is_conditional(code.insns[last]) else None
        if taken is None:
            return TAKEN if kind == JUMP else FALL
        return ALWAYS if taken == (kind == JUMP) else NEVER

    def _reached(self, graph: Graph) -> set[int]:
        """Over all edges but those that are never taken, and into what reached blocks call."""
        found: set[int] = set()
        pending = graph.roots()
        while pending:
            block = graph.block_of(pending.pop())
            if block.first in found:
                continue
            found.add(block.first)
            pending += [start for _, start in block.calls]
            pending += [edge.block for edge in self.edges[block.first] if edge.kind != NEVER]
        return found
