"""`apply --batch` on real interfaces."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import MARK, ROOT, Cli
from tests.support.net import VethPair

PAIRS = 50


@pytest.fixture
def targets(net: VethPair, tmp_path: Path) -> list[str]:
    """A target on each end of 50 veth pairs in a namespace that goes away with the test."""
    script = tmp_path / "links"
    script.write_text("".join(f"link add v{n} type veth peer name w{n}\n" for n in range(PAIRS)))
    net.b.ns.ip("-batch", str(script))
    return [f"tcx:{end}{n}:ingress,netns={net.b.ns.name}" for n in range(PAIRS) for end in "vw"]


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., str]:
    """`batch(entry, ...)`: the path of a batch file; a text stands for itself."""

    def make(*entries: object) -> str:
        path = tmp_path / "batch.jsonl"
        path.write_text("".join((e if isinstance(e, str) else json.dumps(e)) + "\n" for e in entries))
        return str(path)

    return make


def entry(number: int, target: str, foo: int) -> dict[str, Any]:
    return {"deployment": f"m{number}", "targets": [target], "set": {"foo": foo}}


def results(out: str) -> list[Any]:
    return [json.loads(line) for line in out.splitlines()]


def process(cli: Cli, *words: str, **options: Any) -> subprocess.Popen[bytes]:
    folders = ("--state-dir", cli.layout.state, "--bpffs", cli.layout.bpffs)
    argv = [sys.executable, str(ROOT / "scripts" / "elfpatch"), "apply", *folders, *words, MARK]
    return subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options)


def test_two_hundred_changes_each_on_its_own(cli: Cli, targets: list[str], batch: Callable[..., str]) -> None:
    first = [entry(n, target, n + 1) for n, target in enumerate(targets)]
    second = [entry(n, target, n + 1001) for n, target in enumerate(targets)]
    done = cli.ok("apply", "--batch", batch(*first, *second), MARK)
    found = results(done.out)
    assert sorted(one["line"] for one in found) == list(range(1, 4 * PAIRS + 1))
    assert {one["result"] for one in found} == {"changed"}
    for one in found:  # the second line of a deployment came after its first
        again = one["line"] > len(targets)
        assert one["generation"] == 1 + again
        assert one["changes"][0]["new"] == str(one["line"] - len(targets) + 1000 if again else one["line"])
    assert done.err.startswith("200 instances: 200 changed, 0 unchanged, 0 failed in ")
    assert len(done.err.splitlines()) == 1
    live = cli.ok("status", "-j").json["deployments"]
    assert len(live) == len(targets)


def test_bad_lines_among_good_ones(cli: Cli, targets: list[str], batch: Callable[..., str]) -> None:
    missing = targets[0].replace("v0", "absent")
    lines = batch(
        entry(0, targets[0], 1),
        "garbage",
        "",
        {"deployment": "x", "sett": {}},
        {"targets": []},
        "[]",
        '{"deployment": "a", "deployment": "b"}',
        entry(7, missing, 1),
        {"deployment": "m8", "targets": [targets[1]], "set": {"foo": 2}, "force": 1},
        entry(1, targets[1], 2),
    )
    done = cli("apply", "--batch", lines, MARK)
    found = {one["line"]: one for one in results(done.out)}
    assert done.code == 1  # 65 and 66
    assert {n: one.get("exit_code", 0) for n, one in found.items()} == {
        1: 0, 2: 65, 4: 65, 5: 65, 6: 65, 7: 65, 8: 66, 9: 65, 10: 0,
    }  # fmt: skip
    assert "did you mean set?" in found[4]["errors"][0]
    assert "absent" in found[8]["errors"][0]
    assert cli("apply", "--batch", batch("garbage", "[]"), MARK).code == 65


def test_values_of_the_command_line_lie_below_those_of_a_line(
    cli: Cli, targets: list[str], batch: Callable[..., str]
) -> None:
    own, without = entry(0, targets[0], 5), {"deployment": "m1", "targets": [targets[1]]}
    done = cli.ok("apply", "--batch", batch(own, without), "--set", "foo=9", MARK)
    assert {one["line"]: one["changes"][0]["new"] for one in results(done.out)} == {1: "5", 2: "9"}


def test_dry_run_plans_and_leaves_nothing(cli: Cli, targets: list[str], batch: Callable[..., str]) -> None:
    done = cli.ok("apply", "--dry-run", "--batch", batch(entry(0, targets[0], 5)), MARK)
    (one,) = results(done.out)
    assert (one["result"], one["steps"][0]["action"]) == ("changes", "attach")
    assert not cli.left()


@pytest.mark.parametrize("words", [("--name", "x"), ("--target", "xdp:eth0"), ("--jobs", "many")])
def test_what_does_not_go_with_a_batch(plain_cli: Cli, batch: Callable[..., str], words: tuple[str, str]) -> None:
    assert plain_cli("apply", "--batch", batch("{}"), *words, MARK).code == 64


def test_a_line_of_a_pipe_is_done_as_soon_as_it_came_and_ctrl_c_ends_the_waiting(cli: Cli, targets: list[str]) -> None:
    pipe = subprocess.PIPE
    with process(cli, "--batch", "-", stdin=pipe, stdout=pipe, stderr=pipe) as running:
        assert running.stdin and running.stdout and running.stderr
        for number in range(3):
            running.stdin.write(json.dumps(entry(number, targets[number], 3)).encode() + b"\n")
            running.stdin.flush()
            assert json.loads(running.stdout.readline())["deployment"] == f"m{number}"
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 130
        assert b"interrupted: 0 not begun" in running.stderr.read()


def test_a_reader_that_goes_away_stops_nothing(cli: Cli, targets: list[str], batch: Callable[..., str]) -> None:
    lines = batch(*(entry(n, target, 1) for n, target in enumerate(targets[:20])))
    with process(cli, "--batch", lines, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout and running.stderr
        running.stdout.close()
        assert running.wait(30) == 0
        assert running.stderr.read().startswith(b"20 instances: 20 changed")


def test_a_terminal_sees_a_bar_that_goes_away(cli: Cli, targets: list[str], batch: Callable[..., str]) -> None:
    lines = batch(*(entry(n, target, 1) for n, target in enumerate(targets[:20])))
    ours, theirs = pty.openpty()
    with process(cli, "--batch", lines, stdout=subprocess.DEVNULL, stderr=theirs) as running:
        assert running.wait(30) == 0
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert b"/20  0 failed" in shown
    assert b"\r\x1b[K20 instances: 20 changed" in shown
