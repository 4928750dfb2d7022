"""The numbers and layouts written down in elfpatch are those of the running kernel, by its own BTF."""

from __future__ import annotations

import ctypes
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from elfpatch import uapi
from elfpatch.deploy import target
from elfpatch.kernel import abi, bpf
from tests.support.net import command

Types = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def types(kernel: None) -> Types:
    """Every type of the kernel by id, as bpftool reads them."""
    dump = json.loads(command("bpftool", "-j", "btf", "dump", "file", "/sys/kernel/btf/vmlinux"))
    return {entry["id"]: entry for entry in dump["types"]}


@pytest.fixture(scope="module")
def enumerators(types: Types) -> dict[str, int]:
    """Every enumerator of the kernel whose name matters here."""
    found: dict[str, int] = {}
    for entry in types.values():
        if entry["kind"].startswith("ENUM"):
            found.update((item["name"], item["val"]) for item in entry["values"])
    return found


def offsets(types: Types, kind: str, name: str) -> dict[str, int]:
    """Byte offset of every member of a struct or union, those of nested anonymous ones included, by dotted name."""
    (top,) = (entry for entry in types.values() if entry["kind"] == kind and entry["name"] == name)
    found: dict[str, int] = {}

    def walk(entry: dict[str, Any], base: int, prefix: str) -> None:
        for member in entry["members"]:
            at = base + member["bits_offset"] // 8
            inner = types.get(member["type_id"], {})
            label = member["name"]
            if inner.get("kind") in {"STRUCT", "UNION"}:
                walk(inner, at, prefix if label == "(anon)" else f"{prefix}{label}.")
            else:
                found.setdefault(prefix + label, at)

    walk(top, 0, "")
    return found


@pytest.mark.parametrize(
    ("names", "prefix", "end"),
    [
        (uapi.PROG_TYPES, "BPF_PROG_TYPE_", "__MAX_BPF_PROG_TYPE"),
        (uapi.MAP_TYPES, "BPF_MAP_TYPE_", "__MAX_BPF_MAP_TYPE"),
        (uapi.ATTACH_TYPES, "BPF_", "__MAX_BPF_ATTACH_TYPE"),
        (abi.LINK_TYPES, "BPF_LINK_TYPE_", "__MAX_BPF_LINK_TYPE"),
    ],
)
def test_lists_of_types_are_the_kernels(names: list[str], prefix: str, end: str, enumerators: dict[str, int]) -> None:
    known = min(len(names), enumerators[end])  # an older kernel knows fewer, a newer one more
    assert known > 10
    for number, name in enumerate(names[:known]):
        assert enumerators[prefix + name.upper()] == number


def test_commands_are_the_kernels(enumerators: dict[str, int]) -> None:
    text = Path(abi.__file__).read_text()
    block = text[text.index("# enum bpf_cmd") : text.index("# enum bpf_link_type")]
    names = [line.split(" = ")[0] for line in block.splitlines() if " = " in line]
    assert len(names) > 20
    assert {name: getattr(abi, name) for name in names} == {name: enumerators[f"BPF_{name}"] for name in names}


def test_other_constants_are_the_kernels(enumerators: dict[str, int]) -> None:
    same = {
        "BPF_NOEXIST": abi.NOEXIST,
        "BPF_EXIST": abi.EXIST,
        "BPF_F_LOCK": abi.F_LOCK,
        "BPF_F_NUMA_NODE": abi.F_NUMA_NODE,
        "BPF_F_RDONLY_PROG": abi.F_RDONLY_PROG,
        "BPF_F_MMAPABLE": abi.F_MMAPABLE,
        "BPF_F_NO_COMMON_LRU": abi.F_NO_COMMON_LRU,
        "BPF_F_LINK": abi.F_LINK,
        "BPF_XDP": abi.ATTACH_XDP,
        "BPF_TCX_INGRESS": abi.ATTACH_TCX_INGRESS,
        "BPF_TCX_EGRESS": abi.ATTACH_TCX_EGRESS,
    }
    assert {name: enumerators.get(name, value) for name, value in same.items()} == same
    for name in dir(abi):
        if name.startswith(("PROG_TYPE_", "MAP_TYPE_")):
            assert getattr(abi, name) == enumerators[f"BPF_{name}"]


def test_cgroup_hooks_have_the_kernels_attach_types(enumerators: dict[str, int]) -> None:
    # The hook's name is nearly the attach type's: connect4 is BPF_CGROUP_INET4_CONNECT.
    for hook, (_, attach_type, _) in target.CGROUP_HOOKS.items():
        name = uapi.ATTACH_TYPES[attach_type].removeprefix("cgroup_")
        if hook.endswith(("4", "6")):
            assert name in {f"inet{hook[-1]}_{hook[:-1]}", f"udp{hook[-1]}_{hook[:-1]}"}
        elif hook.endswith("_unix"):
            assert name == f"unix_{hook.removesuffix('_unix')}"
        else:
            assert name in {hook, f"inet_{hook}", {"dev": "device", "sockops": "sock_ops"}.get(hook)}


