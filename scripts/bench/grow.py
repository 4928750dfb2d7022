"""How the cost of a whole `elfpatch apply` grows: with settings, with programs, with targets, with the size of BTF.

Each object is generated, compiled and built into a template first; what is timed are applies after the first, which
attaches. A TCX hook takes one program once and 63 in all, so that programs and targets are spread over many devices.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.bench.growth import exponent
from scripts.bench.measure import Spread
from scripts.bench.rows import Ratio, Row
from scripts.build_templates import compile_object

BOUND = 1.1  # on the exponent: linear, and room for noise
SIZES = {
    "variables": (1, 10, 100, 1000),
    "programs": (1, 10, 100),
    "targets": (1, 10, 100, 1000, 10000),
    "kilobytes of BTF": (10, 100, 400, 1000),
}
SMALL = {"variables": (1, 10), "programs": (1, 4), "targets": (1, 8), "kilobytes of BTF": (10, 50)}
STRUCT_BYTES = 600  # of BTF that one generated struct takes, about

_HEAD = """\
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "config.h"
char _license[] SEC("license") = "GPL";
"""


def source(variables: int = 1, programs: int = 1, structs: int = 0) -> str:
    """C of an object with so many variables, programs that each add all variables, and structs that BTF describes."""
    lines = [_HEAD]
    lines += [f'CONFIG __u32 v{number} CONFIG_DESC("one of many") = 0;' for number in range(variables)]
    for number in range(structs):
        members = " ".join(f"int member_{number}_with_a_long_name_{at};" for at in range(16))
        lines.append(f"struct s{number} {{ {members} }};")
    if structs:
        members = " ".join(f"struct s{number} m{number};" for number in range(structs))
        lines.append(f"union all {{ {members} }};")
        lines.append(
            "struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32);"
            ' __type(value, union all); } types SEC(".maps");'
        )
    total = " + ".join(f"v{number}" for number in range(variables))
    for number in range(programs):
        look = "__u32 zero = 0; if (!bpf_map_lookup_elem(&types, &zero)) return -1;" if structs else ""
        lines.append(f'SEC("tc") int p{number}(struct __sk_buff *skb) {{ {look} skb->mark = {total}; return -1; }}')
    return "\n".join(lines) + "\n"


class Growth:
    """`elfpatch` is the installed console script."""

    def __init__(self, elfpatch: str, work: Path, clang: str, rounds: int) -> None:
        self.elfpatch = elfpatch
        self.work = work
        self.clang = clang
        self.rounds = rounds
        self.devices = 0

    def hooks(self, count: int) -> list[str]:
        """So many TCX hooks, two of each device; devices that are missing are made."""
        wanted = (count + 1) // 2
        lines = [f"link add grow{at} type veth peer name grow{at + 1}\n" for at in range(self.devices, wanted, 2)]
        if lines:
            subprocess.run(["ip", "-batch", "-"], input="".join(lines), text=True, check=True)
        self.devices += 2 * len(lines)
        both = [f"tcx:grow{number}:{way}" for number in range(wanted) for way in ("ingress", "egress")]
        return both[:count]

    def template(self, name: str, **sizes: int) -> Path:
        path = self.work / f"{name}.o"
        text = self.work / f"{name}.bpf.c"
        text.write_text(source(**sizes), encoding="utf-8")
        compile_object(text, path, clang=self.clang)
        subprocess.run([self.elfpatch, "build", str(path)], check=True, stdout=subprocess.DEVNULL)
        return path

    def timed(self, path: Path, settings: int, targets: Sequence[str]) -> float:
        """Seconds of an apply, the least of the rounds, with new values: what else runs only adds."""
        given = [word for target in targets for word in ("--target", target)]
        self._file(path, settings, 1)
        words = [self.elfpatch, "apply", "-f", str(path.with_suffix(".json"))]
        subprocess.run([*words, *given, str(path)], check=True, stdout=subprocess.DEVNULL)
        took = []
        for number in range(self.rounds):
            self._file(path, settings, number + 2)
            began = time.perf_counter()
            subprocess.run([*words, str(path)], check=True, stdout=subprocess.DEVNULL)
            took.append(time.perf_counter() - began)
        subprocess.run([self.elfpatch, "detach", path.stem], check=True, stdout=subprocess.DEVNULL)
        return min(took)

    @staticmethod
    def _file(path: Path, settings: int, value: int) -> None:
        values = {f"v{number}": value + number for number in range(settings)}
        path.with_suffix(".json").write_text(json.dumps(values), encoding="utf-8")

    def variables(self, count: int) -> float:
        return self.timed(self.template(f"variables{count}", variables=count), count, self.hooks(1))

    def programs(self, count: int) -> float:
        targets = [f"{hook},prog=p{number}" for number, hook in enumerate(self.hooks(count))]
        return self.timed(self.template(f"programs{count}", programs=count), 1, targets)

    def targets(self, count: int) -> float:
        return self.timed(self.template(f"targets{count}"), 1, self.hooks(count))

    def types(self, kilobytes: int) -> float:
        path = self.template(f"types{kilobytes}", structs=max(1, kilobytes * 1000 // STRUCT_BYTES))
        return self.timed(path, 1, self.hooks(1))


def measure(elfpatch: str, work: Path, clang: str, rounds: int, *, small: bool) -> Row:
    """Raises CalledProcessError."""
    growth = Growth(elfpatch, work, clang, rounds)
    sizes = SMALL if small else SIZES
    kinds: dict[str, Callable[[int], float]] = {
        "variables": growth.variables,
        "programs": growth.programs,
        "targets": growth.targets,
        "kilobytes of BTF": growth.types,
    }
    curves = {kind: [(float(size), one(size) * 1000) for size in sizes[kind]] for kind, one in kinds.items()}
    found = {kind: exponent(points) for kind, points in curves.items()}
    drowned = ", ".join(kind for kind, slope in found.items() if slope is None)
    return Row(
        key="grow",
        name="how a whole apply grows, in ms by size",
        rounds=rounds,
        ratios=[
            Ratio(f"exponent of {kind}", Spread.of([slope]), BOUND)
            for kind, slope in found.items()
            if slope is not None
        ],
        facts={"growth drowns in the fixed cost:": drowned} if drowned else {},
        curves=curves,
    )
