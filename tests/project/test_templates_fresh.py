"""The templates that are committed are what their sources give."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from elfpatch import index as ix
from scripts.build_templates import build_template, names, version
from tests.support.require import require

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "fixtures" / "templates"
CLANG = os.environ.get("CLANG", "clang-19")


def index_of(path: Path) -> ix.Index:
    block = ix.find(path.read_bytes())
    assert block is not None, f"{path} has no index"
    return ix.Index(block)


def settable(index: ix.Index) -> list[tuple[object, ...]]:
    """What a user may set, however it was compiled."""
    return [
        (variable.name, variable.size, variable.flags & ix.SETTABLE, index.row(ix.Section, variable.section).name)
        for variable in index.rows(ix.Variable)
    ]


def test_each_source_has_its_template() -> None:
    assert sorted(path.stem for path in COMMITTED.glob("*.o")) == names()


@pytest.mark.parametrize("name", names())
def test_the_committed_template_is_what_the_source_gives(name: str, tmp_path: Path) -> None:
    require(CLANG)
    fresh, committed = tmp_path / f"{name}.o", COMMITTED / f"{name}.o"
    build_template(name, fresh, clang=CLANG)
    if version(CLANG) == (COMMITTED / "COMPILER").read_text(encoding="utf-8").strip():
        assert fresh.read_bytes() == committed.read_bytes(), "run `make fixtures`"
    else:
        assert settable(index_of(fresh)) == settable(index_of(committed)), "run `make fixtures`"


@pytest.mark.parametrize("name", names())
def test_no_path_of_the_building_machine_is_in_it(name: str) -> None:
    data = (COMMITTED / f"{name}.o").read_bytes()
    assert str(ROOT).encode() not in data
    assert b"/home/" not in data
    assert f"./bpf_templates/{name}.bpf.c".encode() in data
