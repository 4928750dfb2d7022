"""The kernel's own text of instructions, and its own word on what is one."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from elfpatch import disasm
from elfpatch import insn as isa
from elfpatch.disasm import Line
from elfpatch.insn import Insn
from elfpatch.kernel import bpf
from tests.disasm.encodings import Encoding, encodings, is_unknown
from tests.support import corpus
from tests.support.net import command

pytestmark = pytest.mark.usefixtures("kernel")

ROOT = Path(__file__).parents[2]
SOCKET_FILTER, SYSCALL = 1, 31
SLEEPABLE = 16


def slots(*insns: tuple[int, int, int, int, int]) -> bytes:
    """(opcode, dst, src, off, imm) each, in this machine's byte order."""
    made = bytearray(len(insns) * isa.SIZE)
    for number, fields in enumerate(insns):
        isa.encode_into(made, number, Insn(*fields))
    return bytes(made)


def log_of(code: bytes, kind: int = SOCKET_FILTER) -> tuple[int, str]:
    """(errno or 0, the verifier's log) of a load."""
    fd, number, log = bpf.prog_load_log(bpf.ProgSpec(kind, code, "GPL", flags=SLEEPABLE if kind == SYSCALL else 0), 2)
    if fd >= 0:
        os.close(fd)
    return number, log


def printed(log: str) -> dict[int, str]:
    """slot -> text, without the registers' state that follows it."""
    return {int(slot): text for slot, text in re.findall(r"^(\d+): (\(..\) .*?)(?:\s+;.*)?$", log, re.MULTILINE)}


# --- every opcode -----------------------------------------------------------------------------------------------

AT = 3


def around(asked: Encoding) -> bytes:
    """A program with this instruction in slot 3. Every slot is reachable, wherever it jumps (by 0 or 1)."""
    move = (0xB7, 0, 0, 0, 0)
    jump = move if asked.second else (0x15, 1, 0, 2, 0)  # nothing may jump into an LD_IMM64
    return slots(move, jump, jump) + asked.code(False) + slots(move, move, (0x95, 0, 0, 0, 0))


# Said of the encoding. Everything else is said of what the instruction means, and then it is one.
MALFORMED = re.compile(
    r"uses reserved fields|^unknown opcode|^R1[1-5] is invalid|uses invalid atomic opcode|invalid atomic operand size"
    r"|^invalid may_goto imm|^unrecognized bpf_ld_imm64 insn|^invalid bpf_ld_imm64 insn",
    re.MULTILINE,
)
# The kernel ends here before it has looked at all fields.
UNDECIDED = re.compile(
    r"^jump out of range|^failed to find BTF for kernel function|^kernel btf_id \d+ is not|^unreachable insn"
    r"|is not pointing to valid bpf_map|^R\d+ !read_ok|^addr_space_cast insn|^invalid kernel function call not elim"
    r"|^R\d invalid mem access 'scalar'|^call to invalid destination",
    re.MULTILINE,
)


def one(opcode: int, dst: int, src: int, off: int, imm: int, second: Insn | None = None) -> Encoding:
    insn = Insn(opcode, dst, src, off, imm)
    if opcode == isa.LD_IMM64 and second is None:
        second = Insn(0, 0, 0, 0, 0)
    return Encoding(insn, second, disasm.text(insn, second))


OPERANDS = list(itertools.product((0, 1, 11), (0, 1, 11), (0, 1, 8), (0, 1, 16, 0x41, 0x100)))


def test_every_opcode_is_judged_and_printed_as_the_verifier_does() -> None:
    known = {one.first.opcode for one in encodings() if one.known}
    judged: Counter[bool] = Counter()
    texts = 0
    wrong = []
    for opcode in range(256):
        for fields in OPERANDS if opcode in known else OPERANDS[::25]:
            asked = one(opcode, *fields)
            _, log = log_of(around(asked))
            text = printed(log).get(AT)
            if asked.known and text is not None:
                texts += 1
                if text != asked.text:
                    wrong.append(f"{asked.text}   the verifier: {text}")
            malformed = bool(MALFORMED.search(log))
            if (malformed or not UNDECIDED.search(log)) and opcode not in NO_KERNEL_TAKES:
                judged[malformed] += 1
                if malformed == asked.known:
                    wrong.append(f"{asked.text} is {'malformed' if malformed else 'known'}: {log.splitlines()[-4:]}")
    assert wrong == []
    assert texts > 1_400
    assert judged[True] > 8_000 and judged[False] > 1_000, judged


