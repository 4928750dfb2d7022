from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.net import Bpffs


@pytest.fixture(scope="session")
def session_bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpffs of this test session's own."""
    with Bpffs(str(tmp_path_factory.mktemp("bpffs"))) as made:
        yield Path(made.path)
