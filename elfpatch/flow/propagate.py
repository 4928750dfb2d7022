"""Conditional constant propagation (Wegman and Zadeck, 1991), with a state of all registers at each block.

The analysis is optimistic: a block counts as unreachable until an edge that can be taken leads to it, and a branch
whose outcome is known sends its state along one edge only. So what is constant helps to find what is unreachable, and
the reverse. States only move down the lattice (`lattice.py`), a block is visited again when its entry state has moved,
and the end is reached when none has.

It must never know more than the kernel's verifier, or code would be removed that the verifier finds live. The verifier
walks every path on its own and so knows more wherever paths meet; what it *forgets* is left out of `arithmetic.py`.
A static function starts with what its callers pass, joined; a global one is verified on its own, for any arguments,
and callbacks get theirs from the kernel. Not followed, though the verifier does: values on the stack, what a branch
says of the registers it compares, what functions return.
"""

from __future__ import annotations

from bisect import bisect_left

from elfpatch import insn as isa
from elfpatch.flow import effects as fx
from elfpatch.flow.arithmetic import MASKS, compare, compute, fits_move, signed, unsigned
from elfpatch.flow.graph import JUMP, Block, Graph
from elfpatch.flow.lattice import (
    ANYTHING,
    AT_START,
    CONTEXT,
    ELSEWHERE,
    UNKNOWN,
    UNREACHED,
    Address,
    Constant,
    MapHandle,
    State,
    Value,
    is_elsewhere,
    join_states,
)
from elfpatch.flow.program import Code, imm64
from elfpatch.insn import Insn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Memory = Callable[[int, int, int], int | None]

# A pointer further out is refused (kernel/bpf/verifier.c: check_reg_sane_offset, BPF_MAX_VAR_OFF)
_FARTHEST = 1 << 29


class Facts:
    """What holds whenever the program runs.

    `states`: by the first slot of each instruction that can run, the registers before it. `edges`: (first slot of a
    block, kind) of each edge that can be taken. `decided`: by slot, whether a branch that can go one way only is taken.
    `folded`: by the slot of a load of constant data, the 64-bit unsigned value that it puts into its register.
    `computed`: the same for arithmetic on constants and for an LD_IMM64, where a move could take its place.
    `functions`: the starts of those that can run.
    """

    __slots__ = ("computed", "decided", "edges", "folded", "functions", "states")

    def __init__(self) -> None:
        self.states: dict[int, State] = {}
        self.edges: set[tuple[int, str]] = set()
        self.decided: dict[int, bool] = {}
        self.folded: dict[int, int] = {}
        self.computed: dict[int, int] = {}
        self.functions: set[int] = set()

    def reaches(self, slot: int) -> bool:
        """Whether the instruction that starts at `slot` can run."""
        return slot in self.states


def nothing_known(map_row: int, offset: int, size: int) -> int | None:
    """The memory in which nothing is constant."""
    return None


def propagate(code: Code, graph: Graph, memory: Memory, *, decide: bool = True) -> Facts:
    """The facts of a program. `memory(map row, offset, size)`: the unsigned value that so many bytes of a frozen data
    map hold, None when they are no constant. Without `decide` every branch goes both ways and nothing is computed:
    plain reachability."""
    return _Propagation(code, graph, memory, decide).run()


