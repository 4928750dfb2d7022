"""Putting a program together again after instructions were replaced or removed.

The order stays. A jump to a removed instruction goes to the next one that is left: whoever removes an instruction that
can run promises that it did nothing but pass control on. Jumps, calls and function addresses get their new distances,
and the records move along by the kernel's rules (kernel/bpf/verifier.c):

    func_info   one for each function, the first for slot 0 (check_btf_func)
    line_info   in rising order, none inside an LD_IMM64, one at each function's first instruction (check_btf_line).
                A record holds up to the next one; when its instruction goes it moves to the next of those left.
    core_relos  those of removed instructions go (a relocation that cannot be resolved fails the load)
"""

from __future__ import annotations

from bisect import bisect_right

from elfpatch import insn as isa
from elfpatch.flow import effects as fx
from elfpatch.flow.program import Code, Uncertain, function_targets, width
from elfpatch.insn import Insn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NEAR, _FAR = 1 << 15, 1 << 31
_AIMED = (isa.CLASS_JMP, isa.CLASS_JMP32, isa.CLASS_LD)  # classes of what may have a distance; LD: function addresses

# By the first slot of an old instruction the slots that stand for it; none: it is removed. Others stay. A jump among
# them has the distance that it would have at the old place.
Edits = dict[int, list[Insn]]


def lay_out(code: Code, edits: Edits) -> tuple[Code, list[int]]:
    """The edited program, and where each old slot is in it (-1: removed). Raises Uncertain when a jump grows out of
    range, or when the records are not in order."""
    layout = _Layout(code, edits)
    made = Code(
        layout.instructions(),
        {layout.moved[slot]: ref for slot, ref in code.refs.items() if layout.moved[slot] >= 0},
        [layout.place(start) for start in code.starts if layout.survives(start)],
        code.pack_records(layout.func_info()),
        code.pack_records(layout.line_info()),
        code.pack_records(layout.core_relos()),
        code.func_rec,
        code.line_rec,
        code.core_rec,
        {layout.moved[slot] for slot in code.opaque if layout.moved[slot] >= 0},
        {layout.place(start) for start in code.global_starts if layout.survives(start)},
        big_endian=code.big_endian,
    )
    return made, layout.moved


def needless_jumps(code: Code, edits: Edits) -> list[int]:
    """The slots of the unconditional jumps over nothing but removed instructions, the last first. Those that become
    needless because another one goes are among them, for all that a jump forward skips lies behind it."""
    needless = []
    after = len(code.insns)  # the next instruction that is left
    for slot in reversed(code.heads):
        stands = edits.get(slot)
        if stands is not None and not stands:
            continue
        insn = code.insns[slot] if stands is None else stands[0]
        target = fx.jump_target(insn, slot) if insn.opcode in (fx.JA, fx.JA32) else None
        if target is not None and slot < target <= after:
            needless.append(slot)
        else:
            after = slot
    return needless


class _Layout:
    def __init__(self, code: Code, edits: Edits) -> None:
        self.code = code
        self.edits = edits
        self.calls = function_targets(code)
        self.moved = [-1] * len(code.insns)
        self.size = 0
        for slot in code.heads:
            wide = width(code.insns[slot])
            stands = edits.get(slot)
            count = wide if stands is None else len(stands)
            if count:
                self.moved[slot] = self.size
            if count > 1 and wide > 1:
                self.moved[slot + 1] = self.size + 1
            self.size += count
        self.next_kept = self._next_kept()

    def _next_kept(self) -> list[int]:
        """By old slot, the first at or behind it that is left."""
        end = len(self.moved)
        found = [end] * (end + 1)
        for slot in range(end - 1, -1, -1):
            found[slot] = slot if self.moved[slot] >= 0 else found[slot + 1]
        return found

    def place(self, slot: int) -> int:
        """Where control goes that went to an old slot."""
        kept = self.next_kept[slot]
        return self.moved[kept] if kept < len(self.moved) else self.size

    def survives(self, start: int) -> bool:
        """Whether anything is left of the function that starts there."""
        return self.next_kept[start] < self._function_end(start)

    def _function_end(self, slot: int) -> int:
        behind = bisect_right(self.code.starts, slot)
        return self.code.starts[behind] if behind < len(self.code.starts) else len(self.moved)

    def instructions(self) -> list[Insn]:
        made: list[Insn] = []
        for slot in self.code.heads:
            stands = self.edits.get(slot)
            if stands is None:
                stands = self.code.insns[slot : slot + width(self.code.insns[slot])]
            if stands:
                made.append(self._aimed(stands[0], slot, len(made)))
                made += stands[1:]
        return made

    def _aimed(self, insn: Insn, old: int, new: int) -> Insn:
        """The instruction of an old slot at a new one, with its distance made right."""
        if insn.opcode & 7 not in _AIMED:
            return insn
        target = self.calls.get(old)
        if target is None:
            target = fx.jump_target(insn, old)
        if target is None:
            return insn
        distance = self.place(target) - new - 1
        far = insn.opcode in (isa.CALL, isa.LD_IMM64, fx.JA32)
        if not -(_FAR if far else _NEAR) <= distance < (_FAR if far else _NEAR):
            raise Uncertain(f"the jump at {old} would have to go {distance} slots far")
        if far:
            return Insn(insn.opcode, insn.dst, insn.src, insn.off, distance)
        return Insn(insn.opcode, insn.dst, insn.src, distance, insn.imm)

    def func_info(self) -> Iterator[tuple[int, bytes]]:
        for start, rest in self.code.records(self.code.func_info, self.code.func_rec):
            if self.survives(start):
                yield self.place(start), rest

    def line_info(self) -> Iterator[tuple[int, bytes]]:
        records = list(self.code.records(self.code.line_info, self.code.line_rec))
        ends = [*(offset for offset, _ in records[1:]), len(self.moved)]
        for (offset, rest), end in zip(records, ends, strict=False):
            if offset >= end:
                raise Uncertain("line_info is not in order")
            kept = self.next_kept[offset]
            if kept < end and kept < self._function_end(offset):
                yield self.moved[kept], rest

    def core_relos(self) -> Iterator[tuple[int, bytes]]:
        for offset, rest in self.code.records(self.code.core_relos, self.code.core_rec):
            at = self.moved[offset // isa.SIZE] if offset // isa.SIZE < len(self.moved) else -1
            if at >= 0:
                yield at * isa.SIZE, rest
