"""The kernel as an oracle: which instructions of a program it keeps, and what a program does when it runs."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from elfpatch import index as ix
from elfpatch.deploy.load import Loaded, load
from elfpatch.deploy.prepare import code_before, constants, prepare, ready
from elfpatch.deploy.select import Selection, Wanted
from elfpatch.errors import SyscallFailed
from elfpatch.flow.program import Code
from elfpatch.kernel import bpf
from elfpatch.kernel.libc import address_of_buffer
from elfpatch.kernel.libc import bpf as bpf_call
from elfpatch.patch.image import Image, Template, make_image
from elfpatch.template.compile import compile_object
from tests.differential.support import PACKETS

OBJ_GET_INFO_BY_FD = 15
SOCKET_FILTER, SCHED_CLS, XDP, CGROUP_SKB, RAW_TRACEPOINT = 1, 3, 6, 8, 17
ARRAY = 2

# BTF with one type, `void *`: enough for line_info, whose names may be empty
SMALL_BTF = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, 12, 12, 1) + struct.pack("=III", 0, 2 << 24, 0) + b"\0"


def kept_by_kernel(spec: bpf.ProgSpec, slots: list[int]) -> set[int]:
    """Load a program and return those of `slots` (the first slots of its instructions) that are left in what the kernel
    runs. Each instruction is given a line of its own; when the verifier removes an instruction, its line goes too.
    Raises SyscallFailed when it does not load."""
    made = 0
    if not spec.btf_fd:
        made = spec.btf_fd = bpf.btf_load(SMALL_BTF)
    spec.line_info = b"".join(struct.pack("=IIII", slot, 0, 0, slot + 1 << 10) for slot in slots)
    spec.line_info_rec_size = 16
    try:
        fd = bpf.prog_load(spec)
    finally:
        if made:
            os.close(made)
    try:
        return {line - 1 for line in _lines(fd)}
    finally:
        os.close(fd)


def _lines(fd: int) -> list[int]:
    count = struct.unpack_from("=I", _info(fd, bytearray(232)), 148)[0]
    records = bytearray(16 * count)
    info = bytearray(232)
    struct.pack_into("=IQ", info, 148, count, address_of_buffer(records))
    struct.pack_into("=I", info, 172, 16)
    _info(fd, info)
    return [line >> 10 for *_, line in struct.iter_unpack("=IIII", records)]


def _info(fd: int, info: bytearray) -> bytearray:
    attr = bytearray(16)
    struct.pack_into("=IIQ", attr, 0, fd, len(info), address_of_buffer(info))
    result = bpf_call(OBJ_GET_INFO_BY_FD, attr)
    assert result >= 0, os.strerror(-result)
    return info


# --- programs of the fixtures -----------------------------------------------------------------------------------


@dataclass
class Subject:
    """A program of an object, with the values that the object holds."""

    path: Path
    wanted: Wanted = field(repr=False)
    image: Image = field(repr=False)

    @property
    def program(self) -> ix.Program:
        return self.wanted.program

    @property
    def info(self) -> ix.Info:
        return self.image.template.index.info

    def code(self) -> Code:
        """As it is loaded without specialisation."""
        made = ready(self.image, self.wanted)
        if made.specialised is not None:
            return made.specialised.code
        fixups = self.image.template.index.rows(ix.Fixup, self.program.first_fixup, self.program.fixups)
        return code_before(self.image, made.insns, self.program, list(fixups))

    def memory(self, row: int, offset: int, size: int) -> int | None:
        return constants(self.image)(row, offset, size)

    @contextmanager
    def loaded(self, *, specialize: bool = False) -> Iterator[tuple[Loaded, int]]:
        """The program with maps of its own, and those that its prog arrays name; and its fd. Raises as `load` does."""
        chosen = Selection()
        chosen.add(self.wanted.row, self.program, self.program.type, self.program.attach_type)
        chosen.for_target.append(self.wanted.row)
        index = self.image.template.index
        for slot in index.rows(ix.Slot):
            if slot.kind == ix.SLOT_PROG:
                other = index.row(ix.Program, slot.ref)
                chosen.add(slot.ref, other, other.type or self.program.type, other.attach_type)
        with load(self.image, prepare(self.image, chosen, specialize=specialize)) as made:
            yield made, made.progs[self.wanted.row]

    def spec(self, code: Code, loaded: Loaded) -> bpf.ProgSpec:
        """What loads `code` in this program's place, with the maps that are there."""
        insns = bytearray(code.encode())
        for slot, (_, row, _) in code.refs.items():
            struct.pack_into("=i", insns, slot * 8 + 4, loaded.maps[row])
        typed = loaded.btf >= 0
        flags = (1 << 4 if self.program.flags & ix.SLEEPABLE else 0) | (1 << 5 if self.program.flags & ix.FRAGS else 0)
        return bpf.ProgSpec(
            self.program.type, bytes(insns), self.info.license, name=self.program.name, flags=flags,
            expected_attach_type=self.program.attach_type, kern_version=self.info.kern_version,
            btf_fd=loaded.btf if typed else 0,
            func_info=code.func_info if typed else b"", func_info_rec_size=code.func_rec,
            line_info=code.line_info if typed else b"", line_info_rec_size=code.line_rec,
            core_relos=code.core_relos if typed else b"", core_relo_rec_size=code.core_rec,
        )  # fmt: skip


def subjects(path: Path) -> list[Subject]:
    """The programs of an object that this host can be asked to load."""
    data = path.read_bytes()
    template = Template(str(path), data, ix.Index(compile_object(data, path.stem, replace_stale=True)))
    image = make_image(template, [])
    index = image.template.index
    if index.big_endian:
        return []
    found = []
    for row, program in enumerate(index.rows(ix.Program)):
        fixups = index.rows(ix.Fixup, program.first_fixup, program.fixups)
        if program.type and not program.problem and all(fixup.kind != ix.FIXUP_EXTERN for fixup in fixups):
            found.append(Subject(path, Wanted(row, program, program.type, program.attach_type), image))
    return found


def outcome(fd: int, kind: int, packets: list[bytes] = PACKETS) -> list[tuple[int, bytes, bytes]]:
    """(return value or -errno, packet, context) of a run on each packet; nothing for types that TEST_RUN lacks."""
    if kind == RAW_TRACEPOINT:
        return [(bpf.prog_test_run(fd, ctx=bytes(8)).retval, b"", b"")]
    if kind not in (SOCKET_FILTER, SCHED_CLS, XDP, CGROUP_SKB):
        return []
    found = []
    for packet in packets:
        try:
            run = bpf.prog_test_run(fd, packet, data_out_size=len(packet) + 256, ctx_out_size=0 if kind == XDP else 192)
        except SyscallFailed as error:
            found.append((-error.errno, b"", b""))
        else:
            found.append((run.retval, run.data_out, run.ctx_out))
    return found


def contents(loaded: Loaded) -> dict[int, list[bytes]]:
    """The elements of the arrays, data sections included, by map row."""
    found = {}
    for row, fd in loaded.maps.items():
        info = bpf.map_info(fd)
        if info.type == ARRAY:
            found[row] = [bpf.map_lookup(fd, struct.pack("I", key), info.value_size) for key in range(info.max_entries)]
    return found
