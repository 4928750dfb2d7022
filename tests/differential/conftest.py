from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elfpatch.deploy.paths import Layout
from elfpatch.deploy.plan import Request
from elfpatch.deploy.transaction import apply, detach
from elfpatch.patch.setting import from_set
from tests.support.net import Bpffs, unique
from tests.template.oracles import Loaded, libbpf_load
from tests.template.test_loaded import PINNED_BY_NAME

Load = Callable[..., Loaded]


@pytest.fixture(scope="session")
def session_bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpffs of this test session's own."""
    with Bpffs(str(tmp_path_factory.mktemp("bpffs"))) as made:
        yield Path(made.path)


@pytest.fixture
def layout(tmp_path: Path, session_bpffs: Path) -> Iterator[Layout]:
    """Folders of the test's own; deployments that it leaves are taken away."""
    made = Layout(str(tmp_path / "state"), str(session_bpffs))
    yield made
    for record in (tmp_path / "state").glob("*.deployment"):
        detach(made, record.stem)
    (session_bpffs / "fixture_pinned").unlink(missing_ok=True)


@pytest.fixture
def by_libbpf(session_bpffs: Path) -> Iterator[Load]:
    """Loads an object with bpftool."""
    made: list[Loaded] = []

    def load(path: Path) -> Loaded:
        loaded = libbpf_load(path, session_bpffs)
        assert isinstance(loaded, Loaded), loaded
        made.append(loaded)
        return loaded

    yield load
    for loaded in made:
        loaded.remove()
    PINNED_BY_NAME.unlink(missing_ok=True)


@pytest.fixture
def by_elfpatch(layout: Layout) -> Load:
    """Applies an object with settings, without a target."""

    def load(path: Path, settings: dict[str, str] | None = None) -> Loaded:
        name = unique("df")
        apply(layout, Request(str(path), [from_set(f"{k}={v}") for k, v in (settings or {}).items()], name=name))
        return Loaded(Path(layout.pins(name)))

    return load
