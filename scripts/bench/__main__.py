"""`make bench`: the first three rows of the cost table, and what a packet pays for settings (packets.py).

Each row times whole processes, interleaved. An apply is the installed console script of a wheel in an environment of
its own, on a TCX target, with another value each time, so that each one patches, loads, verifies, swaps and records.
The rival compiles the same source with the value as a constant (clang) and loads and pins the program (bpftool prog
load). It swaps nothing: bpftool 7.1 cannot attach to tc. The line "+ tc" lets `tc filter replace` do that.

    --runs N       rounds of the small rows (60); the large one has half as many, packets a quarter
    --json FILE    also write all figures as JSON
    --rows A,B     only these of: interpreter, smallest, large, imports, packets
    --venv FOLDER  measure the elfpatch that is installed there (packets: the one of this tree, in this process)
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from elfpatch.errors import ElfpatchError
from scripts import private
from scripts.bench import environment, imports, large, packets
from scripts.bench.measure import CommandFailed, Spread, Subject, interleave, ratios
from scripts.build_templates import compile_object

ROWS = ("interpreter", "smallest", "large", "imports", "packets")
IFACE = "bench0"
PIN = "/sys/fs/bpf/rival"


class Bench:
    """The subjects, in a private network with one interface, and the figures as they come."""

    def __init__(self, venv: Path, work: Path, clang: str, runs: int) -> None:
        self.python = str(venv / "bin" / "python")
        self.elfpatch = str(venv / "bin" / "elfpatch")
        self.work = work
        self.clang = clang
        self.runs = runs
        self.rows: list[dict[str, object]] = []
        self.imports: list[tuple[str, float]] = []
        self.packets: packets.Table | None = None

    # --- subjects

    def apply(self, path: Path, variable: str) -> Subject:
        """Applies of an object, the first of which attaches it."""
        words = [self.elfpatch, "apply", "--target", f"tcx:{IFACE}:ingress", "--set", f"{variable}=1", str(path)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        return lambda number: [[self.elfpatch, "apply", "--set", f"{variable}={number + 2}", str(path)]]

    def bare(self, number: int) -> list[list[str]]:
        return [[self.python, "-I", "-c", "pass"]]

    def rival(self, source: Path, variable: str, *, attach: bool = False) -> Subject:
        """clang with the value as a constant, then bpftool; with `attach` then tc."""
        out = str(self.work / "rival.o")
        kind = "t" if attach else "p"
        flags = ["-O2", "-g", "--target=bpf", "-mcpu=v3", f"-I{environment.ROOT / 'bpf_templates'}", f"-I{self.work}"]
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

    def row(self, name: str, bound: float, subjects: dict[str, Subject], against: str, runs: int, **facts: str) -> None:
        times = interleave(subjects, runs)
        self.rows.append(
            {
                "row": name,
                "bound": bound,
                "runs": runs,
                "facts": facts,
                "ms": {subject: asdict(Spread.of(found).scaled(1000)) for subject, found in times.items()},
                "ratios": {
                    rival: asdict(ratios(times, "elfpatch apply", rival)) for rival in subjects if against in rival
                },
            }
        )

    def interpreter(self) -> None:
        mark = environment.ROOT / "fixtures" / "templates" / "mark.o"
        subjects = {"elfpatch apply": self.apply(mark, "foo"), "python -I -c pass": self.bare}
        self.row("whole process, mark.o, against the interpreter", 2.0, subjects, "python", self.runs)

    def against_compiler(self, name: str, bound: float, path: Path, source: Path, variable: str, runs: int) -> None:
        subprocess.run(["tc", "qdisc", "replace", "dev", IFACE, "clsact"], check=True)
        subjects = {
            "elfpatch apply": self.apply(path, variable),
            "clang + bpftool": self.rival(source, variable),
            "clang + bpftool + tc": self.rival(source, variable, attach=True),
        }
        self.row(name, bound, subjects, "clang", runs, object=sizes(self.elfpatch, path))

    def smallest(self) -> None:
        mark = environment.ROOT / "fixtures" / "templates" / "mark.o"
        source = environment.ROOT / "bpf_templates" / "mark.bpf.c"
        self.against_compiler("whole process, mark.o, against the compiler", 0.5, mark, source, "foo", self.runs)

    def large(self) -> None:
        source = large.write_source(self.work)
        path = self.work / "large.o"
        compile_object(source, path, f"-I{self.work}", clang=self.clang)
        subprocess.run([self.elfpatch, "build", str(path)], check=True, stdout=subprocess.DEVNULL)
        name = "whole process, large object, against the compiler"
        self.against_compiler(name, 0.1, path, source, "seed", max(2, self.runs // 2))

    def import_times(self) -> None:
        mark = environment.ROOT / "fixtures" / "templates" / "mark.o"
        (words,) = self.apply(mark, "foo")(0)
        self.imports = imports.measure(
            self.python, lambda number: [*words[:2], "--set", f"foo={number + 10}", str(mark)], max(3, self.runs // 4)
        )

    def packet_times(self) -> None:
        self.packets = packets.measure(self.work, self.clang, max(2, self.runs // 4))

    def run(self, rows: list[str]) -> None:
        steps = (self.interpreter, self.smallest, self.large, self.import_times, self.packet_times)
        for name, step in zip(ROWS, steps, strict=True):
            if name in rows:
                print(f"bench: {name} ...", file=sys.stderr, flush=True)
                step()


def sizes(elfpatch: str, path: Path) -> str:
    """What kind of object this is, in figures."""
    shown = subprocess.run([elfpatch, "inspect", "-j", str(path)], capture_output=True, check=True).stdout
    (program,) = json.loads(shown)["programs"]
    described = subprocess.run(["readelf", "-SW", str(path)], capture_output=True, text=True, check=False).stdout
    btf = [line.split() for line in described.splitlines() if " .BTF " in line]
    size = f", {int(btf[0][btf[0].index('PROGBITS') + 3], 16) / 1000:.1f} KB of BTF" if btf else ""
    return f"{program['insns']} instructions{size}"


def report(machine: dict[str, str], bench: Bench) -> str:
    """The figures for a person."""
    lines = [f"{key + ':':<9}{value}" for key, value in machine.items()]
    lines += rows_report(bench.rows)
    if bench.imports:
        lines += imports_report(bench.imports)
    if bench.packets:
        lines += packets.report(bench.packets)
    return "\n".join(lines)


def rows_report(rows: list[dict]) -> list[str]:
    lines = []
    for row in rows:
        facts = "".join(f"; {value}" for value in row["facts"].values())
        lines += ["", f"{row['row']} ({row['runs']} rounds{facts})"]
        for subject, ms in row["ms"].items():
            lines.append(
                f"  {subject:<22}{ms['median']:8.1f} ms   middle half {ms['low']:.1f} to {ms['high']:.1f}, "
                f"all {ms['least']:.1f} to {ms['most']:.1f}"
            )
        for rival, ratio in row["ratios"].items():
            lines.append(
                f"  ratio to {rival:<22}{ratio['median']:6.3f}   middle half {ratio['low']:.3f} to {ratio['high']:.3f}"
                f"   (bound {row['bound']})"
            )
    return lines


def imports_report(imported: list[tuple[str, float]]) -> list[str]:
    ours = [ms for name, ms in imported if name.partition(".")[0] == "elfpatch"]
    others = [ms for name, ms in imported if name.partition(".")[0] != "elfpatch"]
    return [
        "",
        "imports of an apply beyond the bare interpreter's, under -X importtime, which adds to them:",
        f"  {sum(ours):6.2f} ms  in {len(ours)} modules of elfpatch",
        f"  {sum(others):6.2f} ms  in {len(others)} modules of the standard library",
        "  the dearest:",
        *(f"  {ms:6.2f} ms  {name}" for name, ms in imported[:20]),
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--json", default="", metavar="FILE")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--venv", default="")
    given = parser.parse_args()
    unknown = [row for row in given.rows.split(",") if row not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]}; there are {', '.join(ROWS)}")
    return given


def main() -> int:
    given = arguments()
    clang = os.environ.get("CLANG", "clang-19")
    problem = private.why_not()
    rows = set(given.rows.split(","))
    needed = ("bpftool", "tc", clang) if {"smallest", "large"} & rows else (clang,) if "packets" in rows else ()
    problem = problem or ", ".join(f"{tool} is missing" for tool in needed if shutil.which(tool) is None)
    if problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 77 if os.geteuid() else 69
    venv = given.venv or str(environment.installed())
    options = ["--runs", str(given.runs), "--rows", given.rows, "--venv", venv]
    private.enter("scripts.bench", *options, *(["--json", os.path.abspath(given.json)] if given.json else []))
    private.command("ip", "link", "add", IFACE, "type", "veth", "peer", "name", "bench1")
    private.command("ip", "link", "set", IFACE, "up")
    with tempfile.TemporaryDirectory(prefix="elfpatch-bench-") as work:
        os.environ["ELFPATCH_STATE_DIR"] = f"{work}/state"
        os.environ.pop("ELFPATCH_BPFFS", None)
        bench = Bench(Path(venv), Path(work), clang, given.runs)
        try:
            bench.run(given.rows.split(","))
        except (CommandFailed, subprocess.CalledProcessError, ElfpatchError, packets.Disagreement) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        machine = {"date": datetime.date.today().isoformat(), **environment.describe(bench.python, clang)}
    print(report(machine, bench))
    if given.json:
        body = {
            "machine": machine,
            "rows": bench.rows,
            "imports_ms": dict(bench.imports),
            "packets": bench.packets and asdict(bench.packets),
        }
        Path(given.json).write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
