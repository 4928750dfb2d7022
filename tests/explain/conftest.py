from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line; explain needs no kernel, and its bpffs does not exist."""
    return Cli(tmp_path / "state", tmp_path / "no-bpffs")
