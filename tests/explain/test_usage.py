"""Words that are wrong: each is refused with what would be right, and its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.explain.support import OBJECTS
from tests.support.cli import Cli

PLAIN = str(OBJECTS / "clang-19-v3" / "plain.o")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--prog", "nobody", PLAIN], 66, "the object has no program named nobody (there are plain)"),
        (["--prog", "plain", "--prog", "x", PLAIN], 66, "no program named x"),
        (["--format", "png", PLAIN], 64, "there is no format 'png' (one of text, json, dot, svg)"),
        (["--syntax", "intel", PLAIN], 64, "there is no syntax 'intel' (one of kernel, capstone)"),
        (["-j", "--format", "svg", PLAIN], 64, "--json contradicts --format svg"),
        (["-o", "out", PLAIN], 64, "-o goes with dot and svg, not with text"),
        (["--set", "nothing=1", PLAIN], 65, "there is no variable `nothing`"),
        (["--set", "mark=-1", PLAIN], 65, "mark"),
        (["no-such.o"], 66, "no-such.o"),
        ([], 64, "explain needs OBJECT"),
    ],
)
def test_it_is_refused(cli: Cli, words: list[str], code: int, told: str) -> None:
    done = cli("explain", *words)
    assert (done.code, told in done.err) == (code, True), done.err
    assert done.err.startswith("elfpatch: error: ")


def test_several_programs_by_name(cli: Cli) -> None:
    out = cli.ok("explain", "--prog", "fourth", "--prog", "second", str(OBJECTS / "clang-19-v3" / "calls.o")).out
    assert [line for line in out.splitlines() if line.startswith("program ")] == [
        "program second (section tc)", "program fourth (section xdp)"
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["dot", "svg"])
def test_a_drawing_goes_into_a_file_or_to_stdout(cli: Cli, tmp_path: Path, form: str) -> None:
    target = tmp_path / f"plain.{form}"
    assert cli.ok("explain", "--format", form, "-o", str(target), PLAIN).out == ""
    assert cli.ok("explain", "--format", form, PLAIN).out == target.read_text(encoding="utf-8")


def test_a_folder_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    done = cli("explain", "--format", "svg", "-o", str(tmp_path / "no" / "x.svg"), PLAIN)
    assert (done.code, "x.svg" in done.err) == (66, True)


def test_the_other_way_to_ask_for_json(cli: Cli) -> None:
    asked, said = cli.ok("explain", "--format", "json", PLAIN), cli.ok("explain", "-j", PLAIN)
    assert asked.json == said.json
    assert cli.ok("explain", "-p", PLAIN).json == said.json
