"""The record: what is written is read back, a cut or foreign file is refused, the old one or the new one is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfpatch.deploy import record as rec
from elfpatch.deploy.paths import Layout
from elfpatch.errors import BadConfiguration

texts = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("\t\n\r\\=\x00\udc80"))
numbers = st.integers(0, 2**32)


@st.composite
def records(draw: st.DrawFn) -> rec.Record:
    record = rec.Record("name")
    record.object = draw(texts)
    record.generation = draw(numbers)
    record.since = "2026-01-01T00:00:00Z"
    record.force = draw(st.booleans())
    record.settings = draw(st.lists(st.tuples(texts, texts)))
    record.sections = draw(st.dictionaries(texts, texts))
    record.programs = draw(st.lists(st.tuples(texts, numbers, texts)))
    record.shared_maps = draw(st.lists(texts))
    record.pending = draw(st.lists(numbers))
    keys = st.text("abc", min_size=1)
    record.attached = [
        rec.Attached(*fields)
        for fields in draw(st.lists(st.tuples(texts, texts, texts, numbers, texts, st.dictionaries(keys, texts))))
    ]
    return record


def same(one: rec.Record, other: rec.Record) -> bool:
    plain = [slot for slot in rec.Record.__slots__ if slot != "attached"]
    attached = [[tuple(getattr(a, slot) for slot in a.__slots__) for a in r.attached] for r in (one, other)]
    return all(getattr(one, slot) == getattr(other, slot) for slot in plain) and attached[0] == attached[1]


@given(records())
def test_a_record_is_read_back(record: rec.Record) -> None:
    assert same(rec.decode(rec.encode(record), "path"), record)


@given(records(), st.data())
def test_a_cut_record_is_refused(record: rec.Record, data: st.DataObject) -> None:
    text = rec.encode(record)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(BadConfiguration):
        rec.decode(cut, "path")


def test_a_record_of_another_format_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="format"):
        rec.decode("elfpatch-record\t99\nend\n", "path")


def test_a_failed_write_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(str(tmp_path), str(tmp_path))
    record = rec.Record("one")
    rec.write(layout, record)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    record.generation = 7
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Exception, match="no space left"):
        rec.write(layout, record)
    monkeypatch.undo()
    found = rec.read(layout, "one")
    assert found is not None
    assert found.generation == 0
    assert rec.names(layout) == ["one"]


def test_a_link_in_place_of_a_record_is_not_followed(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path), str(tmp_path))
    (tmp_path / "secret").write_text("x")
    (tmp_path / "one.deployment").symlink_to(tmp_path / "secret")
    with pytest.raises(BadConfiguration):
        rec.read(layout, "one")
