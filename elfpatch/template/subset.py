"""The part of an object's BTF that the kernel has a use for.

A compiler describes every type that the source names. The kernel looks at those of functions and maps whole, and at
those of CO-RE relocations only along the members that a relocation goes through: the rest of `struct task_struct` may
be anything of the same shape. So `Subset` keeps, for each type, all of the types it names, or some of them.

The types are handled as the 32-bit words they consist of (Documentation/bpf/btf.rst): three, then those of its kind.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from attrs import frozen

from elfpatch.errors import BadObject
from elfpatch.template import btf as bt

# enum bpf_core_relo_kind: what is asked of a field, and of a type no more than whether it is there and its size
_FIELD_KINDS = range(6)
_TYPE_ID_TARGET, _TYPE_EXISTS, _TYPE_SIZE = 7, 8, 9

_MAX_DIMENSIONS = 32
_CHAINED = (*bt.QUALIFIERS, bt.TYPEDEF)
# By kind: where the first reference to another type stands, and the distance to the next of so many
_REFERS = {bt.ARRAY: (3, 1), bt.STRUCT: (4, 3), bt.UNION: (4, 3), bt.DATASEC: (3, 3)}
# By kind: where the names stand that follow the type's own, and their distance
_NAMES = {bt.STRUCT: (3, 3), bt.UNION: (3, 3), bt.ENUM: (3, 2), bt.ENUM64: (3, 3), bt.FUNC_PROTO: (3, 2)}
_WITHOUT_REFERENCE = (bt.INT, bt.ENUM, bt.ENUM64, bt.FLOAT, bt.FWD)

_OWN_TAGS = b"elfpatch:"  # for the index, which has them in a table of its own
# Declaration tags that name another type, and of which kind that is (kernel/bpf/btf.c: btf_find_graph_root; verifier.c:
# bpf_find_exception_callback_insn_off)
_NAMING_TAGS = ((b"contains:", bt.STRUCT), (b"exception_callback:", bt.FUNC))


@frozen
class Written:
    """BTF with fewer types and strings; the new type id and string offset of each old one that is kept."""

    data: bytes
    types: dict[int, int]
    strings: dict[int, int]


class Subset:
    """Collects what is to be kept of a BTF (bytes and types as `kernel_ready` and `Btf` have them)."""

    def __init__(self, ready: bytes, btf: bt.Btf) -> None:
        self._order = btf.order
        count = (btf.types_end - btf.types_at) // 4
        self._words: tuple[int, ...] = struct.unpack_from(f"{btf.order}{count}I", ready, btf.types_at)
        # By type id, where it starts in the words; one more is the end
        self._starts = [0, *((record.at - btf.types_at) // 4 for record in btf.types), count]
        self._strings = btf.strings
        # Type id -> the numbers of the references that are kept; None: all of them
        self._kept: dict[int, set[int] | None] = {}
        self._pending: list[int] = []
        self._count = len(btf.types)
        self._tags = [record.id for record in btf.types if self._kind(record.id) == bt.DECL_TAG]
        self._filler = next((record.id for record in btf.types if self._kind(record.id) == bt.INT), 0)

    # --- one type

    def _kind(self, number: int) -> int:
        if not 1 <= number <= self._count:
            raise BadObject(f"type id {number} does not exist", where=".BTF", hint="the object's BTF is damaged")
        info: int = self._words[self._starts[number] + 1]
        return info >> 24 & 0x1F

    def _vlen(self, number: int) -> int:
        info: int = self._words[self._starts[number] + 1]
        return info & 0xFFFF

    def _string(self, offset: int) -> bytes:
        return _string_at(self._strings, offset)

    def _places(self, number: int) -> list[int]:
        """The words of a type that refer to other types, counted from its start."""
        kind, vlen = self._kind(number), self._vlen(number)
        if kind in _WITHOUT_REFERENCE:
            return []
        if kind == bt.FUNC_PROTO:
            return [2, *range(4, 4 + 2 * vlen, 2)]
        first, step = _REFERS.get(kind, (2, 1))
        return list(range(first, first + step * (2 if kind == bt.ARRAY else vlen if kind in _REFERS else 1), step))

    def _references(self, number: int) -> list[int]:
        places = self._places(number)
        start = self._starts[number]
        return [self._words[start + place] for place in places]

    # --- what is kept

    def whole(self, number: int) -> None:
        """Keep a type and what it consists of; of structs that it only points to, the shells."""
        self._pending.append(number)

    def _keep_pending(self) -> None:
        while self._pending:
            number = self._pending.pop()
            if not number or self._kept.get(number, self) is None:
                continue
            self._kept[number] = None
            references = self._references(number)
            if self._kind(number) == bt.PTR and self._is_plain_aggregate(references[0]):
                self.shell(references[0])
            else:
                self._pending += references

    def _is_plain_aggregate(self, number: int) -> bool:
        """Whether this is a struct or union that no type tag precedes: `__kptr` and the like make the kernel look at
        what a pointer in a map's value points to."""
        *chain, behind = self._chain(number)
        if not behind or self._kind(behind) not in (bt.STRUCT, bt.UNION):
            return False
        return all(self._kind(link) != bt.TYPE_TAG for link in chain)

    def _some(self, number: int, *references: int) -> list[int]:
        """Keep a type with some of its references, counted from 0; what these refer to comes back."""
        kept = self._kept.setdefault(number, set())
        if kept is not None:
            kept.update(references)
        found = self._references(number)
        return [found[reference] for reference in references]

    def _behind_chain(self, number: int) -> int:
        """Keep typedefs and qualifiers; the type behind them comes back."""
        chain = self._chain(number)
        for link in chain[:-1]:
            self._some(link, 0)
        return chain[-1]

    def _chain(self, number: int) -> list[int]:
        """Typedefs and qualifiers from `number` on, then the type behind them (0: void)."""
        chain = [number]
        while chain[-1] and self._kind(chain[-1]) in _CHAINED:
            chain += self._references(chain[-1])
            if len(chain) > self._count:
                raise BadObject(f"the chain of types at {number} does not end", where=".BTF")
        return chain

    def shell(self, number: int) -> None:
        """Keep name, kind and size of a struct or union (of an array: of its elements), of a pointer that it is one;
        other types whole."""
        number = self._behind_chain(number)
        for _ in range(_MAX_DIMENSIONS):
            if not number or self._kind(number) != bt.ARRAY:
                break
            element, index = self._some(number, 0, 1)
            self.whole(index)
            number = self._behind_chain(element)
        if number and self._kind(number) in (bt.STRUCT, bt.UNION, bt.PTR):
            self._some(number)
        else:
            self.whole(number)

    def relocation(self, number: int, access: int, kind: int) -> None:
        """Keep what a CO-RE relocation wants to know of the object's own type (tools/lib/bpf/relo_core.c, which is the
        kernel's too: bpf_core_parse_spec, bpf_core_fields_are_compat, bpf_core_types_are_compat)."""
        if kind in _FIELD_KINDS:
            self._path(number, self._string(access))
        elif kind in (_TYPE_ID_TARGET, _TYPE_EXISTS, _TYPE_SIZE) and self._is_plain_aggregate(number):
            self.shell(number)
        else:
            self.whole(number)

    def _path(self, number: int, access: bytes) -> None:
        """Keep the way of an access like `0:3:1`: element 0 of `number`, its member 3, of this member 1 ..."""
        try:
            _, *steps = map(int, access.split(b":"))
        except ValueError:
            self.whole(number)  # it will be refused, and in the kernel's own words
            return
        for step in steps:
            number = self._behind_chain(number)
            kind = self._kind(number) if number else 0
            if kind in (bt.STRUCT, bt.UNION) and step < self._vlen(number):
                (number,) = self._some(number, step)
            elif kind == bt.ARRAY:
                number, index = self._some(number, 0, 1)
                self.whole(index)
            else:
                self.whole(number)
                return
        self.shell(number)

    def _keep_tags(self) -> None:
        """Keep the declaration tags of what is kept, and the types that these name, with their tags ..."""
        names: dict[tuple[int, bytes], int] = {}
        pending = self._tags
        before = -1
        while before != len(pending):
            before = len(pending)
            self._keep_pending()
            pending = [tag for tag in pending if not self._keep_tag(tag, names)]

    def _keep_tag(self, tag: int, names: dict[tuple[int, bytes], int]) -> bool:
        name, _, target, component = self._words[self._starts[tag] : self._starts[tag] + 4]
        kept = self._kept.get(target, set())
        text = self._string(name)
        of_type = component == 0xFFFFFFFF or self._kind(target) not in (bt.STRUCT, bt.UNION)
        if target not in self._kept or text.startswith(_OWN_TAGS):
            return False
        if kept is not None and not of_type and component not in kept:
            return False
        self._some(tag, 0)
        for prefix, kind in _NAMING_TAGS:
            if text.startswith(prefix):
                names = names or self._named()
                self.whole(names.get((kind, text[len(prefix) :].partition(b":")[0]), 0))
        return True

    def _named(self) -> dict[tuple[int, bytes], int]:
        return {
            (self._kind(number), self._string(self._words[self._starts[number]])): number
            for number in range(1, self._count + 1)
        }

    # --- the result

    def write(self, strings: Iterable[int]) -> Written:
        """The BTF with what was kept, and the strings at these offsets."""
        self._keep_tags()
        if not self._kept and self._count:
            self.whole(self._filler or 1)  # the kernel takes no BTF without types, and line_info wants its strings
        gaps = [number for number in list(self._kept) if self._fills_gaps(number)]
        if gaps:
            self.whole(self._filler)
        self._keep_pending()
        types = {number: new for new, number in enumerate([0, *sorted(self._kept)])}
        table = _Strings(self._strings)
        words: list[int] = []
        for number in sorted(self._kept):
            words += self._written(number, types, table)
        if gaps:
            words += (0, bt.ARRAY << 24, 0, types[self._filler], types[self._filler], 0)
        kept_strings = {offset: table.place(offset) for offset in dict.fromkeys(strings)}
        head = (0xEB9F, 1, 0, 24, 0, 4 * len(words), 4 * len(words), len(table.data))
        data = struct.pack(f"{self._order}HBBIIIII{len(words)}I", *head, *words) + bytes(table.data)
        return Written(data, types, kept_strings)

    def _written(self, number: int, types: dict[int, int], table: _Strings) -> list[int]:
        start, kind, vlen = self._starts[number], self._kind(number), self._vlen(number)
        kept = self._kept[number]
        words = list(self._words[start : self._starts[number + 1]])
        words[0] = table.place(words[0])
        if kept is not None and kind in (bt.STRUCT, bt.UNION):
            return self._partial(words, vlen, kept, types, table)
        for place in self._name_places(kind, vlen):
            words[place] = table.place(words[place])
        for reference, place in enumerate(self._places(number)):
            words[place] = types[words[place]] if kept is None or reference in kept else 0
        return words

    @staticmethod
    def _name_places(kind: int, vlen: int) -> Iterator[int]:
        if kind in _NAMES:
            first, step = _NAMES[kind]
            yield from range(first, first + step * vlen, step)

    def _fills_gaps(self, number: int) -> bool:
        """Make a partial struct one that can be written: whether it needs the placeholder (see `_partial`), which
        cannot stand between bytes, where bit-fields are: these are kept."""
        kept = self._kept[number]
        if not kept or self._kind(number) not in (bt.STRUCT, bt.UNION):
            return False
        if not self._filler:
            self.whole(number)
            return False
        for member in range(self._vlen(number)):
            if member > max(kept) + 1:
                break
            if member not in kept and self._words[self._starts[number] + 5 + 3 * member] & 7:
                self.whole(*self._some(number, member))
        return len(kept) < self._vlen(number)

    def _partial(
        self, words: list[int], vlen: int, kept: set[int], types: dict[int, int], table: _Strings
    ) -> list[int]:
        """A struct with some of its members. Those before them keep their numbers, for accesses count members: they are
        nameless arrays of no elements, which fit anywhere. One after them says that these are not the last, where the
        kernel would take an array for a flexible one."""
        left = min(vlen, max(kept) + 2) if kept else 0
        offsets = 0xFFFFFF if words[1] >> 31 else 0xFFFFFFFF  # without the sizes of bit-fields
        words = [words[0], words[1] & 0xFFFF0000 | left, *words[2 : 3 + 3 * left]]
        for member in range(left):
            at = 3 + 3 * member
            if member in kept:
                words[at : at + 2] = table.place(words[at]), types[words[at + 1]]
            else:
                words[at : at + 3] = 0, len(types), words[at + 2] & offsets
        return words


def _string_at(strings: bytes, offset: int) -> bytes:
    end = strings.find(b"\0", offset)
    if end < 0:
        raise BadObject(f"the string at {offset} does not end", where=".BTF", hint="the object's BTF is damaged")
    return strings[offset:end]


class _Strings:
    """A string table in the making, each string once; `place` takes offsets in the old one."""

    def __init__(self, old: bytes) -> None:
        self.data = bytearray(1)
        self._old = old
        self._places: dict[int, int] = {0: 0}
        self._by_text: dict[bytes, int] = {}

    def place(self, offset: int) -> int:
        """The offset of a string in the new table, where it is put when it is not there."""
        if offset not in self._places:
            text = _string_at(self._old, offset)
            if text not in self._by_text:
                self._by_text[text] = len(self.data)
                self.data += text + b"\0"
            self._places[offset] = self._by_text[text]
        return self._places[offset]
