"""The contract between the wings: what `template` knows of an object and `patch`, `deploy` read.

An index is one block of bytes, read in place: a header, then tables of fixed-size rows, then a pool of strings and
blobs. Nothing is parsed when it is opened; a row is decoded when it is asked for. All integers are little-endian,
whatever the byte order of the object is.

    header   magic, version, flags, SHA-256 of the rest of the index, SHA-256 of the template, size and original ELF
             header of the object, then (offset, count) of every table in the order of `TABLES`
    tables   rows laid out as the `LAYOUT` of their class: one character a field, as in `struct`, and
             S a string (u32 offset into the pool; UTF-8, ends with NUL), L a blob (u32 offset, u32 length)
    pool     strings and blobs
    trailer  u64 distance from the trailer's end back to the header, 8 bytes magic

Where it is: as section `.elfpatch`, the last thing in the object's file (so the trailer is the file's end and no ELF
reader is needed to find it), or alone in a cache file. `docs/index-format.md` shows both.

The template's SHA-256 is taken over the object as it was before it was indexed, without the bytes of settable
variables. So a template whose values were patched is still this template, and anything else that changed is not.
"""

from __future__ import annotations

import struct
import sys

from elfpatch.errors import BadObject, Bug

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import ClassVar, TypeVar

    RowT = TypeVar("RowT", bound="Row")

MAGIC = b"\x7fEPIDX\r\n"
TRAILER_MAGIC = b"EPIDXEND"
VERSION = 2
BIG_ENDIAN = 1  # header flag: the object is big-endian

ELF_HEADER_SIZE = 64
# magic, version, flags | index digest | template digest, object size, ELF header
_HEAD = struct.Struct("<8sII32s")
_BODY = struct.Struct(f"<32sQ{ELF_HEADER_SIZE}s")
_SPAN = struct.Struct("<II")
_NAME = struct.Struct("<I")
_TRAILER = struct.Struct("<Q8s")
TRAILER_SIZE = _TRAILER.size


class Row:
    """A row of a table: the slots in order are the fields, `LAYOUT` gives the storage of each."""

    __slots__: ClassVar[tuple[str, ...]] = ()
    LAYOUT: ClassVar[str] = ""
    FORMAT: ClassVar[struct.Struct]

    def __init_subclass__(cls) -> None:
        cls.FORMAT = struct.Struct("<" + cls.LAYOUT.replace("S", "I").replace("L", "II"))

    def __init__(self, *values: object) -> None:
        for slot, value in zip(self.__slots__, values, strict=True):
            setattr(self, slot, value)

    def __repr__(self) -> str:
        fields = ", ".join(f"{slot}={getattr(self, slot)!r}" for slot in self.__slots__)
        return f"{type(self).__name__}({fields})"


# --- sections and variables -------------------------------------------------------------------------------------

# SECTION_KEYS holds the words of static keys and SECTION_SITES has none of its own: a word there is what the branch
# sites of its key say (1: on). No map carries either.
SECTION_DATA, SECTION_RODATA, SECTION_BSS, SECTION_KCONFIG, SECTION_KEYS, SECTION_SITES = range(6)


class Section(Row):
    """A data section: where its bytes are in the object and which map carries it."""

    __slots__ = ("name", "kind", "file_offset", "size", "has_bytes", "map")
    LAYOUT = "SIQQIi"
    name: str
    kind: int
    file_offset: int
    size: int
    has_bytes: int  # 0 for .bss (SHT_NOBITS) and SECTION_SITES
    map: int  # row in MAPS, -1: none


SETTABLE, VOLATILE, CONST, LIVE, STATIC, KEY, IMMEDIATE = 1, 2, 4, 8, 16, 32, 64


