"""bpf(2) against the real kernel; bpftool is the oracle."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from elfpatch import errors
from elfpatch.kernel import abi, bpf, caps
from tests.support.insns import TC_OK, XDP_DROP, XDP_PASS, mark_exit, mov_exit
from tests.support.net import NetNs, VethPair, command

pytestmark = pytest.mark.usefixtures("kernel")

ARRAY, HASH, PROG_ARRAY = 2, 1, 3
XDP, SCHED_CLS = abi.PROG_TYPE_XDP, abi.PROG_TYPE_SCHED_CLS


@pytest.fixture
def keep() -> Iterator[Callable[[int], int]]:
    """Remembers fds and closes them after the test."""
    fds: list[int] = []

    def remember(fd: int) -> int:
        fds.append(fd)
        return fd

    yield remember
    for fd in fds:
        os.close(fd)


def bpftool(*argv: str) -> Any:
    return json.loads(command("bpftool", "-j", *argv))


def test_map_round_trip(keep: Callable[[int], int]) -> None:
    fd = keep(bpf.map_create(HASH, 4, 8, 10, name="a-map/with a long name"))
    for number in range(3):
        bpf.map_update(fd, struct.pack("=I", number), struct.pack("=Q", number * 7))
    assert bpf.map_lookup(fd, struct.pack("=I", 2), 8) == struct.pack("=Q", 14)
    with pytest.raises(errors.SyscallFailed, match="No such file") as raised:
        bpf.map_lookup(fd, struct.pack("=I", 9), 8)
    assert raised.value.errno == 2
    with pytest.raises(errors.SyscallFailed) as raised:
        bpf.map_update(fd, struct.pack("=I", 2), bytes(8), abi.NOEXIST)
    assert raised.value.errno == 17

    keys, key = set(), bpf.map_next_key(fd, None, 4)
    while key is not None:
        keys.add(key)
        key = bpf.map_next_key(fd, key, 4)
    assert keys == {struct.pack("=I", number) for number in range(3)}
    bpf.map_delete(fd, struct.pack("=I", 1))
    assert bpf.map_next_key(fd, struct.pack("=I", 1), 4) is not None  # a missing key starts over

    info = bpf.map_info(fd)
    seen = bpftool("map", "show", "id", str(info.map_id))
    assert (seen["name"], seen["bytes_key"], seen["bytes_value"], seen["max_entries"]) == (
        info.name, info.key_size, info.value_size, info.max_entries,
    )  # fmt: skip
    assert info.name == "a_map_with_a_lo"


def test_map_creation_passes_every_attribute(keep: Callable[[int], int]) -> None:
    flags = abi.F_RDONLY_PROG | abi.F_MMAPABLE | abi.F_NUMA_NODE
    fd = keep(bpf.map_create(ARRAY, 4, 24, 1, flags, name=".rodata", numa_node=0))
    info = bpf.map_info(fd)
    assert (info.type, info.flags & 0xFFF, info.value_size, info.name) == (ARRAY, flags, 24, ".rodata")
    inner = keep(bpf.map_create(12, 4, 4, 2, inner_map_fd=fd))  # array of maps
    assert bpf.map_info(inner).type == 12
    bloom = keep(bpf.map_create(30, 0, 8, 16, map_extra=3))
    assert bpf.map_info(bloom).map_extra == 3


def test_a_frozen_map_is_read_only(keep: Callable[[int], int]) -> None:
    fd = keep(bpf.map_create(ARRAY, 4, 4, 1, abi.F_RDONLY_PROG))
    assert not bpf.map_frozen(fd)
    bpf.map_freeze(fd)
    assert bpf.map_frozen(fd)
    with pytest.raises(errors.SyscallFailed, match=r"BPF_MAP_UPDATE_ELEM: Operation not permitted"):
        bpf.map_update(fd, bytes(4), bytes(4))


def test_program_information_is_bpftools(keep: Callable[[int], int]) -> None:
    fd = keep(bpf.prog_load(bpf.ProgSpec(XDP, mov_exit(XDP_PASS), "GPL", name="pass", expected_attach_type=37)))
    info = bpf.prog_info(fd)
    seen = bpftool("prog", "show", "id", str(info.prog_id))
    assert (info.name, info.tag, info.xlated_len, info.jited_len, info.uid) == (
        seen["name"], seen["tag"], seen["bytes_xlated"], seen["bytes_jited"], seen["uid"],
    )  # fmt: skip
    assert (info.type, info.verified_insns, info.map_ids, info.btf_id) == (XDP, 2, [], 0)
    assert abs(info.load_time / 1e9 - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60  # since boot


@pytest.mark.parametrize("guess", [64, 4])
def test_program_lists_all_its_maps(guess: int, keep: Callable[[int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf, "FIRST_GUESS", guess)
    maps = [keep(bpf.map_create(ARRAY, 4, 4, 1)) for _ in range(64)]
    loads = b"".join(struct.pack("=BBhiBBhi", 0x18, 2 | 1 << 4, 0, fd, 0, 0, 0, 0) for fd in maps)
    fd = keep(bpf.prog_load(bpf.ProgSpec(XDP, loads + mov_exit(0), "GPL")))
    assert sorted(bpf.prog_info(fd).map_ids) == sorted(bpf.map_info(one).map_id for one in maps)


def test_rejection_has_errno_and_log() -> None:
    spec = bpf.ProgSpec(XDP, mov_exit(0)[8:], "GPL", name="no_r0")
    with pytest.raises(errors.SyscallFailed, match="loading program no_r0: Permission denied") as raised:
        bpf.prog_load(spec)
    assert (raised.value.errno, raised.value.operation, raised.value.exit_code) == (13, "BPF_PROG_LOAD", 1)
    fd, number, log = bpf.prog_load_log(spec)
    assert (fd, number) == (-1, 13)
    assert "R0 !read_ok" in log


def _branchy(branches: int) -> bytes:
    """A program whose log is long: every branch is followed both ways."""
    jump = struct.pack("=BBhi", 0x15, 2, 1, 7) + struct.pack("=BBhi", 0xB7, 3, 0, 1)
    read = struct.pack("=BBhi", 0x61, 2 | 1 << 4, 0, 0)  # r2 = *(u32 *)(r1 + 0)
    return (read + jump) * branches


def test_log_buffer_grows(keep: Callable[[int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    insns = _branchy(400) + mov_exit(TC_OK)
    fd, number, log = bpf.prog_load_log(bpf.ProgSpec(SCHED_CLS, insns, "GPL"), 2)
    keep(fd)
    assert number == 0
    assert len(log) > bpf.LOG_START
    assert log.startswith("func#0") and "processed" in log.splitlines()[-1]
    # Too long for any buffer: the errno is the verifier's, and what there is of the log is shown.
    monkeypatch.setattr(bpf, "LOG_START", 1024)
    monkeypatch.setattr(bpf, "LOG_LIMIT", 4096)
    fd, number, log = bpf.prog_load_log(bpf.ProgSpec(SCHED_CLS, _branchy(400) + mov_exit(0)[8:], "GPL"), 2)
    assert (fd, number) == (-1, 13)
    assert 1000 < len(log) < 4096


def test_interrupted_loads_are_repeated_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one place where the kernel cannot be made to answer so at will."""
    calls = []

    def interrupted(command: int, attr: bytearray) -> int:
        calls.append(command)
        return -11

    monkeypatch.setattr(bpf, "_bpf", interrupted)
    with pytest.raises(errors.SyscallFailed) as raised:
        bpf.prog_load(bpf.ProgSpec(XDP, mov_exit(0), "GPL"))
    assert (raised.value.errno, calls) == (11, [abi.PROG_LOAD] * 5)


