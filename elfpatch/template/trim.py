"""Trims an object's BTF to what its programs and maps use, and renumbers the types and strings that they name."""

from __future__ import annotations

import struct

from elfpatch import index as ix
from elfpatch.template import btf as bt
from elfpatch.template.subset import Subset


def trim(ready: bytes, btf: bt.Btf, info: ix.Info, programs: list[ix.Program], maps: list[ix.Map]) -> None:
    """Give `info` the part of `ready` (of `kernel_ready`) that programs and maps use, and them the new type ids and
    string offsets. Raises BadObject when one is outside the BTF."""
    used = Subset(ready, btf)
    for row in maps:
        used.whole(row.btf_key)
        used.whole(row.btf_value)
    strings: set[int] = set()
    for program in programs:
        functions = _Records(btf.order, program.func_info, info.func_info_rec_size)
        lines = _Records(btf.order, program.line_info, info.line_info_rec_size)
        relocations = _Records(btf.order, program.core_relos, info.core_relo_rec_size)
        for function in functions.column(1):
            used.whole(function)
        for type_id, access, kind in zip(*map(relocations.column, (1, 2, 3)), strict=True):
            used.relocation(type_id, access, kind)
        strings.update(lines.column(1), lines.column(2), relocations.column(2))
    trimmed = used.write(sorted(strings))
    info.btf = trimmed.data
    for row in maps:
        row.btf_key = trimmed.types.get(row.btf_key, 0)
        row.btf_value = trimmed.types.get(row.btf_value, 0)
    for program in programs:
        functions = _Records(btf.order, program.func_info, info.func_info_rec_size)
        program.func_info = functions.with_columns({1: trimmed.types})
        lines = _Records(btf.order, program.line_info, info.line_info_rec_size)
        program.line_info = lines.with_columns({1: trimmed.strings, 2: trimmed.strings})
        relocations = _Records(btf.order, program.core_relos, info.core_relo_rec_size)
        program.core_relos = relocations.with_columns({1: trimmed.types, 2: trimmed.strings})


class _Records:
    """Records of `size` bytes, as 32-bit words."""

    def __init__(self, order: str, data: bytes, size: int) -> None:
        self._format = f"{order}{len(data) // 4}I"
        self._words = struct.unpack(self._format, data)
        self._stride = max(size // 4, 1)

    def column(self, number: int) -> tuple[int, ...]:
        """Word `number` of each record."""
        return self._words[number :: self._stride]

    def with_columns(self, new: dict[int, dict[int, int]]) -> bytes:
        """The records with the words of some columns as these say."""
        words = list(self._words)
        for number, mapping in new.items():
            words[number :: self._stride] = [mapping[word] for word in self.column(number)]
        return struct.pack(self._format, *words)
