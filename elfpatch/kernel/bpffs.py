"""The BPF file system: is it mounted, private folders in it, pins that replace atomically, taking a tree of pins away.

A bpffs holds pins, folders and symbolic links only, and no name with a dot. rename(2) over a pin is atomic.
"""

from __future__ import annotations

import os
from errno import EACCES, EEXIST, ENOENT, ENOTDIR, EPERM, EROFS
from stat import S_ISDIR, S_ISLNK

from elfpatch import errors
from elfpatch.kernel import bpf, libc
from elfpatch.kernel.abi import BPF_FS_MAGIC

PRIVATE = 0o700


def is_mounted(path: str) -> bool:
    """Whether `path` exists and lies in a bpffs."""
    try:
        return libc.filesystem_magic(path) == BPF_FS_MAGIC
    except OSError:
        return False


def ensure(root: str) -> bool:
    """Make `root` a folder in a bpffs, mounting one on it when it is not; returns whether a mount was needed.

    A folder that holds other files is never mounted over. Two processes that come at once mount once: the second
    waits for a lock on the folder and then finds the mount. Raises BadConfiguration, NoPermission, SyscallFailed.
    """
    if is_mounted(root):
        return False
    parent = os.path.dirname(root.rstrip("/"))
    if is_mounted(parent):
        make_private(root)
        return False
    try:
        os.makedirs(root, PRIVATE, exist_ok=True)
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _failed("mkdir", error, f"cannot make {root} to mount a BPF file system on") from None
    try:
        libc.flock(fd, libc.LOCK_EX)
        if is_mounted(root):
            return False
        if os.listdir(root):
            raise errors.BadConfiguration(
                f"{root} is not in a BPF file system and not empty", hint="give --bpffs an empty folder or a bpffs"
            )
        libc.mount("bpf", root, "bpf", "mode=0700")
    except OSError as error:
        raise _failed("mount", error, f"cannot mount a BPF file system on {root}") from None
    finally:
        os.close(fd)
    return True


def _failed(operation: str, error: OSError, what: str) -> errors.ElfpatchError:
    if error.errno in {EPERM, EACCES}:
        return errors.NoPermission(f"{what}: {error.strerror}", hint="run as root")
    if error.errno in {EROFS, ENOENT, EEXIST, ENOTDIR}:
        return errors.BadConfiguration(f"{what}: {error.strerror}", hint="choose another folder with --bpffs")
    return errors.SyscallFailed(operation, error.errno or 0, what)


def _make(path: str) -> bool:
    """Make a private folder; False when another process was faster."""
    try:
        os.mkdir(path, PRIVATE)
    except FileExistsError:
        return False
    return True


def make_private(path: str) -> None:
    """Make folder `path` (its parent exists) with mode 0700, or see that the one there is ours and make it private.

    The root of a bpffs is usually writable for everybody: a folder of another owner, or a symbolic link, is refused.
    """
    try:
        try:
            status = os.lstat(path)  # first, for at all but the first apply it is there
        except FileNotFoundError:
            if _make(path):
                return
            status = os.lstat(path)
    except OSError as error:
        raise _failed("mkdir", error, f"cannot make {path}") from None
    if S_ISLNK(status.st_mode) or not S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise errors.NoPermission(
            f"{path} is not a folder of ours", hint="remove it, or choose another folder with --bpffs"
        )
    if status.st_mode & 0o7777 != PRIVATE:
        os.chmod(path, PRIVATE)


def stage(fd: int, path: str) -> str:
    """Pin a map, program or link beside `path`, and return where: everything that can fail, fails here.

    The folder exists; the name has no dot (errors.Bug).
    """
    folder, _, name = path.rpartition("/")
    if "." in name or not name:
        raise errors.Bug(f"{name!r} cannot name a pin")
    fresh = f"{folder}/{name[:200]}-new-{os.getpid()}"
    try:
        bpf.obj_pin(fd, fresh)
    except errors.SyscallFailed as error:
        if error.errno != EEXIST:
            raise
        unpin(fresh)  # left by a process that crashed and had our number
        bpf.obj_pin(fd, fresh)
    return fresh


def settle(fresh: str, path: str) -> None:
    """Move a staged pin to `path`; what was pinned there is replaced atomically."""
    try:
        os.rename(fresh, path)
    except OSError as error:
        os.unlink(fresh)
        raise errors.SyscallFailed("rename", error.errno or 0, f"pinning at {path}") from None


def pin(fd: int, path: str) -> None:
    """Pin under `path`; what was pinned there is replaced atomically. No trace is left behind on failure."""
    settle(stage(fd, path), path)


def open_pin(path: str) -> int | None:
    """A new fd of what is pinned under `path`, or None when nothing is."""
    try:
        return bpf.obj_get(path)
    except errors.SyscallFailed as error:
        if error.errno in {ENOENT, ENOTDIR}:
            return None
        raise


def unpin(path: str) -> bool:
    """Remove one pin; returns whether there was one."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _failed("unlink", error, f"cannot remove pin {path}") from None
    return True


def remove_tree(path: str) -> None:
    """Remove the folder `path` of a bpffs with all pins in it. Symbolic links are removed, not followed.

    Missing parts do not matter, one that cannot be removed does not stop the rest, and is then reported. Outside of a
    bpffs it refuses (errors.Bug).
    """
    if not os.path.lexists(path):
        return
    if os.path.islink(path):
        unpin(path)
        return
    if not is_mounted(path):
        raise errors.Bug(f"{path} is not in a BPF file system: not removed")
    stuck: list[errors.ElfpatchError] = []
    _remove(path, stuck)
    errors.raise_all(stuck)


def _remove(folder: str, stuck: list[errors.ElfpatchError]) -> None:
    try:
        with os.scandir(folder) as entries:
            found = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for path, is_folder in found:
            if is_folder:
                _remove(path, stuck)
            else:
                try:
                    unpin(path)
                except errors.ElfpatchError as error:
                    stuck.append(error)
        os.rmdir(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        stuck.append(_failed("rmdir", error, f"cannot remove {folder}"))
