"""One more instance of an opened template, in this process: patch, load, swap, record. The rival is a loader in C
(libbpf_instances.c), which opens, sets, loads and swaps, and keeps no record.

Both sides put a first program on each of K interfaces and are then timed while they replace every one of them. Time
outside bpf(2) is wall time less that inside the calls, on one thread, and both take it around the call itself:
getrusage would not do, for the kernel divides a process's time into user and system by what its ticks meet (1 to 4
ms apart), and an instance takes a fraction of one. Instances per second are of all threads.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elfpatch.api import Instance, Template
from elfpatch.deploy.paths import Layout
from elfpatch.deploy.transaction import detach
from elfpatch.kernel import abi, bpf
from scripts.bench.environment import ROOT
from scripts.bench.measure import Spread
from scripts.bench.rows import Ratio, Row

SOURCE = Path(__file__).with_name("libbpf_instances.c")
FASTER, OUTSIDE, MEMORY = 1.5, 0.5, 0.5  # bounds against libbpf: instances a second, time outside bpf(2), memory


@dataclass(frozen=True)
class Case:
    """An object, the 32-bit variable that each instance has another value of and its offset in .rodata, what else must
    be set, the kind of hook. `rival` is the object that libbpf loads: a folded template's is the plain one. `most`:
    on how many interfaces at most, where the verifier alone takes 15 ms."""

    name: str
    path: Path
    variable: str
    offset: int = 0
    settings: tuple[tuple[str, str], ...] = ()
    kind: str = "tcx"
    rival: Path | None = None
    most: int = 1000

    def target(self, iface: str) -> str:
        return f"tcx:{iface}:ingress" if self.kind == "tcx" else f"xdp:{iface}:drv"


@dataclass
class Took:
    """Seconds of so many replacements in all and inside bpf(2), and the replacements that the kernel did."""

    wall: float = 0
    inside: float = 0
    swaps: int = 0


def compile_rival(folder: Path) -> Path:
    out = folder / "libbpf_instances"
    subprocess.run(["gcc", "-O2", "-Wall", "-o", str(out), str(SOURCE), "-lbpf"], check=True)
    return out


def interfaces(count: int) -> list[str]:
    """Make so many, in pairs of veth, in this network namespace."""
    names = [f"in{number}" for number in range(count + count % 2)]
    lines = [
        f"link add {one} type veth peer name {other}\n" for one, other in zip(names[::2], names[1::2], strict=True)
    ]
    subprocess.run(["ip", "-batch", "-"], input="".join(lines), text=True, check=True)
    return names[:count]


@contextmanager
def watched(took: Took) -> Iterator[None]:
    """Time inside bpf(2) of this process, on one thread."""
    real = bpf._bpf

    def timed(command: int, attr: bytearray) -> int:
        began = time.perf_counter()
        try:
            result = real(command, attr)
        finally:
            took.inside += time.perf_counter() - began
        took.swaps += command == abi.LINK_UPDATE and result >= 0
        return result

    bpf._bpf = timed
    try:
        yield
    finally:
        bpf._bpf = real


class Ours:
    """Instances of a case on interfaces, through the interface for Python programs."""

    def __init__(self, case: Case, ifaces: list[str], folder: Path) -> None:
        self.case = case
        self.ifaces = ifaces
        self.layout = Layout(str(folder / f"state-{case.name.replace(' ', '-')}"), "/sys/fs/bpf")
        self.template = Template.open(str(case.path), state_dir=self.layout.state, bpffs=self.layout.bpffs)
        self.names = [f"{case.path.stem}-{number}" for number in range(len(ifaces))]
        self.number = 0

    def round(self, jobs: int) -> float:
        """Give each interface a new instance; returns seconds."""
        instances = []
        for name, iface in zip(self.names, self.ifaces, strict=True):
            self.number += 1
            values = {**dict(self.case.settings), self.case.variable: str(self.number)}
            instances.append(Instance(name, values, [self.case.target(iface)]))
        began = time.perf_counter()
        for result in self.template.apply_all(instances, jobs=jobs):
            if result.error is not None:
                raise result.error
        return time.perf_counter() - began

    def detach(self) -> None:
        for name in self.names:
            detach(self.layout, name)


def rival_round(
    program: Path, case: Case, ifaces: list[str], hold: Callable[[], int] | None = None
) -> tuple[Took, int]:
    """The same by libbpf; what `hold` returns is asked while the instances are there."""
    words = [str(program), str(case.rival or case.path), str(case.offset), str(len(ifaces)), "hold", case.kind, *ifaces]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        held = hold() if hold and line else 0
        process.communicate()
    if process.returncode or len(line) != 3:
        raise subprocess.CalledProcessError(process.returncode, words)
    return Took(float(line[0]), float(line[1]), len(ifaces)), held


def kernel_memory() -> int:
    """Bytes that all programs and maps are charged with, and of their BTF, now. Machine code is not in it: the kernel
    packs that of many programs into one page. The kernel's accounting by cgroup would count it, and every page that the
    process itself needs as well."""
    sums = 0
    for kind, field in (("prog", "bytes_memlock"), ("map", "bytes_memlock"), ("btf", "size")):
        shown = subprocess.run(["bpftool", "-j", kind, "show"], capture_output=True, check=True).stdout
        sums += sum(int(one.get(field, 0)) for one in json.loads(shown))
    return sums


def measure(case: Case, program: Path, ifaces: list[str], rounds: int, folder: Path) -> Row:
    """Raises elfpatch's errors, CalledProcessError."""
    ifaces = ifaces[: case.most]
    count = len(ifaces)
    before = kernel_memory()
    theirs, their_memory = rival_round(program, case, ifaces, lambda: kernel_memory() - before)
    time.sleep(0.2)  # the kernel frees what they left when no reader can be in it any more
    before = kernel_memory()
    rival, single, threads, outside = [], [], [], []
    took = Took()
    ours = Ours(case, ifaces, folder)
    with ours.template:
        ours.round(0)
        our_memory = kernel_memory() - before
        for _ in range(rounds):
            with watched(took := Took()):
                took.wall = ours.round(1)
            single.append(count / took.wall)
            outside.append((took.wall - took.inside) / count * 1e6)
            threads.append(count / ours.round(0))
    ours.detach()  # an XDP hook has room for one program
    their_outside = []
    for _ in range(rounds):
        theirs, _ = rival_round(program, case, ifaces)
        rival.append(count / theirs.wall)
        their_outside.append((theirs.wall - theirs.inside) / count * 1e6)
    return row(
        case, count, rounds, (single, threads, rival), (outside, their_outside), (our_memory, their_memory), took
    )


