"""The memory of a map, mapped (Linux 5.5: BPF_F_MMAPABLE): one store that programs see whole."""

from __future__ import annotations

from _ctypes import _SimpleCData
from mmap import MAP_SHARED, PROT_READ, PROT_WRITE, mmap
from sys import byteorder

from elfpatch.errors import of_system

TYPE_CHECKING = False
if TYPE_CHECKING:
    _Simple = _SimpleCData[int]
else:
    _Simple = _SimpleCData


class _Word1(_Simple):
    _type_ = "B"


class _Word2(_Simple):
    _type_ = "H"


class _Word4(_Simple):
    _type_ = "I"


class _Word8(_Simple):
    _type_ = "Q"


_WORDS = {1: _Word1, 2: _Word2, 4: _Word4, 8: _Word8}


def store(fd: int, size: int, offset: int, word: bytes) -> None:
    """Write `word` (1, 2, 4 or 8 bytes) at `offset`, a multiple of its length, of the first `size` bytes of a map's
    memory. Raises what `of_system` makes of OSError."""
    kind = _WORDS[len(word)]
    assert offset % len(word) == 0 and 0 <= offset <= size - len(word)
    try:
        memory = mmap(fd, size, MAP_SHARED, PROT_READ | PROT_WRITE)
    except OSError as error:
        raise of_system(error, "cannot map the memory of a map") from None
    # An aligned assignment through ctypes is a single store; copying into the mapping need not be.
    place = kind.from_buffer(memory, offset)
    place.value = int.from_bytes(word, byteorder)
    del place  # the mapping cannot be closed while somebody points into it
    memory.close()
