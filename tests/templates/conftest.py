from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.templates.support import Loaded, Loader, Settings


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpffs of this test session's own."""
    path = tmp_path_factory.mktemp("bpffs")
    subprocess.run(["mount", "-t", "bpf", "bpf", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory, bpffs: Path) -> Iterator[Loader]:
    loader = Loader(tmp_path_factory.mktemp("loader"), bpffs)
    try:
        yield loader
    finally:
        loader.close()


@pytest.fixture(params=["patched", "compiled"])
def load(request: pytest.FixtureRequest, loader: Loader) -> Callable[[str, Settings], Loaded]:
    """Loads a template with settings: once as patched, once as compiled with them."""
    return lambda name, settings: loader.load(name, settings, request.param)
