"""What README.md and docs/ tell people to type exists and works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from elfpatch.cli import main, options, output
from elfpatch.deploy.target import parse_all
from elfpatch.errors import UsageError
from tests.support.require import require

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTINGS = ("set", "set_json", "set_hex")


def code_lines(text: str) -> Iterator[str]:
    """The lines of code blocks, and code in running text."""
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()
        else:
            yield from re.findall(r"`([^`]+)`", line)


def commands(program: str) -> list[tuple[str, str]]:
    """(page, command line) of every command of that program."""
    found = []
    for page in PAGES:
        for line in code_lines(page.read_text(encoding="utf-8")):
            found += [(page.name, part) for part in re.split(r" && | \| |; ", line) if part.startswith(f"{program} ")]
    return found


def check_command(words: list[str]) -> None:
    """Raise UsageError unless elfpatch would take these words."""
    verb, *rest = words
    if verb.startswith("-"):
        assert verb in ("--help", "--version")
        return
    if verb == "VERB":
        return
    assert verb in main.VERBS, f"no verb {verb}"
    module = __import__(f"elfpatch.cli.{verb}", fromlist=["run"])
    arguments = options.read(rest, module.OPTIONS, verb)
    parse_all(target for target in arguments.all("target") if target != "TARGET")
    for key in SETTINGS:
        chosen = options.Arguments()
        chosen.order = [(key, value) for value in arguments.all(key)]
        output.settings(chosen)
    # `elfpatch status` in a sentence stands for the verb; with operands there must be as many as it takes
    if arguments.operands:
        options.operands(arguments, module.OPERANDS, verb)


@pytest.mark.parametrize(("page", "line"), commands("elfpatch"))
def test_the_command_exists(page: str, line: str) -> None:
    check_command(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("line", ["inspect --al mark.o", "apply --target tcx:eth0 mark.o", "patch --set foo mark.o"])
def test_a_wrong_command_is_noticed(line: str) -> None:
    with pytest.raises(UsageError):
        check_command(line.split())


@pytest.mark.parametrize(("page", "line"), commands("make"))
def test_the_make_target_exists(page: str, line: str) -> None:
    target = shlex.split(line, comments=True)[1]
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    named = re.findall(r"`((?:bpf_templates|fixtures|scripts|tests|elfpatch|docs)/[\w./-]*)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_template_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for source in (ROOT / "bpf_templates").glob("*.bpf.c"):
        assert f"| `{source.name.removesuffix('.bpf.c')}` |" in text


@pytest.mark.root
def test_the_first_use_works_as_written(tmp_path: Path) -> None:
    """Every block of that section, in order, in a private network whose interface is called eth0."""
    require("clang-19", "llvm-strip-19", "unshare", "ip")
    section = re.search(r"## A first use\n(.*?)\n## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert section
    script = ["set -e", "mount -t bpf bpf /sys/fs/bpf", "ip link add eth0 type veth peer name peer0"]
    for language, block in re.findall(r"```(\w+)\n(.*?)```", section[1], re.S):
        if language == "c":
            name = re.match(r"// (\S+)\n", block)
            assert name
            (tmp_path / name[1]).write_text(block, encoding="utf-8")
        else:
            script += block.splitlines()
    (tmp_path / "bpf_templates").symlink_to(ROOT / "bpf_templates")
    command = tmp_path / "bin" / "elfpatch"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {ROOT}/scripts/elfpatch "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", "\n".join(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "ELFPATCH_STATE_DIR": str(tmp_path / "state")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "attached tcx:eth0:ingress" in done.stdout
    assert "swapped tcx:eth0:ingress" in done.stdout
    assert "prio = 7" in done.stdout
    assert "detached from tcx:eth0:ingress" in done.stdout
    assert (tmp_path / "prio5.o").stat().st_size == (tmp_path / "prio.o").stat().st_size