class Variable(Row):
    """A global. `why_not` says why it is not settable; `default` holds its initial bytes when it is *required*.

    KEY: a static key, a bool of four bytes whose Sites follow its value. IMMEDIATE: its value also goes into the
    instructions that its Immediates name.
    """

    __slots__ = ("name", "section", "offset", "size", "type", "flags", "meta", "why_not", "default")
    LAYOUT = "SiQQiIiSL"
    name: str
    section: int  # row in SECTIONS
    offset: int  # in the section, bytes
    size: int
    type: int  # row in TYPES; -1: the object has no BTF for it
    flags: int
    meta: int  # row in METAS, or -1
    why_not: str
    default: bytes


# --- types ------------------------------------------------------------------------------------------------------

INT, BOOL, CHAR, ENUM, FLOAT, POINTER, STRUCT, UNION, ARRAY, OPAQUE = range(10)
KIND_NAMES = ("int", "bool", "char", "enum", "float", "pointer", "struct", "union", "array", "opaque")
SIGNED, NETWORK_ORDER = 1, 2  # NETWORK_ORDER: a __beN typedef stands in the chain


class Type(Row):
    """A type without its qualifiers and typedefs; the outermost typedef's name is kept, for it is a hint.

    INT BOOL CHAR ENUM: `size` bytes, `flags` SIGNED. ARRAY: `count` elements of type `ref`. STRUCT UNION: `members`
    rows of MEMBERS from `first`. ENUM: `members` rows of ENUMERATORS from `first`.
    """

    __slots__ = ("kind", "flags", "size", "name", "typedef", "ref", "count", "first", "members")
    LAYOUT = "IIQSSiIII"
    kind: int
    flags: int
    size: int
    name: str  # as in C: "unsigned int", "struct endpoint"; "" for arrays and anonymous types
    typedef: str
    ref: int
    count: int
    first: int
    members: int


class Member(Row):
    """A member of a struct or union. Offsets in bits from the start of the struct, as in BTF; an anonymous struct or
    union has the name "". A bit-field has `bit_size` > 0: little-endian objects count bits from the least significant
    one, big-endian ones from the most significant one."""

    __slots__ = ("name", "type", "bit_offset", "bit_size", "meta")
    LAYOUT = "SiIIi"
    name: str
    type: int
    bit_offset: int
    bit_size: int
    meta: int


class Enumerator(Row):
    """A name of an enum; `value` is the 64-bit pattern (sign-extended when the enum is signed)."""

    __slots__ = ("name", "value")
    LAYOUT = "SQ"
    name: str
    value: int


class Meta(Row):
    """What declaration tags say of a variable or member; "" where they say nothing. `minimum` and `maximum` are
    decimal integers as text."""

    __slots__ = ("description", "unit", "format", "minimum", "maximum", "required")
    LAYOUT = "SSSSSI"
    description: str
    unit: str
    format: str
    minimum: str
    maximum: str
    required: int


# --- what is loaded ---------------------------------------------------------------------------------------------


class Map(Row):
    """A map to create. `section` >= 0: it is the data map of that section. `inner` >= 0: row of the inner map's
    definition (which itself is `template_only`: no map of its own is made of it). `problem` says why it cannot be made,
    "" when it can: an object that cannot be loaded can be inspected and patched all the same."""

    __slots__ = (
        "name",
        "type",
        "key_size",
        "value_size",
        "max_entries",
        "flags",
        "extra",
        "numa_node",
        "btf_key",
        "btf_value",
        "inner",
        "pinning",
        "section",
        "template_only",
        "problem",
    )
    LAYOUT = "SIIIIIQiIIiIiIS"
    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    extra: int
    numa_node: int  # -1: none
    btf_key: int  # type ids in the object's kernel-ready BTF, 0: none
    btf_value: int
    inner: int
    pinning: int
    section: int
    template_only: int
    problem: str


SLOT_MAP, SLOT_PROG = range(2)


class Slot(Row):
    """An initial element of a map-in-map or prog array: element `key` of `map` is row `ref` of MAPS or PROGRAMS."""

    __slots__ = ("map", "key", "kind", "ref")
    LAYOUT = "IIII"
    map: int
    key: int
    kind: int
    ref: int


