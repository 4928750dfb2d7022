"""What the kernel makes of an index, one program after another: verdicts, instructions, types."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from elfpatch import index as ix
from elfpatch.deploy.load import effective_entries
from elfpatch.errors import ElfpatchError, SyscallFailed
from elfpatch.kernel import bpf
from elfpatch.template import compile as compiler
from elfpatch.template.btf import Btf
from tests.template.oracles import Json, output

F_RDONLY_PROG = 1 << 7


@cache
def indexed(path: Path) -> ix.Index:
    return ix.Index(compiler.compile_object(path.read_bytes(), path.stem, replace_stale=True))


@dataclass
class Seen:
    """How one program loaded: `error` is "" or the errno, `code` its instructions with functions and source lines."""

    error: str = ""
    code: str = ""


@dataclass
class Outcome:
    """Of an object: whether the kernel takes its BTF, each program, and the types of key and value of each map (None:
    it has no BTF)."""

    typed: bool = False
    programs: dict[str, Seen] = field(default_factory=dict)
    maps: dict[str, object] = field(default_factory=dict)


@cache
def untrimmed(path: Path) -> ix.Index:
    """The index of an object with all of its BTF."""

    def whole(ready: bytes, btf: Btf, info: ix.Info, programs: list[ix.Program], maps: list[ix.Map]) -> None:
        info.btf = ready

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "trim", whole)
        return ix.Index(compiler.compile_object(path.read_bytes(), path.stem, replace_stale=True))


def outcome(index: ix.Index, data: bytes) -> Outcome:
    """Load every program of an index that needs nothing from elsewhere."""
    made = Outcome()
    with ExitStack() as opened:
        btf = _btf(index.info.btf, opened)
        made.typed = btf > 0
        types = bpftool_types(btf) if btf else {}
        maps = [_map(index, row, data, btf, opened) for row in range(index.count(ix.Map))]
        for row, fd in zip(index.rows(ix.Map), maps, strict=True):
            made.maps[row.name] = map_types(fd, types) if fd >= 0 else "not made"
        for program in index.rows(ix.Program):
            fixups = list(index.rows(ix.Fixup, program.first_fixup, program.fixups))
            if program.type and not program.problem and all(fixup.kind != ix.FIXUP_EXTERN for fixup in fixups):
                made.programs[program.name] = _program(index.info, program, fixups, maps, btf)
    return made


def _btf(data: bytes, opened: ExitStack) -> int:
    try:
        fd = bpf.btf_load(data)
    except ElfpatchError:
        return 0
    opened.callback(os.close, fd)
    return fd


def _map(index: ix.Index, number: int, data: bytes, btf: int, opened: ExitStack) -> int:
    """The fd of a map of the index, closed with `opened`; -1 when this kernel does not make it."""
    row = index.row(ix.Map, number)
    inner = 0 if row.inner < 0 else _map(index, row.inner, data, btf, opened)
    for typed in (btf, 0):
        try:
            fd = bpf.map_create(
                row.type, row.key_size, row.value_size, effective_entries(row), row.flags, name=row.name, btf_fd=typed,
                key_type_id=row.btf_key if typed else 0, value_type_id=row.btf_value if typed else 0,
                inner_map_fd=max(inner, 0), map_extra=row.extra,
            )  # fmt: skip
        except ElfpatchError:
            continue
        opened.callback(os.close, fd)
        if row.section >= 0:
            section = index.row(ix.Section, row.section)
            if section.has_bytes:
                bpf.map_update(fd, bytes(4), data[section.file_offset : section.file_offset + section.size])
            if row.flags & F_RDONLY_PROG:
                bpf.map_freeze(fd)
        return fd
    return -1


def _program(info: ix.Info, program: ix.Program, fixups: list[ix.Fixup], maps: list[int], btf: int) -> Seen:
    insns = bytearray(program.insns)
    for fixup in fixups:
        if fixup.kind in (ix.FIXUP_MAP_FD, ix.FIXUP_MAP_VALUE):
            struct.pack_into("<i", insns, fixup.insn * 8 + 4, maps[fixup.ref])
    flags = (1 << 4 if program.flags & ix.SLEEPABLE else 0) | (1 << 5 if program.flags & ix.FRAGS else 0)
    spec = bpf.ProgSpec(
        program.type, bytes(insns), info.license, name=program.name, expected_attach_type=program.attach_type,
        flags=flags, kern_version=info.kern_version, btf_fd=btf,
        func_info=program.func_info if btf else b"", func_info_rec_size=info.func_info_rec_size or 8,
        line_info=program.line_info if btf else b"", line_info_rec_size=info.line_info_rec_size or 16,
        core_relos=program.core_relos if btf else b"", core_relo_rec_size=info.core_relo_rec_size or 16,
    )  # fmt: skip
    try:
        fd = bpf.prog_load(spec)
    except SyscallFailed as error:
        return Seen(error=str(error.errno))
    try:
        text = output("bpftool", "prog", "dump", "xlated", "id", str(bpf.prog_info(fd).prog_id), "linum")
    finally:
        os.close(fd)
    # Ids and addresses differ from load to load, and so does what bpftool finds at an address.
    return Seen(code=re.sub(r"#\S+", "#", re.sub(r"map\[id:\d+\]", "map[]", text)))


# --- types --------------------------------------------------------------------------------------------------------


def bpftool_types(btf: int) -> dict[int, Json]:
    """The types of a loaded BTF by id, as bpftool reads them."""
    with open(f"/proc/self/fdinfo/{btf}", encoding="ascii") as file:
        number = next(line.split()[1] for line in file if line.startswith("btf_id"))
    return dumped("id", number)


def dumped(how: str, which: int | str | Path) -> dict[int, Json]:
    """The types of the BTF with an id (`how`: "id"), or in an object or a file of its own ("file")."""
    shown = json.loads(output("bpftool", "-j", "btf", "dump", how, str(which)))
    return {kind["id"]: kind for kind in shown["types"]}


def map_types(fd: int, types: dict[int, Json]) -> object:
    """What a map's BTF says of its key and value; None without."""
    info = bpf.map_info(fd)
    if not info.btf_id:
        return None
    return shape(types, info.key_type_id), shape(types, info.value_type_id)


def shape(types: dict[int, Json], number: int, ignored: Sequence[str] = ()) -> object:
    """A type without ids: all that it says and all that it consists of; of a struct that a pointer points to, name and
    size."""
    if not number:
        return "void"
    kind = {key: said for key, said in types[number].items() if key not in ("id", *ignored)}
    if kind["kind"] == "PTR":
        return "PTR", _pointee(types, kind["type_id"])
    for key in ("type_id", "ret_type_id", "index_type_id"):
        if key in kind:
            kind[key] = shape(types, kind[key])
    for key in ("members", "vars", "params"):
        if key in kind:
            kind[key] = [{**row, "type_id": shape(types, row["type_id"])} for row in kind[key]]
    return kind


def _pointee(types: dict[int, Json], number: int) -> object:
    kind = types.get(number, {"kind": "VOID"})
    if kind["kind"] in ("STRUCT", "UNION"):
        return kind["kind"], kind["name"], kind["size"]
    if kind["kind"] in ("CONST", "VOLATILE", "RESTRICT", "TYPEDEF"):
        return kind["kind"], kind["name"], _pointee(types, kind["type_id"])
    return shape(types, number)


def functions(types: dict[int, Json], *, linkage: bool = True) -> dict[str, object]:
    """The functions of a BTF by name."""
    ignored = () if linkage else ("linkage",)
    return {kind["name"]: shape(types, number, ignored) for number, kind in types.items() if kind["kind"] == "FUNC"}
