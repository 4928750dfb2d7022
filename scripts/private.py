"""Private namespaces for the demo and the benchmark: what they make there vanishes with them, however they end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

_INSIDE = "ELFPATCH_INSIDE"
TOOLS = ("ip", "unshare", "nsenter", "mount")


def why_not() -> str:
    """Why private namespaces cannot be had here, or ""."""
    if os.geteuid() != 0:
        return "it loads programs into the kernel and makes network namespaces: run it as root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"{', '.join(missing)} is missing: install iproute2 and util-linux" if missing else ""


def enter(module: str, *arguments: str) -> None:
    """Start `python -m module arguments` in place of this process, inside a network and mount namespace of its own with
    an empty bpffs on /sys/fs/bpf. Returns when it is inside already."""
    if os.environ.get(_INSIDE) == str(os.getpid()):
        command("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
        command("ip", "link", "set", "lo", "up")
        return
    os.environ[_INSIDE] = str(os.getpid())  # exec keeps the number
    os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, "-m", module, *arguments])


def command(*words: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