AUTOLOAD, SLEEPABLE, FRAGS = 1, 2, 4


class Program(Row):
    """An entry program, kernel-ready: its subprograms are appended, calls and jumps resolved, and every LD_IMM64 that
    names a map has its src_reg set and awaits the map's fd in imm (see Fixup). func_info and line_info count
    instructions from the program's start; core_relos count bytes (the kernel wants it so). `global_functions`: u32
    instruction numbers where functions with global linkage start. `problem` says why it cannot be loaded, "" when it
    can; there are no instructions then."""

    __slots__ = (
        "name",
        "section",
        "type",
        "attach_type",
        "flags",
        "attach_to",
        "insns",
        "func_info",
        "line_info",
        "core_relos",
        "global_functions",
        "first_fixup",
        "fixups",
        "problem",
    )
    LAYOUT = "SSIIISLLLLLIIS"
    name: str
    section: str
    type: int  # BPF_PROG_TYPE_*, 0: the section's name does not say
    attach_type: int
    flags: int
    attach_to: str
    insns: bytes
    func_info: bytes
    line_info: bytes
    core_relos: bytes
    global_functions: bytes
    first_fixup: int
    fixups: int
    problem: str


FIXUP_MAP_FD, FIXUP_MAP_VALUE, FIXUP_EXTERN, FIXUP_SITE, FIXUP_IMMEDIATE = range(5)


class Fixup(Row):
    """An instruction of a program that is completed at load. MAP_FD and MAP_VALUE: imm of `insn` becomes the fd of map
    `ref` (the offset of MAP_VALUE is in place). EXTERN: the object needs the kernel's symbol `name`, and a load
    is refused. SITE and IMMEDIATE: the instruction is written as row `ref` of SITES or IMMEDIATES says."""

    __slots__ = ("insn", "kind", "ref", "name")
    LAYOUT = "IIiS"
    insn: int
    kind: int
    ref: int
    name: str


# --- what values do to instructions -------------------------------------------------------------------------------

SITE_OPCODE, SITE_OFFSET, SITE_LONG_OFFSET = range(3)


class Site(Row):
    """A branch that a static key switches. It jumps when the key is on, or with `likely` when the key is off.

    OPCODE: a conditional jump whose outcome its opcode decides. OFFSET: a `goto` whose offset is 0 or `distance`, the
    way to its target in instructions; LONG_OFFSET: the same with a 32-bit offset. `insn` counts from the start of
    `function`; `source` is `file:line` or "".
    """

    __slots__ = (
        "variable",
        "kind",
        "likely",
        "file_offset",
        "distance",
        "section",
        "section_offset",
        "function",
        "insn",
        "source",
    )
    LAYOUT = "iIIQiSQSIS"
    variable: int  # row in VARIABLES
    kind: int
    likely: int
    file_offset: int
    distance: int
    section: str
    section_offset: int
    function: str
    insn: int
    source: str


IMMEDIATE_VALUE, IMMEDIATE_LOAD, IMMEDIATE_BASE = range(3)


class Immediate(Row):
    """An instruction that holds the value of a variable: `size` bytes from `offset` of data section `data`.

    VALUE: an LD_IMM64. LOAD: a load (sign-extending when `signed`), which becomes a move of the value; BASE: the
    LD_IMM64 that gave such loads their address, which becomes a plain number. `raw` is the instruction as compiled,
    when a relocation still named the variable.
    """

    __slots__ = (
        "variable",
        "kind",
        "signed",
        "file_offset",
        "data",
        "offset",
        "size",
        "section",
        "section_offset",
        "function",
        "insn",
        "source",
        "raw",
    )
    LAYOUT = "iIIQiQISQSISL"
    variable: int
    kind: int
    signed: int
    file_offset: int
    data: int  # row in SECTIONS
    offset: int
    size: int
    section: str
    section_offset: int
    function: str
    insn: int
    source: str
    raw: bytes


