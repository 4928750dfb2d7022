"""What values do to instructions: the bytes of a static key's branch sites, and of instructions that hold a value.

Pure functions over the index's rows, for both wings: `template` brings a fresh template into this form, `patch` writes
other values. `big` is the object's byte order throughout. Forms and their reasons: docs/static-keys.md.
"""

from __future__ import annotations

from elfpatch import insn as isa
from elfpatch.index import IMMEDIATE_LOAD, SITE_LONG_OFFSET, SITE_OPCODE, Immediate, Index, Rewrite, Section, Site
from elfpatch.insn import Insn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY_SIZE = 4
_FRAME = 10  # r10 is never null, so `if r10 == 0` never jumps and `if r10 != 0` always does
REACH = range(-(1 << 15), 1 << 15)  # of a 16-bit offset


# --- static keys ------------------------------------------------------------------------------------------------


def site_size(site: Site) -> int:
    """How many bytes of the file a site owns: of an opcode site the opcode, of an offset site the instruction."""
    return 1 if site.kind == SITE_OPCODE else isa.SIZE


def site_state(site: Site, code: bytes, big: bool) -> bool | None:
    """Whether the key is on as its site says, `code` being the bytes that the site owns. None: it is no such branch."""
    jumps = (
        _opcode_jumps(code[0]) if site.kind == SITE_OPCODE else _offset_jumps(site, isa.decode(code, 0, big_endian=big))
    )
    return None if jumps is None else jumps != bool(site.likely)


def _opcode_jumps(opcode: int) -> bool | None:
    return {isa.JLT_IMM: False, isa.JGE_IMM: True}.get(opcode)


def _offset_jumps(site: Site, insn: Insn) -> bool | None:
    """An offset site as compiled (`goto +0`, `goto +N`, also with 32-bit offset), or as `site_bytes` writes it."""
    if insn.opcode in (isa.JA, isa.JA32):
        unused, distance = (insn.imm, insn.off) if insn.opcode == isa.JA else (insn.off, insn.imm)
        known = not unused and not insn.dst and not insn.src and distance in (0, site.distance)
        return bool(distance) if known else None
    if (insn.dst, insn.src, insn.imm, insn.off) == (_FRAME, 0, 0, site.distance):
        return {isa.JEQ_IMM: False, isa.JNE_IMM: True}.get(insn.opcode)
    return None


def site_bytes(site: Site, on: bool, big: bool) -> bytes:
    """The bytes that a site owns in a written object, for a key that is on or off.

    An offset site cannot stay as compiled: the verifier's check_cfg refuses a program in which the arm that `goto` does
    not take has no edge. A branch on the frame pointer has both edges and one outcome.
    """
    jumps = on != bool(site.likely)
    if site.kind == SITE_OPCODE:
        return bytes((isa.JGE_IMM if jumps else isa.JLT_IMM,))
    if site.distance not in REACH:
        return _one(_goto(site, jumps), big)
    return _one(Insn(isa.JNE_IMM if jumps else isa.JEQ_IMM, _FRAME, 0, site.distance, 0), big)


def set_site(code: bytearray, slot: int, site: Site, on: bool, big: bool) -> None:
    """Switch a site in a program that is about to be loaded. An offset site gets the form that costs
    nothing; what it leaves without an edge must be removed before the load (patch/specialise.py: prune)."""
    jumps = on != bool(site.likely)
    if site.kind == SITE_OPCODE:
        code[slot * isa.SIZE] = isa.JGE_IMM if jumps else isa.JLT_IMM
    else:
        code[slot * isa.SIZE : (slot + 1) * isa.SIZE] = _one(_goto(site, jumps), big)


def _goto(site: Site, jumps: bool) -> Insn:
    distance = site.distance if jumps else 0
    return Insn(isa.JA32, 0, 0, 0, distance) if site.kind == SITE_LONG_OFFSET else Insn(isa.JA, 0, 0, distance, 0)


