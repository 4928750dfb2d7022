from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.templates.support import compile_source


@pytest.fixture
def cli(bpffs: str, tmp_path: Path) -> Cli:
    """The command line with a bpffs of its own."""
    return Cli(tmp_path / "state", Path(bpffs))


@pytest.fixture
def plain_cli(tmp_path: Path) -> Cli:
    """The command line for what needs no kernel: its bpffs does not exist."""
    return Cli(tmp_path / "state", tmp_path / "no-bpffs")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`compiled(body, flags...)`: the path of an object compiled from the usual includes and `body`."""
    folder = tmp_path_factory.mktemp("objects")
    made: dict[tuple[str, ...], str] = {}

    def make(body: str, *flags: str, name: str = "") -> str:
        key = (body, name, *flags)
        if key not in made:
            source = folder / f"{name or f'o{len(made)}'}.bpf.c"
            source.write_text(
                "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n#include <config.h>\n"
                + body
                + '\nchar LICENSE[] SEC("license") = "GPL";\n'
            )
            try:
                made[key] = str(compile_source(source, source.with_suffix("").with_suffix(".o"), *flags))
            except subprocess.CalledProcessError as error:
                pytest.fail(f"{source}: {error}")
        return made[key]

    return make
