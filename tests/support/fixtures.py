"""Fixtures for tests on the real kernel; the root conftest has `pytest_plugins = ["tests.support.fixtures"]`.

As root, or with CI set, a missing prerequisite is a failure; otherwise such tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.net import Bpffs, Cgroup, NetNs, VethPair, unique


@pytest.fixture(scope="session")
def kernel() -> None:
    """Root, and the tools that serve as oracles."""
    missing = [tool for tool in ("ip", "tc", "bpftool", "nsenter") if shutil.which(tool) is None]
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("the kernel tests need root")
        pytest.skip("needs root")
    if missing:
        pytest.fail(f"missing: {', '.join(missing)}")


@pytest.fixture
def netns(kernel: None) -> Iterator[NetNs]:
    """An empty network namespace."""
    with NetNs() as made:
        yield made


@pytest.fixture
def net(kernel: None) -> Iterator[VethPair]:
    """Two namespaces joined by a veth pair."""
    with VethPair() as made:
        yield made


@pytest.fixture
def cgroup(kernel: None) -> Iterator[Cgroup]:
    """A cgroup of the test's own."""
    with Cgroup() as made:
        yield made


@pytest.fixture
def bpffs(kernel: None, tmp_path: Path) -> Iterator[str]:
    """The path of a bpffs of the test's own; all that is pinned in it vanishes with it."""
    with Bpffs(str(tmp_path / unique("bpf"))) as made:
        yield made.path
