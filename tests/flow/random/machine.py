"""Loading programs and watching what they do: verdicts, packets, contexts and maps."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from elfpatch.errors import SyscallFailed
from elfpatch.flow.program import Code
from elfpatch.insn import SIZE
from elfpatch.kernel import abi, bpf
from elfpatch.kernel.abi import PROG_TYPE_SCHED_CLS, PROG_TYPE_XDP
from tests.flow.random.assemble import Assembled
from tests.flow.random.maps import DATA, DATA_SIZE, JUMPS, RESULT, RODATA, TABLE, TABLE_ENTRIES, TABLE_SIZE
from tests.flow.random.tree import Program
from tests.support.insns import mov_exit

ARRAY, PROG_ARRAY = 2, 3
SKB_CONTEXT = 192  # bytes of struct __sk_buff that TEST_RUN takes and returns
_NOISE = Random(2).randbytes(128)
PACKETS = (bytes(64), _NOISE[:64], _NOISE, b"\xff" * 20)
DATA_BYTES = Random(3).randbytes(DATA_SIZE)

Observed = dict[str, bytes]
Outcome = Callable[[Code, dict[int, int]], "tuple[Observed | None, str]"]


def key(number: int) -> bytes:
    return struct.pack("=I", number)


class Machine:
    """The maps that all programs share. `close` it."""

    def __init__(self) -> None:
        self.data = bpf.map_create(ARRAY, 4, DATA_SIZE, 1, name="data")
        self.result = bpf.map_create(ARRAY, 4, DATA_SIZE, 1, name="result")
        self.table = bpf.map_create(ARRAY, 4, TABLE_SIZE, TABLE_ENTRIES, name="table")
        self.jumps = {kind: self._jumps(kind) for kind in (PROG_TYPE_XDP, PROG_TYPE_SCHED_CLS)}

    def _jumps(self, kind: int) -> int:
        made = bpf.map_create(PROG_ARRAY, 4, 4, 4, name="jumps")
        for slot in (1, 3):
            fd = bpf.prog_load(bpf.ProgSpec(kind, mov_exit(70 + slot), "GPL"))
            bpf.map_update(made, key(slot), struct.pack("=I", fd))
            os.close(fd)
        return made

    def close(self) -> None:
        for fd in (self.data, self.result, self.table, *self.jumps.values()):
            os.close(fd)

    def reset(self) -> None:
        bpf.map_update(self.data, key(0), DATA_BYTES)
        bpf.map_update(self.result, key(0), bytes(DATA_SIZE))
        for slot in range(TABLE_ENTRIES):
            bpf.map_update(self.table, key(slot), struct.pack("=QQ", slot, ~slot & 0xFF))

    def observed(self, fd: int, kind: int) -> Observed:
        """What the program does with every packet, one after the other, and leaves in the maps."""
        self.reset()
        seen: Observed = {}
        for number, packet in enumerate(PACKETS):
            context = SKB_CONTEXT if kind == PROG_TYPE_SCHED_CLS else 0
            try:
                run = bpf.prog_test_run(fd, packet, data_out_size=256, ctx_out_size=context)
                seen[f"packet {number}: verdict"] = struct.pack("=I", run.retval)
                seen[f"packet {number}: packet after"] = run.data_out
                seen[f"packet {number}: context after"] = run.ctx_out
            except SyscallFailed as error:
                seen[f"packet {number}: errno"] = struct.pack("=I", error.errno)
            seen[f"packet {number}: result"] = bpf.map_lookup(self.result, key(0), DATA_SIZE)
        seen["data"] = bpf.map_lookup(self.data, key(0), DATA_SIZE)
        seen["table"] = b"".join(bpf.map_lookup(self.table, key(slot), TABLE_SIZE) for slot in range(TABLE_ENTRIES))
        return seen

    @contextmanager
    def loader(self, program: Program, made: Assembled) -> Iterator[Outcome]:
        """What loads and runs forms of one program: what is observed and "", or None and the verifier's words."""
        fds = {DATA: self.data, RESULT: self.result, TABLE: self.table, JUMPS: self.jumps[program.kind]}
        own = [frozen(contents) for contents in program.rodata]
        fds |= dict(zip(RODATA, own, strict=True))
        btf_fd = bpf.btf_load(made.btf) if made.btf else 0
        own += [btf_fd] if btf_fd else []

        def outcome(code: Code, late: dict[int, int]) -> tuple[Observed | None, str]:
            spec = bpf.ProgSpec(
                program.kind,
                completed(code, late, fds),
                "GPL",
                btf_fd=btf_fd,
                func_info=code.func_info,
                line_info=code.line_info,
            )
            fd, log = loaded(spec)
            if fd < 0:
                return None, log
            try:
                return self.observed(fd, program.kind), ""
            finally:
                os.close(fd)

        try:
            yield outcome
        finally:
            for fd in own:
                os.close(fd)


def loaded(spec: bpf.ProgSpec) -> tuple[int, str]:
    """The program's fd and "", or -1 and the verifier's words. The log is asked for only when there is need."""
    try:
        return bpf.prog_load(spec), ""
    except SyscallFailed:
        fd, errno, log = bpf.prog_load_log(spec)
        return fd, f"errno {errno}\n{log[-1500:]}"


def frozen(contents: bytes) -> int:
    """A map like that of .rodata: the verifier takes its bytes as constants."""
    fd = bpf.map_create(ARRAY, 4, len(contents), 1, abi.F_RDONLY_PROG, name=".rodata")
    bpf.map_update(fd, key(0), contents)
    bpf.map_freeze(fd)
    return fd


def completed(code: Code, late: dict[int, int], fds: dict[int, int]) -> bytes:
    """The bytes for the kernel: map fds and the constants that come after specialisation are in place."""
    made = bytearray(code.encode())
    for slot, (_, row, _) in code.refs.items():
        struct.pack_into("=i", made, slot * SIZE + 4, fds[row])
    for slot, value in late.items():
        struct.pack_into("=i", made, slot * SIZE + 4, value)
    return bytes(made)
