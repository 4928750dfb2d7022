"""Patching alone: ten variables and two keys of endpoint.o, on an opened template, against the interpreter's start."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from elfpatch.deploy.prepare import prepare
from elfpatch.deploy.select import select
from elfpatch.deploy.source import open_template
from elfpatch.patch.image import image_to_load
from elfpatch.patch.setting import from_set
from scripts.bench.environment import ROOT
from scripts.bench.measure import Spread, spawn
from scripts.bench.rows import Ratio, Row

SETTINGS = (
    "ep.id={number}",
    "ep.ip4=10.1.2.3",
    "ep.ip6=2001:db8::{number}",
    "ep.ip6_local=fe80::1",
    "ep.mac=02:00:00:00:00:01",
    "ep.policy.mode=POLICY_DISABLED",
    "ep.policy.serve=true",
    "ep.policy.other=true",
    "ep.policy.ports[0]=53",
    "ep.policy.ports[1]=443",
    "debug=true",
    "accounting=false",
)
REPEAT = 50


def measure(bare: Sequence[str], rounds: int) -> Row:
    """`bare` is the command line of an interpreter that does nothing. Each round takes the median of REPEAT patches:
    from words as --set takes them to the section's bytes and the instructions that go to the kernel."""
    template = open_template(str(ROOT / "fixtures" / "templates" / "endpoint.o"))
    selection = select(template.index, [])

    def patch(number: int) -> None:
        prepare(image_to_load(template, [from_set(one.format(number=number)) for one in SETTINGS]), selection)

    patches: list[float] = []
    starts: list[float] = []
    quiet = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in range(rounds):
            took = []
            for turn in range(REPEAT):
                began = time.perf_counter()
                patch(number * REPEAT + turn + 1 & 0xFFF)
                took.append(time.perf_counter() - began)
            patches.append(Spread.of(took).median)
            began = time.perf_counter()
            spawn(bare, quiet)
            starts.append(time.perf_counter() - began)
    finally:
        os.close(quiet)
    ratio = Spread.of([mine / start for mine, start in zip(patches, starts, strict=True)])
    return Row(
        key="patch",
        name="patching alone, endpoint.o, 10 variables and 2 keys",
        rounds=rounds,
        figures={
            "patch": Spread.of(patches).scaled(1000),
            "python -I -c pass": Spread.of(starts).scaled(1000),
        },
        ratios=[Ratio("of the interpreter's start", ratio, 1 / 200)],
    )
