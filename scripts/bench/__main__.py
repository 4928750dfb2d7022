"""`make bench`: every row of the cost table, and what a packet pays for settings. As ratios measured in one run.

--runs N       rounds of the small rows (60); others have fewer
--small        every row, on a setting so small that its figures mean nothing: does it all still work?
--json FILE    also write all figures as JSON
--svg FILE     also draw them
--rows A,B     only these: interpreter, smallest, large, imports, patch, instances, lost, grow, packets; and
               objects (kernel selftests beside libbpf and clang), which is not among them by default
--venv FOLDER  measure the elfpatch that is installed there (rows in this process: the one of this tree)
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
from scripts import private, selftests
from scripts.bench import environment, objects, plot, rows
from scripts.bench.imports import report as imports_report
from scripts.bench.measure import CommandFailed
from scripts.bench.packets import report as packets_report
from scripts.bench.run import APART, NEEDED, ROWS, Bench, Disagreement


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", default="", metavar="FILE")
    parser.add_argument("--svg", default="", metavar="FILE")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--venv", default="")
    given = parser.parse_args()
    unknown = [row for row in given.rows.split(",") if row not in (*ROWS, APART)]
    if unknown:
        parser.error(f"no row {unknown[0]}; there are {', '.join(ROWS)}, {APART}")
    return given


def why_not(wanted: list[str], clang: str) -> str:
    """What is missing for the rows, or ""."""
    tools = sorted({clang if tool == "clang" else tool for row in wanted for tool in NEEDED.get(row, ())})
    return private.why_not() or ", ".join(f"{tool} is missing" for tool in tools if shutil.which(tool) is None)


def report(machine: dict[str, str], bench: Bench) -> str:
    """The figures for a person."""
    lines = [f"{key + ':':<9}{value}" for key, value in machine.items()]
    lines += rows.report(bench.rows)
    if bench.imports:
        lines += imports_report(bench.imports)
    if bench.packets:
        lines += packets_report(bench.packets)
    if bench.objects:
        lines += objects.report(bench.objects)
    return "\n".join(lines)


def again(given: argparse.Namespace, venv: str) -> list[str]:
    """The options, for this program inside of its namespaces."""
    words = ["--runs", str(given.runs), "--rows", given.rows, "--venv", venv, *(["--small"] if given.small else [])]
    for option in ("json", "svg"):
        if path := getattr(given, option):
            words += [f"--{option}", os.path.abspath(path)]
    return words


def main() -> int:
    given = arguments()
    clang = os.environ.get("CLANG", "clang-19")
    wanted = given.rows.split(",")
    if problem := why_not(wanted, clang):
        print(f"bench: {problem}", file=sys.stderr)
        return 77 if os.geteuid() else 69
    venv = given.venv or str(environment.installed())
    if APART in wanted:
        try:
            selftests.ensure(clang=clang)  # now: there is no way out of the private network
        except selftests.Unavailable as error:
            print(f"bench: {error}", file=sys.stderr)
            return 69
    private.enter("scripts.bench", *again(given, venv))
    with tempfile.TemporaryDirectory(prefix="elfpatch-bench-") as work:
        os.environ["ELFPATCH_STATE_DIR"] = f"{work}/state"
        os.environ.pop("ELFPATCH_BPFFS", None)
        bench = Bench(Path(venv), Path(work), clang, given.runs, small=given.small)
        try:
            bench.run(wanted)
        except (CommandFailed, subprocess.CalledProcessError, ElfpatchError, Disagreement) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        machine = {"date": datetime.date.today().isoformat(), **environment.describe(bench.processes.python, clang)}
    print(report(machine, bench))
    body = {
        "machine": machine,
        "rows": [asdict(row) for row in bench.rows],
        "imports_ms": dict(bench.imports),
        "packets": bench.packets and asdict(bench.packets),
        "objects": [asdict(row) for row in bench.objects],
    }
    if given.json:
        Path(given.json).write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    if given.svg:
        Path(given.svg).write_text(plot.draw(json.loads(json.dumps(body))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
