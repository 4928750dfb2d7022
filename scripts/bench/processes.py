"""Whole processes: an apply against the bare interpreter, and against the compiler.

An apply is the installed console script of a wheel in an environment of its own, on a TCX target, with another value
each time, so that each one patches, loads, verifies, swaps and records. The rival compiles the same source with the
value as a constant (clang) and loads and pins the program (bpftool prog load). It swaps nothing: bpftool 7.1 cannot
attach to tc. The line "+ tc" lets `tc filter replace` do that.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from scripts.bench import imports, large
from scripts.bench.environment import ROOT
from scripts.bench.measure import Spread, Subject, Usage, interleave, ratios
from scripts.bench.rows import Ratio, Row
from scripts.build_templates import compile_object

IFACE = "bench0"
PIN = "/sys/fs/bpf/rival"
MARK = ROOT / "fixtures" / "templates" / "mark.o"


class Processes:
    """The subjects; the network namespace has the interface IFACE."""

    def __init__(self, venv: Path, work: Path, clang: str, runs: int) -> None:
        self.python = str(venv / "bin" / "python")
        self.elfpatch = str(venv / "bin" / "elfpatch")
        self.work = work
        self.clang = clang
        self.runs = runs
        self.bare = [self.python, "-I", "-c", "pass"]

    # --- subjects

    def apply(self, path: Path, variable: str) -> Subject:
        """Applies of an object, the first of which attaches it."""
        words = [self.elfpatch, "apply", "--target", f"tcx:{IFACE}:ingress", "--set", f"{variable}=1", str(path)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        return lambda number: [[self.elfpatch, "apply", "--set", f"{variable}={number + 2}", str(path)]]

    def rival(self, source: Path, variable: str, *, attach: bool = False) -> Subject:
        """clang with the value as a constant, then bpftool; with `attach` then tc."""
        out = str(self.work / "rival.o")
        kind = "t" if attach else "p"
        flags = ["-O2", "-g", "--target=bpf", "-mcpu=v3", f"-I{ROOT / 'bpf_templates'}", f"-I{self.work}"]
        flags += [f"-I/usr/include/{os.uname().machine}-linux-gnu", "-DELFPATCH_CONSTANTS"]

        def commands(number: int) -> list[list[str]]:
            pin = f"{PIN}_{source.stem.partition('.')[0]}_{kind}{number}"
            made = [
                [self.clang, *flags, f"-D{variable.upper()}_DEFAULT={number + 2}", "-c", str(source), "-o", out],
                ["bpftool", "prog", "load", out, pin],
            ]
            if attach:
                replace = ["tc", "filter", "replace", "dev", IFACE, "ingress", "prio", "1", "handle", "1"]
                made.append([*replace, "bpf", "direct-action", "pinned", pin])
            return made

        return commands

    # --- rows

    def row(self, key: str, name: str, bound: float, subjects: dict[str, Subject], runs: int, facts: str = "") -> Row:
        """The first subject against each of the others."""
        used: dict[str, Usage] = {}
        times = interleave(subjects, runs, used)
        first, *rivals = subjects
        return Row(
            key=key,
            name=name,
            rounds=runs,
            figures={subject: Spread.of(found).scaled(1000) for subject, found in times.items()},
            ratios=[Ratio(f"to {rival}", ratios(times, first, rival), bound) for rival in rivals],
            kernel={subject: one.kernel_share for subject, one in used.items()},
            facts={"": facts} if facts else {},
        )

    def interpreter(self) -> Row:
        subjects = {"elfpatch apply": self.apply(MARK, "foo"), "python -I -c pass": lambda number: [self.bare]}
        return self.row("interpreter", "whole process, mark.o, against the interpreter", 2.0, subjects, self.runs)

    def against_compiler(self, key: str, name: str, bound: float, path: Path, source: Path, variable: str) -> Row:
        subprocess.run(["tc", "qdisc", "replace", "dev", IFACE, "clsact"], check=True)
        subjects = {
            "elfpatch apply": self.apply(path, variable),
            "clang + bpftool": self.rival(source, variable),
            "clang + bpftool + tc": self.rival(source, variable, attach=True),
        }
        runs = self.runs if key == "smallest" else max(2, self.runs // 2)
        return self.row(key, name, bound, subjects, runs, sizes(self.elfpatch, path))

    def smallest(self) -> Row:
        source = ROOT / "bpf_templates" / "mark.bpf.c"
        name = "whole process, mark.o, against the compiler"
        return self.against_compiler("smallest", name, 0.5, MARK, source, "foo")

    def large_object(self) -> tuple[Path, Path]:
        """The template and its source, built."""
        path, source = self.work / "large.o", self.work / "large.bpf.c"
        if not path.exists():
            source = large.write_source(self.work)
            compile_object(source, path, f"-I{self.work}", clang=self.clang)
            subprocess.run([self.elfpatch, "build", str(path)], check=True, stdout=subprocess.DEVNULL)
        return path, source

    def large(self) -> Row:
        path, source = self.large_object()
        name = "whole process, large object, against the compiler"
        return self.against_compiler("large", name, 0.1, path, source, "seed")

    def import_times(self) -> list[tuple[str, float]]:
        (words,) = self.apply(MARK, "foo")(0)
        return imports.measure(
            self.python, lambda number: [*words[:2], "--set", f"foo={number + 10}", str(MARK)], max(3, self.runs // 4)
        )


def sizes(elfpatch: str, path: Path) -> str:
    """What kind of object this is, in figures."""
    shown = subprocess.run([elfpatch, "inspect", "-j", str(path)], capture_output=True, check=True).stdout
    (program,) = json.loads(shown)["programs"]
    described = subprocess.run(["readelf", "-SW", str(path)], capture_output=True, text=True, check=False).stdout
    btf = [line.split() for line in described.splitlines() if " .BTF " in line]
    size = f", {int(btf[0][btf[0].index('PROGBITS') + 3], 16) / 1000:.1f} KB of BTF" if btf else ""
    return f"{program['insns']} instructions{size}"
