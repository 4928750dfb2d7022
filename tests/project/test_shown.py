"""What a person is shown first: the demo and the benchmark run."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from scripts.bench import styles
from scripts.bench.packets import Disagreement, check
from tests.support.require import require

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.root


def start(venv: Path, *words: str) -> subprocess.Popen[str]:
    """A module of scripts/, run from the tree with the installed wheel beside it.

    A shell starts what runs in its background with SIGINT ignored, and that is inherited: `env` undoes it.
    """
    return subprocess.Popen(
        ["env", "--default-signal=INT", str(venv / "bin" / "python"), "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


def test_the_demo_shows_no_packet_that_saw_neither_program(venv: Path) -> None:
    require("ip", "unshare", "nsenter", "mount")
    demo = start(venv, "scripts.demo")
    out, err = demo.communicate(timeout=90)
    assert demo.returncode == 0, out + err
    assert "packets that saw neither the old nor the new program: 0" in out
    contrast = re.search(r"packets that saw neither program: (\d+)", out)
    assert contrast and int(contrast[1]) > 0
    assert err == ""


def test_an_interrupted_demo_leaves_nothing_behind(venv: Path) -> None:
    require("ip", "unshare", "nsenter", "mount")
    demo = start(venv, "scripts.demo")
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("3."):
            break
    time.sleep(0.1)
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
    _, err = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(demo.pid, 0)


def test_the_benchmark_runs(venv: Path, tmp_path: Path) -> None:
    """The row `packets` on few rounds; tests/project/test_bench.py has the others."""
    require("clang-19", "ip", "unshare")
    found = tmp_path / "bench.json"
    bench = start(venv, "scripts.bench", "--rows", "packets", "--runs", "2", "--venv", str(venv), "--json", str(found))
    out, err = bench.communicate(timeout=240)
    assert bench.returncode == 0, out + err
    body = json.loads(found.read_text())
    assert "ratio to" in out
    packets = {row["style"]: row for row in body["packets"]["rows"]}
    assert len(packets) == 7
    for style, row in packets.items():
        assert 0 < row["ns"]["least"] <= row["ns"]["median"] <= row["ns"]["most"]
        assert row["sizes"]["jited_bytes"] > 0
        assert bool(row["sizes"]["settings_memory"]) == (style in ("frozen .rodata", "array map", "hash map"))
        assert set(row["sizes"]["maps_memory"]) == {"counters"} | (
            set() if row["specialized"] else {"denied", "events"}
        )
        assert style in out


def test_the_benchmark_compares_only_builds_that_do_the_same(tmp_path: Path) -> None:
    require("clang-19")
    builds = styles.build_all(tmp_path, "clang-19")
    with ExitStack() as opened:
        running = {build.style.name: styles.load_build(build, opened) for build in builds}
        check(running)
        other = dataclasses.replace(builds[-1], value=bytes(len(builds[-1].value)))
        running["hash map"] = styles.load_build(other, opened)
        with pytest.raises(Disagreement, match="hash map: not what compiled-in constants make of a packet"):
            check(running)
