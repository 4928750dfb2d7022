from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.net import Bpffs, Cgroup, VethPair
from tests.templates.support import Loaded, Loader, Settings


@pytest.fixture(scope="session")
def session_bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpffs of this test session's own."""
    with Bpffs(str(tmp_path_factory.mktemp("bpffs"))) as made:
        yield Path(made.path)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory, session_bpffs: Path) -> Iterator[Loader]:
    loader = Loader(tmp_path_factory.mktemp("loader"), session_bpffs)
    try:
        yield loader
    finally:
        loader.close()


@pytest.fixture(params=["patched", "compiled"])
def load(request: pytest.FixtureRequest, loader: Loader) -> Callable[[str, Settings], Loaded]:
    """Loads a template with settings: once as patched, once as compiled with them."""
    return lambda name, settings: loader.load(name, settings, request.param)


@pytest.fixture
def attach(tmp_path: Path, session_bpffs: Path) -> Iterator[Callable[[str, Settings, str], Loaded]]:
    """Applies a template with settings to a target; detached at the end of the test."""
    loader = Loader(tmp_path, session_bpffs)
    try:
        yield loader.attach
    finally:
        loader.close()


@pytest.fixture
def net() -> Iterator[VethPair]:
    """Two namespaces joined by a veth pair."""
    with VethPair() as made:
        yield made


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with Cgroup() as made:
        yield made
