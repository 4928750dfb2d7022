"""Function names and source lines of a program, out of BTF and the records that come with the program.

The kernel's layout (Documentation/bpf/btf.rst): a header, types, strings. Only functions are looked at.
"""

from __future__ import annotations

from bisect import bisect_right
from struct import unpack_from

from elfpatch.explain.model import Source
from elfpatch.flow.program import Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = 0xEB9F
_FUNC = 12
# By kind, the bytes that follow a type of 12 bytes: always, and for each of its vlen members
_EXTRA = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12), 17: (4, 0),
          19: (0, 12)}  # fmt: skip
_LAST_KIND = 19  # ENUM64


class DebugInfo:
    """The names in an object's BTF; without BTF there are none."""

    def __init__(self, btf: bytes) -> None:
        self._order = "<"
        self._strings = b""
        self._functions: dict[int, str] = {}
        if len(btf) < 24:
            return
        self._order = "<" if unpack_from("<H", btf)[0] == _MAGIC else ">"
        header, types, types_size, strings, strings_size = unpack_from(f"{self._order}5I", btf, 4)
        self._strings = btf[header + strings : header + strings + strings_size]
        self._functions = dict(self._read_functions(btf[header + types : header + types + types_size]))

    def _read_functions(self, types: bytes) -> Iterator[tuple[int, str]]:
        at, number = 0, 1
        while at + 12 <= len(types):
            name, info, _ = unpack_from(f"{self._order}III", types, at)
            kind = info >> 24 & 0x1F
            if kind > _LAST_KIND:  # of a length that nobody knows
                return
            if kind == _FUNC:
                yield number, self.string(name)
            fixed, each = _EXTRA.get(kind, (0, 0))
            at += 12 + fixed + each * (info & 0xFFFF)
            number += 1

    def string(self, offset: int) -> str:
        """The string at `offset` of the string section, "" outside of it."""
        end = self._strings.find(b"\0", offset)
        return self._strings[offset:end].decode("utf-8", "replace") if end >= 0 else ""

    def functions(self, code: Code, program: str) -> dict[int, str]:
        """The name of each function by its start. Without func_info the first is the program, and the others are named
        by where they are."""
        named = {}
        for start, rest in code.records(code.func_info, code.func_rec):
            named[start] = self._functions.get(int.from_bytes(rest[:4], code.order), "")
        return {
            start: named.get(start) or (f"function_at_{start}" if start else program) for start in sorted(code.starts)
        }

    def lines(self, code: Code) -> Lines:
        """The source lines of a program."""
        found = []
        for slot, rest in code.records(code.line_info, code.line_rec):
            file, text, column = unpack_from(f"{self._order}III", rest)
            name = self.string(file).rpartition("/")[2]
            found.append((slot, Source(name, column >> 10, self.string(text).strip())))
        return Lines(found, code.starts)


class Lines:
    """Source lines by slot. A line holds up to the next one, and not beyond its function."""

    def __init__(self, records: list[tuple[int, Source]], starts: list[int]) -> None:
        self._records = sorted(records, key=_slot)
        self._slots = [slot for slot, _ in self._records]
        self._starts = starts

    def at(self, slot: int) -> Source | None:
        """The line that the instruction at `slot` belongs to."""
        number = bisect_right(self._slots, slot) - 1
        start = self._starts[bisect_right(self._starts, slot) - 1]
        return self._records[number][1] if number >= 0 and self._slots[number] >= start else None


def _slot(record: tuple[int, Source]) -> int:
    return record[0]
