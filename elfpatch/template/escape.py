"""What a function does with the address of a variable: loads from it, or takes the address itself for a number.

The 2018 proposal's `__fetch(x)` is `(__u32)(__u64)&x`: the "address" is the value, once the LD_IMM64 holds it.
Ordinary C loads from the address. An address that is stored, given to somebody, indexed or written through is neither,
and a value cannot stand in for it. This is a forward analysis over the function's instructions: which register holds
which address, and what becomes of it. Whatever is not understood is a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

from attrs import define, field, frozen

from elfpatch import index as ix
from elfpatch import insn as isa
from elfpatch.helpers import NARROW, POINTER, argument_kinds
from elfpatch.insn import Insn
from elfpatch.template.programs import Function

_REGISTERS = 16  # as many as the encoding has room for; that 11 to 15 do not exist the verifier says
_LDX, _ST, _STX, _ALU, _JMP, _JMP32, _ALU64 = 1, 2, 3, 4, 5, 6, 7
_MEM, _MEMSX, _ATOMIC = 0x60, 0x80, 0xC0
_SIZES = (4, 2, 1, 8)  # by bits 3-4 of the opcode
_ADD, _SUB, _AND, _LSH, _MOV, _END = 0x0, 0x1, 0x5, 0x6, 0xB, 0xD
_JA, _CALL, _EXIT = 0x0, 0x8, 0x9
_MASKS = {0xFF: 1, 0xFFFF: 2}


@frozen
class Origin:
    """An LD_IMM64 of `function` that takes the address `offset` (in the data section) of a variable. `number`: the
    variable is one number, and no array or struct of several."""

    function: Function
    slot: int  # in the section
    offset: int
    variable: ix.Variable
    number: bool = False


@frozen
class Use:
    """An instruction that is to hold `size` bytes from `offset` of the section; `kind` as in index.Immediate."""

    kind: int
    slot: int
    offset: int
    size: int
    signed: bool = False


@frozen
class Refusal:
    """Why an address cannot be replaced by a value, and at which slot of the section."""

    slot: int
    why: str


@frozen
class _Tag:
    """A register that holds the address of `origins[0]` plus `delta`. Several origins, or no delta: it may hold one of
    them, or something that was computed from one."""

    origins: frozenset[int]
    delta: int | None


_State = tuple[_Tag | None, ...]


@define
class _Story:
    """What happened to one origin's address: loads by slot as (delta, size, signed), the widths of its uses as a
    number."""

    loads: dict[int, tuple[int, int, bool]] = field(factory=dict)
    widths: set[int] = field(factory=set)
    refusals: list[Refusal] = field(factory=list)


def trace(
    function: Function,
    origins: list[Origin],
    big: bool,
    callee: Callable[[Function, int], str],
    numbers: Container[str] = (),
) -> Iterator[tuple[Origin, list[Use] | Refusal]]:
    """For each origin of a function its uses, or why there are none. `callee` names what a call slot calls. `numbers`:
    names of variables whose address is a number for the program, wherever it goes."""
    walk = _Walk(function, origins, big, callee, numbers)
    walk.run()
    for number, origin in enumerate(origins):
        yield origin, _outcome(origin, walk.stories[number], big)


def _outcome(origin: Origin, story: _Story, big: bool) -> list[Use] | Refusal:
    if story.refusals:
        return min(story.refusals, key=lambda refusal: refusal.slot)
    end = origin.variable.offset + origin.variable.size
    if not story.loads:
        width = min(max(story.widths, default=8), end - origin.offset)
        # Code that takes a part of a number takes the low-order bytes, which come last in a big-endian object
        offset = end - width if big and origin.number and origin.offset == origin.variable.offset else origin.offset
        return [Use(ix.IMMEDIATE_VALUE, origin.slot, offset, width)]
    if story.widths:
        return Refusal(origin.slot, "its address is both read through and used as a number")
    uses, wide = [], set()
    for slot, (delta, size, signed) in story.loads.items():
        at = origin.offset + delta
        if not origin.variable.offset <= at <= end - size:
            return Refusal(slot, f"{size} bytes are read outside the variable")
        if size == 8:
            wide.add((at, slot))
        uses.append(Use(ix.IMMEDIATE_LOAD, slot, at, size, signed))
    places = {at for at, _ in wide}
    if len(places) > 1:
        return Refusal(max(slot for _, slot in wide), "two 64-bit values are read through one address")
    base = Use(ix.IMMEDIATE_BASE, origin.slot, places.pop() if places else origin.offset, 8 if wide else 0)
    return [base, *uses]


class _Walk:
    """The analysis of one function: states before each slot, joined until nothing changes."""

    def __init__(
        self,
        function: Function,
        origins: list[Origin],
        big: bool,
        callee: Callable[[Function, int], str],
        numbers: Container[str],
    ) -> None:
        self.function = function
        self.big = big
        self.callee = callee
        self.starts = {origin.slot: number for number, origin in enumerate(origins)}
        self.sizes = [origin.variable.size for origin in origins]
        self.trusted = [origin.variable.name in numbers for origin in origins]
        self.stories = [_Story() for _ in origins]
        self.states: dict[int, _State] = {function.start: (None,) * _REGISTERS}

    def run(self) -> None:
        pending = [self.function.start]
        while pending:
            slot = pending.pop()
            insn = isa.decode(self.function.section.data, slot, big_endian=self.big)
            after = tuple(self._step(slot, insn, list(self.states[slot])))
            for successor in successors(slot, insn):
                if self.function.start <= successor < self.function.end and self._merge(successor, after):
                    pending.append(successor)

    def _merge(self, slot: int, state: _State) -> bool:
        known = self.states.get(slot)
        joined = state if known is None else tuple(map(_join, known, state))
        if joined == known:
            return False
        self.states[slot] = joined
        return True

    # --- what is seen ---

    def _refuse(self, slot: int, tag: _Tag, why: str) -> None:
        for number in tag.origins:
            self.stories[number].refusals.append(Refusal(slot, why))

    def _lets_out(self, slot: int, tag: _Tag, why: str) -> None:
        """The address goes where it may be used as one; unless it is known to be a number."""
        for number in tag.origins:
            if self.trusted[number]:
                self.stories[number].widths.add(8)
            else:
                self.stories[number].refusals.append(Refusal(slot, why))

    def _number(self, slot: int, tag: _Tag | None, width: int) -> None:
        """The register is used as a number of `width` bytes. Of `&array[1]` LLVM makes the address of the array and an
        addition: there a value cannot be told from an address."""
        for number in tag.origins if tag else ():
            self.stories[number].widths.add(width)
            if tag and tag.delta and self.sizes[number] > 8:
                self._refuse(slot, tag, "a number is computed from its address")

    def _step(self, slot: int, insn: Insn, state: list[_Tag | None]) -> list[_Tag | None]:
        kind = insn.opcode & 7
        if insn.opcode == isa.LD_IMM64:
            number = self.starts.get(slot)
            state[insn.dst] = None if number is None else _Tag(frozenset((number,)), 0)
        elif kind == _LDX:
            self._load(slot, insn, state)
        elif kind in (_ST, _STX):
            self._store(slot, insn, state)
        elif kind in (_ALU, _ALU64):
            self._arithmetic(slot, insn, state)
        elif kind in (_JMP, _JMP32):
            self._jump(slot, insn, state)
        else:  # packet loads of classic BPF
            state[:6] = [None] * 6
        return state

    def _load(self, slot: int, insn: Insn, state: list[_Tag | None]) -> None:
        base, mode, size = state[insn.src], insn.opcode & 0xE0, _SIZES[insn.opcode >> 3 & 3]
        if base is not None:
            if base.delta is None or len(base.origins) > 1:
                self._refuse(slot, base, "what is read through it depends on more than the address")
            elif mode not in (_MEM, _MEMSX):
                self._refuse(slot, base, "it is read atomically")
            elif size == 8 and base.delta:
                self._refuse(slot, base, "64 bits are read through an address that was computed")
            else:
                (number,) = base.origins
                self.stories[number].loads[slot] = (base.delta + insn.off, size, mode == _MEMSX)
        state[insn.dst] = None

    def _store(self, slot: int, insn: Insn, state: list[_Tag | None]) -> None:
        base = state[insn.dst]
        if base is not None:
            self._refuse(slot, base, "it is written to")
        if insn.opcode & 7 == _ST:
            return
        value, size = state[insn.src], _SIZES[insn.opcode >> 3 & 3]
        atomic = insn.opcode & 0xE0 == _ATOMIC
        if value is not None and size == 8:
            self._lets_out(slot, value, "its address is stored")
        elif not atomic:
            self._number(slot, value, size)
        if atomic:
            for register in (insn.src, 0):
                self._number(slot, state[register], size)
                state[register] = None

    def _arithmetic(self, slot: int, insn: Insn, state: list[_Tag | None]) -> None:
        operation, wide, by_register = insn.opcode >> 4, insn.opcode & 7 == _ALU64, bool(insn.opcode & 8)
        dst, src = state[insn.dst], state[insn.src] if by_register and operation != _END else None
        result: _Tag | None = None
        if operation == _MOV:
            if wide and not insn.off:
                result = src
            else:
                self._number(slot, src, insn.off // 8 if insn.off in (8, 16, 32) else 4)
        elif operation == _END:
            self._number(slot, dst, insn.imm // 8)
        elif not wide:
            self._number(slot, dst, 4)
            self._number(slot, src, 4)
        elif operation in (_ADD, _SUB) and not by_register and dst is not None:
            step = insn.imm if operation == _ADD else -insn.imm
            result = _Tag(dst.origins, None if dst.delta is None else _bounded(dst.delta + step))
        elif operation in (_ADD, _SUB) and by_register and (dst or src):
            self._number(slot, dst, 8)
            self._number(slot, src, 8)
            result = _Tag((dst.origins if dst else frozenset()) | (src.origins if src else frozenset()), None)
        elif operation == _AND and not by_register and insn.imm in _MASKS:
            self._number(slot, dst, _MASKS[insn.imm])
        elif operation == _LSH and not by_register and insn.imm >= 32:  # with a shift back: narrower than 64 bits
            self._number(slot, dst, 4 if insn.imm < 48 else 2 if insn.imm < 56 else 1)
        else:
            self._number(slot, dst, 8)
            self._number(slot, src, 8)
        state[insn.dst] = result

    def _jump(self, slot: int, insn: Insn, state: list[_Tag | None]) -> None:
        operation = insn.opcode >> 4
        if operation == _CALL:
            self._call(slot, insn, state)
        elif operation == _EXIT:
            if state[0] is not None and self.function.section.name == ".text":
                self._lets_out(slot, state[0], "its address is returned")
            self._number(slot, state[0], 4)  # an entry program returns 32 bits
        elif operation != _JA:
            width = 8 if insn.opcode & 7 == _JMP else 4
            self._number(slot, state[insn.dst], width)
            self._number(slot, state[insn.src] if insn.opcode & 8 else None, width)

    def _call(self, slot: int, insn: Insn, state: list[_Tag | None]) -> None:
        helper = not insn.src and not insn.opcode & 8
        kinds = argument_kinds(insn.imm) if helper else POINTER * 5
        for number, kind in enumerate(kinds, 1):
            tag = state[number]
            if tag is not None and kind == POINTER:
                self._lets_out(slot, tag, f"its address is passed to {self.callee(self.function, slot)}")
            else:
                self._number(slot, tag, 4 if kind == NARROW else 8)
        state[:6] = [None] * 6


def _join(one: _Tag | None, other: _Tag | None) -> _Tag | None:
    if one == other:
        return one
    origins = (one.origins if one else frozenset()) | (other.origins if other else frozenset())
    return _Tag(origins, None)


def _bounded(delta: int) -> int | None:
    """A pointer that moves in a loop never comes to rest: what is far away is not known."""
    return delta if abs(delta) < 1 << 16 else None


def successors(slot: int, insn: Insn) -> list[int]:
    """The slots to which control may go."""
    operation = insn.opcode >> 4
    if insn.opcode == isa.LD_IMM64:
        return [slot + 2]
    if insn.opcode == isa.JA32:
        return [slot + 1 + insn.imm]
    if insn.opcode & 7 not in (_JMP, _JMP32) or operation == _CALL:
        return [slot + 1]
    if operation == _EXIT:
        return []
    if operation == _JA:
        return [slot + 1 + insn.off]
    return [slot + 1, slot + 1 + insn.off]