def _end(layout: str) -> int:
    return struct.calcsize(layout)


def test_layouts_of_bpf_attr_are_the_kernels(types: Types) -> None:
    at = offsets(types, "UNION", "bpf_attr")
    assert at["map_extra"] + 8 == _end(bpf._MAP_CREATE)
    assert at["map_name"] == _end("=7I")
    assert at["flags"] + 8 == _end(bpf._ELEM)
    assert at["core_relo_rec_size"] + 8 == _end(bpf._PROG_LOAD)
    assert at["log_true_size"] == 140
    assert (at["insns"], at["license"], at["log_buf"]) == (8, 16, 32)
    assert (at["prog_name"], at["expected_attach_type"], at["prog_btf_fd"]) == (48, 68, 72)
    assert (at["func_info"], at["line_info"], at["attach_btf_id"]) == (80, 96, 108)
    assert (at["core_relo_cnt"], at["fd_array"], at["core_relos"]) == (116, 120, 128)
    assert (at["test.retval"], at["test.data_size_out"], at["test.duration"]) == (4, 12, 36)
    assert at["test.batch_size"] + 4 <= _end(bpf._TEST_RUN)
    assert (at["query.prog_ids"], at["query.count"], at["query.link_ids"]) == (16, 24, 40)
    assert at["query.revision"] + 8 == _end(bpf._QUERY)
    assert (at["link_create.tcx.relative_fd"], at["link_create.tcx.expected_revision"]) == (16, 24)
    assert (at["link_update.flags"], at["link_update.old_prog_fd"]) == (8, 12)
    assert (at["btf_size"], at["btf_log_level"]) == (16, 24)


def test_layouts_of_information_are_the_kernels(types: Types) -> None:
    prog = offsets(types, "STRUCT", "bpf_prog_info")
    assert [prog[name] for name in ("tag", "load_time", "nr_map_ids", "map_ids", "name", "ifindex")] == [
        8, 40, 52, 56, 64, 80,
    ]  # fmt: skip
    assert [prog[name] for name in ("btf_id", "run_time_ns", "run_cnt", "verified_insns")] == [128, 192, 200, 216]
    held = offsets(types, "STRUCT", "bpf_map_info")
    assert [held[name] for name in ("map_flags", "name", "btf_id", "map_extra")] == [20, 24, 64, 80]
    link = offsets(types, "STRUCT", "bpf_link_info")
    assert link["xdp.ifindex"] == link["tcx.ifindex"] == link["cgroup.cgroup_id"] == 16
    assert (link["tcx.attach_type"], link["cgroup.attach_type"]) == (20, 24)


def test_every_argument_of_a_load_lands_in_its_field(types: Types) -> None:
    at = offsets(types, "UNION", "bpf_attr")
    spec = bpf.ProgSpec(
        3, b"insns---" * 2, "GPL", name="a program", expected_attach_type=46, flags=16, kern_version=0x060C00, btf_fd=9,
        func_info=b"func" * 4, func_info_rec_size=8, line_info=b"line" * 12, line_info_rec_size=16,
        core_relos=b"core" * 20, core_relo_rec_size=20, attach_btf_id=77, attach_prog_fd=8, fd_array=b"fds-",
    )  # fmt: skip
    log = bytearray(b"the log!")
    attr = spec.attr(2, log)

    def number(name: str) -> int:
        (value,) = struct.unpack_from("=I", attr, at[name])
        return int(value)

    def pointed(name: str, size: int) -> bytes:
        (address,) = struct.unpack_from("=Q", attr, at[name])
        return ctypes.string_at(address, size)

    numbers = {
        "prog_type": 3, "insn_cnt": 2, "log_level": 2, "log_size": 8, "kern_version": 0x060C00, "prog_flags": 16,
        "expected_attach_type": 46, "prog_btf_fd": 9, "func_info_rec_size": 8, "func_info_cnt": 2,
        "line_info_rec_size": 16, "line_info_cnt": 3, "attach_btf_id": 77, "attach_prog_fd": 8,
        "core_relo_rec_size": 20, "core_relo_cnt": 4, "prog_ifindex": 0, "log_true_size": 0,
    }  # fmt: skip
    assert {name: number(name) for name in numbers} == numbers
    assert attr[at["prog_name"] :][:16] == b"a_program".ljust(16, b"\0")
    pointers = {
        "insns": spec.insns, "license": b"GPL\0", "log_buf": bytes(log), "func_info": spec.func_info,
        "line_info": spec.line_info, "core_relos": spec.core_relos, "fd_array": spec.fd_array,
    }  # fmt: skip
    assert {name: pointed(name, len(data)) for name, data in pointers.items()} == pointers
