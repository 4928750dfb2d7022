"""What a loaded object does: verdicts, packets and maps after a fixed set of packets. And the same objects compiled
anew with other values, as oracles."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from elfpatch.deploy.load import load
from elfpatch.deploy.prepare import prepare
from elfpatch.deploy.select import select
from elfpatch.errors import SyscallFailed
from elfpatch.index import Map, Program
from elfpatch.kernel import bpf
from elfpatch.patch.image import Image
from tests.support.packets import arp, ether, icmp, ipv4, ipv6, tcp, udp
from tests.template.oracles import OBJECTS, ROOT, Loaded
from tests.templates.support import possible_cpus

SOURCES = OBJECTS / "src"
SCHED_CLS, XDP, CGROUP_SKB, RAW_TRACEPOINT = 3, 6, 8, 17
ARRAY, PERCPU_ARRAY = 2, 6

PACKETS = [
    ether(ipv4("10.0.0.2", "10.0.0.1", udp(1000, 2000, b"payload"))),
    ether(ipv4("10.0.0.2", "10.0.0.1", udp(1000, 53, b"query"))),
    ether(ipv4("10.0.0.2", "10.0.0.1", udp(1000, 65535, b""))),
    ether(ipv4("192.168.1.5", "10.0.0.5", tcp(40000, 443))),
    ether(ipv4("192.168.1.5", "10.0.0.5", tcp(40000, 80, b"x" * 900), ttl=1)),
    ether(ipv4("10.0.0.3", "10.0.0.1", icmp()), vlans=(7,)),
    ether(ipv6("fd00::2", "fd00::1", tcp(1000, 443))),
    ether(ipv6("fd00::2", "fd00::1", udp(1, 53))),
    ether(arp("02:00:00:00:00:02", "10.0.0.2", "10.0.0.1"), 0x0806),
    bytes(range(64)),
]


@dataclass(frozen=True)
class Ran:
    """The outcome of one program on one packet."""

    verdict: int
    packet: bytes
    mark: int


def observed(loaded: Loaded, packets: list[bytes] = PACKETS) -> dict[str, object]:
    """Run every program that TEST_RUN knows on every packet, in order; then read the object's arrays."""
    with ExitStack() as stack:
        folders = loaded.programs, {pin.name: pin for pin in sorted((loaded.folder / "maps").iterdir())}
        fds = []
        for pins in folders:
            fds.append({name: bpf.obj_get(str(pin)) for name, pin in pins.items()})
            for fd in fds[-1].values():
                stack.callback(os.close, fd)
        return observed_fds(fds[0], fds[1], packets)


def observed_in_memory(image: Image, *, specialize: bool = False, packets: list[bytes] = PACKETS) -> dict[str, object]:
    """The same of an image that elfpatch loads, without a pin."""
    index = image.template.index
    prepared = prepare(image, select(index, []), specialize=specialize)
    with load(image, prepared) as loaded:
        programs = {index.row(Program, row).name: fd for row, fd in loaded.progs.items()}
        maps = {index.row(Map, row).name: fd for row, fd in loaded.maps.items()}
        return observed_fds(programs, maps, packets)


def observed_fds(programs: dict[str, int], maps: dict[str, int], packets: list[bytes]) -> dict[str, object]:
    found: dict[str, object] = {name: _runs(fd, packets) for name, fd in sorted(programs.items())}
    for name, fd in maps.items():
        contents = _array(fd)
        if contents is not None:
            found[f"map {name}"] = contents
    return found


def _runs(fd: int, packets: list[bytes]) -> list[Ran]:
    kind = bpf.prog_info(fd).type
    if kind == RAW_TRACEPOINT:
        return [Ran(bpf.prog_test_run(fd, ctx=bytes(8)).retval, b"", 0)]
    if kind not in (SCHED_CLS, XDP, CGROUP_SKB):
        return []
    made = []
    for packet in packets:
        ctx_size = 0 if kind == XDP else 192
        try:
            run = bpf.prog_test_run(fd, packet, data_out_size=len(packet) + 256, ctx_out_size=ctx_size)
        except SyscallFailed as error:
            made.append(Ran(-error.errno, b"", 0))
            continue
        mark = struct.unpack_from("I", run.ctx_out, 8)[0] if run.ctx_out else 0
        made.append(Ran(run.retval, run.data_out, mark))
    return made


def _array(fd: int) -> list[bytes] | None:
    """The elements of an array that is the object's own; None for other maps."""
    info = bpf.map_info(fd)
    if info.type not in (ARRAY, PERCPU_ARRAY) or is_data_map(info.name):
        return None
    if info.type == ARRAY:
        return [bpf.map_lookup(fd, struct.pack("I", key), info.value_size) for key in range(info.max_entries)]
    size = -(-info.value_size // 8) * 8
    raw = [bpf.map_lookup(fd, struct.pack("I", key), size * possible_cpus()) for key in range(info.max_entries)]
    return [_summed(cells, size) for cells in raw]  # the runs may have been on any CPU


def _summed(cells: bytes, size: int) -> bytes:
    words = struct.unpack(f"{len(cells) // 8}Q", cells)
    step = size // 8
    return struct.pack(f"{step}Q", *(sum(words[at::step]) for at in range(step)))


def is_data_map(name: str) -> bool:
    return re.search(r"\.(data|rodata|bss)", name) is not None


# --- compiling with other values


def values_file(stem: str, changes: dict[str, str], folder: Path) -> Path:
    """The fixture's values with some changed, as a header."""
    text = (SOURCES / f"{stem}.values.h").read_text()
    for name, value in changes.items():
        text, count = re.subn(rf"^#define V_{name} .*$", f"#define V_{name} {value}", text, flags=re.M)
        assert count == 1, name
    made = folder / f"{stem}.values.h"
    made.write_text(text)
    return made


def compile_fixture(path: Path, changes: dict[str, str], folder: Path, *, constants: bool = False) -> Path:
    """Compile a fixture's source anew, as build.sh does, with other values; `constants`: as true constants."""
    values = values_file(path.stem, changes, folder)
    out = folder / path.name
    flags = [f'-DVALUES="{values}"', *(["-DELFPATCH_CONSTANTS"] if constants else [])]
    multiarch = subprocess.run(["gcc", "-print-multiarch"], check=True, capture_output=True, text=True).stdout.strip()
    variant = path.parent.name
    if variant == "bpf-gcc":
        compiler = ["bpf-gcc", "-O2", "-gbtf", "-fno-cse-follow-jumps"]
    else:
        variant = {"stripped": "clang-19-v3", "without-btf": "clang-14-v2"}.get(variant, variant)
        version, cpu = ("clang-19", "v3") if variant == "big-endian" else variant.rsplit("-", 1)
        target = "bpfeb" if variant == "big-endian" else "bpfel"
        compiler = [version, "-O2", "-g", f"--target={target}", f"-mcpu={cpu}"]
    includes = [f"-I{ROOT / 'bpf_templates'}", f"-I{SOURCES}", "-idirafter", "/usr/include"]
    includes += ["-idirafter", f"/usr/include/{multiarch}"]
    source = SOURCES / f"{path.stem}.bpf.c"
    done = subprocess.run(
        [*compiler, *includes, *flags, "-c", str(source), "-o", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out