class Rewrite(Row):
    """A range of the file that changes when immediates are put in place: relocations that named them are gone from
    their table, which is shorter by its section header. `raw` and `ready`: before and after."""

    __slots__ = ("offset", "raw", "ready", "what")
    LAYOUT = "QLLS"
    offset: int
    raw: bytes
    ready: bytes
    what: str


class Mask(Row):
    """A range of the object's file that follows a settable variable: not part of the template's digest. `code` 0: its
    bytes; 1: its branch sites, the instructions that hold it, and the relocations that these no longer have."""

    __slots__ = ("offset", "size", "code")
    LAYOUT = "QQI"
    offset: int
    size: int
    code: int


class Info(Row):
    """One row: facts of the whole object. `btf` is kernel-ready (data sections laid out, linkage fixed)."""

    __slots__ = (
        "stem",
        "license",
        "kern_version",
        "btf",
        "func_info_rec_size",
        "line_info_rec_size",
        "core_relo_rec_size",
        "compiler",
    )
    LAYOUT = "SSILIIIS"
    stem: str
    license: str
    kern_version: int
    btf: bytes
    func_info_rec_size: int
    line_info_rec_size: int
    core_relo_rec_size: int
    compiler: str


class Note(Row):
    """Something a user should know of the object, in words."""

    __slots__ = ("text",)
    LAYOUT = "S"
    text: str


TABLES: tuple[type[Row], ...] = (
    Info,
    Section,
    Variable,
    Type,
    Member,
    Enumerator,
    Meta,
    Map,
    Slot,
    Program,
    Fixup,
    Site,
    Immediate,
    Rewrite,
    Mask,
    Note,
)
_TABLE_NUMBER = {table: number for number, table in enumerate(TABLES)}
_HEADER_SIZE = _HEAD.size + _BODY.size + _SPAN.size * len(TABLES)


def _new_sha256() -> Callable[[], _Hash]:
    """`hashlib` would load libcrypto, 3 to 5 ms; the interpreter has a module of its own, unless its builder left it
    out. The version decides which: looking for one that is not there goes through every folder of sys.path."""
    try:
        if sys.version_info >= (3, 12):
            from _sha2 import sha256
        else:
            from _sha256 import sha256
    except ImportError:
        from hashlib import sha256
    made: Callable[[], _Hash] = sha256
    return made


if TYPE_CHECKING:
    from typing import Protocol

    class _Hash(Protocol):
        def update(self, data: bytes | memoryview, /) -> None: ...
        def digest(self) -> bytes: ...
        def hexdigest(self) -> str: ...


sha256 = _new_sha256()


def _digest(rest: bytes | memoryview) -> bytes:
    """SHA-256 of the names and storage of all fields, then of an index behind its first header. So rows of another
    layout are never read, even when somebody forgot to count VERSION up."""
    digest = sha256()
    digest.update(" ".join(f"{table.__name__} {table.LAYOUT} {table.__slots__}" for table in TABLES).encode())
    digest.update(rest)
    return digest.digest()


def template_digest(data: bytes | memoryview, elf_header: bytes, size: int, masks: list[Mask]) -> bytes:
    """SHA-256 of the first `size` bytes of an object with `elf_header` in place of its own and without `masks`
    (which are sorted and do not overlap)."""
    view = memoryview(data)
    digest = sha256()
    digest.update(elf_header)
    position = ELF_HEADER_SIZE
    for mask in masks:
        digest.update(view[position : mask.offset])
        position = mask.offset + mask.size
    digest.update(view[position:size])
    return digest.digest()


