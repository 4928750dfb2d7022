"""What other tools say of an object: llvm-readelf of its symbols, bpftool of its BTF and of what libbpf loads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from elfpatch import index as ix
from elfpatch.kernel import bpf
from elfpatch.patch.image import Template
from elfpatch.template.compile import compile_object
from tests.support.net import unique

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "fixtures" / "objects"
READELF = "llvm-readelf-19"

ALL = sorted(OBJECTS.glob("*/*.o"))
LEGACY = [path for path in ALL if path.stem == "legacy"]
BIG_ENDIAN = [path for path in ALL if path.parent.name == "big-endian"]
WITHOUT_BTF = [path for path in ALL if path.parent.name == "without-btf"]
# linked_a and linked_b need one another: only `linked` is whole. A callback wants func_info, which bpf-gcc 12 lacks.
HALVES = ("linked_a", "linked_b", "keys_linked_a", "keys_linked_b")
# What computes with addresses until its values are in its instructions, or has branches without their edges
UNWRITTEN = ("fetch", "immediates", "jump_table")
UNLOADABLE = [
    path for path in ALL if path.stem in (*HALVES, *UNWRITTEN, "keys_unneeded") or path.match("bpf-gcc/calls.o")
]
UNTYPED = [path for path in ALL if path.stem == "sections_unknown"]
LOADABLE = [path for path in ALL if path not in (*BIG_ENDIAN, *UNLOADABLE, *UNTYPED)]
# What libbpf 1.1, with which bpftool 7.1 loads, cannot: legacy maps, `.bss.*`, and the addends of GNU as
BY_LIBBPF = [path for path in LOADABLE if path.stem not in ("legacy", "newer") and path.parent.name != "bpf-gcc"]


def name_of(path: Path) -> str:
    """The id of a test for a fixture: `clang-19-v3/scalars`."""
    return f"{path.parent.name}/{path.stem}"


@cache
def template_of(path: Path) -> Template:
    data = path.read_bytes()
    return Template(str(path), data, ix.Index(compile_object(data, path.stem)))


def run(*argv: str | Path, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, argv))}: exit {done.returncode}: {done.stderr.strip()}")
    return done


def output(*argv: str | Path) -> str:
    return run(*argv).stdout


# --- symbols ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Symbol:
    name: str
    kind: str  # Object, Function, Section, None ...
    section: str
    value: int
    size: int
    local: bool


def symbols(path: Path) -> list[Symbol]:
    """The symbols of an object as llvm-readelf prints them."""
    text = output(READELF, "--elf-output-style=JSON", "-s", path)
    rows = [row["Symbol"] for row in json.loads(text)[0]["Symbols"]]
    return [
        Symbol(
            row["Name"]["Name"],
            row["Type"]["Name"],
            row["Section"]["Name"],
            row["Value"],
            row["Size"],
            row["Binding"]["Name"] == "Local",
        )
        for row in rows
    ]


def is_data(section: str) -> bool:
    return re.fullmatch(r"\.(data|rodata|bss)(\..*)?", section) is not None


# --- BTF --------------------------------------------------------------------------------------------------------

Json = dict[str, Any]


class BtfDump:
    """`bpftool btf dump -j` of an object."""

    def __init__(self, path: Path) -> None:
        self.types: list[Json] = json.loads(output("bpftool", "-j", "btf", "dump", "file", path))["types"]
        self.by_id = {kind["id"]: kind for kind in self.types}
        self.by_gnu_c = path.parent.name == "bpf-gcc"

    def variables(self) -> dict[str, list[tuple[str, int]]]:
        """By section: name and type id of each variable, data sections only."""
        return {
            kind["name"]: [
                (var["name"], var["type_id"]) for row in kind["vars"] for var in [self.by_id[row["type_id"]]]
            ]
            for kind in self.types
            if kind["kind"] == "DATASEC" and is_data(kind["name"])
        }

    def plain(self, number: int) -> Json:
        kind = self.by_id[number]
        while kind["kind"] in ("TYPEDEF", "CONST", "VOLATILE", "RESTRICT", "TYPE_TAG"):
            kind = self.by_id[kind["type_id"]]
        return kind

    def qualifiers(self, number: int) -> set[str]:
        """CONST and VOLATILE, of an array those of its elements too."""
        found: set[str] = set()
        kind = self.by_id[number]
        while kind["kind"] in ("TYPEDEF", "CONST", "VOLATILE", "RESTRICT", "TYPE_TAG", "ARRAY"):
            found.add(kind["kind"])
            kind = self.by_id.get(kind["type_id"], {"kind": "VOID"})
        return found & {"CONST", "VOLATILE"}

    def size(self, number: int) -> int:
        kind = self.plain(number)
        if kind["kind"] == "PTR":
            return 8
        if kind["kind"] == "ARRAY":
            return int(kind["nr_elems"]) * self.size(kind["type_id"])
        return int(kind["size"])

    def _dimensions(self, kind: Json) -> tuple[list[int], int]:
        """The dimensions of an array from the outermost, and the type of its elements."""
        counts, inner = [kind["nr_elems"]], kind["type_id"]
        while self.by_id.get(inner, {}).get("kind") == "ARRAY":
            counts.append(self.by_id[inner]["nr_elems"])
            inner = self.by_id[inner]["type_id"]
        # GNU C before 14 writes them the other way round: https://gcc.gnu.org/PR114186
        return (counts[::-1] if self.by_gnu_c else counts), inner

    def _elements(self, counts: list[int], element: int, path: str, bits: int) -> list[tuple[str, int, int]]:
        if not counts:
            return self.leaves(element, path, bits)
        size = 8 * self.size(element) * prod(counts[1:])
        return [
            leaf
            for at in sorted({0, counts[0] - 1})
            if counts[0]
            for leaf in self._elements(counts[1:], element, f"{path}[{at}]", bits + at * size)
        ]

    def leaves(self, number: int, path: str, bits: int = 0) -> list[tuple[str, int, int]]:
        """Path, offset and size in bits of every scalar inside a type; an array gives its first and last element."""
        kind = self.plain(number)
        if kind["kind"] == "ARRAY":
            counts, element = self._dimensions(kind)
            return self._elements(counts, element, path, bits)
        if kind["kind"] not in ("STRUCT", "UNION"):
            return [(path, bits, 8 * self.size(number))]
        found = []
        for member in kind["members"]:
            inner = path if member["name"] == "(anon)" else f"{path}.{member['name']}"
            at = bits + member["bits_offset"]
            if member.get("bitfield_size"):
                found.append((inner, at, member["bitfield_size"]))
            else:
                found += self.leaves(member["type_id"], inner, at)
        return found


def index_leaves(index: ix.Index, row: int, path: str, bits: int = 0) -> list[tuple[str, int, int]]:
    """The same of a row of TYPES."""
    kind = index.row(ix.Type, row)
    if kind.kind == ix.ARRAY:
        size = 8 * index.row(ix.Type, kind.ref).size
        return [
            leaf
            for at in sorted({0, kind.count - 1})
            if kind.count
            for leaf in index_leaves(index, kind.ref, f"{path}[{at}]", bits + at * size)
        ]
    if kind.kind not in (ix.STRUCT, ix.UNION):
        return [(path, bits, 8 * kind.size)]
    found = []
    for member in index.rows(ix.Member, kind.first, kind.members):
        inner = f"{path}.{member.name}" if member.name else path
        at = bits + member.bit_offset
        if member.bit_size:
            found.append((inner, at, member.bit_size))
        else:
            found += index_leaves(index, member.type, inner, at)
    return found


# --- what is loaded ---------------------------------------------------------------------------------------------


class Loaded:
    """Programs and maps pinned under a folder of a bpffs; `remove` them in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def programs(self) -> dict[str, Path]:
        return {pin.name: pin for pin in sorted((self.folder / "progs").iterdir())}

    def tags(self) -> dict[str, str]:
        return {name: show_program(pin)["tag"] for name, pin in self.programs.items()}

    def maps(self) -> dict[str, Json]:
        """By name, of all maps that the programs use: type, sizes, flags, whether frozen, and whether it has BTF."""
        numbers = {number for pin in self.programs.values() for number in show_program(pin).get("map_ids", [])}
        return {shown["name"]: shown for shown in map(shown_map, sorted(numbers))}

    def xlated(self, program: str) -> str:
        """What the verifier made of a program, with its functions and source lines; map ids aside."""
        text = output("bpftool", "prog", "dump", "xlated", "pinned", self.programs[program], "linum")
        return re.sub(r"map\[id:\d+\]", "map[]", text)

    def fd(self, program: str) -> int:
        """A new file descriptor of a program; the caller closes it."""
        return bpf.obj_get(str(self.programs[program]))

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def show_program(pin: Path) -> Json:
    return json.loads(output("bpftool", "-j", "prog", "show", "pinned", pin))


def shown_map(number: int) -> Json:
    shown = json.loads(output("bpftool", "-j", "map", "show", "id", str(number)))
    keep = ("name", "type", "flags", "bytes_key", "bytes_value", "max_entries", "frozen")
    return {key: shown.get(key) for key in keep} | {"btf": "btf_id" in shown}


def libbpf_load(path: Path, bpffs: Path, *options: str) -> Loaded | str:
    """Load all programs of an object with bpftool; its words when it does not."""
    folder = bpffs / unique("lib")
    (folder / "maps").mkdir(parents=True)
    # libbpf takes no second pin for a map that has one by its name
    pinmaps = () if path.stem == "pinned" else ("pinmaps", folder / "maps")
    done = run("bpftool", "prog", "loadall", path, folder / "progs", *options, *pinmaps, check=False)
    if done.returncode:
        shutil.rmtree(folder)
        return done.stderr.strip() or "failed"
    return Loaded(folder)
