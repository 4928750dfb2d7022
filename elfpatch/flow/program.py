"""A program as the kernel is given it, decoded: its instructions and the records that count them.

Everything is counted in *slots* of 8 bytes; an LD_IMM64 takes two, the second of which has opcode 0.
"""

from __future__ import annotations

import struct

from elfpatch import insn as isa
from elfpatch.insn import Insn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HELPER_TAIL_CALL = 12

# By whether a program is big-endian: the byte order as `struct` names it, and the layout of a slot
_PREFIX = "<", ">"
_LAYOUT = "<BBhi", ">BBhi"


class Uncertain(Exception):
    """The program holds something that the analyses do not understand; whoever asked leaves it as it is."""


class Code:
    """A program. Nothing changes it: what transforms one makes another.

    `insns`: one per slot. `refs`: by the slot of an LD_IMM64 that names a map: (kind as in Fixup, row of MAPS, offset).
    `heads`: the first slot of each instruction. `starts`: the slots where functions start, in order.
    `func_info`, `line_info`, `core_relos`: records of `func_rec`, `line_rec`, `core_rec` bytes, as BPF_PROG_LOAD takes
    them: the last count *bytes*, the others slots.
    `opaque`: slots that the loader or the kernel rewrites, about which nothing is known here.
    `global_starts`: the functions with global linkage, which the verifier checks on their own, by their BTF prototype.
    """

    __slots__ = (
        "big_endian",
        "core_rec",
        "core_relos",
        "func_info",
        "func_rec",
        "global_starts",
        "heads",
        "insns",
        "line_info",
        "line_rec",
        "opaque",
        "refs",
        "starts",
    )

    def __init__(
        self,
        insns: list[Insn],
        refs: dict[int, tuple[int, int, int]],
        starts: list[int],
        func_info: bytes,
        line_info: bytes,
        core_relos: bytes,
        func_rec: int,
        line_rec: int,
        core_rec: int,
        opaque: set[int],
        global_starts: set[int],
        *,
        big_endian: bool = False,
    ) -> None:
        self.insns = insns
        self.heads = _heads(insns)
        self.refs = refs
        self.starts = starts
        self.func_info = func_info
        self.line_info = line_info
        self.core_relos = core_relos
        self.func_rec = func_rec
        self.line_rec = line_rec
        self.core_rec = core_rec
        self.opaque = opaque
        self.global_starts = global_starts
        self.big_endian = big_endian

    def encode(self) -> bytes:
        """The instructions as the kernel takes them; the imm of those in `refs` still awaits the map's fd."""
        pack = struct.Struct(_LAYOUT[self.big_endian]).pack
        high, low = (4, 0) if self.big_endian else (0, 4)
        return b"".join(
            [pack(insn.opcode, insn.dst << high | insn.src << low, insn.off, insn.imm) for insn in self.insns]
        )

    def records(self, data: bytes, size: int) -> Iterator[tuple[int, bytes]]:
        """(insn_off, the record's other bytes) of each record in `data`."""
        if size < 4:
            return iter(())
        whole = memoryview(data)[: len(data) // size * size]
        return struct.iter_unpack(f"{_PREFIX[self.big_endian]}I{size - 4}s", whole)

    def pack_records(self, records: Iterable[tuple[int, bytes]]) -> bytes:
        """The inverse of `records`."""
        pack = struct.Struct(f"{_PREFIX[self.big_endian]}I").pack
        return b"".join([pack(offset) + rest for offset, rest in records])

    @property
    def order(self) -> _Order:
        return "big" if self.big_endian else "little"


if TYPE_CHECKING:
    from typing import Literal

    _Order = Literal["little", "big"]


def code_of(
    insns: bytes,
    refs: dict[int, tuple[int, int, int]],
    func_info: bytes = b"",
    line_info: bytes = b"",
    core_relos: bytes = b"",
    func_rec: int = 8,
    line_rec: int = 16,
    core_rec: int = 16,
    *,
    opaque: Iterable[int] = frozenset(),
    global_starts: Iterable[int] = frozenset(),
    big_endian: bool = False,
) -> Code:
    """Decode a program. Functions start where it begins, where calls and function addresses point, and where func_info
    says. What a CO-RE relocation names is opaque: the kernel rewrites it during the load."""
    decoded = _decoded(insns, big_endian)
    code = Code(
        decoded, dict(refs), [], func_info, line_info, core_relos, func_rec, line_rec, core_rec,
        set(opaque), set(global_starts), big_endian=big_endian,
    )  # fmt: skip
    code.opaque.update(offset // isa.SIZE for offset, _ in code.records(core_relos, core_rec))
    starts = {0, *(offset for offset, _ in code.records(func_info, func_rec))}
    starts.update(function_targets(code).values())
    code.starts = sorted(start for start in starts if 0 <= start < len(decoded))
    return code


def _decoded(insns: bytes, big_endian: bool) -> list[Insn]:
    """Of a whole program at once: a call for each slot is what most of the time would go to."""
    whole = memoryview(insns)[: len(insns) // isa.SIZE * isa.SIZE]
    slots = struct.iter_unpack(_LAYOUT[big_endian], whole)
    if big_endian:
        return [Insn(opcode, registers >> 4, registers & 15, off, imm) for opcode, registers, off, imm in slots]
    return [Insn(opcode, registers & 15, registers >> 4, off, imm) for opcode, registers, off, imm in slots]


def _heads(insns: list[Insn]) -> list[int]:
    found = []
    second = False
    for slot, insn in enumerate(insns):
        if second:
            second = False
        else:
            found.append(slot)
            second = insn.opcode == isa.LD_IMM64
    return found


def heads(code: Code) -> list[int]:
    """The first slot of each instruction."""
    return code.heads


def width(insn: Insn) -> int:
    """The slots that the instruction takes."""
    return 2 if insn.opcode == isa.LD_IMM64 else 1


def function_target(code: Code, slot: int) -> int | None:
    """The start of the function that a call at `slot` goes to, or whose address an LD_IMM64 takes."""
    insn = code.insns[slot]
    if slot in code.opaque:  # a call of an external function: clang leaves imm -1
        return None
    called = insn.opcode == isa.CALL and insn.src == isa.PSEUDO_CALL
    taken = insn.opcode == isa.LD_IMM64 and insn.src == isa.PSEUDO_FUNC
    return slot + 1 + insn.imm if called or taken else None


def function_targets(code: Code) -> dict[int, int]:
    """`function_target` of each slot that has one."""
    found = {}
    for slot in code.heads:
        if code.insns[slot].opcode in (isa.CALL, isa.LD_IMM64):
            target = function_target(code, slot)
            if target is not None:
                found[slot] = target
    return found


def imm64(code: Code, slot: int) -> int:
    """The 64-bit operand of the LD_IMM64 at `slot`, unsigned."""
    return (code.insns[slot + 1].imm & 0xFFFFFFFF) << 32 | code.insns[slot].imm & 0xFFFFFFFF
