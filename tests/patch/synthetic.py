"""Small synthetic templates: C-like types laid out as the SysV ABI does, encoded as an index over made-up bytes."""

from __future__ import annotations

import pytest

from elfpatch import index as ix
from elfpatch.errors import ElfpatchError
from elfpatch.index import (
    ARRAY,
    BOOL,
    CHAR,
    ENUM,
    FLOAT,
    INT,
    LIVE,
    NETWORK_ORDER,
    POINTER,
    SETTABLE,
    SIGNED,
    STRUCT,
    UNION,
    VOLATILE,
)
from elfpatch.patch.image import Image, Template, make_image
from elfpatch.patch.path import resolve
from elfpatch.patch.setting import from_set, from_set_hex, from_set_json
from elfpatch.patch.value import show

HEADER = bytes(ix.ELF_HEADER_SIZE)
DEFAULT_FLAGS = SETTABLE | VOLATILE | LIVE
KINDS = {".data": ix.SECTION_DATA, ".rodata": ix.SECTION_RODATA, ".bss": ix.SECTION_BSS}


class Builder:
    """Collects types and variables; `template()` gives the Template. Types are row numbers in TYPES."""

    def __init__(self, *, big: bool = False, stem: str = "prog") -> None:
        self.big = big
        self.stem = stem
        self.types: list[ix.Type] = []
        self.members: list[ix.Member] = []
        self.enumerators: list[ix.Enumerator] = []
        self.metas: list[ix.Meta] = []
        self.variables: list[tuple[ix.Variable, bytes]] = []
        self.aligns: list[int] = []

    # --- types

    def add(self, kind, flags=0, size=0, name="", typedef="", ref=0, count=0, first=0, members=0, align=None) -> int:
        self.types.append(ix.Type(kind, flags, size, name, typedef, ref, count, first, members))
        self.aligns.append(align or min(size, 16) or 1)
        return len(self.types) - 1

    def int(self, size: int, *, signed: bool = False, be: bool = False, typedef: str = "") -> int:
        typedef = typedef or (f"__be{8 * size}" if be else "")
        return self.add(INT, SIGNED * signed | NETWORK_ORDER * be, size, f"int{8 * size}", typedef)

    def bool(self) -> int:
        return self.add(BOOL, 0, 1, "_Bool", "bool")

    def char(self, *, signed: bool = False) -> int:
        return self.add(CHAR, SIGNED * signed, 1, "char")

    def float(self) -> int:
        return self.add(FLOAT, 0, 4, "float")

    def pointer(self) -> int:
        return self.add(POINTER, 0, 8)

    def enum(self, name: str, values: dict[str, int], *, size: int = 4, signed: bool | None = None) -> int:
        signed = any(value < 0 for value in values.values()) if signed is None else signed
        first = len(self.enumerators)
        for key, value in values.items():
            self.enumerators.append(ix.Enumerator(key, value & (1 << 64) - 1))
        return self.add(ENUM, SIGNED * signed, size, f"enum {name}", first=first, members=len(values))

    def array(self, element: int, *counts: int, typedef: str = "") -> int:
        for count in reversed(counts):
            size = self.types[element].size * count
            element = self.add(ARRAY, 0, size, "", typedef, element, count, align=self.aligns[element])
        return element

    def struct(self, name: str, *members, typedef: str = "", packed: bool = False) -> int:
        """`members`: (name, type), (name, type, bits) or (name, type, bits, meta)."""
        bit, align, rows = 0, 1, []
        for label, kind, *rest in members:
            bits = rest[0] if rest else 0
            meta = rest[1] if len(rest) > 1 else -1
            size = 8 * self.types[kind].size
            boundary = 1 if packed else self.aligns[kind]
            align = max(align, boundary)
            if bits:
                if not packed and size and bit // size != (bit + bits - 1) // size:
                    bit = -(-bit // size) * size
            else:
                bit = -(-bit // (8 * boundary)) * 8 * boundary
            rows.append(ix.Member(label, kind, bit, bits, meta))
            bit += bits or size
        total = -(-bit // (8 * align)) * align
        return self._compound(STRUCT, name, rows, total, typedef, align)

    def union(self, name: str, *members, typedef: str = "") -> int:
        rows = [ix.Member(m[0], m[1], 0, m[2] if len(m) > 2 else 0, m[3] if len(m) > 3 else -1) for m in members]
        align = max(self.aligns[m[1]] for m in members)
        size = -(-max(self.types[m[1]].size for m in members) // align) * align
        return self._compound(UNION, name, rows, size, typedef, align)

    def _compound(self, kind, name, rows, size, typedef, align) -> int:
        first = len(self.members)
        self.members += rows
        word = "struct" if kind == STRUCT else "union"
        return self.add(
            kind, 0, size, f"{word} {name}" if name else "", typedef, first=first, members=len(rows), align=align
        )

    def meta(self, description="", unit="", format="", minimum="", maximum="", required=0) -> int:
        self.metas.append(ix.Meta(description, unit, format, str(minimum), str(maximum), required))
        return len(self.metas) - 1

    # --- variables

    def var(
        self, name, kind, value=b"", *, section=".data", meta=-1, flags=DEFAULT_FLAGS, why="", size=None, default=b""
    ) -> Builder:
        size = self.types[kind].size if size is None else size
        row = ix.Variable(name, list(KINDS).index(section), 0, size, kind, flags, meta, why, default)
        self.variables.append((row, value.ljust(size, b"\0")))
        return self

    def template(self, gap: bytes = b"\xa5") -> Template:
        """The Template; `gap` fills the file between the sections."""
        contents = {name: bytearray() for name in KINDS}
        for row, value in self.variables:
            section = contents[list(KINDS)[row.section]]
            section += bytes(-len(section) % 16)
            row.offset = len(section)
            section += value
        data = bytearray(HEADER)
        sections = []
        for name, body in contents.items():
            has_bytes = name != ".bss"
            sections.append(ix.Section(name, KINDS[name], len(data), len(body), int(has_bytes), -1))
            if has_bytes:
                data += body + gap * 16
        masks = [
            ix.Mask(sections[row.section].file_offset + row.offset, row.size, 0)
            for row, _ in self.variables
            if row.flags & SETTABLE and sections[row.section].has_bytes
        ]
        tables = {
            ix.Info: [ix.Info(self.stem, "GPL", 0, b"", 8, 16, 16, "")],
            ix.Section: sections,
            ix.Variable: sorted((row for row, _ in self.variables), key=lambda row: row.name),
            ix.Type: self.types,
            ix.Member: self.members,
            ix.Enumerator: self.enumerators,
            ix.Meta: self.metas,
            ix.Mask: sorted(masks, key=lambda mask: mask.offset),
        }
        encoded = ix.encode(tables, big_endian=self.big, elf_header=HEADER, object_data=bytes(data))
        return Template("prog.o", bytes(data), ix.Index(encoded))


def patched(template: Template, *sets: str, json=(), hexes=(), force=False) -> Image:
    """The image of `--set`, `--set-json` and `--set-hex` texts."""
    settings = [from_set(text) for text in sets]
    settings += [from_set_json(text) for text in json] + [from_set_hex(text) for text in hexes]
    return make_image(template, settings, force=force)


def refusals(template: Template, *sets: str, **more) -> list[str]:
    """The error lines of values that must be refused."""
    with pytest.raises(ElfpatchError) as caught:
        patched(template, *sets, **more)
    assert caught.value.exit_code == 65
    return caught.value.lines()


def refusal(template: Template, *sets: str, **more) -> str:
    """The one error line of values that must be refused."""
    lines = refusals(template, *sets, **more)
    assert len(lines) == 1, lines
    return lines[0]


def value_bytes(image: Image, path: str) -> bytes:
    """The bytes of the image at a path (of a bit-field those that hold it)."""
    place = resolve(image.template.index, path)
    return image.section_bytes(place.section)[place.offset : place.offset + place.size]


def shown(image: Image, path: str) -> str:
    """The image's value at a path as text."""
    place = resolve(image.template.index, path)
    return show(image.template.index, place, image.raw(place))