class Index:
    """A read-only view of an encoded index. Rows are decoded when first asked for, and are the reader's to look at, not
    to change: the next one gets the same."""

    __slots__ = ("_data", "_kept", "_spans", "big_endian", "elf_header", "object_size", "template_sha256")

    def __init__(self, data: bytes | memoryview) -> None:
        """`data`: the index without its trailer. Raises BadObject when it is not an intact index of this version."""
        view = memoryview(data)
        if len(view) < _HEADER_SIZE:
            raise BadObject("the index is truncated", hint="make it anew with `elfpatch build`")
        magic, version, flags, digest = _HEAD.unpack_from(view)
        if magic != MAGIC:
            raise BadObject("the index has no valid header", hint="make it anew with `elfpatch build`")
        if version != VERSION:
            newer = version > VERSION
            raise BadObject(
                f"the index has format version {version}, this elfpatch reads version {VERSION}",
                hint="upgrade elfpatch on this host" if newer else "make it anew with `elfpatch build`",
            )
        if _digest(view[_HEAD.size :]) != digest:
            raise BadObject(
                "the index is damaged: its digest does not match", hint="make it anew with `elfpatch build`"
            )
        self._data = view
        self._kept: dict[type[Row], dict[int, Row]] = {table: {} for table in TABLES}
        self.big_endian = bool(flags & BIG_ENDIAN)
        self.template_sha256: bytes
        self.object_size: int
        self.elf_header: bytes
        self.template_sha256, self.object_size, self.elf_header = _BODY.unpack_from(view, _HEAD.size)
        at = _HEAD.size + _BODY.size
        self._spans: list[tuple[int, int]] = [
            _SPAN.unpack_from(view, at + number * _SPAN.size) for number in range(len(TABLES))
        ]

    def count(self, table: type[Row]) -> int:
        """How many rows a table has."""
        return self._spans[_TABLE_NUMBER[table]][1]

    def row(self, table: type[RowT], number: int) -> RowT:
        """Row `number` (from 0) of a table."""
        kept: dict[int, RowT] = self._kept[table]  # type: ignore[assignment]  # a table holds rows of its class
        row = kept.get(number)
        if row is None:
            row = kept[number] = self._decoded(table, number)
        return row

    def rows(self, table: type[RowT], first: int = 0, count: int | None = None) -> Iterator[RowT]:
        """The rows of a table from `first`: `count` of them, or all."""
        end = self.count(table) if count is None else first + count
        for number in range(first, end):
            yield self.row(table, number)

    def _decoded(self, table: type[RowT], number: int) -> RowT:
        offset, count = self._spans[_TABLE_NUMBER[table]]
        if not 0 <= number < count:
            raise Bug(f"index: {table.__name__} has no row {number}")
        stored = table.FORMAT
        values = list(stored.unpack_from(self._data, offset + number * stored.size))
        for at, code in enumerate(table.LAYOUT):
            if code == "S":
                values[at] = self._text(values[at]) if values[at] else ""
            elif code == "L":
                start, size = values[at], values.pop(at + 1)
                values[at] = bytes(self._data[start : start + size])
        return table(*values)

    def _text(self, offset: int) -> str:
        window = 64
        while True:
            chunk = bytes(self._data[offset : offset + window])
            end = chunk.find(0)
            if end >= 0:
                return chunk[:end].decode("utf-8", "surrogateescape")
            if len(chunk) < window:
                raise Bug("index: a string does not end")
            window *= 8

    @property
    def info(self) -> Info:
        return self.row(Info, 0)

    def variables_named(self, name: str) -> list[tuple[int, Variable]]:
        """The variables of this name with their row numbers: usually one, several when statics share a name."""
        low, high = 0, self.count(Variable)
        while low < high:
            middle = (low + high) // 2
            if self._variable_name(middle) < name:
                low = middle + 1
            else:
                high = middle
        found = []
        for number in range(low, self.count(Variable)):
            if self._variable_name(number) != name:
                break
            found.append((number, self.row(Variable, number)))
        return found

    def _variable_name(self, number: int) -> str:
        """The name alone, which is the row's first field: a search need not decode whole rows."""
        offset, _ = self._spans[_TABLE_NUMBER[Variable]]
        (at,) = _NAME.unpack_from(self._data, offset + number * Variable.FORMAT.size)
        return self._text(at) if at else ""


