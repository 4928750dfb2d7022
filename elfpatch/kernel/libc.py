"""The few libc calls that Python 3.11 does not offer, through ctypes: syscall, setns, mount, statfs, if_nametoindex.

Every ctypes use of this floor is here. Calls return the result or raise `OSError`, as the functions of `os` do.
"""

from __future__ import annotations

import os
from ctypes import CDLL, addressof, c_char, c_char_p, c_long, c_void_p, get_errno
from struct import unpack_from

_libc = CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = c_long

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
    return c_void_p.from_buffer(c_char_p(data)).value or 0 if data else 0


def address_of_buffer(buffer: bytearray) -> int:
    """The address of `buffer`, which the kernel may write to; valid until it is resized or gone. 0 when it is empty."""
    return addressof(c_char.from_buffer(buffer)) if buffer else 0


def bpf(command: int, attr: bytearray) -> int:
    """bpf(2). The kernel may write results into `attr`. Returns what it returned; -errno on failure, never raises."""
    result: int = _syscall(_nr_bpf, command, c_void_p(address_of_buffer(attr)), len(attr))
    return result if result >= 0 else -get_errno()


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace that `fd` refers to; `kind` is the CLONE_NEW* flag it must be."""
    if _libc.setns(fd, kind):
        raise _failed()


def mount(source: str, target: str, kind: str, options: str = "") -> None:
    """mount(2) without flags."""
    if _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), 0, options.encode() or None):
        raise _failed(target)


def filesystem_magic(path: str) -> int:
    """The type of the file system that holds `path`: f_type of statfs(2), 32 bits."""
    buffer = bytearray(256)  # struct statfs is 120 bytes on 64-bit machines
    if _libc.statfs(os.fsencode(path), c_void_p(address_of_buffer(buffer))):
        raise _failed(path)
    (magic,) = unpack_from("@l", buffer)
    return int(magic) & 0xFFFFFFFF


def if_nametoindex(name: str) -> int:
    """The index of the interface `name` in the thread's network namespace; raises OSError (ENODEV) without one."""
    index = int(_libc.if_nametoindex(os.fsencode(name)))
    if not index:
        raise _failed(name)
    return index