NO_KERNEL_TAKES = {
    0x8D,  # callx: compilers write it
    0x0D,  # gotox: Linux 6.19
}


@pytest.mark.parametrize(
    ("second", "known"),
    [
        ((0, 0, 0, 0, 5), True),
        ((0xB7, 0, 0, 0, 0), False),
        ((0, 1, 0, 0, 0), False),
        ((0, 0, 1, 0, 0), False),
        ((0, 0, 0, 1, 0), False),
    ],
)
def test_the_second_slot_of_an_imm64(second: tuple[int, int, int, int, int], known: bool) -> None:
    asked = one(isa.LD_IMM64, 3, 0, 0, 7, Insn(*second))
    _, log = log_of(around(asked))
    assert (asked.known, not MALFORMED.search(log)) == (known, known)
    if known:
        assert printed(log)[AT] == asked.text == "(18) r3 = 0x500000007"


@pytest.mark.parametrize("src", range(10))
@pytest.mark.parametrize("high", [0, 4])
def test_what_an_imm64_may_refer_to(src: int, high: int) -> None:
    """None of these refers to anything; the verifier says so only when it takes them for instructions."""
    asked = one(isa.LD_IMM64, 3, src, 0, 9999, Insn(0, 0, 0, 0, high))
    _, log = log_of(around(asked))
    assert asked.known is not bool(MALFORMED.search(log)), log


# --- programs that load -----------------------------------------------------------------------------------------

STACK = [(0x7A, 10, 0, -8, 5), (0x7A, 10, 0, -16, 6)]
LOADS = {
    "arithmetic": [
        *((0xB7, 1, 0, 0, -5), (0xBF, 2, 1, 8, 0), (0xBF, 3, 1, 16, 0), (0xBF, 4, 1, 32, 0), (0xBC, 5, 1, 8, 0)),
        *((0x37, 1, 0, 1, 3), (0x3C, 1, 2, 1, 0), (0x97, 2, 0, 1, 7), (0x9F, 3, 4, 0, 0), (0xD7, 3, 0, 0, 32)),
        *((0xDC, 3, 0, 0, 16), (0xD4, 4, 0, 0, 64), (0x87, 4, 0, 0, 0), (0x84, 5, 0, 0, 0), (0xC7, 4, 0, 0, 3)),
        *((0x18, 2, 0, 0, -1), (0, 0, 0, 0, 0x7FFFFFFF), (0x54, 2, 0, 0, -256), (0xAF, 2, 4, 0, 0)),
    ],
    "memory": [
        *STACK,
        *((0x79, 1, 10, -8, 0), (0x61, 1, 10, -8, 0), (0x69, 1, 10, -8, 0), (0x71, 1, 10, -8, 0)),
        *((0x81, 1, 10, -8, 0), (0x89, 1, 10, -8, 0), (0x91, 1, 10, -8, 0), (0x73, 10, 1, -9, 0)),
        (0x62, 10, 0, -8, -1),
    ],
    "atomics": [
        *STACK,
        *((0xB7, 0, 0, 0, 1), (0xB7, 2, 0, 0, 1)),
        *((0xDB, 10, 2, -8, imm) for imm in (0, 0x40, 0x50, 0xA0, 1, 0x41, 0x51, 0xA1, 0xE1, 0xF1)),
        *((0xC3, 10, 2, -8, imm) for imm in (0, 0x40, 0x50, 0xA0, 1, 0x41, 0x51, 0xA1, 0xE1, 0xF1)),
        *((opcode, 2, 10, -8, 0x100) for opcode in (0xDB, 0xC3, 0xCB, 0xD3)),
        *((opcode, 10, 2, -16, 0x110) for opcode in (0xDB, 0xC3, 0xCB, 0xD3)),
    ],
    "jumps": [
        *((0x85, 0, 0, 0, 7), (0xBF, 6, 0, 0, 0), (0x05, 0, 0, 0, 0), (0x06, 0, 0, 0, 0), (0xE5, 0, 0, 0, 0)),
        *((op << 4 | low, 6, 0, 0, -2) for op in (1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13) for low in (5, 6)),
        *((op << 4 | low, 6, 0, 0, 0) for op in (1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13) for low in (0xD, 0xE)),
    ],
    "packet": [(0xBF, 6, 1, 0, 0), (0xB7, 7, 0, 0, 4), *((op, 0, 0, 0, 12) for op in (0x20, 0x28, 0x30)),
               *((op, 0, 7, 0, -1) for op in (0x40, 0x48, 0x50))],
}  # fmt: skip
END = [(0xB7, 0, 0, 0, 0), (0x95, 0, 0, 0, 0)]


