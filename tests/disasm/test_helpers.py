"""The table of helpers against the kernel's BTF (names) and libbpf's header (arguments)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from elfpatch import helpers
from tests.support.net import command
from tests.support.require import require, unmet

HEADER = Path("/usr/include/bpf/bpf_helper_defs.h")
LAST = 211  # of Linux 6.18; the UAPI list is closed, newer functions are kfuncs


def test_names_are_the_running_kernels() -> None:
    require("bpftool")
    dump = command("bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux")
    (enum,) = re.findall(r"ENUM 'bpf_func_id'.*\n((?:\t.*\n)+)", dump)
    names = {int(number): f"bpf_{name}" for name, number in re.findall(r"'BPF_FUNC_(\w+)' val=(\d+)", enum)}
    names = {number: name for number, name in names.items() if name != "bpf_MAX_ID"}
    assert {number: helpers.helper_name(number) for number in range(LAST + 1)} == names


def test_arguments_are_the_prototypes() -> None:
    if not HEADER.exists():
        unmet(f"needs {HEADER} (apt-get install libbpf-dev)")
    rows = re.findall(r"^static .*?\(\*(bpf_\w+)\)\((.*)\) = \(void \*\) (\d+);", HEADER.read_text(), re.MULTILINE)
    assert len(rows) > 200
    for name, arguments, number in rows:
        count = 5 if "..." in arguments else 0 if arguments == "void" else arguments.count(",") + 1
        assert (helpers.helper_name(int(number)), helpers.helper_arguments(int(number))) == (name, count)


@pytest.mark.parametrize("number", [-1, LAST + 1, 1 << 31, -(1 << 31)])
def test_an_unknown_helper_takes_all_arguments(number: int) -> None:
    assert (helpers.helper_name(number), helpers.helper_arguments(number)) == ("", 5)


def test_some_that_are_known_by_heart() -> None:
    known = {1: ("bpf_map_lookup_elem", 2), 5: ("bpf_ktime_get_ns", 0), 12: ("bpf_tail_call", 3), 181: ("bpf_loop", 4)}
    assert {number: (helpers.helper_name(number), helpers.helper_arguments(number)) for number in known} == known
