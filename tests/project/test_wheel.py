"""The installed wheel does the whole run-time job with the templates that it brings, and no compiler takes part."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.net import VethPair
from tests.support.require import require

ROOT = Path(__file__).parents[2]
SHIPPED = ("connect4", "endpoint", "mark", "xdp_filter", "xdp_lb")
COMPILER = re.compile(r"clang|llvm|lief|capstone|/cc1|/as$|/ld$", re.I)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment in which no command can be found."""
    (tmp_path / "empty").mkdir()
    return {"PATH": str(tmp_path / "empty"), "ELFPATCH_STATE_DIR": str(tmp_path / "state"), "HOME": str(tmp_path)}


def run(venv: Path, environ: dict[str, str], *words: str, prefix: tuple[str, ...] = ()) -> str:
    """Run the installed console script away from the source tree; its standard output."""
    done = subprocess.run(
        [*prefix, str(venv / "bin" / "elfpatch"), *words],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
        cwd=environ["HOME"],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_brings_the_templates(venv: Path) -> None:
    share = venv / "share" / "elfpatch"
    for name in SHIPPED:
        assert (share / "templates" / f"{name}.o").read_bytes() == (
            ROOT / "fixtures" / "templates" / f"{name}.o"
        ).read_bytes()
        assert (share / "bpf_templates" / f"{name}.bpf.c").exists()
    assert (share / "bpf_templates" / "config.h").exists()


def test_it_inspects_and_patches_without_the_sources(venv: Path, environ: dict[str, str], tmp_path: Path) -> None:
    template = str(venv / "share" / "elfpatch" / "templates" / "mark.o")
    run(venv, environ, "patch", "--set", "foo=42", "-o", str(tmp_path / "out.o"), template)
    shown = json.loads(run(venv, environ, "inspect", "-j", str(tmp_path / "out.o")))
    assert [(one["path"], one["default"]) for one in shown["variables"]] == [("foo", "42")]


def test_an_apply_starts_no_compiler_and_loads_none(
    venv: Path, environ: dict[str, str], net: VethPair, bpffs: str, tmp_path: Path
) -> None:
    require("strace")
    trace = tmp_path / "trace"
    # strace, nsenter and the console script by their full paths: the environment finds no command
    strace = subprocess.run(["which", "strace"], capture_output=True, text=True, check=True).stdout.strip()
    nsenter = subprocess.run(["which", "nsenter"], capture_output=True, text=True, check=True).stdout.strip()
    prefix = (nsenter, f"--net={net.a.ns.path}", strace, "-f", "-e", "trace=execve,openat,mmap,bpf", "-y")
    prefix += ("-o", str(trace))
    template = str(venv / "share" / "elfpatch" / "templates" / "mark.o")
    out = run(
        *(venv, environ, "apply", "--bpffs", bpffs, "--target", "tcx:veth0:ingress", "--set", "foo=7", template),
        prefix=prefix,
    )
    assert "attached tcx:veth0:ingress" in out
    lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
    assert any("BPF_PROG_LOAD" in line for line in lines), "the trace should show the load"
    assert len([line for line in lines if "execve(" in line]) == 1, "no other program should be started"
    opened = {path for line in lines for path in re.findall(r'"(/[^"]+)"|<(/[^>]+)>', line) for path in path if path}
    assert not [path for path in opened if COMPILER.search(path) and not path.startswith(str(venv / "share"))]


def test_the_console_script_is_the_thin_one(venv: Path) -> None:
    """An entry point that pip generates imports `re`, which costs a third of an apply."""
    text = (venv / "bin" / "elfpatch").read_text(encoding="utf-8")
    assert os.access(venv / "bin" / "elfpatch", os.X_OK)
    assert "import re" not in text
    assert text.splitlines()[0] == f"#!{venv}/bin/python"
