"""Cgroup hooks: a link on a cgroup2 folder, beside those of others. Linux 5.7+."""

from __future__ import annotations

import os
from errno import EINVAL, EPERM

from elfpatch import errors
from elfpatch.deploy.attach.base import Place, prog_text
from elfpatch.deploy.attach.link import LinkAdapter
from elfpatch.kernel import bpf, libc, netns
from elfpatch.kernel.abi import CGROUP2_SUPER_MAGIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.deploy.target import Target


class CgroupLink(LinkAdapter):
    """Several programs share a cgroup hook; all of them run, in the order in which they were attached."""

    name = "cgroup-link"
    link_kind = "cgroup"

    def locate(self, target: Target) -> Place:
        directory = find(target)
        return Place(target, cgroup_id=os.stat(directory).st_ino, directory=directory)

    def create(self, place: Place, prog_fd: int) -> int:
        fd = _open(place)
        try:
            return bpf.link_create(prog_fd, fd, place.target.attach_type)
        finally:
            os.close(fd)

    def occupants(self, place: Place) -> list[int]:
        fd = _open(place)
        try:
            return bpf.prog_query(fd, place.target.attach_type).prog_ids
        finally:
            os.close(fd)

    def is_on_hook(self, place: Place, info: bpf.LinkInfo) -> bool:
        return info.prog_id in self.occupants(place)

    def explain(self, place: Place, prog_fd: int, error: errors.SyscallFailed) -> errors.ElfpatchError:
        where = place.target.text
        if error.errno == EPERM:
            there = self.occupants(place)
            who = f": {prog_text(there[0])} is on it" if there else ""
            return errors.Refused(
                f"a program that tolerates no other, here or in a cgroup above, holds this hook{who}",
                where=where,
                hint="attach that one with multi (`bpftool cgroup attach ... multi`) or detach it",
            )
        hint = ""
        if error.errno == EINVAL:
            hint = f"is the program one for the hook {place.target.where}, and does this kernel have it?"
        return errors.SyscallFailed(error.operation, error.errno, "cannot attach", where=where, hint=hint)


def _open(place: Place) -> int:
    try:
        return os.open(place.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.Missing(f"the cgroup is gone: {error.strerror}", where=place.target.text) from None


def find(target: Target) -> str:
    """The folder of a cgroup: a path in the file system, or one from the root of the cgroup2 hierarchy.

    Raises Missing with near names, BadConfiguration for a folder that is no cgroup2.
    """
    path = target.path.rstrip("/") or "/"
    tried = [path]
    for directory in tried:
        try:
            if libc.filesystem_magic(directory) == CGROUP2_SUPER_MAGIC and os.path.isdir(directory):
                return directory
        except OSError:
            pass
        if directory is path:
            tried += [f"{root}/{path.strip('/')}".rstrip("/") for root in mounts()]
    if os.path.exists(path) and path != "/":
        raise errors.BadConfiguration(
            f"{path} is not a cgroup2 folder", where=target.text, hint=f"cgroup2 is mounted on {', '.join(mounts())}"
        )
    parent, _, name = path.rpartition("/")
    known = _children([parent, *(f"{root}{parent}" for root in mounts())])
    raise errors.Missing(f"no cgroup {path}", where=target.text, hint=netns.near(name, known))


def mounts() -> list[str]:
    """Where cgroup2 is mounted."""
    found = []
    with open("/proc/self/mounts") as file:
        for line in file:
            _, where, kind, *_ = line.split(" ")
            if kind == "cgroup2":
                found.append(where.encode().decode("unicode_escape"))  # \040 is a space
    return found


def _children(folders: list[str]) -> list[str]:
    for folder in folders:
        try:
            if libc.filesystem_magic(folder) == CGROUP2_SUPER_MAGIC:
                return [entry.name for entry in os.scandir(folder) if entry.is_dir()]
        except OSError:
            continue
    return []
