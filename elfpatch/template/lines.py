"""Source lines of instructions, out of BTF.ext."""

from __future__ import annotations

from bisect import bisect_right
from typing import Literal

from elfpatch.template import btf as bt


class Lines:
    """`file:line` by section name and byte offset."""

    def __init__(self, btf: bt.Btf | None, ext: bt.BtfExt | None) -> None:
        self._btf = btf
        self._records = ext.line_info.sections if btf and ext else {}
        self._offsets: dict[str, list[int]] = {}

    def at(self, section: str, offset: int) -> str:
        """The line that the instruction at `offset` belongs to; "" when nothing says."""
        records = self._records.get(section)
        if not records or self._btf is None:
            return ""
        order: Literal["big", "little"] = "big" if self._btf.order == ">" else "little"
        if section not in self._offsets:
            self._offsets[section] = [int.from_bytes(record[:4], order) for record in records]
        number = bisect_right(self._offsets[section], offset) - 1
        if number < 0:
            return ""
        record = records[number]
        name = self._btf.string(int.from_bytes(record[4:8], order)).rpartition("/")[2]
        return f"{name}:{int.from_bytes(record[12:16], order) >> 10}"
