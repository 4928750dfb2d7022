"""Network namespaces: enter one and come back, name one, find an interface in one.

`ip netns exec` is of no use here: it mounts a new /sys, which hides bpffs. setns(2) moves only the calling thread.
"""

from __future__ import annotations

import os
from errno import EINVAL, EPERM

from elfpatch import errors
from elfpatch.kernel import libc
from elfpatch.kernel.abi import CLONE_NEWNET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

NAMED = "/run/netns"
SELF = "/proc/thread-self/ns/net"
SHOWN = 8  # names listed at most in a hint


def path_of(netns: str) -> str:
    """The file of a namespace given as a name, a path, or "" (the caller's own)."""
    if not netns:
        return SELF
    return netns if "/" in netns else f"{NAMED}/{netns}"


def _open(netns: str) -> int:
    try:
        return os.open(path_of(netns), os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        raise errors.NoPermission(f"cannot open network namespace {netns}", hint="run as root") from None
    except OSError as error:
        if "/" in netns:
            raise errors.Missing(f"no network namespace at {netns}: {error.strerror}") from None
        try:
            known = os.listdir(NAMED)
        except OSError:
            known = []
        raise errors.Missing(f"no network namespace named {netns}", hint=near(netns, known)) from None


def near(name: str, known: list[str]) -> str:
    """A hint of what `name` may have meant among `known`."""
    if not known:
        return "there are none"
    from difflib import get_close_matches  # only on the way to an error

    matches = get_close_matches(name, known, 3, 0.5)
    if matches:
        return f"did you mean {' or '.join(matches)}?"
    names = sorted(known)
    return f"there are {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"


class Inside:
    """`with Inside(netns):` runs in that namespace and comes back, whatever happens. "" stays where one is.

    Raises errors.Missing when there is no such namespace, NoPermission or SyscallFailed when it cannot be entered.
    """

    __slots__ = ("_home", "netns")

    def __init__(self, netns: str) -> None:
        self.netns = netns
        self._home = -1

    def __enter__(self) -> Inside:
        if not self.netns:
            return self
        there = _open(self.netns)
        try:
            self._home = os.open(SELF, os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc.setns(there, CLONE_NEWNET)
            except OSError as error:
                os.close(self._home)
                self._home = -1
                if error.errno == EINVAL:
                    raise errors.Missing(f"{path_of(self.netns)} is not a network namespace") from None
                if error.errno == EPERM:
                    raise errors.NoPermission(
                        f"cannot enter network namespace {self.netns}", hint="needs root, or CAP_SYS_ADMIN"
                    ) from None
                raise errors.SyscallFailed("setns", error.errno or 0, where=self.netns) from None
        finally:
            os.close(there)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._home < 0:
            return
        try:
            libc.setns(self._home, CLONE_NEWNET)
        except OSError as failed:  # nothing may run on in the wrong namespace
            raise errors.Bug(f"cannot return from network namespace {self.netns}: {failed.strerror}") from failed
        finally:
            os.close(self._home)
            self._home = -1


def identity(netns: str = "") -> tuple[int, int]:
    """(st_dev, st_ino) of a namespace: equal exactly for one and the same, whatever its name."""
    try:
        status = os.stat(path_of(netns))
    except OSError:
        os.close(_open(netns))  # which says what is wrong
        raise
    return status.st_dev, status.st_ino


def ifindex(name: str, netns: str = "") -> int:
    """The index of an interface in the *thread's* namespace; `netns` is for the message. errors.Missing without one."""
    try:
        return libc.if_nametoindex(name)
    except OSError:
        from _socket import if_nameindex

        known = [found for _, found in if_nameindex()]
        where = f"namespace {netns}" if netns else ""
        raise errors.Missing(f"no interface named {name}", where=where, hint=near(name, known)) from None


def ifname(index: int) -> str:
    """The name of an interface of the thread's namespace; "" when there is none with this index."""
    from _socket import if_indextoname

    try:
        return if_indextoname(index)
    except OSError:
        return ""
