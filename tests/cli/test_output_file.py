"""`patch -o`: what the output file may be, and what of it stays."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tests.support.cli import MARK, Cli


def test_a_symbolic_link_stays_and_its_file_is_replaced(plain_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "real.o").write_bytes(Path(MARK).read_bytes())
    (tmp_path / "link.o").symlink_to("real.o")
    plain_cli.ok("patch", "--set", "foo=7", "-o", str(tmp_path / "link.o"), str(tmp_path / "link.o"))
    assert os.readlink(tmp_path / "link.o") == "real.o"
    assert (tmp_path / "real.o").read_bytes() != Path(MARK).read_bytes()


def test_the_mode_of_the_file_stays(plain_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "out.o").touch(0o600)
    plain_cli.ok("patch", "--set", "foo=7", "-o", str(tmp_path / "out.o"), MARK)
    assert stat.S_IMODE((tmp_path / "out.o").stat().st_mode) == 0o600


def test_what_is_no_regular_file_is_written_to_and_never_replaced(plain_cli: Cli, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    plain_cli.ok("patch", "--set", "foo=7", "-o", str(pipe), MARK)
    assert os.read(reader, 4) == b"\x7fELF"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_name_as_long_as_names_may_be(plain_cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)
    plain_cli.ok("patch", "--set", "foo=7", "-o", str(target), MARK)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == [target.name]