def test_run_returns_data_context_and_time(keep: Callable[[int], int]) -> None:
    drop = keep(bpf.prog_load(bpf.ProgSpec(XDP, mov_exit(XDP_DROP), "GPL")))
    packet = bytes(range(64))
    run = bpf.prog_test_run(drop, packet, data_out_size=128, repeat=1000)
    assert (run.retval, run.data_out) == (XDP_DROP, packet)
    assert 0 <= run.duration_ns < 1_000_000

    mark = keep(bpf.prog_load(bpf.ProgSpec(SCHED_CLS, mark_exit(0xCAFE), "GPL")))
    run = bpf.prog_test_run(mark, packet, bytes(192), data_out_size=64, ctx_out_size=192)
    assert struct.unpack_from("=I", run.ctx_out, 8) == (0xCAFE,)
    with pytest.raises(errors.SyscallFailed, match="No space left"):
        bpf.prog_test_run(drop, packet, data_out_size=10)


def test_errno_524_has_a_name(keep: Callable[[int], int]) -> None:
    fd = keep(bpf.prog_load(bpf.ProgSpec(abi.PROG_TYPE_CGROUP_DEVICE, mov_exit(1), "GPL")))
    with pytest.raises(errors.SyscallFailed, match="ENOTSUPP") as raised:
        bpf.prog_test_run(fd, bytes(64))
    assert raised.value.errno == abi.ENOTSUPP


def test_pins_keep_objects(keep: Callable[[int], int], bpffs: str) -> None:
    fd = bpf.map_create(ARRAY, 4, 4, 1)
    number = bpf.map_info(fd).map_id
    bpf.obj_pin(fd, f"{bpffs}/one")
    os.close(fd)
    assert bpf.map_info(keep(bpf.obj_get(f"{bpffs}/one"))).map_id == number
    with pytest.raises(errors.SyscallFailed) as raised:
        bpf.obj_get(f"{bpffs}/two")
    assert (raised.value.errno, raised.value.operation) == (2, "BPF_OBJ_GET")
    assert f"{bpffs}/two" in str(raised.value)