@pytest.mark.parametrize("name", sorted(LOADS))
def test_a_loaded_program_reads_as_in_the_verifiers_log(name: str) -> None:
    code = slots(*LOADS[name], *END)
    number, log = log_of(code)
    assert number == 0, log
    ours = {line.slot: line.text for line in disasm.lines(code)}
    assert printed(log) == ours


def test_calls_as_in_the_verifiers_log() -> None:
    lock, unlock = _kernel_function("bpf_rcu_read_lock"), _kernel_function("bpf_rcu_read_unlock")
    names = {lock: f"bpf_rcu_read_lock#{lock}", unlock: f"bpf_rcu_read_unlock#{unlock}"}
    code = slots(
        *((0x85, 0, 1, 0, 5), (0x85, 0, 0, 0, 7), (0x85, 0, 2, 0, lock), (0x85, 0, 2, 0, unlock), *END),
        *((0xB7, 0, 0, 0, 7), (0xB7, 0, 0, 0, 0), (0x95, 0, 0, 0, 0)),
    )
    number, log = log_of(code, SYSCALL)
    assert number == 0, log
    named = disasm.lines(code, operand=lambda _, insn: names[insn.imm] if insn.src == isa.PSEUDO_KFUNC_CALL else "")
    assert printed(log) == {line.slot: line.text for line in named}


@functools.cache
def _vmlinux() -> str:
    return command("bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux")


def _kernel_function(name: str) -> int:
    """The BTF id of a function of the running kernel."""
    (number,) = re.findall(rf"^\[(\d+)\] FUNC '{name}' ", _vmlinux(), re.MULTILINE)
    return int(number)


# --- bpftool, on whole objects ----------------------------------------------------------------------------------

# opcode and off of a move that the verifier puts in where a helper for this CPU is inlined; it takes none from us
PER_CPU_ADDRESS = (0xBF, -1)


def _xlated(pin: str) -> Iterator[tuple[str, bytes]]:
    """(text, bytes) of each instruction that the kernel keeps of a program."""
    text = ""
    for line in command("bpftool", "prog", "dump", "xlated", "pinned", pin, "opcodes").splitlines():
        if insn := re.fullmatch(r" *\d+: (\(..\) .*|BUG_.*)", line):
            text = insn[1]
        elif raw := re.fullmatch(r" +((?:[0-9a-f]{2} ){7,15}[0-9a-f]{2}) *", line):
            yield text, bytes.fromhex(raw[1])


def _bpftool_difference(text: str, line: Line) -> str:
    """Of a call, bpftool shows the address, and the name that the kernel has for it."""
    theirs = text.split("call ", maxsplit=1)[0] if line.insn.opcode == isa.CALL else text
    ours = line.text.split("call ")[0] if line.insn.opcode == isa.CALL else line.text.replace("[fd:", "[id:")
    return "" if ours == theirs else f"{ours}   bpftool: {theirs}"


@pytest.fixture
def shared_pins() -> Iterator[None]:
    """libbpf pins maps that want it by name to /sys/fs/bpf, whatever folder the programs go to."""
    before = set(os.listdir("/sys/fs/bpf"))
    yield
    for name in set(os.listdir("/sys/fs/bpf")) - before:
        os.unlink(f"/sys/fs/bpf/{name}")


def test_translated_programs_read_as_bpftool_prints_them(bpffs: str, shared_pins: None) -> None:
    paths = sorted((ROOT / "fixtures" / "templates").glob("*.o"))
    paths += [path for path in corpus.objects() if re.search(r"-xdpfilt_.*_(all|udp)\.o$|-xsk_def", path.name)]
    count, wrong = 0, []
    for number, path in enumerate(paths):
        folder = f"{bpffs}/o{number}"
        command("bpftool", "prog", "loadall", str(path), folder, check=False)
        for pin in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            for text, raw in _xlated(f"{folder}/{pin}"):
                (line,) = disasm.lines(raw)
                if (line.insn.opcode, line.insn.off) == PER_CPU_ADDRESS:
                    assert is_unknown(line.text)
                    continue
                count += 1
                if differs := _bpftool_difference(text, line):
                    wrong.append(f"{path.name} {pin}: {differs}")
    assert wrong == []
    assert count > 1_500
