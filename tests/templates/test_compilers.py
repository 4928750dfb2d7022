"""The shipped templates, built by every compiler for every instruction set, load with every key on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.require import require
from tests.templates.support import CLANGS, SOURCES, compile_source

ALL_ON = {
    "endpoint": ("accounting=on", "debug=on", "notify_drops=on", "ep.ip4=10.0.0.2"),
    "xdp_filter": ("rate_limit=on", "ipv6=on", "sampling=on"),
    "xdp_lb": ("encap=on", "service.vip=10.0.0.5"),
}
BUILDS = [(clang, cpu) for clang in CLANGS for cpu in ("v1", "v2", "v3")]
BUILDS.append(("clang-19", "v4"))  # the older ones know none


@pytest.mark.parametrize("template", ALL_ON)
@pytest.mark.parametrize(("clang", "cpu"), BUILDS)
def test_it_loads_with_every_key_on(template: str, clang: str, cpu: str, tmp_path: Path, bpffs: str) -> None:
    require(clang)
    made = compile_source(SOURCES / f"{template}.bpf.c", tmp_path / f"{template}.o", f"-mcpu={cpu}", clang=clang)
    words = [word for value in ALL_ON[template] for word in ("--set", value)]
    cli = Cli(tmp_path / "state", bpffs)
    for how in ((), ("--specialize",)):
        cli.ok("check", *how, *words, str(made))
