"""The system calls of a swap. Their numbers do not vary from run to run, as its time does; each of them was needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.project.test_imports import OWN
from tests.support.cli import MARK, ROOT
from tests.support.net import VethPair, unique
from tests.support.require import require

INTERPRETERS = {"elfpatch", "elfpatch.finder"}  # the modules that the interpreter's own finder has to find
BEGIN, END = "/swap-begins", "/swap-ended"

# Runs a command line twice and marks the second run, which imports nothing more, in the trace
PROBE = f"""
import gc, os, sys
gc.disable()
sys.path.insert(0, {str(ROOT)!r})
from elfpatch.cli.main import main
def run(value):
    if main([word.replace("VALUE", value) for word in sys.argv[1:]]):
        os._exit(1)
run("2")
os.access({BEGIN!r}, os.F_OK)
run("3")
os.access({END!r}, os.F_OK)
os._exit(0)
"""

# Calls of one swap of mark.o on one TCX target, at most. Of bpf(2), by command:
BPF = {
    "BPF_OBJ_GET": 2,  # the link's pin: what runs, and to swap it
    "BPF_OBJ_GET_INFO_BY_FD": 2,  # of the link; of the program, for the record
    "BPF_PROG_QUERY": 1,
    "BPF_BTF_LOAD": 1,
    "BPF_MAP_CREATE": 1,
    "BPF_MAP_UPDATE_ELEM": 1,
    "BPF_MAP_FREEZE": 1,
    "BPF_PROG_LOAD": 1,
    "BPF_OBJ_PIN": 1,
    "BPF_PROG_GET_FD_BY_ID": 1,  # what is compared with
    "BPF_LINK_UPDATE": 1,
}
# and of all others
OTHERS = {
    "openat": 7,  # lock, record, object, namespace, the record twice (before and after the swap), folder of programs
    "read": 4,
    "write": 2,  # the result
    "pwrite64": 2,  # the record: what may come to run, and what runs
    "close": 14,
    "rename": 1,  # the program's pin; never the record over itself, which waits for the disk's blocks
    "newfstatat": 14,
    "statfs": 2,
    "getdents64": 2,
    "flock": 1,
    "socket": 1,  # if_nametoindex
    "ioctl": 1,
    "lseek": 2,
    "getcwd": 1,
    "getpid": 4,
    "geteuid": 5,
}
MEMORY = {"brk", "mmap", "munmap", "madvise", "mremap"}  # the allocator's, which depend on its history

# A whole process beyond `python -I -c pass`: nearly all of it is Python looking for modules, opening and reading them.
# The numbers were seen with 3.11, with room for a few modules and other versions.
PROCESS = {"execve": 0, "openat": 66, "read": 72, "newfstatat": 125, "bpf": 13, "rename": 1, "fsync": 0, "clone": 0}


def counted(trace: Path, begin: str = "", end: str = "") -> Counter[str]:
    """System calls by name, those of bpf(2) by command, of a trace or of what stands in it between two marks."""
    text = trace.read_text(encoding="utf-8", errors="replace")
    if begin:
        assert text.count(f'"{begin}"') == text.count(f'"{end}"') == 1
        text = text.partition(f'"{begin}"')[2].partition("\n")[2].partition(f'"{end}"')[0].rpartition("\n")[0]
    return Counter(command or name for name, command in re.findall(r"^\d+ +(\w+)\((BPF_\w+)?", text, re.M))


def looked_at(trace: Path, folder: str) -> dict[str, list[str]]:
    """By path below `folder`: the system calls that name it, in order."""
    found: dict[str, list[str]] = {}
    pattern = rf'^\d+ +(\w+)\((?:\w+, )?"{re.escape(folder)}([^"]*)"'
    for call, path in re.findall(pattern, trace.read_text(encoding="utf-8", errors="replace"), re.M):
        found.setdefault(path, []).append(call)
    return found


def traced(net: VethPair, trace: Path, *words: str) -> None:
    prefix = ("nsenter", f"--net={net.a.ns.path}", "strace", "-f", "-o", str(trace))
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([*prefix, *words], capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr


def excess(found: Counter[str], bounds: dict[str, int]) -> dict[str, int]:
    """What was called more often than allowed, or is not in the list at all."""
    return {name: number for name, number in found.items() if number > bounds.get(name, 0)}


def test_a_swap_makes_no_more_system_calls_than_listed(net: VethPair, bpffs: str, tmp_path: Path) -> None:
    require("strace")
    trace = tmp_path / "trace"
    name = ("--name", unique("calls"), "--bpffs", bpffs, "--state-dir", str(tmp_path / "state"))
    words = ("apply", *name, "--target", "tcx:veth0:ingress", "--set", "foo=VALUE", MARK)
    traced(net, trace, sys.executable, "-I", "-c", PROBE, *words)
    found = counted(trace, BEGIN, END)
    assert excess(found, BPF | OTHERS | dict.fromkeys(MEMORY, 1000)) == {}
    assert {name: found[name] for name in BPF} == BPF, "a swap does all of this"


def test_an_installed_apply_makes_few_calls_beyond_the_interpreters(
    venv: Path, net: VethPair, bpffs: str, tmp_path: Path
) -> None:
    require("strace")
    elfpatch = str(venv / "bin" / "elfpatch")
    name = ("--name", unique("calls"), "--bpffs", bpffs, "--state-dir", str(tmp_path / "state"))
    words = ("apply", *name, "--target", "tcx:veth0:ingress", MARK)
    traced(net, tmp_path / "first", elfpatch, *words, "--set", "foo=2")
    traced(net, tmp_path / "swap", elfpatch, *words, "--set", "foo=3")
    traced(net, tmp_path / "bare", str(venv / "bin" / "python"), "-I", "-c", "pass")
    found, bare = ({**counted(tmp_path / trace)} for trace in ("swap", "bare"))
    found["bpf"] = sum(found.pop(command) for command in BPF)
    beyond = {call: found.get(call, 0) - bare.get(call, 0) for call in PROCESS}
    assert excess(Counter(beyond), PROCESS) == {}
    assert beyond["bpf"] == sum(BPF.values())
    assert_one_look_at_each_file(tmp_path / "swap", venv)


def assert_one_look_at_each_file(trace: Path, venv: Path) -> None:
    """One stat of each module's source and one open of its compiled file; no folder is listed, nothing is tried."""
    (package,) = venv.glob("lib/python*/site-packages/elfpatch")
    expected = {}
    for module in OWN - INTERPRETERS:
        path = module.removeprefix("elfpatch").replace(".", "/")
        path += "/__init__" if (package / path[1:]).is_dir() else ""
        folder, _, name = path.rpartition("/")
        expected[f"{path}.py"] = ["newfstatat"]
        expected[f"{folder}/__pycache__/{name}.{sys.implementation.cache_tag}.pyc"] = ["openat"]
    seen = looked_at(trace, str(package))
    others = [path for path in seen if path not in expected]
    assert {path: calls for path, calls in seen.items() if path in expected} == expected
    assert [path for path in others if not re.fullmatch(r"|/(__pycache__/)?(__init__|finder)\..*", path)] == []
