"""BTF types -> the index's type trees, and declaration tags -> metadata."""

from __future__ import annotations

from elfpatch import index as ix
from elfpatch.errors import BadObject
from elfpatch.template import btf as bt

_TAG_PREFIX = "elfpatch:"
_NETWORK_TYPEDEFS = ("__be16", "__be32", "__be64", "be16", "be32", "be64")
_MAX_DEPTH = 64


class TypeTable:
    """Collects the rows of the tables TYPES, MEMBERS, ENUMERATORS and METAS for the types that variables use."""

    def __init__(
        self, btf: bt.Btf | None, *, dimensions_reversed: bool = False, enum_signs_missing: bool = False
    ) -> None:
        """`dimensions_reversed`: `int a[2][3]` is described as `int a[3][2]`, as GNU C before 14 does (PR114186).
        `enum_signs_missing`: no enum is marked signed, as clang before 15 and GNU C before 13 leave it."""
        self.btf = btf
        self.enum_signs_missing = enum_signs_missing
        self.dimensions_reversed = dimensions_reversed
        self.types: list[ix.Type] = []
        self.members: list[ix.Member] = []
        self.enumerators: list[ix.Enumerator] = []
        self.metas: list[ix.Meta] = []
        self._rows: dict[tuple[int, str, bool], int] = {}
        self._required: dict[int, bool] = {}
        self._depth = 0

    def row(self, number: int) -> int:
        """The row of a type by its BTF id, made when it is new."""
        assert self.btf is not None
        typedef, network = self._typedef(number)
        record = self.btf.strip(number)
        if record is None:
            raise BadObject(f"type {number} is void", where=".BTF")
        key = (record.id, typedef, network)
        if key not in self._rows:
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise BadObject(f"type {record.id} is nested more than {_MAX_DEPTH} deep", where=".BTF")
            made = self._make(record, typedef, network)
            self._rows[key] = len(self.types)
            self.types.append(made)
            self._depth -= 1
        return self._rows[key]

    def _typedef(self, number: int) -> tuple[str, bool]:
        """The outermost typedef's name, and whether one in the chain means network byte order."""
        assert self.btf is not None
        outermost, network = "", False
        while number:
            record = self.btf.type(number)
            if record.kind == bt.TYPEDEF:
                outermost = outermost or record.name
                network = network or record.name in _NETWORK_TYPEDEFS
            elif record.kind not in bt.QUALIFIERS:
                break
            number = record.ref
        return outermost, network

    def _make(self, record: bt.BtfType, typedef: str, network: bool) -> ix.Type:
        assert self.btf is not None
        size = self.btf.size_of(record.id)
        flags = ix.NETWORK_ORDER if network else 0
        name = record.name
        if record.kind == bt.INT:
            kind = ix.INT
            if record.encoding & bt.INT_BOOL:
                kind = ix.BOOL
            elif name == "char" and size == 1:
                kind = ix.CHAR
            elif record.encoding & bt.INT_SIGNED:
                flags |= ix.SIGNED
            return ix.Type(kind, flags, size, name, typedef, -1, 0, 0, 0)
        if record.kind == bt.ENUM and size > 4:
            # clang before 15 and GNU C before 13 cut the values of a 64-bit enum to 32 bits: the names cannot be used
            return ix.Type(ix.INT, flags, size, f"enum {name}".strip(), typedef, -1, 0, 0, 0)
        if record.kind in (bt.ENUM, bt.ENUM64):
            signed = record.kind_flag or self._looks_signed(record)
            flags |= ix.SIGNED if signed else 0
            first = len(self.enumerators)
            for text, value in record.enumerators:
                self.enumerators.append(ix.Enumerator(text, self._pattern(record, value, signed)))
            return ix.Type(ix.ENUM, flags, size, f"enum {name}".strip(), typedef, -1, 0, first, len(record.enumerators))
        if record.kind == bt.ARRAY:
            return self._array(record, typedef, flags)
        if record.kind in (bt.STRUCT, bt.UNION):
            return self._aggregate(record, typedef, size, flags)
        if record.kind == bt.PTR:
            return ix.Type(ix.POINTER, flags, size, "pointer", typedef, -1, 0, 0, 0)
        if record.kind == bt.FLOAT:
            return ix.Type(ix.FLOAT, flags, size, name, typedef, -1, 0, 0, 0)
        return ix.Type(ix.OPAQUE, flags, size, name, typedef, -1, 0, 0, 0)

    def _array(self, record: bt.BtfType, typedef: str, flags: int) -> ix.Type:
        assert self.btf is not None
        counts, inner = [record.count], record.ref
        while self.dimensions_reversed and inner and self.btf.type(inner).kind == bt.ARRAY:
            counts.append(self.btf.type(inner).count)
            inner = self.btf.type(inner).ref
            if len(counts) > _MAX_DEPTH:
                raise BadObject(f"type {record.id} has more than {_MAX_DEPTH} dimensions", where=".BTF")
        made, size = self.row(inner), self.btf.size_of(inner)
        for count in counts[:-1]:  # the first one stands for the innermost dimension, then
            size *= count
            self.types.append(ix.Type(ix.ARRAY, flags, size, "", "", made, count if size else 0, 0, 0))
            made = len(self.types) - 1
        size *= counts[-1]
        # GNU C has empty structs: of those there is nothing to set
        return ix.Type(ix.ARRAY, flags, size, "", typedef, made, counts[-1] if size else 0, 0, 0)

    def _looks_signed(self, record: bt.BtfType) -> bool:
        """Where the mark is missing: 0xffffffff then is -1, as in the values of errors; 0x80000000 stays a flag."""
        if not self.enum_signs_missing or record.kind != bt.ENUM:
            return False
        return any(-4096 < value < 0 for _, value in record.enumerators)

    @staticmethod
    def _pattern(record: bt.BtfType, value: int, signed: bool) -> int:
        """The 64-bit pattern of an enumerator; 32-bit ones were read as signed."""
        if record.kind == bt.ENUM and not signed:
            value &= 0xFFFF_FFFF
        return value & 0xFFFF_FFFF_FFFF_FFFF

    def _aggregate(self, record: bt.BtfType, typedef: str, size: int, flags: int) -> ix.Type:
        assert self.btf is not None
        rows = []
        for number, member in enumerate(record.members):
            bits = member.bit_size or self._narrow_int(member)
            if member.bit_offset + (bits or 8 * self.btf.size_of(member.type)) > 8 * size:
                raise BadObject(f"member {member.name!r} ends outside its {size} bytes", where=f".BTF type {record.id}")
            meta = self.meta(record.id, number)
            rows.append(ix.Member(member.name, self.row(member.type), member.bit_offset, bits, meta))
        first = len(self.members)
        self.members.extend(rows)
        keyword = "struct" if record.kind == bt.STRUCT else "union"
        kind = ix.STRUCT if record.kind == bt.STRUCT else ix.UNION
        return ix.Type(kind, flags, size, f"{keyword} {record.name}".strip(), typedef, -1, 0, first, len(rows))

    def _narrow_int(self, member: bt.BtfMember) -> int:
        """Old encoders describe a bit-field by an INT of fewer bits than its bytes hold."""
        assert self.btf is not None
        record = self.btf.strip(member.type)
        if record is not None and record.kind == bt.INT and 0 < record.bits < record.size * 8:
            return record.bits
        return 0

    def meta(self, number: int, component: int = -1) -> int:
        """The row of what the declaration tags of a VAR, or of a struct's member, say; -1 when they say nothing."""
        assert self.btf is not None
        tags = [tag[len(_TAG_PREFIX) :] for tag in self.btf.tags(number, component) if tag.startswith(_TAG_PREFIX)]
        if not tags:
            return -1
        said = dict(tag.partition("=")[::2] for tag in tags)
        for bound in ("min", "max"):
            if said.get(bound):
                said[bound] = self._integer(said[bound], f"tag elfpatch:{bound} of type {number}")
        self.metas.append(
            ix.Meta(
                said.get("desc", ""),
                said.get("unit", ""),
                said.get("format", ""),
                said.get("min", ""),
                said.get("max", ""),
                int("required" in said),
            )
        )
        return len(self.metas) - 1

    @staticmethod
    def _integer(text: str, where: str) -> str:
        try:
            return str(int(text.strip().rstrip("uUlL"), 0))
        except ValueError:
            raise BadObject(f"{text!r} is not an integer", where=where) from None

    def has_required(self, var: int, ref: int) -> bool:
        """Whether a variable or any member inside it is tagged `required`."""
        assert self.btf is not None
        return self.tagged(var, "required") or self._contains_required(ref, 0)

    def tagged(self, number: int, word: str, component: int = -1) -> bool:
        """Whether a VAR or a struct's member carries the tag `elfpatch:word`."""
        assert self.btf is not None
        return any(tag.startswith(_TAG_PREFIX + word) for tag in self.btf.tags(number, component))

    def _contains_required(self, number: int, depth: int) -> bool:
        assert self.btf is not None
        record = self.btf.strip(number)
        if record is None or depth > _MAX_DEPTH:
            return False
        if record.kind == bt.ARRAY:
            return self._contains_required(record.ref, depth + 1)
        if record.id not in self._required:  # once each: a struct of structs can be many times as large as it looks
            self._required[record.id] = any(
                self.tagged(record.id, "required", number) or self._contains_required(member.type, depth + 1)
                for number, member in enumerate(record.members)
            )
        return self._required[record.id]
