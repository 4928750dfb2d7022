"""Instructions as text, in the verifier's own syntax: what its log and `bpftool prog dump xlated` show (Linux 6.18).

All of RFC 9669 and what Linux added to it. An instruction is *known* when the kernel takes its encoding for one,
whatever it then says of its meaning (a shift by 99 is an instruction); everything else, reserved fields in use
included, reads `(xx) unknown`, with the fields. Forms that only the verifier writes (per-CPU addresses, speculation
barriers, probing loads) are unknown here: no program that holds one can be loaded.
"""

from __future__ import annotations

from elfpatch import insn as isa
from elfpatch.helpers import helper_name
from elfpatch.insn import Insn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LAST_REGISTER = 10
_WORD = 0xFFFFFFFF

# By bits 4-7 of the opcode; "" where there is none, or where the operation has a form of its own
_ALU = ("+=", "-=", "*=", "/=", "|=", "&=", "<<=", ">>=", "", "%=", "^=", "=", "s>>=", "", "", "")
_COMPARE = ("", "==", ">", ">=", "&", "!=", "s>", "s>=", "", "", "<", "<=", "s<", "s<=", "", "")
_DIV, _NEG, _MOD, _MOV, _END = 0x3, 0x8, 0x9, 0xB, 0xD
_JA, _CALL, _EXIT, _JCOND = 0x0, 0x8, 0x9, 0xE

# By bits 3-4 of the opcode
_UNSIGNED = ("u32", "u16", "u8", "u64")
_SIGNED = ("s32", "s16", "s8", "")
_SIZE_DOUBLE = 3

_ATOMIC_ASSIGN = {isa.ATOMIC_ADD: "+=", isa.ATOMIC_OR: "|=", isa.ATOMIC_AND: "&=", isa.ATOMIC_XOR: "^="}
_ATOMIC_FETCH = {
    isa.ATOMIC_ADD | isa.ATOMIC_FETCH: "fetch_add",
    isa.ATOMIC_OR | isa.ATOMIC_FETCH: "fetch_or",
    isa.ATOMIC_AND | isa.ATOMIC_FETCH: "fetch_and",
    isa.ATOMIC_XOR | isa.ATOMIC_FETCH: "fetch_xor",
    isa.ATOMIC_XCHG: "xchg",
}

# off of a register move that extends the sign; of one that changes the address space
_SIGN_EXTENDED = {8: "(s8)", 16: "(s16)", 32: "(s32)"}
_ADDR_SPACE_CAST = 1
_SIGNED_DIVISION = 1


class Line:
    """An instruction of a listing: `width` slots from `slot`. `imm64` is the 64-bit operand of an LD_IMM64, unsigned,
    and imm of any other instruction."""

    __slots__ = ("imm64", "insn", "slot", "text", "width")

    def __init__(self, slot: int, width: int, insn: Insn, imm64: int, text: str) -> None:
        self.slot = slot
        self.width = width
        self.insn = insn
        self.imm64 = imm64
        self.text = text


def lines(code: bytes, *, big_endian: bool = False, operand: Callable[[int, Insn], str] | None = None) -> list[Line]:
    """The listing of `code`. `operand(slot, insn)` is asked for each LD_IMM64 and call, and names what it refers to;
    "" leaves the default. Bytes behind the last whole slot become one unknown line."""
    made: list[Line] = []
    whole = len(code) // isa.SIZE
    slot = 0
    while slot < whole:
        insn = isa.decode(code, slot, big_endian=big_endian)
        wide = insn.opcode == isa.LD_IMM64 and slot + 1 < whole
        second = isa.decode(code, slot + 1, big_endian=big_endian) if wide else None
        body = _body(insn, second)
        if body and operand is not None and insn.opcode in (isa.LD_IMM64, isa.CALL):
            body = _renamed(insn, operand(slot, insn)) or body
        if body and second is not None:
            made.append(Line(slot, 2, insn, _wide(insn, second), _framed(insn, body)))
        else:
            made.append(Line(slot, 1, insn, insn.imm, _framed(insn, body)))
        slot += made[-1].width
    if rest := bytes(code[whole * isa.SIZE :]):
        cut = isa.decode(rest.ljust(isa.SIZE, b"\0"), 0, big_endian=big_endian)
        made.append(Line(whole, 1, cut, cut.imm, _framed(cut, f"unknown: {len(rest)} bytes of {isa.SIZE}")))
    return made


def text(insn: Insn, second: Insn | None) -> str:
    """One instruction without names; `second` is the other slot of an LD_IMM64."""
    return _framed(insn, _body(insn, second))


def target(slot: int, insn: Insn) -> int | None:
    """The slot that a jump at `slot` goes to: goto, gotol, may_goto and the conditional ones. None for the rest: calls
    come back, and where `gotox` goes is not in the instruction."""
    if insn.opcode & 7 not in (isa.CLASS_JMP, isa.CLASS_JMP32) or not _body(insn, None):
        return None
    operation = insn.opcode >> 4
    if insn.opcode == isa.JA32:
        return slot + 1 + insn.imm
    if insn.opcode == isa.JA or operation == _JCOND or _COMPARE[operation]:
        return slot + 1 + insn.off
    return None


