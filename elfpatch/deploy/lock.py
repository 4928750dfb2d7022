"""One lock for each deployment: whoever plans to change it holds the lock from reading the record to writing it."""

from __future__ import annotations

import fcntl
import os
import time
from errno import EACCES, EAGAIN

from elfpatch.errors import LockBusy, NoPermission

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from elfpatch.deploy.paths import Layout

_PAUSE = 0.01


class Lock:
    """`with Lock(layout, name, timeout):` holds the deployment's lock, or raises LockBusy after `timeout` seconds.

    flock(2): the kernel drops it with the process, so a crash leaves nothing to clean up. The file stays: removing it
    would let two processes hold locks on two files of one name.
    """

    __slots__ = ("_fd", "layout", "name", "timeout")

    def __init__(self, layout: Layout, name: str, timeout: float) -> None:
        self.layout = layout
        self.name = name
        self.timeout = timeout
        self._fd = -1

    def __enter__(self) -> Lock:
        self.layout.make_state()
        path = self.layout.lock(self.name)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise NoPermission(f"cannot open the lock {path}: {error.strerror}", hint="run as root") from None
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self
            except OSError as error:
                if error.errno not in (EAGAIN, EACCES):
                    os.close(self._fd)
                    raise
            if time.monotonic() >= deadline:
                os.close(self._fd)
                raise LockBusy(
                    f"deployment {self.name} is being changed by another process",
                    hint=f"waited {self.timeout:g} s; see --lock-timeout",
                )
            time.sleep(_PAUSE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
