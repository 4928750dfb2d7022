"""One lock for each deployment: whoever plans to change it holds the lock from reading the record to writing it."""

from __future__ import annotations

import os
import time
from errno import EACCES, EAGAIN

from elfpatch.errors import LockBusy, of_system
from elfpatch.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from elfpatch.deploy.paths import Layout

_PAUSE = 0.01


class Lock:
    """`with Lock(layout, name, timeout):` holds the deployment's lock, or raises LockBusy after `timeout` seconds.

    flock(2): the kernel drops it with the process, so a crash leaves nothing held. The file goes with the deployment:
    whoever leaves without a record removes it while still holding it, and whoever gets a lock looks whether the file
    is still the one of that name.
    """

    __slots__ = ("_fd", "_made_state", "layout", "name", "timeout")

    def __init__(self, layout: Layout, name: str, timeout: float) -> None:
        self.layout = layout
        self.name = name
        self.timeout = timeout
        self._fd = -1
        self._made_state = False

    def __enter__(self) -> Lock:
        deadline = time.monotonic() + self.timeout
        while not self._try():
            if time.monotonic() >= deadline:
                raise LockBusy(
                    f"deployment {self.name} is being changed by another process",
                    hint=f"waited {self.timeout:g} s; see --lock-timeout",
                )
            time.sleep(_PAUSE)
        return self

    def _try(self) -> bool:
        """Open and lock the file, once."""
        self._made_state = self.layout.make_state() or self._made_state
        path = self.layout.lock(self.name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # another process removed the empty state folder meanwhile
            return False
        except OSError as error:
            raise of_system(error, "cannot open the lock", where=path, hint="see --state-dir") from None
        try:
            libc.flock(fd, libc.LOCK_EX | libc.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                self._fd = fd
                return True
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (EAGAIN, EACCES):
                os.close(fd)
                raise
        os.close(fd)
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not os.path.lexists(self.layout.record(self.name)):
                os.unlink(self.layout.lock(self.name))
                if self._made_state:
                    os.rmdir(self.layout.state)
        except OSError:
            pass  # not empty, or gone
        finally:
            os.close(self._fd)
