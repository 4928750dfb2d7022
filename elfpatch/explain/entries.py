"""Where values enter a program: at loads of variables, at branches on static keys, at immediates."""

from __future__ import annotations

from elfpatch import insn as isa
from elfpatch.explain.model import IMMEDIATE, KEY, VARIABLE, Value
from elfpatch.explain.places import Places, is_whole, value_text
from elfpatch.flow.effects import SIZES
from elfpatch.flow.lattice import Address
from elfpatch.flow.program import heads
from elfpatch.index import FIXUP_IMMEDIATE, FIXUP_MAP_VALUE, FIXUP_SITE, Fixup, Immediate, Map, Program, Site, Variable
from elfpatch.patch.code import is_on
from elfpatch.patch.path import unambiguous

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from elfpatch.flow.lattice import State
    from elfpatch.flow.program import Code
    from elfpatch.patch.image import Image
    from elfpatch.patch.path import Place

_RDONLY_PROG = 1 << 7  # BPF_F_RDONLY_PROG: elfpatch freezes such a data map, too
_MEMORY = (isa.CLASS_LDX, isa.CLASS_ST, isa.CLASS_STX)


class Entries:
    """The values that enter a program with `image`; `defaults` is the image without values given."""

    def __init__(self, image: Image, defaults: Image, places: Places) -> None:
        self._image = image
        self._defaults = defaults
        self._index = image.template.index
        self._places = places

    def find(self, program: Program, code: Code, state: Callable[[int], State | None]) -> dict[int, list[Value]]:
        """By slot. `state(slot)`: what is known of the registers before an instruction."""
        found: dict[int, list[Value]] = {}
        for fixup in self._index.rows(Fixup, program.first_fixup, program.fixups):
            if fixup.kind == FIXUP_SITE:
                found.setdefault(fixup.insn, []).append(self._key(self._index.row(Site, fixup.ref)))
            elif fixup.kind == FIXUP_IMMEDIATE:
                found.setdefault(fixup.insn, []).append(self._immediate(self._index.row(Immediate, fixup.ref)))
        for slot, value in self._variables(code, state):
            found.setdefault(slot, []).append(value)
        return found

    def _key(self, site: Site) -> Value:
        on, default = is_on(self._image, site), is_on(self._defaults, site)
        name = unambiguous(self._index, self._index.row(Variable, site.variable))
        was = None if on == default else _switch(default)
        return Value(KEY, name, _switch(on), was, jumps=on != bool(site.likely))

    def _immediate(self, row: Immediate) -> Value:
        place = self._places.holding(row.data, row.offset, row.size)
        if place is None:
            place = self._places.variable(row.data, row.offset)
        if place is None:  # an address, of which nothing is loaded as it stands
            return Value(IMMEDIATE, self._index.row(Variable, row.variable).name, "0")
        return self._value(IMMEDIATE, place, row.data, row.offset, row.size)

    def _variables(self, code: Code, state: Callable[[int], State | None]) -> Iterator[tuple[int, Value]]:
        """At loads whose address is known; and where the address of a variable is taken, when no access to it is."""
        accessed: set[int] = set()
        for slot in heads(code):
            insn = code.insns[slot]
            registers = state(slot) if insn.opcode & 7 in _MEMORY else None
            if registers is None:
                continue
            loads = insn.opcode & 7 == isa.CLASS_LDX
            base = registers[insn.src if loads else insn.dst]
            if not isinstance(base, Address):
                continue
            definition = self._index.row(Map, base.map)
            offset, size = base.offset + insn.off, SIZES[insn.opcode & 0x18]
            place = self._places.holding(definition.section, offset, size)
            if place is None:
                continue
            accessed.add(place.row)
            if loads:
                yield slot, self._of_map(place, definition, offset, size)
        for slot, (kind, row, offset) in code.refs.items():
            definition = self._index.row(Map, row)
            if kind != FIXUP_MAP_VALUE:
                continue
            place = self._places.starting(definition.section, offset)
            if place is not None and place.row not in accessed:
                yield slot, self._of_map(place, definition, place.offset, place.size)

    def _of_map(self, place: Place, definition: Map, offset: int, size: int) -> Value:
        constant = bool(definition.flags & _RDONLY_PROG)
        return self._value(VARIABLE, place, definition.section, offset, size, constant=constant)

    def _value(self, kind: str, place: Place, section: int, offset: int, size: int, *, constant: bool = True) -> Value:
        path = place.path if is_whole(place, offset, size) else f"{place.path}+{offset - place.offset}"
        shown = value_text(self._image, place, offset, size)
        same = self._image.bytes_at(section, offset, size) == self._defaults.bytes_at(section, offset, size)
        default = None if same else value_text(self._defaults, place, offset, size)
        return Value(kind, path, shown, default, constant)


def _switch(on: bool) -> str:
    return "on" if on else "off"
