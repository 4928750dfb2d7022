from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elfpatch.deploy.paths import Layout
from elfpatch.deploy.plan import Request
from elfpatch.deploy.transaction import Outcome, apply, detach
from elfpatch.patch.setting import from_set
from elfpatch.template.build import build
from tests.support.net import Bpffs, VethPair, unique
from tests.template.oracles import OBJECTS
from tests.traffic.support import RATE, Traffic, compile_helper


class Deployment:
    """The stamp template under a name of its own; what it makes is removed at the end of the test."""

    def __init__(self, layout: Layout, folder: Path, fixture: str = "stamp") -> None:
        self.layout = layout
        self.name = unique("tr")
        self.object = folder / f"{self.name}.o"
        self.object.write_bytes(build((OBJECTS / "clang-19-v3" / f"{fixture}.o").read_bytes(), self.name))

    def apply(self, *targets: str, **values: int) -> Outcome:
        settings = [from_set(f"{name}={value}") for name, value in values.items()]
        return apply(self.layout, Request(str(self.object), settings, targets))

    def detach(self) -> None:
        detach(self.layout, self.name)


@pytest.fixture(scope="session")
def helper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_helper(tmp_path_factory.mktemp("traffic"))


@pytest.fixture
def net() -> Iterator[VethPair]:
    with VethPair() as made:
        yield made


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    """Folders of the test's own; deployments that it leaves are taken away."""
    with Bpffs(str(tmp_path / "bpffs")) as bpffs:
        made = Layout(str(tmp_path / "state"), bpffs.path)
        yield made
        for record in (tmp_path / "state").glob("*.deployment"):
            detach(made, record.stem)


@pytest.fixture
def deployment(layout: Layout, tmp_path: Path) -> Deployment:
    return Deployment(layout, tmp_path)


@pytest.fixture
def traffic(helper: Path, net: VethPair, tmp_path: Path) -> Callable[..., Traffic]:
    """Starts a stream: `with traffic() as packets`."""
    return lambda rate=RATE: Traffic(helper, net, tmp_path, rate)
