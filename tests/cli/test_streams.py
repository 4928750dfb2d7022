"""Streams that are closed or full, and folders that are: the exit code and what was done stay true, nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cli import MARK, ROOT, Cli

SCRIPT = (sys.executable, str(ROOT / "scripts" / "elfpatch"))


def shell(words: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run elfpatch with `arguments`, its streams redirected by a shell as `words` say."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {words}', "sh", *SCRIPT, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        (">&-", 0, ""),
        ("<&- >&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 78, "elfpatch: error: writing the output: No space left on device\n"),
        ("2>/dev/full", 0, ""),
    ],
)
def test_output_that_nobody_takes(tmp_path: Path, streams: str, code: int, said: str) -> None:
    done = shell(streams, "patch", "--set", "foo=7", "-o", str(tmp_path / "out.o"), MARK)
    assert (done.returncode, done.stderr) == (code, said)
    assert (tmp_path / "out.o").read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", ">/dev/full", ">&-"])
def test_an_error_keeps_its_exit_code(streams: str) -> None:
    assert shell(streams, "inspect", "-j", "missing.o").returncode == 66


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with no room."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(folder)], check=True)
    (folder / "state").mkdir()
    try:
        with open(folder / "fill", "wb", buffering=0) as file:
            for _ in range(3):
                file.write(b"x" * 4096)
    except OSError:
        pass
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_nothing(bpffs: str, small: Path) -> None:
    cli = Cli(small / "state", Path(bpffs))
    done = cli("apply", MARK)
    assert done.code == 78
    assert "no space left on device" in done.err
    assert cli.left() == []


def test_an_empty_word_is_no_folder(plain_cli: Cli) -> None:
    done = plain_cli.bare("status", "--state-dir", "")
    assert done.code == 64
    assert "--state-dir needs DIR" in done.err


def test_control_characters_are_escaped_for_people_and_kept_in_bytes(plain_cli: Cli, tmp_path: Path) -> None:
    done = plain_cli("inspect", str(tmp_path / "two\nlines\x1b[31m"))
    assert done.code == 66
    assert "two\\nlines\\x1b[31m" in done.err
    assert done.err.count("\n") == 1


def test_a_text_with_control_characters(plain_cli: Cli, tmp_path: Path, compiled: Callable[..., str]) -> None:
    template = compiled(
        'CONFIG char name[16];\nSEC("tc") int p(struct __sk_buff *skb) { return name[0]; }', name="name"
    )
    words = ("--set", "name=a\x1b[2J\nb", "-o", str(tmp_path / "out.o"), template)
    assert "a\\x1b[2J\\nb" in plain_cli.ok("patch", *words).out
    assert plain_cli.ok("patch", "-j", *words).json["changes"][0]["new"] == "a\x1b[2J\nb"
    assert b"a\x1b[2J\nb\0" in (tmp_path / "out.o").read_bytes()