def row(
    case: Case,
    count: int,
    rounds: int,
    rates: tuple[list[float], list[float], list[float]],
    outside: tuple[list[float], list[float]],
    memory: tuple[int, int],
    took: Took,
) -> Row:
    """Each pair is ours, then libbpf's; `rates` has ours on one thread, on all, then libbpf's."""
    single, threads, rival = rates
    ratios = [
        Ratio("instances a second, to libbpf's", paired(threads, rival), FASTER, at_least=True),
        Ratio("outside bpf(2), to libbpf's", paired(*outside), OUTSIDE),
    ]
    if case.rival:
        share = memory[0] / memory[1]
        ratios.append(Ratio("kernel memory, to libbpf's", Spread.of([share]), MEMORY))
    return Row(
        key=f"instances: {case.name}",
        name=f"one more instance in process, {case.name}",
        rounds=rounds,
        unit="",
        figures={
            "instances/s, all threads": Spread.of(threads),
            "instances/s, one thread": Spread.of(single),
            "instances/s, libbpf": Spread.of(rival),
            "us outside bpf(2)": Spread.of(outside[0]),
            "us outside bpf(2), libbpf": Spread.of(outside[1]),
        },
        ratios=ratios,
        facts={
            "instances a round": str(count),
            "swaps seen": f"{took.swaps} of {count}",
            "memory of one": f"{memory[0] // count} bytes, libbpf's {memory[1] // count}",
        },
    )


def paired(ours: list[float], theirs: list[float]) -> Spread:
    return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=True)])


def cases(folder: Path, elfpatch: str, large: Path | None) -> list[Case]:
    """The objects; folded ones are built into `folder`."""
    shipped = ROOT / "fixtures" / "templates"
    endpoint = (("ep.ip4", "10.1.2.3"),)
    folded = folder / "folded.o"
    subprocess.run(
        [elfpatch, "build", "--immediate", "foo", "-o", str(folded), str(shipped / "mark.o")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    found = [
        Case("mark.o", shipped / "mark.o", "foo"),
        Case("mark.o folded", folded, "foo", rival=shipped / "mark.o"),
        Case("endpoint.o", shipped / "endpoint.o", "ep.id", settings=endpoint, most=100),
        Case("xdp_lb.o", shipped / "xdp_lb.o", "service.seed", 0x18, (("service.vip", "10.9.0.1"),), "xdp", most=50),
    ]
    return found + ([Case("large object", large, "seed", most=100)] if large else [])
