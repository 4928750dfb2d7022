"""elfpatch from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import elfpatch
from elfpatch.api import Instance
from elfpatch.errors import BadValue, Missing
from tests.support.cli import MARK
from tests.support.net import VethPair


@pytest.fixture
def template(bpffs: str, tmp_path: Path) -> elfpatch.Template:
    return elfpatch.Template.open(MARK, state_dir=str(tmp_path / "state"), bpffs=bpffs)


def test_apply_plan_detach(template: elfpatch.Template, net: VethPair) -> None:
    target = f"tcx:{net.b.ifname}:ingress,netns={net.b.ns.name}"
    with template:
        assert template.plan({"foo": 1}, targets=[target], name="one").changed
        first = template.apply({"foo": 1}, targets=[target], name="one")
        assert (first.name, first.generation, first.changed) == ("one", 1, True)
        assert list(first.programs) == [target]
        assert [(change.path, change.old, change.new) for change in first.changes] == [("foo", "0", "1")]
        assert not template.apply({"foo": 1}, name="one").changed
        assert template.apply({"foo": 2}, name="one").generation == 2
        with pytest.raises(BadValue):
            template.apply({"foo": "no number"}, name="one")
        template.detach("one")
        with pytest.raises(Missing):
            template.detach("one")


def test_apply_all_reports_failures_among_the_rest(template: elfpatch.Template, net: VethPair) -> None:
    target = f"tcx:{net.b.ifname}:ingress,netns={net.b.ns.name}"
    with template:
        instances = [Instance("a", {"foo": 1}, [target]), Instance("b", {"fooo": 1}), Instance("a", {"foo": 2})]
        found = {one.number: one for one in template.apply_all(iter(instances), jobs=2)}
        assert isinstance(found[2].error, BadValue)
        assert [found[n].applied.generation for n in (1, 3)] == [1, 2]  # type: ignore[union-attr]


def test_the_package_alone_imports_nothing_of_it() -> None:
    code = "import sys, elfpatch; print([name for name in sys.modules if name.startswith('elfpatch.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