class _Propagation:
    def __init__(self, code: Code, graph: Graph, memory: Memory, decide: bool) -> None:
        self.code = code
        self.graph = graph
        self.memory = memory
        self.decide = decide
        self.facts = Facts()
        self.entry: dict[int, State] = {}
        self.pending: list[int] = []  # first slots in order: most blocks are then visited once

    def run(self) -> Facts:
        for start in self.graph.roots():
            self.enter(start, ANYTHING if start else AT_START)
        while self.pending:
            self.visit(self.graph.block_of(self.pending.pop(0)))
        return self.facts

    def enter(self, start: int, state: State = ANYTHING) -> None:
        """A function can run."""
        self.facts.functions.add(start)
        self.flow(start, state)

    def flow(self, first: int, state: State) -> None:
        """A state reaches a block."""
        before = self.entry.get(first, UNREACHED)
        after = join_states(before, state)
        if after is not before:
            self.entry[first] = after
            at = bisect_left(self.pending, first)
            if self.pending[at : at + 1] != [first]:
                self.pending.insert(at, first)

    def visit(self, block: Block) -> None:
        before = self.entry[block.first]
        regs = list(before)
        for slot in block.slots:
            self.facts.states[slot] = before
            self.step(slot, self.code.insns[slot], regs)
            if self.graph.effects[slot].defs:
                before = tuple(regs)
        for slot, start in block.calls:
            called = self.code.insns[slot].opcode == isa.CALL and start not in self.code.global_starts
            self.enter(start, _passed(self.facts.states[slot]) if called else ANYTHING)
        taken = self.outcome(block.last, regs)
        for successor, kind in block.successors:
            if taken is None or taken == (kind == JUMP):
                self.facts.edges.add((block.first, kind))
                self.flow(successor.first, before)

    def outcome(self, slot: int, regs: list[Value]) -> bool | None:
        """Whether the branch at `slot` is taken; None when it goes both ways, or is none."""
        insn = self.code.insns[slot]
        if not self.decide or not fx.is_conditional(insn):
            return None
        taken = _taken(insn, regs)
        if taken is None:
            self.facts.decided.pop(slot, None)  # what an earlier visit concluded
        else:
            self.facts.decided[slot] = taken
        return taken

    def step(self, slot: int, insn: Insn, regs: list[Value]) -> None:
        """The registers behind one instruction."""
        kind = insn.opcode & 7
        if slot in self.code.opaque:
            self.forget(slot, regs)
        elif kind in (isa.CLASS_ALU, isa.CLASS_ALU64):
            regs[insn.dst] = self.compute(slot, insn, regs)
        elif insn.opcode == isa.LD_IMM64:
            regs[insn.dst] = self.load_imm64(slot, insn)
        elif kind == isa.CLASS_LDX:
            regs[insn.dst] = self.load(slot, insn, regs[insn.src])
        elif insn.opcode == isa.CALL:
            self.call(slot, insn, regs)
        else:
            self.forget(slot, regs)

    def forget(self, slot: int, regs: list[Value]) -> None:
        defs = self.graph.effects[slot].defs
        for number in range(defs.bit_length()):
            if defs >> number & 1:
                regs[number] = UNKNOWN

    def call(self, slot: int, insn: Insn, regs: list[Value]) -> None:
        self.forget(slot, regs)
        if insn.src == 0:  # no helper returns the context or a place on the stack; a function may, when it is given one
            regs[0] = ELSEWHERE

    def compute(self, slot: int, insn: Insn, regs: list[Value]) -> Value:
        result = arithmetic(insn, regs)
        if not isinstance(result, Constant):
            self.facts.computed.pop(slot, None)
        elif self.decide and insn.opcode not in (isa.MOV32_IMM, isa.MOV64_IMM) and fits_move(result.value):
            self.facts.computed[slot] = result.value
        return result

    def load_imm64(self, slot: int, insn: Insn) -> Value:
        if insn.src == 0:
            value = imm64(self.code, slot)
            if self.decide and fits_move(value):
                self.facts.computed[slot] = value
            return Constant(value)
        if slot not in self.code.refs:
            return UNKNOWN
        _, row, offset = self.code.refs[slot]
        if insn.src == isa.PSEUDO_MAP_VALUE:
            return Address(row, offset)
        return MapHandle(row) if insn.src == isa.PSEUDO_MAP_FD else UNKNOWN

    def load(self, slot: int, insn: Insn, base: Value) -> Value:
        size = fx.SIZES[insn.opcode & 0x18]
        value = None
        if isinstance(base, Address) and base.offset + insn.off >= 0:
            value = self.memory(base.map, base.offset + insn.off, size)
        if value is None:
            self.facts.folded.pop(slot, None)
            # Only the stack keeps pointers to the context and into itself
            return ELSEWHERE if base is CONTEXT or is_elsewhere(base) else UNKNOWN
        if insn.opcode & 0xE0 == isa.MODE_MEMSX:
            value = unsigned(signed(value, size * 8))
        self.facts.folded[slot] = value
        return Constant(value)


def _passed(state: State) -> State:
    """What a callee starts with: r1 to r5 of its caller."""
    return (UNKNOWN, *state[1:6], *ANYTHING[6:])


def _operand(insn: Insn, regs: list[Value]) -> Value:
    """The right operand of an arithmetic instruction or a branch; an imm is sign-extended."""
    return regs[insn.src] if insn.opcode & isa.SOURCE_REG else Constant(unsigned(insn.imm))


def _taken(insn: Insn, regs: list[Value]) -> bool | None:
    left, right = regs[insn.dst], _operand(insn, regs)
    if not isinstance(left, Constant) or not isinstance(right, Constant):
        return None
    bits = 64 if insn.opcode & 7 == isa.CLASS_JMP else 32
    return compare(insn.opcode & 0xF0, left.value, right.value, bits)


def arithmetic(insn: Insn, regs: list[Value]) -> Value:
    """The result of an arithmetic instruction."""
    operation, bits = insn.opcode & 0xF0, 64 if insn.opcode & 7 == isa.CLASS_ALU64 else 32
    if operation in (fx.END, fx.NEG):
        return ELSEWHERE
    left, right = regs[insn.dst], _operand(insn, regs)
    if operation == fx.MOV:
        return _moved(insn, right, bits)
    if isinstance(left, Constant) and isinstance(right, Constant) and not insn.off:
        result = compute(operation, left.value, right.value, bits)
        return ELSEWHERE if result is None else Constant(result)
    if bits == 32 or operation not in (fx.ADD, fx.SUB):
        return ELSEWHERE  # a number: the verifier takes no other arithmetic on pointers
    return _displaced(operation, left, right)


def _moved(insn: Insn, value: Value, bits: int) -> Value:
    if bits == 64 and not insn.off:
        return value
    if insn.off not in (0, 8, 16, 32):
        return UNKNOWN
    if not isinstance(value, Constant):
        return ELSEWHERE  # a number too: half a pointer is none
    number = signed(value.value, insn.off) if insn.off else value.value
    return Constant(number & MASKS[bits])


def _displaced(operation: int, left: Value, right: Value) -> Value:
    """A sum or difference of 64 bits, not of two constants."""
    if not is_elsewhere(left) or not is_elsewhere(right):
        return UNKNOWN
    if operation == fx.ADD and isinstance(right, Address):
        left, right = right, left
    if not isinstance(left, Address) or not isinstance(right, Constant):
        return ELSEWHERE
    distance = signed(right.value, 64)
    offset = left.offset + (distance if operation == fx.ADD else -distance)
    return Address(left.map, offset) if abs(offset) < _FARTHEST else ELSEWHERE