def encode(tables: dict[type[Row], list[Row]], *, big_endian: bool, elf_header: bytes, object_data: bytes) -> bytes:
    """The bytes of an index (without trailer) over these rows. VARIABLES must be sorted by name, MASKS by offset."""
    pool = bytearray(1)  # offset 0 of the pool is the empty string
    strings: dict[bytes, int] = {b"": 0}
    spans = []
    bodies = []
    offset = _HEADER_SIZE
    for table in TABLES:
        rows = tables.get(table, [])
        spans.append((offset, len(rows)))
        offset += table.FORMAT.size * len(rows)
    pool_start = offset
    for table in TABLES:
        for row in tables.get(table, []):
            bodies.append(table.FORMAT.pack(*_stored(row, pool, strings, pool_start)))
    masks = [row for row in tables.get(Mask, []) if isinstance(row, Mask)]
    digest = template_digest(object_data, elf_header, len(object_data), masks)
    rest = b"".join(
        (
            _BODY.pack(digest, len(object_data), elf_header),
            *(_SPAN.pack(*span) for span in spans),
            *bodies,
            pool,
        )
    )
    return _HEAD.pack(MAGIC, VERSION, BIG_ENDIAN if big_endian else 0, _digest(rest)) + rest


def _stored(row: Row, pool: bytearray, strings: dict[bytes, int], pool_start: int) -> Iterator[object]:
    for code, slot in zip(row.LAYOUT, row.__slots__, strict=True):
        value = getattr(row, slot)
        if code == "S":
            data = value.encode("utf-8", "surrogateescape")
            if data not in strings:
                strings[data] = pool_start + len(pool)
                pool += data + b"\0"
            yield strings[data]
        elif code == "L":
            while len(pool) % 8:
                pool.append(0)
            yield pool_start + len(pool) if value else 0
            yield len(value)
            pool += value
        else:
            yield value


def with_trailer(index: bytes) -> bytes:
    """The index followed by its trailer, as stored in the section or the cache."""
    return index + _TRAILER.pack(len(index) + _TRAILER.size, TRAILER_MAGIC)


def find(data: bytes | memoryview) -> memoryview | None:
    """The index at the end of these bytes (of an indexed object or a cache file), or None when none ends there."""
    view = memoryview(data)
    if len(view) < _TRAILER.size:
        return None
    distance, magic = _TRAILER.unpack_from(view, len(view) - _TRAILER.size)
    if magic != TRAILER_MAGIC:
        return None
    if not _TRAILER.size <= distance <= len(view):
        raise BadObject("the index's trailer points outside the file", hint="make it anew with `elfpatch build`")
    return view[len(view) - distance : len(view) - _TRAILER.size]


def resealed(data: bytes) -> bytes:
    """An indexed object whose bytes outside the settable ranges were changed on purpose (`--force`), with the digests
    of its index made true again: it is another template now. An object without an index comes back as it is."""
    block = find(data)
    if block is None:
        return data
    index = Index(block)
    digest = template_digest(data, index.elf_header, index.object_size, list(index.rows(Mask)))
    if digest == index.template_sha256:
        return data
    fresh = bytearray(block)
    _BODY.pack_into(fresh, _HEAD.size, digest, index.object_size, index.elf_header)
    flags = BIG_ENDIAN if index.big_endian else 0
    _HEAD.pack_into(fresh, 0, MAGIC, VERSION, flags, _digest(memoryview(fresh)[_HEAD.size :]))
    return data[: len(data) - len(fresh) - TRAILER_SIZE] + with_trailer(bytes(fresh))


def verify(index: Index, data: bytes | memoryview) -> None:
    """Raise BadObject unless these bytes are the template that the index was made from (values aside)."""
    same = len(data) >= index.object_size and index.template_sha256 == template_digest(
        data, index.elf_header, index.object_size, list(index.rows(Mask))
    )
    if not same:
        raise BadObject(
            "the object is not the one its index was made from", hint="if it is meant to be, run `elfpatch build` on it"
        )
