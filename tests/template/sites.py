"""What llvm-readelf and llvm-objdump say of branch sites and immediates; nothing here uses elfpatch. And places in an
object's file, for tests that damage it."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.template.oracles import ALL, READELF, Symbol, output, run, symbols

KEYS = [path for path in ALL if path.stem == "keys"]
JUMP_TABLES = [path for path in ALL if path.stem == "jump_table"]
IMMEDIATES = [path for path in ALL if path.stem == "immediates"]
KEY_SECTION = ".elfpatch.keys"
JUMPS = {0xA5: False, 0x35: True}  # `if r < 0`, `if r >= 0`
LD_IMM64 = 0x18


@dataclass(frozen=True)
class FoundSite:
    """A branch site; offsets and target in bytes of its section, `at` in bytes of the file."""

    key: str
    kind: str
    likely: bool
    section: str
    offset: int
    at: int
    target: int
    function: str
    insn: int


@dataclass(frozen=True)
class FoundImmediate:
    """A labelled LD_IMM64: `size` bytes from `address` of the data section `data` belong into it."""

    section: str
    at: int  # in the file
    offset: int  # in the section
    size: int
    data: str
    address: int


@dataclass(frozen=True)
class Header:
    index: int
    name: str
    offset: int
    size: int


class View:
    """An object as llvm-readelf sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        self.order = ">" if self.data[5] == 2 else "<"
        self.symbols = symbols(path)
        (shown,) = json.loads(output(READELF, "--elf-output-style=JSON", "-S", "-r", path))
        rows = [row["Section"] for row in shown["Sections"]]
        self.sections = [Header(row["Index"], row["Name"]["Name"], row["Offset"], row["Size"]) for row in rows]
        self.linked = {row["Index"]: row["Info"] for row in rows}
        self._relocations = shown["Relocations"]

    def section(self, name: str) -> Header:
        (found,) = [section for section in self.sections if section.name == name]
        return found

    def contents(self, name: str) -> bytes:
        section = self.section(name)
        return self.data[section.offset : section.offset + section.size]

    def unpack(self, code: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(self.order + code, self.data, at)

    def header_at(self, name: str) -> int:
        """Where in the file the header of a section is."""
        (table,) = self.unpack("Q", 40)
        return int(table) + 64 * self.section(name).index

    def symbol_at(self, name: str) -> int:
        """Where in the file the entry of a symbol is."""
        (number,) = [number for number, symbol in enumerate(self.symbols) if symbol.name == name]
        return self.section(".symtab").offset + 24 * number

    def relocations(self) -> dict[str, list[tuple[int, str, str, int]]]:
        """By the name of the section that they apply to: offset, type, name and number of the symbol."""
        return {
            self.sections[self.linked[table["SectionIndex"]]].name: [
                (row["Offset"], row["Type"]["Name"], row["Symbol"]["Name"], row["Symbol"]["Value"])
                for row in (entry["Relocation"] for entry in table["Relocs"])
            ]
            for table in self._relocations
        }

    def function(self, section: str, offset: int) -> Symbol:
        (found,) = [
            symbol
            for symbol in self.symbols
            if symbol.kind == "Function" and symbol.section == section and 0 <= offset - symbol.value < symbol.size
        ]
        return found

    def named(self, name: str, number: int) -> Symbol:
        """The symbol of a relocation. llvm-readelf gives the name's offset in the string table along with it: not the
        symbol's number, which the names of sections do not have."""
        found = [symbol for symbol in self.symbols if symbol.name == name and symbol.kind in ("Object", "None")]
        if len(found) == 1:
            return found[0]
        assert any(section.name == name for section in self.sections), (name, number)
        return Symbol(name, "Section", name, 0, 0, True)

    # --- sites ---

    def sites(self) -> list[FoundSite]:
        return [*self._opcode_sites(), *self._offset_sites()]

    def _opcode_sites(self) -> Iterator[FoundSite]:
        for symbol in self.symbols:
            if label := re.fullmatch(r"__sk\.([ul])\.(.+)\.\d+", symbol.name):
                at = self.section(symbol.section).offset + symbol.value
                (off,) = self.unpack("h", at + 2)
                target = symbol.value + 8 + 8 * off
                yield self._site(label[2], "opcode", label[1] == "l", symbol.section, symbol.value, target)

    def _offset_sites(self) -> Iterator[FoundSite]:
        if not any(section.name == ".jump_table" for section in self.sections):
            return
        rows = self.relocations()[".jump_table"]
        held = {at: (name, number) for at, _, name, number in rows}
        table = self.contents(".jump_table")
        for at in range(0, len(table), 16):
            offset, target, key = struct.unpack_from(self.order + "IIQ", table, at)
            assert held[at] == held[at + 4]
            yield self._site(held[at + 8][0], "offset", bool(key & 1), held[at][0], offset, target)

    def _site(self, key: str, kind: str, likely: bool, section: str, offset: int, target: int) -> FoundSite:
        function = self.function(section, offset)
        at = self.section(section).offset + offset
        insn = (offset - function.value) // 8
        return FoundSite(key, kind, likely, section, offset, at, target, function.name, insn)

    def words(self) -> dict[str, int]:
        """Where in the file the word of each key is."""
        if not any(section.name == KEY_SECTION for section in self.sections):
            return {}
        start = self.section(KEY_SECTION).offset
        return {s.name: start + s.value for s in self.symbols if s.section == KEY_SECTION and s.kind == "Object"}

    # --- immediates ---

    def immediates(self) -> list[FoundImmediate]:
        """What the labels `__imm.<size>.<n>` and the relocations below them say. Of a local variable the relocation
        names the section, and where in it stands in the instruction."""
        relocations = self.relocations()
        found = []
        for label in self.symbols:
            if not label.name.startswith("__imm."):
                continue
            (row,) = [row for row in relocations[label.section] if row[0] == label.value]
            symbol = self.named(row[2], row[3])
            at = self.section(label.section).offset + label.value
            (addend,) = self.unpack("i", at + 4)
            size = int(label.name.split(".")[1])
            # GNU as puts the symbol's value into the instruction as well
            address = addend if self.path.parent.name == "bpf-gcc" else symbol.value + addend
            found.append(FoundImmediate(label.section, at, label.value, size, symbol.section, address))
        return found


@cache
def view(path: Path) -> View:
    return View(path)


@cache
def source_lines(path: Path) -> dict[tuple[str, int], str]:
    """`file:line` of every instruction by section and byte offset, out of DWARF; empty without it."""
    found: dict[tuple[str, int], str] = {}
    section = line = ""
    for text in output("llvm-objdump-19", "-dl", "--no-show-raw-insn", path).split("\n"):
        if heading := re.fullmatch(r"Disassembly of section (.*):", text):
            section, line = heading[1], ""
        elif place := re.fullmatch(r"; (?:.*/)?([^/]+:\d+)", text):
            line = place[1]
        elif (insn := re.match(r"\s+(\d+):\t", text)) and line:
            found[section, 8 * int(insn[1])] = line
    return found


def says_on(site: FoundSite, opcode: int) -> bool:
    """Whether a key is on as the opcode of one of its opcode sites says."""
    return JUMPS[opcode] != site.likely


def is_on_offset(found: FoundSite, insn: bytes, order: str) -> bool:
    """The same of the 8 bytes of an offset site, as compiled or as written."""
    opcode, registers, off, imm = struct.unpack(order + "BBhi", insn)
    distance = (found.target - found.offset) // 8 - 1
    frame = 0xA0 if order == ">" else 0x0A  # r10 is dst: the high nibble in big-endian objects
    known = {(0x05, 0, 0, 0): False, (0x05, 0, distance, 0): True}
    known |= {(0x15, frame, distance, 0): False, (0x55, frame, distance, 0): True}
    return known[opcode, registers, off, imm] != found.likely


def edited(data: bytes, at: int, new: bytes) -> bytes:
    assert data[at : at + len(new)] != new, "the edit changes nothing"
    return data[:at] + new + data[at + len(new) :]


def compile_c(source: str, out: Path, *flags: str, clang: str = "clang-19", cpu: str = "v3") -> Path:
    """Compile C for BPF; includes are those of the fixtures."""
    text = out.with_suffix(".c")
    text.write_text(source)
    root = Path(__file__).parents[2]
    includes = [f"-I{root / 'bpf_templates'}", f"-I{root / 'fixtures' / 'objects' / 'src'}"]
    includes += ["-idirafter", f"/usr/include/{output('gcc', '-print-multiarch').strip()}"]
    run(clang, "-O2", "-g", "--target=bpf", f"-mcpu={cpu}", *includes, *flags, "-c", text, "-o", out)
    return out
