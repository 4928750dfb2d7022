from __future__ import annotations

from pathlib import Path

import pytest

from scripts.bench.environment import install


@pytest.fixture(scope="session")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel of this tree and nothing else of it: what a user has installed."""
    return install(tmp_path_factory.mktemp("wheel"))
