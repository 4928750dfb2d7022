"""What the time before the first line of work goes to: the modules that an apply imports, by `python -X importtime`."""

from __future__ import annotations

import re
import statistics
import subprocess
from collections.abc import Callable, Sequence

_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)")


def once(python: str, words: Sequence[str]) -> dict[str, int]:
    """Module -> microseconds of its own, of one run of a Python script."""
    done = subprocess.run(
        [python, "-X", "importtime", *words], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    return {match[4]: int(match[1]) for match in _LINE.finditer(done.stderr)}


def measure(python: str, command: Callable[[int], Sequence[str]], rounds: int) -> list[tuple[str, float]]:
    """(module, median milliseconds of its own), the dearest first. What `python -I -c pass` imports is left out."""
    bare = once(python, ["-I", "-c", "pass"])
    runs = [once(python, command(number)) for number in range(rounds)]
    names = {name for run in runs for name in run if name not in bare}
    medians = [(name, statistics.median(run.get(name, 0) for run in runs) / 1000) for name in names]
    return sorted(medians, key=lambda pair: -pair[1])


def report(imported: list[tuple[str, float]]) -> list[str]:
    """The modules for a person."""
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
