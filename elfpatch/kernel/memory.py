"""The memory of a map, mapped (Linux 5.5: BPF_F_MMAPABLE): one store that programs see whole."""

from __future__ import annotations

from mmap import MAP_SHARED, PROT_READ, PROT_WRITE, mmap

from elfpatch.errors import of_system

WORDS = (1, 2, 4, 8)


def store(fd: int, size: int, offset: int, word: bytes) -> None:
    """Write `word` (1, 2, 4 or 8 bytes) at `offset`, a multiple of its length, of the first `size` bytes of a map's
    memory. Raises what `of_system` makes of OSError."""
    from ctypes import c_uint8, c_uint16, c_uint32, c_uint64
    from sys import byteorder

    kind = dict(zip(WORDS, (c_uint8, c_uint16, c_uint32, c_uint64), strict=True))[len(word)]
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
