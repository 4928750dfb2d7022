"""The control-flow graph: basic blocks, the edges between them, and the functions that they make up."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from elfpatch import insn as isa
from elfpatch.flow.effects import DETAILED, EXIT, JA, JA32, Effect, effect, jump_target
from elfpatch.flow.program import Code, Uncertain, function_targets

FALL, JUMP = "fall", "jump"


class Block:
    """Slots [first, end), entered at the first only and left behind the last instruction only, which starts at `last`.

    `slots`: the first slot of each instruction. `successors`: (block, FALL or JUMP), the fall-through first. Calls do
    not end a block, for they come back, and what registers they keep is known; `calls` has (slot, start of the
    function) of each instruction that calls a function of the program or takes its address.
    """

    __slots__ = ("calls", "end", "first", "last", "slots", "successors")

    def __init__(self, slots: list[int], end: int) -> None:
        self.first = slots[0]
        self.last = slots[-1]
        self.end = end
        self.slots = slots
        self.calls: list[tuple[int, int]] = []
        self.successors: list[tuple[Block, str]] = []

    def __repr__(self) -> str:
        edges = ", ".join(f"{kind} {block.first}" for block, kind in self.successors)
        return f"Block({self.first}..{self.end - 1}: {edges})"


class Graph:
    """The blocks of a program in the order of their slots. `functions`: those of each function, by its start.
    `effects`: what each instruction does, by its first slot."""

    __slots__ = ("_firsts", "blocks", "effects", "functions")

    def __init__(self, functions: dict[int, list[Block]], effects: dict[int, Effect]) -> None:
        self.blocks = [block for blocks in functions.values() for block in blocks]
        self.functions = functions
        self.effects = effects
        self._firsts = [block.first for block in self.blocks]

    def block_of(self, slot: int) -> Block:
        """The block that holds `slot`."""
        return self.blocks[bisect_right(self._firsts, slot) - 1]

    def roots(self) -> list[int]:
        """The functions that run though nothing in the program refers to them: the program itself, and an exception
        callback, which only a BTF tag names."""
        referred = {start for block in self.blocks for _, start in block.calls}
        return [start for start in self.functions if start == 0 or start not in referred]


def build(code: Code) -> Graph:
    """The graph of a program. Raises Uncertain for what no compiler writes and no kernel loads: unknown instructions,
    a jump out of its function or into an instruction, a function that runs into the next one."""
    effects = _effects(code)
    if any(start not in effects for start in code.starts):
        raise Uncertain("a function starts inside an instruction")
    functions = {}
    for start, end in zip(code.starts, [*code.starts[1:], len(code.insns)], strict=True):
        slots = code.heads[bisect_left(code.heads, start) : bisect_left(code.heads, end)]
        functions[start] = _function(code, start, end, slots)
    graph = Graph(functions, effects)
    for slot, target in function_targets(code).items():
        if target not in functions:
            raise Uncertain(f"the call at {slot} to {target} leaves the program")
        graph.block_of(slot).calls.append((slot, target))
    return graph


def _effects(code: Code) -> dict[int, Effect]:
    """By first slot, in order; every instruction is known."""
    found = {}
    like: dict[tuple[int, ...], Effect] = {}  # instructions repeat, and to look one up is much cheaper
    for slot in code.heads:
        insn = code.insns[slot]
        key: tuple[int, ...] = (insn.opcode, insn.dst, insn.src)
        if insn.opcode & 7 in DETAILED:
            key += (insn.off, insn.imm)
        if key not in like:
            like[key] = effect(insn)
        found[slot] = like[key]
        if insn.opcode == isa.LD_IMM64 and (slot + 1 == len(code.insns) or code.insns[slot + 1].opcode):
            raise Uncertain(f"half an LD_IMM64 at {slot}")
    return found


def _function(code: Code, start: int, end: int, slots: list[int]) -> list[Block]:
    inside = set(slots)
    leaders = {start}
    targets = {}
    for slot in slots:
        insn = code.insns[slot]
        if insn.opcode & 7 not in (isa.CLASS_JMP, isa.CLASS_JMP32):
            continue
        target = jump_target(insn, slot)
        if target is not None:
            if target not in inside:
                raise Uncertain(f"the jump at {slot} to {target} leaves its function")
            targets[slot] = target
            leaders.add(target)
        if target is not None or insn.opcode == EXIT:
            leaders.add(slot + 1)
            if slot in code.opaque:
                raise Uncertain(f"the jump at {slot} is rewritten later")
    leaders.discard(end)
    blocks = _cut(slots, sorted(leaders), end)
    for block in blocks.values():
        if code.insns[block.last].opcode not in (EXIT, JA, JA32):
            if block.end == end:
                raise Uncertain(f"a function runs past its end behind {block.last}")
            block.successors.append((blocks[block.end], FALL))
        if block.last in targets:
            block.successors.append((blocks[targets[block.last]], JUMP))
    return list(blocks.values())


def _cut(slots: list[int], leaders: list[int], end: int) -> dict[int, Block]:
    """The blocks of a function by their first slots, without edges."""
    blocks = {}
    for first, after in zip(leaders, [*leaders[1:], end], strict=True):
        blocks[first] = Block(slots[bisect_left(slots, first) : bisect_left(slots, after)], after)
    return blocks
