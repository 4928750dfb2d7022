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
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Exception, match="no space left"):
        rec.write(layout, record)
    monkeypatch.undo()
    found = rec.read(layout, "one")
    assert found is not None
    assert found.generation == 0
    monkeypatch.setattr(os, "write", full)
    record.settings = [("name", "x" * (16 << 10))]  # more than is added to a file: it is written anew
    with pytest.raises(Exception, match="no space left"):
        rec.write(layout, record)
    monkeypatch.undo()
    assert rec.names(layout) == ["one"]


def test_a_link_in_place_of_a_record_is_not_followed(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path), str(tmp_path))
    (tmp_path / "secret").write_text("x")
    (tmp_path / "one.deployment").symlink_to(tmp_path / "secret")
    with pytest.raises(BadConfiguration):
        rec.read(layout, "one")


def grown(tmp_path: Path) -> tuple[Layout, Path, list[int]]:
    """A deployment's file with three generations, and its length after each."""
    layout = Layout(str(tmp_path), str(tmp_path))
    path = tmp_path / "one.deployment"
    record = rec.Record("one")
    lengths = []
    for generation in (1, 2, 3):
        record.generation = generation
        rec.write(layout, record)
        lengths.append(path.stat().st_size)
    return layout, path, lengths


def test_generations_are_added_and_the_last_counts(tmp_path: Path) -> None:
    layout, path, lengths = grown(tmp_path)
    assert lengths == sorted(set(lengths))
    found = rec.read(layout, "one")
    assert found is not None
    assert (found.generation, found.log, found.torn) == (3, path.stat().st_size, False)


def test_wherever_a_crash_cuts_the_file_a_whole_record_counts_and_the_rest_is_cut_off(tmp_path: Path) -> None:
    layout, path, lengths = grown(tmp_path)
    whole = path.read_bytes()
    for length in range(lengths[0], lengths[2]):
        path.write_bytes(whole[:length])
        found = rec.read(layout, "one")
        assert found is not None
        assert found.generation == (2 if length >= lengths[1] else 1)
        assert found.torn == (length not in lengths)
        found.generation = 7
        rec.write(layout, found)
        again = rec.read(layout, "one")
        assert again is not None
        assert (again.generation, again.torn) == (7, False)


def test_what_was_announced_is_pending_until_it_is_settled_or_a_record_follows(tmp_path: Path) -> None:
    layout, path, _ = grown(tmp_path)

    def pending() -> list[int]:
        found = rec.read(layout, "one")
        assert found is not None
        assert not found.torn
        return found.pending

    record = rec.read(layout, "one")
    assert record is not None
    rec.announce(layout, record, [12, 13])
    assert pending() == [12, 13]
    with path.open("ab") as file:
        file.write(b"elfpatch-record\t1\nname\tone\n")  # cut by a crash: what was announced still is
    found = rec.read(layout, "one")
    assert found is not None
    assert (found.pending, found.torn) == ([12, 13], True)
    rec.settle(layout, found)
    assert pending() == []
    rec.announce(layout, found, [14])
    found.pending = []
    rec.write(layout, found)
    assert pending() == []


def test_the_file_does_not_grow_without_end(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path), str(tmp_path))
    record = rec.Record("one")
    sizes = set()
    for generation in range(400):
        record.generation = generation
        rec.write(layout, record)
        sizes.add((tmp_path / "one.deployment").stat().st_size)
    found = rec.read(layout, "one")
    assert found is not None
    assert found.generation == 399
    assert max(sizes) <= 16 << 10
