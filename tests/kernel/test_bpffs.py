"""The BPF file system: mounting, private folders, pins that replace, trees taken away."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from elfpatch import errors
from elfpatch.kernel import bpf, bpffs
from tests.support.net import command

pytestmark = pytest.mark.usefixtures("kernel")


@pytest.fixture
def one_map() -> Iterator[int]:
    fd = bpf.map_create(2, 4, 4, 1)
    yield fd
    os.close(fd)


def mounts_on(path: str) -> int:
    return sum(line.split()[1] == path for line in Path("/proc/self/mounts").read_text().splitlines())


def test_mounts_once_and_only_when_needed(tmp_path: Path) -> None:
    root = str(tmp_path / "deep" / "bpf")
    try:
        assert not bpffs.is_mounted(root)
        assert bpffs.ensure(root)
        assert bpffs.is_mounted(root)
        assert not bpffs.ensure(root)
        assert mounts_on(root) == 1
        # a folder inside is made, not mounted on
        assert not bpffs.ensure(f"{root}/inside")
        assert bpffs.is_mounted(f"{root}/inside")
        assert mounts_on(f"{root}/inside") == 0
    finally:
        command("umount", "-l", root, check=False)


def test_never_mounts_over_files(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(errors.BadConfiguration, match="not empty") as raised:
        bpffs.ensure(str(tmp_path))
    assert raised.value.exit_code == 78
    assert mounts_on(str(tmp_path)) == 0


def test_a_file_is_no_place_to_mount(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(errors.BadConfiguration):
        bpffs.ensure(str(tmp_path / "letter"))


def test_processes_that_come_at_once_mount_once(tmp_path: Path) -> None:
    root = str(tmp_path / "bpf")
    code = f"from elfpatch.kernel import bpffs; print(bpffs.ensure({root!r}))"
    try:
        started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(6)]
        answers = [process.communicate(timeout=60)[0].strip() for process in started]
        assert sorted(answers) == ["False"] * 5 + ["True"]
        assert mounts_on(root) == 1
    finally:
        command("umount", "-l", root, check=False)


def test_a_mount_that_comes_in_between_is_found(tmp_path: Path) -> None:
    """The process has seen that nothing is mounted and waits for the lock; then somebody mounts."""
    root = tmp_path / "bpf"
    root.mkdir()
    code = f"from elfpatch.kernel import bpffs; print(bpffs.ensure({str(root)!r}))"
    try:
        lock = os.open(root, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        until = time.monotonic() + 30
        while f" {process.pid} " not in Path("/proc/locks").read_text():
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        command("mount", "-t", "bpf", "bpf", str(root))
        os.close(lock)
        assert process.communicate(timeout=60)[0].strip() == "False"
        assert mounts_on(str(root)) == 1
    finally:
        command("umount", "-l", str(root), check=False)


def test_private_folders(bpffs_root: str) -> None:
    path = f"{bpffs_root}/private"
    bpffs.make_private(path)
    assert os.stat(path).st_mode & 0o7777 == 0o700
    os.chmod(path, 0o755)
    bpffs.make_private(path)
    assert os.stat(path).st_mode & 0o7777 == 0o700
    os.symlink(path, f"{bpffs_root}/lure")
    with pytest.raises(errors.NoPermission, match="not a folder of ours"):
        bpffs.make_private(f"{bpffs_root}/lure")
    os.mkdir(f"{bpffs_root}/theirs")
    os.chown(f"{bpffs_root}/theirs", 65534, 65534)
    with pytest.raises(errors.NoPermission, match="not a folder of ours"):
        bpffs.make_private(f"{bpffs_root}/theirs")


def test_pins_replace(bpffs_root: str, one_map: int) -> None:
    other = bpf.map_create(2, 4, 8, 1)
    try:
        bpffs.pin(one_map, f"{bpffs_root}/pin")
        bpffs.pin(other, f"{bpffs_root}/pin")
        found = bpffs.open_pin(f"{bpffs_root}/pin")
        assert found is not None
        assert bpf.map_info(found).map_id == bpf.map_info(other).map_id
        os.close(found)
        assert os.listdir(bpffs_root) == ["pin"]
    finally:
        os.close(other)


def test_a_failed_pin_leaves_nothing(bpffs_root: str, one_map: int) -> None:
    os.mkdir(f"{bpffs_root}/folder")
    with pytest.raises(errors.SyscallFailed):
        bpffs.pin(one_map, f"{bpffs_root}/folder")  # rename(2) does not put a pin over a folder
    assert os.listdir(bpffs_root) == ["folder"]
    with pytest.raises(errors.Bug):
        bpffs.pin(one_map, f"{bpffs_root}/a.b")
    with pytest.raises(errors.SyscallFailed):
        bpffs.pin(one_map, f"{bpffs_root}/none/pin")


def test_what_a_crashed_process_left_does_not_disturb(bpffs_root: str, one_map: int) -> None:
    bpf.obj_pin(one_map, f"{bpffs_root}/pin-new-{os.getpid()}")
    bpffs.pin(one_map, f"{bpffs_root}/pin")
    assert os.listdir(bpffs_root) == ["pin"]


def test_no_pin_is_not_an_error(bpffs_root: str) -> None:
    assert bpffs.open_pin(f"{bpffs_root}/none") is None
    assert bpffs.open_pin(f"{bpffs_root}/none/at/all") is None
    assert not bpffs.unpin(f"{bpffs_root}/none")


def test_trees_are_removed_whole(bpffs_root: str, one_map: int, tmp_path: Path) -> None:
    os.makedirs(f"{bpffs_root}/tree/a/b")
    for where in ("one", "a/two", "a/b/three"):
        bpf.obj_pin(one_map, f"{bpffs_root}/tree/{where}")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "letter").write_text("dear")
    os.symlink(str(outside), f"{bpffs_root}/tree/a/lure")
    bpffs.remove_tree(f"{bpffs_root}/tree")
    assert os.listdir(bpffs_root) == []
    assert (outside / "letter").exists()
    bpffs.remove_tree(f"{bpffs_root}/tree")  # again: nothing to do


def test_only_a_bpffs_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(errors.Bug):
        bpffs.remove_tree(str(tmp_path))
    assert (tmp_path / "letter").exists()


@pytest.fixture
def bpffs_root(bpffs: str) -> str:
    """A folder in a bpffs: its root may hold the kernel's own `maps.debug` and `progs.debug`."""
    os.mkdir(f"{bpffs}/root")
    return f"{bpffs}/root"
