"""`make bench` works: every row on its small setting. What it measures there means nothing and is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from scripts.bench import growth, plot
from scripts.bench.measure import Spread
from scripts.bench.rows import Ratio
from tests.support.require import require, require_root
from tests.template.oracles import ROOT

KEYS = ["interpreter", "smallest", "large", "patch", "instances", "lost", "grow"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    require_root()
    require("bpftool", "tc", "ip", "gcc", "clang-19", "unshare", "mount")
    folder = tmp_path_factory.mktemp("bench")
    words = [sys.executable, "-m", "scripts.bench", "--small"]
    words += ["--json", str(folder / "bench.json"), "--svg", str(folder / "bench.svg")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "bench.json").read_text()), (folder / "bench.svg").read_text()


@pytest.mark.timeout(300)
def test_every_row_has_figures(small):
    printed, body, _ = small
    assert list(dict.fromkeys(row["key"].partition(":")[0] for row in body["rows"])) == KEYS
    for row in body["rows"]:
        assert row["name"] in printed
        assert row["ratios"] or row["curves"], row["key"]
        for found in [*row["figures"].values(), *(ratio["found"] for ratio in row["ratios"])]:
            assert found["least"] <= found["low"] <= found["median"] <= found["high"] <= found["most"]
        if row["key"] in ("interpreter", "smallest", "large"):
            assert all(0 < share < 1 for share in row["kernel"].values())
    assert body["packets"]["rows"]
    assert any(name.startswith("elfpatch") for name in body["imports_ms"])


@pytest.mark.timeout(300)
def test_replacing_loses_nothing_and_the_contrast_does(small):
    (row,) = [row for row in small[1]["rows"] if row["key"] == "lost"]
    replaced, contrast = row["figures"].values()
    assert replaced["most"] == 0
    assert contrast["least"] > 0


@pytest.mark.timeout(300)
def test_every_instance_is_swapped(small):
    for row in small[1]["rows"]:
        if row["key"].startswith("instances"):
            seen, _, count = row["facts"]["swaps seen"].split()
            assert seen == count


@pytest.mark.timeout(300)
def test_the_picture_shows_every_ratio(small):
    _, body, svg = small
    root = ElementTree.fromstring(svg)
    ratios = [ratio for row in body["rows"] if not row["curves"] for ratio in row["ratios"]]
    drawn = [one for one in root.iter("{http://www.w3.org/2000/svg}rect") if one.get("class") in ("met", "missed")]
    assert len(drawn) == len(ratios)
    assert svg == plot.draw(body)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0])
def test_the_exponent_is_that_of_the_growth_above_the_fixed_cost(power):
    points = [(size, 20 + size**power) for size in (1, 10, 100, 1000)]
    assert growth.exponent(points) == pytest.approx(power, abs=0.1)


@pytest.mark.parametrize(
    ("figure", "at_least", "met"), [(2, False, True), (3, False, False), (3, True, True), (1, True, False)]
)
def test_a_bound_is_met_on_its_side_only(figure, at_least, met):
    ratio = Ratio("this", Spread.of([figure]), 2, at_least=at_least)
    assert ratio.met is met
