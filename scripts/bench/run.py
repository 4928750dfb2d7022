"""The rows, one after the other, and what they found."""

from __future__ import annotations

import sys
from pathlib import Path

from scripts import private
from scripts.bench import grow, instances, lost, objects, packets, patching
from scripts.bench.packets import Disagreement
from scripts.bench.processes import IFACE, Processes
from scripts.bench.rows import Row

APART = "objects"  # only when asked for: it fetches and builds kernel selftests, a minute
ROWS = ("interpreter", "smallest", "large", "imports", "patch", "instances", "lost", "grow", "packets")
NEEDED = {
    "objects": ("gcc", "clang"),
    "smallest": ("bpftool", "tc", "clang"),
    "large": ("bpftool", "tc", "clang"),
    "instances": ("bpftool", "gcc", "clang"),
    "lost": ("bpftool", "tc", "clang"),
    "grow": ("clang",),
    "packets": ("clang",),
}
INTERFACES, FEW = 1000, 4  # interfaces of the row `instances`
REPLACEMENTS, SOME = 1000, 10

__all__ = ["APART", "NEEDED", "ROWS", "Bench", "Disagreement"]


class Bench:
    """In a private network namespace; figures as they come."""

    def __init__(self, venv: Path, work: Path, clang: str, runs: int, *, small: bool) -> None:
        self.runs = 2 if small else runs
        self.small = small
        self.work = work
        self.clang = clang
        self.processes = Processes(venv, work, clang, self.runs)
        self.rows: list[Row] = []
        self.imports: list[tuple[str, float]] = []
        self.packets: packets.Table | None = None
        self.objects: list[objects.Row] = []
        private.command("ip", "link", "add", IFACE, "type", "veth", "peer", "name", "bench1")
        private.command("ip", "link", "set", IFACE, "up")

    def run(self, wanted: list[str]) -> None:
        for name in (*ROWS, APART):
            if name in wanted:
                print(f"bench: {name} ...", file=sys.stderr, flush=True)
                getattr(self, f"do_{name}")()

    def do_interpreter(self) -> None:
        self.rows.append(self.processes.interpreter())

    def do_smallest(self) -> None:
        self.rows.append(self.processes.smallest())

    def do_large(self) -> None:
        self.rows.append(self.processes.large())

    def do_imports(self) -> None:
        self.imports = self.processes.import_times()

    def do_patch(self) -> None:
        self.rows.append(patching.measure(self.processes.bare, self.runs))

    def do_instances(self) -> None:
        program = instances.compile_rival(self.work)
        ifaces = instances.interfaces(FEW if self.small else INTERFACES)
        large = None if self.small else self.processes.large_object()[0]
        for case in instances.cases(self.work, self.processes.elfpatch, large):
            rounds = max(2, self.runs // 12)
            self.rows.append(instances.measure(case, program, ifaces, rounds, self.work))

    def do_lost(self) -> None:
        self.rows.append(lost.measure(self.work, self.clang, SOME if self.small else REPLACEMENTS))

    def do_grow(self) -> None:
        rounds = max(2, self.runs // 12)
        elfpatch = self.processes.elfpatch
        self.rows.append(grow.measure(elfpatch, self.work, self.clang, rounds, small=self.small))

    def do_packets(self) -> None:
        self.packets = packets.measure(self.work, self.clang, max(2, self.runs // 4))

    def do_objects(self) -> None:
        self.objects = objects.measure(self.work, self.processes.elfpatch, self.clang, max(2, self.runs // 12))
