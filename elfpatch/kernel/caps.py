"""What the calling thread may do: its effective capabilities."""

from __future__ import annotations

import os

from elfpatch.kernel.abi import CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN

_NEEDED = ((CAP_BPF, "CAP_BPF"), (CAP_NET_ADMIN, "CAP_NET_ADMIN"))


def effective() -> int:
    """The bit mask of effective capabilities; without /proc all or none, by the user id."""
    try:
        fd = os.open("/proc/thread-self/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1 if os.geteuid() == 0 else 0
    try:
        status = os.read(fd, 8192)
    finally:
        os.close(fd)
    _, _, after = status.partition(b"\nCapEff:")
    return int(after.split(None, 1)[0], 16) if after else 0


def lacking() -> list[str]:
    """The names of the capabilities that bpf(2) and attaching want and this thread lacks; [] when it has all."""
    mask = effective()
    if mask >> CAP_SYS_ADMIN & 1:
        return []
    return [name for bit, name in _NEEDED if not mask >> bit & 1]
