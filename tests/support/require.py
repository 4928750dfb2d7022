"""Prerequisites of tests. As root, or with CI set, a missing one is a failure; otherwise the test is skipped and the
end of the run says how many were."""

from __future__ import annotations

import os
import shutil

import pytest

PACKAGES = {
    "bpf-gcc": "gcc-bpf",
    "bpftool": "bpftool",
    "clang-14": "clang-14",
    "clang-16": "clang-16",
    "clang-19": "clang-19",
    "gcc": "gcc",
    "ip": "iproute2",
    "llvm-objdump-19": "llvm-19",
    "llvm-readelf-19": "llvm-19",
    "llvm-strip-19": "llvm-19",
    "make": "make",
    "mount": "mount",
    "nsenter": "util-linux",
    "strace": "strace",
    "tc": "iproute2",
    "tcpdump": "tcpdump",
    "unshare": "util-linux",
}
ROOT_NEEDED = "needs root"


def binding() -> bool:
    """Whether every test must run here."""
    return os.geteuid() == 0 or bool(os.environ.get("CI"))


def unmet(reason: str) -> None:
    """Fail or skip the running test."""
    if binding():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require(*tools: str) -> None:
    """The running test needs these commands."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        packages = sorted({PACKAGES.get(tool, tool) for tool in missing})
        unmet(f"needs {', '.join(missing)} (apt-get install {' '.join(packages)})")


def require_root() -> None:
    """The running test needs root."""
    if os.geteuid() != 0:
        unmet(ROOT_NEEDED)
