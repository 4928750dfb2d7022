"""The memory of a map, mapped (Linux 5.5: BPF_F_MMAPABLE): one store that programs see whole."""

from __future__ import annotations

from mmap import MAP_SHARED, PROT_READ, PROT_WRITE, mmap
from sys import byteorder

from elfpatch.errors import of_system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


def store(fd: int, size: int, offset: int, word: bytes) -> None:
    """Write `word` (1, 2, 4 or 8 bytes) at `offset`, a multiple of its length, of the first `size` bytes of a map's
    memory. Raises what `of_system` makes of OSError."""
    end = offset + len(word)
    assert offset % len(word) == 0
    assert len(word) <= end <= size
    try:
        memory = mmap(fd, size, MAP_SHARED, PROT_READ | PROT_WRITE)
    except OSError as error:
        raise of_system(error, "cannot map the memory of a map") from None
    # An element of a typed view is assigned by one store of its size; a slice of bytes is copied, who knows how.
    with memory, memoryview(memory) as view, view[offset:end] as part, part.cast(_FORMATS[len(word)]) as typed:
        typed[0] = int.from_bytes(word, byteorder)