def _framed(insn: Insn, body: str) -> str:
    if not body:
        body = f"unknown: dst={insn.dst} src={insn.src} off={insn.off} imm={insn.imm:#x}"
    return f"({insn.opcode:02x}) {body}"


def _renamed(insn: Insn, name: str) -> str:
    if not name:
        return ""
    return f"call {name}" if insn.opcode == isa.CALL else f"r{insn.dst} = {name}"


def _body(insn: Insn, second: Insn | None) -> str:
    """The text behind the opcode; "" when this is no instruction."""
    if insn.dst > _LAST_REGISTER or insn.src > _LAST_REGISTER:
        return ""
    if insn.opcode == isa.LD_IMM64:
        return _load_imm64(insn, second)
    return _CLASSES[insn.opcode & 7](insn)


# --- loads and stores -------------------------------------------------------------------------------------------


def _wide(insn: Insn, second: Insn) -> int:
    return (second.imm & _WORD) << 32 | insn.imm & _WORD


def _load_imm64(insn: Insn, second: Insn | None) -> str:
    if second is None or insn.off or second.opcode or second.dst or second.src or second.off:
        return ""
    low, high = insn.imm, second.imm
    # As bpftool names them; in a program that is not loaded yet, imm is an fd and not an id.
    sources = {
        0: f"{_wide(insn, second):#x}",
        isa.PSEUDO_MAP_FD: f"map[fd:{low}]" if not high else "",
        isa.PSEUDO_MAP_VALUE: f"map[fd:{low}][0]+{high & _WORD}",
        isa.PSEUDO_BTF_ID: f"btf[id:{low & _WORD}]" if not high else f"btf[fd:{high}][id:{low & _WORD}]",
        isa.PSEUDO_FUNC: f"subprog[{low:+d}]",
        isa.PSEUDO_MAP_IDX: f"map[idx:{low}]" if not high else "",
        isa.PSEUDO_MAP_IDX_VALUE: f"map[idx:{low}][0]+{high & _WORD}",
    }
    name = sources.get(insn.src, "")
    return f"r{insn.dst} = {name}" if name else ""


def _load(insn: Insn) -> str:
    """LD of one slot: the packet loads of classic BPF."""
    mode, size = insn.opcode & 0xE0, insn.opcode >> 3 & 3
    if insn.dst or insn.off or size == _SIZE_DOUBLE:
        return ""
    if mode == isa.MODE_ABS and not insn.src:
        return f"r0 = *({_UNSIGNED[size]} *)skb[{insn.imm}]"
    if mode == isa.MODE_IND:
        return f"r0 = *({_UNSIGNED[size]} *)skb[r{insn.src} + {insn.imm}]"
    return ""


def _memory(size: str, register: int, off: int) -> str:
    return f"({size} *)(r{register} {off:+d})"


def _load_memory(insn: Insn) -> str:
    sizes = {isa.MODE_MEM: _UNSIGNED, isa.MODE_MEMSX: _SIGNED}.get(insn.opcode & 0xE0)
    size = sizes[insn.opcode >> 3 & 3] if sizes else ""
    return f"r{insn.dst} = *{_memory(size, insn.src, insn.off)}" if size and not insn.imm else ""


def _store_immediate(insn: Insn) -> str:
    if insn.opcode & 0xE0 != isa.MODE_MEM or insn.src:
        return ""
    return f"*{_memory(_UNSIGNED[insn.opcode >> 3 & 3], insn.dst, insn.off)} = {insn.imm}"


def _store(insn: Insn) -> str:
    mode, size = insn.opcode & 0xE0, insn.opcode >> 3 & 3
    place = _memory(_UNSIGNED[size], insn.dst, insn.off)
    if mode == isa.MODE_MEM:
        return f"*{place} = r{insn.src}" if not insn.imm else ""
    return _atomic(insn, size, place) if mode == isa.MODE_ATOMIC else ""


def _atomic(insn: Insn, size: int, place: str) -> str:
    if insn.imm == isa.ATOMIC_LOAD_ACQUIRE:
        return f"r{insn.dst} = load_acquire({_memory(_UNSIGNED[size], insn.src, insn.off)})"
    if insn.imm == isa.ATOMIC_STORE_RELEASE:
        return f"store_release({place}, r{insn.src})"
    if _UNSIGNED[size] not in ("u32", "u64"):
        return ""
    if insn.imm in _ATOMIC_ASSIGN:
        return f"lock *{place} {_ATOMIC_ASSIGN[insn.imm]} r{insn.src}"
    wide = "64" if size == _SIZE_DOUBLE else ""
    if insn.imm in _ATOMIC_FETCH:
        return f"r{insn.src} = atomic{wide}_{_ATOMIC_FETCH[insn.imm]}({place}, r{insn.src})"
    if insn.imm == isa.ATOMIC_CMPXCHG:
        return f"r0 = atomic{wide}_cmpxchg({place}, r0, r{insn.src})"
    return ""