def test_objects_are_found_by_id(keep: Callable[[int], int]) -> None:
    prog = keep(bpf.prog_load(bpf.ProgSpec(XDP, mov_exit(0), "GPL")))
    held = keep(bpf.map_create(ARRAY, 4, 4, 1))
    prog_id, map_id = bpf.prog_info(prog).prog_id, bpf.map_info(held).map_id
    assert bpf.prog_info(keep(bpf.prog_fd_by_id(prog_id))).prog_id == prog_id
    assert bpf.map_info(keep(bpf.map_fd_by_id(map_id))).map_id == map_id
    assert bpf.prog_next_id(prog_id - 1) == prog_id
    assert bpf.map_next_id(map_id - 1) == map_id
    assert bpf.prog_next_id(0x7FFFFFFE) == 0
    with pytest.raises(errors.SyscallFailed) as raised:
        bpf.prog_fd_by_id(0x7FFFFFFF)
    assert raised.value.errno == 2


def test_link_update_always_compares(keep: Callable[[int], int], net: VethPair) -> None:
    one, two, other = (
        keep(bpf.prog_load(bpf.ProgSpec(SCHED_CLS, mov_exit(0), "GPL", name=name))) for name in ("one", "two", "other")
    )
    index = net.a.ifindex
    link = keep(net.a.ns.run(bpf.link_create, one, index, abi.ATTACH_TCX_INGRESS))
    info = bpf.link_info(link)
    assert (info.kind, info.ifindex, info.attach_type) == ("tcx", index, abi.ATTACH_TCX_INGRESS)
    assert info.prog_id == bpf.prog_info(one).prog_id
    assert bpf.link_info(keep(bpf.link_fd_by_id(info.link_id))).link_id == info.link_id
    assert bpf.link_next_id(info.link_id - 1) == info.link_id

    with pytest.raises(errors.SyscallFailed) as raised:
        bpf.link_update(link, two, other)
    assert (raised.value.errno, raised.value.operation) == (1, "BPF_LINK_UPDATE")
    assert bpf.link_info(link).prog_id == bpf.prog_info(one).prog_id
    bpf.link_update(link, two, one)
    assert bpf.link_info(link).prog_id == bpf.prog_info(two).prog_id

    there = net.a.ns.run(bpf.prog_query, index, abi.ATTACH_TCX_INGRESS, links=True)
    assert (there.prog_ids, there.link_ids) == ([bpf.prog_info(two).prog_id], [info.link_id])
    # A stale revision is refused, the current one accepted.
    with pytest.raises(errors.SyscallFailed) as raised:
        net.a.ns.run(bpf.link_create, other, index, abi.ATTACH_TCX_INGRESS, expected_revision=there.revision - 1)
    assert raised.value.errno == 116
    keep(net.a.ns.run(bpf.link_create, other, index, abi.ATTACH_TCX_INGRESS, expected_revision=there.revision))
    bpf.link_detach(link)
    assert bpf.link_info(link).ifindex == 0
    assert net.a.ns.run(bpf.prog_query, index, abi.ATTACH_TCX_INGRESS).prog_ids == [bpf.prog_info(other).prog_id]


@pytest.mark.parametrize("guess", [64, 4])
def test_query_lists_all_programs(
    guess: int, keep: Callable[[int], int], netns: NetNs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpf, "FIRST_GUESS", guess)
    progs = [keep(bpf.prog_load(bpf.ProgSpec(SCHED_CLS, mov_exit(-1), "GPL"))) for _ in range(63)]
    for prog in progs:
        keep(netns.run(bpf.link_create, prog, 1, abi.ATTACH_TCX_EGRESS))
    found = netns.run(bpf.prog_query, 1, abi.ATTACH_TCX_EGRESS).prog_ids
    assert found == [bpf.prog_info(prog).prog_id for prog in progs]


UNPRIVILEGED = """
import os, sys
from elfpatch import errors
from elfpatch.kernel import bpf, caps  # while it may still read the project
{drop}
try:
    bpf.map_create(2, 4, 4, 1)
except errors.ElfpatchError as error:
    print(type(error).__name__, error.exit_code, error)
"""


@pytest.mark.parametrize(
    ("drop", "wanted"),
    [
        ("os.setgroups([]); os.setgid(65534); os.setuid(65534)", "CAP_BPF and CAP_NET_ADMIN"),
        # root without capabilities, as in a container
        (
            "import ctypes; libc = ctypes.CDLL(None); libc.capset(bytes.fromhex('22050820' + '00' * 4), bytes(24))",
            "CAP_BPF",
        ),
    ],
)
def test_a_lacking_privilege_is_said_as_such(drop: str, wanted: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED.format(drop=drop)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("NoPermission 77 BPF_MAP_CREATE: not permitted (needs root, or ")
    assert wanted in done.stdout


def test_root_lacks_nothing() -> None:
    assert caps.lacking() == []
    assert caps.effective() >> abi.CAP_NET_ADMIN & 1


def test_descriptors_are_closed_on_exec(keep: Callable[[int], int]) -> None:
    fd = keep(bpf.map_create(ARRAY, 4, 4, 1))
    assert not os.get_inheritable(fd)
