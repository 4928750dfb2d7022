"""What is measured: a wheel installed into an environment of its own, as a user has it, and what stands around it."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "bench"


def sources_digest() -> str:
    """Of all that goes into the wheel."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted([ROOT / "pyproject.toml", ROOT / "scripts" / "elfpatch", *(ROOT / "elfpatch").rglob("*.py")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def install(folder: Path) -> Path:
    """Build the wheel and install it with what it depends on into a new virtual environment `folder`/venv."""
    venv, wheels = folder / "venv", folder / "wheels"
    shutil.rmtree(venv, ignore_errors=True)
    shutil.rmtree(wheels, ignore_errors=True)
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet", "--quiet"]
    subprocess.run([sys.executable, *pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([str(venv / "bin" / "python"), *pip, "install", str(wheel)], check=True)
    return venv


def installed() -> Path:
    """The environment of this tree, under build/; made anew when the sources have changed."""
    stamp = WORK / "venv" / "sources"
    digest = sources_digest()
    if not stamp.exists() or stamp.read_text() != digest:
        install(WORK)
        stamp.write_text(digest)
    return WORK / "venv"


def _first_line(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return "missing"
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.machine()


def describe(python: str, clang: str) -> dict[str, str]:
    """The machine, the kernel and the versions that the figures belong to."""
    return {
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        "kernel": os.uname().release,
        "python": _first_line(python, "--version").removeprefix("Python "),
        "clang": _first_line(clang, "--version"),
        "bpftool": _first_line("bpftool", "version"),
    }
