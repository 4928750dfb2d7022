"""The few libc calls that Python 3.11 does not offer: syscall, setns, mount, statfs, if_nametoindex; and flock, whose
module `fcntl` would be one more shared library to load for this one call.

Every foreign function of this floor is here. Calls return the result or raise `OSError`, as the functions of `os` do.

They go through `_ctypes`, the extension module under `ctypes`, which is the same from Python 3.11 to 3.13. `ctypes`
itself defines fifty types on import, at a tenth of the cost of a whole apply; five of them are needed here.
"""

from __future__ import annotations

import os
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    addressof,
    dlopen,
    dlsym,
    get_errno,
)
from errno import EINTR
from struct import unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    _Simple = _SimpleCData[int]
    _SimpleBytes = _SimpleCData[bytes]
else:
    _Simple = _SimpleBytes = _SimpleCData


class _Long(_Simple):
    _type_ = "l"


class _Pointer(_Simple):
    _type_ = "P"


class _Byte(_SimpleBytes):
    _type_ = "c"


class _String(_SimpleBytes):
    _type_ = "z"


class _Function(CFuncPtr):
    """A function of libc: it returns an int unless its `restype` says otherwise, and errno is kept for `get_errno`."""

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO


_process = dlopen(None, 0)  # type: ignore[arg-type]  # None: this process, and libc with it


def _function(name: str) -> _Function:
    return _Function(dlsym(_process, name))


_syscall = _function("syscall")
_syscall.restype = _Long

# The number of bpf(2) by machine, as uname(2) names it.
_NR_BPF = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "s390x": 351,
    "ppc64": 361,
    "ppc64le": 361,
    "armv7l": 386,
    "i386": 357,
    "i686": 357,
}
_nr_bpf = _NR_BPF.get(os.uname().machine, -1)  # -1: ENOSYS, which says it all


def _failed(path: str = "") -> OSError:
    number = get_errno()
    return OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))


def address(data: bytes) -> int:
    """The address of the bytes of `data`, valid as long as `data` lives; 0 for no bytes."""
    return _Pointer.from_buffer(_String(data)).value or 0 if data else 0


def address_of_buffer(buffer: bytearray) -> int:
    """The address of `buffer`, which the kernel may write to; valid until it is resized or gone. 0 when it is empty."""
    return addressof(_Byte.from_buffer(buffer)) if buffer else 0


def bpf(command: int, attr: bytearray) -> int:
    """bpf(2). The kernel may write results into `attr`. Returns what it returned; -errno on failure, never raises."""
    result: int = _syscall(_nr_bpf, command, _Pointer(address_of_buffer(attr)), len(attr))
    return result if result >= 0 else -get_errno()


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace that `fd` refers to; `kind` is the CLONE_NEW* flag it must be."""
    if _function("setns")(fd, kind):
        raise _failed()


LOCK_EX, LOCK_NB = 2, 4  # linux/fcntl.h


def flock(fd: int, operation: int) -> None:
    """flock(2), begun again after a signal; EAGAIN with LOCK_NB when somebody else holds the lock."""
    while _function("flock")(fd, operation):
        if get_errno() != EINTR:
            raise _failed()


def mount(source: str, target: str, kind: str, options: str = "") -> None:
    """mount(2) without flags."""
    if _function("mount")(os.fsencode(source), os.fsencode(target), kind.encode(), 0, options.encode() or None):
        raise _failed(target)


def filesystem_magic(path: str) -> int:
    """The type of the file system that holds `path`: f_type of statfs(2), 32 bits."""
    buffer = bytearray(256)  # struct statfs is 120 bytes on 64-bit machines
    if _function("statfs")(os.fsencode(path), _Pointer(address_of_buffer(buffer))):
        raise _failed(path)
    (magic,) = unpack_from("@l", buffer)
    return int(magic) & 0xFFFFFFFF


def if_nametoindex(name: str) -> int:
    """The index of the interface `name` in the thread's network namespace; raises OSError (ENODEV) without one."""
    index = int(_function("if_nametoindex")(os.fsencode(name)))
    if not index:
        raise _failed(name)
    return index
