"""The corpus itself: what is cut out of files is whole, and fetching it once is enough."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from scripts import corpus as script
from tests.disasm.elf import code_sections, is_big_endian, write_object
from tests.support import corpus

CODE = bytes.fromhex("b7000000000000009500000000000000")


@pytest.mark.parametrize("big", [False, True])
def test_images_are_cut_out_by_their_headers(big: bool, tmp_path: Path) -> None:
    write_object(tmp_path / "one.o", CODE, big=big)
    one = (tmp_path / "one.o").read_bytes()
    other_machine = one[:18] + b"\x3e\x00"[:: -1 if big else 1] + one[20:]
    padded = b"x" * 13 + one + b"\x7fELF nothing" + other_machine + one + one[:-1]
    second = 13 + len(one) + len(b"\x7fELF nothing") + len(other_machine)
    assert list(script.images(padded)) == [(13, one), (second, one)]


def test_a_section_beyond_the_file_is_no_image(tmp_path: Path) -> None:
    write_object(tmp_path / "one.o", CODE, big=False)
    one = bytearray((tmp_path / "one.o").read_bytes())
    table = int.from_bytes(one[40:48], "little")
    one[table + 64 + 32 : table + 64 + 40] = (1 << 40).to_bytes(8, "little")  # sh_size of .text
    assert list(script.images(bytes(one))) == []


def test_the_objects_are_what_the_list_says() -> None:
    paths = corpus.objects()
    assert len(paths) > 120
    for path in paths:
        data = path.read_bytes()
        assert path.name.startswith(hashlib.sha256(data).hexdigest()[:16])
        assert list(script.images(data)) == [(0, data)]
    assert len({path.name[:16] for path in paths}) == len(paths)
    assert {is_big_endian(path) for path in paths} == {False, True}
    assert sum(len(code.data) for path in paths for code in code_sections(path)) > 200_000


def test_a_second_call_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus.objects()

    def fetched(folder: Path) -> None:
        raise AssertionError(f"fetched into {folder}")

    monkeypatch.setattr(script, "_fill", fetched)
    started = time.monotonic()
    assert script.ensure() == corpus.objects()
    assert time.monotonic() - started < 5


def test_an_incomplete_folder_is_filled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = corpus.objects()[0]
    (tmp_path / "objects").mkdir()
    (tmp_path / "list.tsv").write_text(f"{script._header()}\ncolumns\n{kept.name}\tp\t1\t/f\t0\n")
    filled: list[Path] = []
    monkeypatch.setattr(script, "_fill", filled.append)
    script.ensure(tmp_path)
    assert filled == [tmp_path]
    (tmp_path / "objects" / kept.name).write_bytes(kept.read_bytes())
    assert script.ensure(tmp_path) == [tmp_path / "objects" / kept.name]
    assert filled == [tmp_path]


def test_without_the_packages_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(script.Unavailable, match="there is no apt-get"):
        script.ensure(tmp_path / "corpus")
    assert not list((tmp_path / "corpus").glob("fetch-*"))
