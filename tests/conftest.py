"""Which tests need root, and what becomes of tests whose prerequisites are missing; see tests/support/require.py."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Generator

import pytest

from elfpatch.kernel import bpffs
from tests.support.require import PACKAGES, binding, require, require_root

pytest_plugins = ["tests.support.fixtures"]

# Who uses one of these, itself or through another fixture, works on the kernel.
ROOT_FIXTURES = {"kernel", "bpffs", "session_bpffs", "netns", "net", "cgroup"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "root: the test needs root")
    # What the user of this shell has deployed is no business of a test.
    for name in ("ELFPATCH_STATE_DIR", "ELFPATCH_BPFFS", "ELFPATCH_DEBUG"):
        os.environ.pop(name, None)


def pytest_sessionstart() -> None:
    """Maps that are pinned by name go to /sys/fs/bpf. Where nobody has mounted a bpffs there, we do, and leave it."""
    if os.geteuid() == 0 and not bpffs.is_mounted("/sys/fs/bpf"):
        subprocess.run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"], check=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if ROOT_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("root")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root"):
        require_root()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: object) -> Generator[None, object, object]:
    return (yield from _without_tools())


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: object) -> Generator[None, object, object]:
    return (yield from _without_tools())


def _without_tools() -> Generator[None, object, object]:
    """A command that a test runs and that is not installed is a missing prerequisite, not an error of the test."""
    try:
        return (yield)
    except FileNotFoundError as error:
        if not binding() and error.filename in PACKAGES:
            require(error.filename)
        raise


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", []))
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} tests not run: {reason.removeprefix('Skipped: ')}")