# --- arithmetic -------------------------------------------------------------------------------------------------


def _alu(insn: Insn) -> str:
    operation, of_register = insn.opcode >> 4, insn.opcode & isa.SOURCE_REG
    wide = insn.opcode & 7 == isa.CLASS_ALU64
    letter = "r" if wide else "w"
    if operation == _END:
        return _byte_order(insn, wide)
    if operation == _NEG:
        plain = not (of_register or insn.src or insn.off or insn.imm)
        return f"{letter}{insn.dst} = -{letter}{insn.dst}" if plain else ""
    if operation == _MOV and of_register and insn.off:
        return _converting_move(insn, wide, letter)
    sign = _ALU[operation]
    if operation in (_DIV, _MOD) and insn.off == _SIGNED_DIVISION:
        sign = "s" + sign
    elif insn.off or not sign:
        return ""
    if of_register:
        return f"{letter}{insn.dst} {sign} {letter}{insn.src}" if not insn.imm else ""
    return f"{letter}{insn.dst} {sign} {insn.imm}" if not insn.src else ""


def _byte_order(insn: Insn, wide: bool) -> str:
    big = insn.opcode & isa.SOURCE_REG
    if insn.imm not in (16, 32, 64) or insn.src or insn.off or (wide and big):
        return ""
    name = "bswap" if wide else "be" if big else "le"
    return f"r{insn.dst} = {name}{insn.imm} r{insn.dst}"


def _converting_move(insn: Insn, wide: bool, letter: str) -> str:
    if wide and insn.off == _ADDR_SPACE_CAST:
        to, of = insn.imm >> 16 & 0xFFFF, insn.imm & 0xFFFF
        return f"r{insn.dst} = addr_space_cast(r{insn.src}, {to}, {of})"
    narrowed = _SIGN_EXTENDED.get(insn.off, "")
    if not narrowed or insn.imm or (insn.off == 32 and not wide):
        return ""
    return f"{letter}{insn.dst} = {narrowed}{letter}{insn.src}"


# --- jumps and calls --------------------------------------------------------------------------------------------


def _jump(insn: Insn) -> str:
    operation, of_register = insn.opcode >> 4, insn.opcode & isa.SOURCE_REG
    narrow = insn.opcode & 7 == isa.CLASS_JMP32
    if _COMPARE[operation]:
        return _conditional(insn, _COMPARE[operation], "w" if narrow else "r")
    if operation == _JA:
        return _goto(insn)
    if narrow:
        return ""
    if operation == _CALL:
        return _indirect_call(insn) if of_register else _call(insn)
    if of_register or insn.dst or insn.src or insn.imm:
        return ""
    if operation == _EXIT:  # the kernel does not look at its off
        return "exit"
    return f"may_goto pc{insn.off:+d}" if operation == _JCOND else ""


def _conditional(insn: Insn, sign: str, letter: str) -> str:
    if insn.opcode & isa.SOURCE_REG:
        right, unused = f"{letter}{insn.src}", insn.imm
    else:
        right, unused = f"{insn.imm & _WORD:#x}", insn.src
    return f"if {letter}{insn.dst} {sign} {right} goto pc{insn.off:+d}" if not unused else ""


def _goto(insn: Insn) -> str:
    if insn.opcode == isa.JA and not (insn.dst or insn.src or insn.imm):
        return f"goto pc{insn.off:+d}"
    if insn.opcode == isa.JA32 and not (insn.dst or insn.src or insn.off):
        return f"gotol pc{insn.imm:+d}"
    # Linux 6.19; an older one refuses it
    if insn.opcode == isa.JA | isa.SOURCE_REG and not (insn.src or insn.off or insn.imm):
        return f"gotox r{insn.dst}"
    return ""


def _call(insn: Insn) -> str:
    if insn.dst or (insn.off and insn.src != isa.PSEUDO_KFUNC_CALL):
        return ""
    if insn.src == isa.PSEUDO_CALL:
        return f"call pc{insn.imm:+d}"
    if insn.src == isa.PSEUDO_KFUNC_CALL:
        # off: which of the fds passed with the program has the module's BTF; the kernel knows the name by then
        return f"call kernel-function#{insn.imm}" + (f" of btf[idx:{insn.off}]" if insn.off else "")
    return f"call {helper_name(insn.imm) or 'unknown'}#{insn.imm}" if not insn.src else ""


def _indirect_call(insn: Insn) -> str:
    """No kernel takes it; compilers write it without optimisation. LLVM 18 and older put the register into imm."""
    if insn.src or insn.off or (insn.dst and insn.imm) or not 0 <= insn.imm <= _LAST_REGISTER:
        return ""
    return f"callx r{insn.dst or insn.imm}"


_CLASSES: tuple[Callable[[Insn], str], ...] = (
    _load,
    _load_memory,
    _store_immediate,
    _store,
    _alu,
    _jump,
    _jump,
    _alu,
)