# --- immediates -------------------------------------------------------------------------------------------------


def immediate_size(row: Immediate) -> int:
    """How many bytes of the file an immediate owns: its instruction."""
    return len(row.raw)


def immediate_bytes(row: Immediate, value: bytes, big: bool) -> bytes:
    """The instruction with `value` (`row.size` bytes as the variable holds them) in it."""
    raw = isa.decode(row.raw, 0, big_endian=big)
    number = int.from_bytes(value, "big" if big else "little", signed=bool(row.signed))
    if row.kind != IMMEDIATE_LOAD:
        low, high = number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF
        return _one(Insn(isa.LD_IMM64, raw.dst, 0, 0, _signed(low)), big) + _one(Insn(0, 0, 0, 0, _signed(high)), big)
    if row.size == 8:  # no instruction of one slot holds as much: the LD_IMM64 before it does
        return _one(Insn(isa.MOV64_REG, raw.dst, raw.src, 0, 0), big)
    if row.signed:
        return _one(Insn(isa.MOV64_IMM, raw.dst, 0, 0, number), big)
    return _one(Insn(isa.MOV32_IMM, raw.dst, 0, 0, _signed(number)), big)  # zero-extends, as a load does


def set_immediate(code: bytearray, slot: int, row: Immediate, value: bytes, big: bool) -> None:
    """Write an immediate into a program that is about to be loaded."""
    made = immediate_bytes(row, value, big)
    code[slot * isa.SIZE : slot * isa.SIZE + len(made)] = made


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _one(insn: Insn, big: bool) -> bytes:
    made = bytearray(isa.SIZE)
    isa.encode_into(made, 0, insn, big_endian=big)
    return bytes(made)


# --- the whole file ---------------------------------------------------------------------------------------------


def placed(
    index: Index, on: Callable[[Site], bool], contents: Callable[[int], bytes | bytearray]
) -> Iterator[tuple[Site | Immediate | Rewrite, int, bytes]]:
    """What stands outside the data sections of a written object: row, file offset and bytes of each range. `on`:
    whether the key of a site is on; `contents`: the bytes of data section `number`."""
    big = index.big_endian
    for site in index.rows(Site):
        yield site, site.file_offset, site_bytes(site, on(site), big)
    for row in index.rows(Immediate):
        value = bytes(contents(row.data)[row.offset : row.offset + row.size])
        yield row, row.file_offset, immediate_bytes(row, value, big)
    for rewrite in index.rows(Rewrite):
        yield rewrite, rewrite.offset, rewrite.ready


def ready(index: Index, data: bytes) -> bytes:
    """An object as compiled, in the form of a written object, with the values that it has."""
    made = bytearray(data)
    sections = list(index.rows(Section))

    def contents(number: int) -> bytes:
        section = sections[number]
        start = section.file_offset
        return data[start : start + section.size] if section.has_bytes else bytes(section.size)

    def on(site: Site) -> bool:
        start = site.file_offset
        return bool(site_state(site, data[start : start + site_size(site)], index.big_endian))

    for _, offset, fresh in placed(index, on, contents):
        made[offset : offset + len(fresh)] = fresh
    return bytes(made)


def as_compiled(index: Index, data: bytes) -> bytes:
    """An object in the compiler's form: relocations name immediates again, offset sites are jumps. Values stay as they
    are."""
    made = bytearray(data)
    for site in index.rows(Site):
        span = slice(site.file_offset, site.file_offset + site_size(site))
        state = site_state(site, data[span], index.big_endian)
        if site.kind != SITE_OPCODE and state is not None:
            made[span] = _one(_goto(site, state != bool(site.likely)), index.big_endian)
    for rewrite in index.rows(Rewrite):
        made[rewrite.offset : rewrite.offset + len(rewrite.raw)] = rewrite.raw
    for row in index.rows(Immediate):
        made[row.file_offset : row.file_offset + len(row.raw)] = row.raw
    return bytes(made)
