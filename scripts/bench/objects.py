"""Large objects: what it costs to index one, and to load it from its index, beside libbpf and the compiler.

The objects are kernel selftests (scripts/selftests.py) and the one of large.py. Each figure is of a whole process:
`elfpatch build` (once per object, on a build machine), `elfpatch check` of what that gives (loads all, attaches
nothing), the same by a small C program on libbpf, and the compiler. objects.c takes time and peak memory of each, in
turning order. What of an index's time is lief's own, a process says that reads the object with it and does no more.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elfpatch import index as ix
from scripts import selftests
from scripts.bench import environment, large
from scripts.bench.measure import CommandFailed, Spread
from scripts.build_templates import compile_object

BUILD, CHECK, LIBBPF, CLANG, LIEF = "elfpatch build", "elfpatch check", "libbpf", "clang", "lief alone"
# without garbage collection, as the console script: it takes a third of lief's import
_READ = "import gc, sys; gc.disable(); import lief; lief.ELF.parse(open(sys.argv[1], 'rb').read())"


@dataclass(frozen=True)
class Subject:
    """An object as it was compiled, and the compiler's command, whose last word is the output."""

    name: str
    path: Path
    compiler: list[str]


@dataclass(frozen=True)
class Cost:
    """Of a process: milliseconds in all, in user space and in the kernel; peak memory in MB."""

    wall_ms: Spread
    user_ms: Spread
    kernel_ms: Spread
    peak_mb: Spread


@dataclass(frozen=True)
class Row:
    """An object. Sizes in KB: BTF as compiled and what of it the kernel is given; `costs` by who did it (without those
    that refuse the object, which `refused` names)."""

    object: str
    instructions: int
    programs: int
    object_kb: float
    index_kb: float
    btf_kb: float
    trimmed_kb: float
    costs: dict[str, Cost]
    refused: list[str]


def measure(work: Path, elfpatch: str, clang: str, runs: int) -> list[Row]:
    """A row for each object; `work` holds what is built. Raises selftests.Unavailable, CalledProcessError."""
    tool = work / "objects"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["gcc", "-O2", "-Wall", "-o", str(tool), str(source), "-lbpf"], check=True)
    return [_row(subject, work, str(tool), elfpatch, runs) for subject in _subjects(work, clang)]


def _subjects(work: Path, clang: str) -> list[Subject]:
    found = [
        Subject(one.name, one.path, [clang, *one.compiled_by, "-o", str(work / "clang.o")])
        for one in selftests.ensure(clang=clang)
    ]
    source, path = large.write_source(work), work / "large.o"
    compile_object(source, path, f"-I{work}", clang=clang)
    flags = ["-g", "-O2", "--target=bpf", "-mcpu=v3", f"-I{work}", f"-I{environment.ROOT / 'bpf_templates'}"]
    return [*found, Subject("large", path, [clang, *flags, "-c", str(source), "-o", str(work / "clang.o")])]


def _row(subject: Subject, work: Path, tool: str, elfpatch: str, runs: int) -> Row:
    template = work / f"{subject.name}.template.o"
    build = [elfpatch, "build", "-o", str(template), str(subject.path)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    commands = {
        BUILD: build,
        LIEF: [str(Path(elfpatch).with_name("python")), "-c", _READ, str(subject.path)],
        CHECK: [elfpatch, "check", str(template)],
        LIBBPF: [tool, "load", str(subject.path)],
        CLANG: subject.compiler,
    }
    refused = [name for name, words in commands.items() if not _taken(tool, words)]
    costs = _interleaved(tool, {name: words for name, words in commands.items() if name not in refused}, runs)
    made, data = template.read_bytes(), subject.path.read_bytes()
    index = ix.Index(ix.find(made) or b"")
    instructions = [len(program.insns) // 8 for program in index.rows(ix.Program)]
    return Row(
        subject.name,
        sum(instructions),
        len(instructions),
        len(data) / 1000,
        (len(made) - len(data)) / 1000,
        section_size(subject.path, ".BTF") / 1000,
        len(index.info.btf) / 1000,
        costs,
        refused,
    )


def section_size(path: Path, name: str) -> int:
    """Bytes of a section, as readelf says; 0 without one."""
    shown = subprocess.run(["readelf", "-SW", str(path)], capture_output=True, text=True, check=True).stdout
    rows = [line.partition("]")[2].split() for line in shown.splitlines()]
    return next((int(row[4], 16) for row in rows if row[:1] == [name]), 0)


def _taken(tool: str, words: Sequence[str]) -> bool:
    """Whether a command exits with 0. This run warms up, too."""
    try:
        _cost(tool, words)
    except CommandFailed:
        return False
    return True


def _interleaved(tool: str, commands: dict[str, Sequence[str]], runs: int) -> dict[str, Cost]:
    names = list(commands)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    for number in range(runs):
        shift = number % len(names)
        for name in (*names[shift:], *names[:shift]):
            found[name].append(_cost(tool, commands[name]))
    return {name: Cost(*(Spread.of(figures) for figures in zip(*rows, strict=True))) for name, rows in found.items()}


def _cost(tool: str, words: Sequence[str]) -> tuple[float, ...]:
    """Milliseconds in all, in user space, in the kernel; peak memory in MB. Raises CommandFailed."""
    shown = subprocess.run([tool, "cost", *words], capture_output=True, text=True, check=True).stdout
    wall, user, system, peak, status = map(int, shown.split())
    if status:
        raise CommandFailed(f"{' '.join(words)}: exit {status}")
    return wall / 1000, user / 1000, system / 1000, peak / 1000


# --- the table


def report(rows: list[Row]) -> list[str]:
    """The table for a person."""
    lines = ["", "large objects, whole processes: medians of ms (of these in the kernel) and peak MB"]
    for row in rows:
        size = f"{row.instructions} instructions in {row.programs} programs, object {row.object_kb:.0f} KB, "
        index = f"index {row.index_kb:.0f} KB, BTF {row.btf_kb:.1f} KB, trimmed {row.trimmed_kb:.1f} KB"
        lines.append(f"  {row.object}: {size}{index}")
        for name, cost in row.costs.items():
            times = f"{cost.wall_ms.median:9.1f} ms ({cost.kernel_ms.median:.1f})"
            lines.append(f"    {name:<16}{times:<26}{cost.peak_mb.median:8.1f} MB")
        lines += [f"    {name:<16}refuses it" for name in row.refused]
    return lines
