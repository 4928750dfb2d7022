r"""What is known of a register: a lattice of height 4.

                    UNDEFINED                      nothing has reached this place yet
          /       /     |       \        \          \
    Constant(0)  …  Constant(n)  Address(map, offset)  MapHandle(map)  …  CONTEXT
          \       \     |       /        /          /
                    ELSEWHERE                     /    no pointer to the context, and none into the stack
                         \                       /
                                 UNKNOWN               anything at all

`join` is the greatest lower bound: what differs on two ways into a block is ELSEWHERE or UNKNOWN behind it. A value
only moves down, three steps at most, so every analysis ends, loops or not.

    Constant   a scalar, all 64 bits of it, unsigned
    Address    a pointer into the one element of a data map, so many bytes from its start
    MapHandle  a map itself, as helpers take it
    CONTEXT    what r1 holds when the program starts
    ELSEWHERE  numbers, and pointers to packets, map elements, sockets: all that may be stored through by an imm in
               every kernel (`operands.py`)
"""

from __future__ import annotations


class Value:
    """An element of the lattice; compare by `==`."""

    __slots__ = ()


class _Named(Value):
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


UNDEFINED = _Named("UNDEFINED")
UNKNOWN = _Named("UNKNOWN")
CONTEXT = _Named("CONTEXT")
ELSEWHERE = _Named("ELSEWHERE")


class Constant(Value):
    """A scalar; 0 <= value < 2**64."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return f"Constant({self.value:#x})"


class Address(Value):
    """A pointer to byte `offset` of the element of the map in row `map`; the offset may lie outside."""

    __slots__ = ("map", "offset")

    def __init__(self, map: int, offset: int) -> None:
        self.map = map
        self.offset = offset

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and (other.map, other.offset) == (self.map, self.offset)

    def __hash__(self) -> int:
        return hash((self.map, self.offset))

    def __repr__(self) -> str:
        return f"Address({self.map}, {self.offset:+d})"


class MapHandle(Value):
    """The map in row `map`."""

    __slots__ = ("map",)

    def __init__(self, map: int) -> None:
        self.map = map

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MapHandle) and other.map == self.map

    def __hash__(self) -> int:
        return hash((MapHandle, self.map))

    def __repr__(self) -> str:
        return f"MapHandle({self.map})"


def join(one: Value, other: Value) -> Value:
    """The greatest lower bound of two values."""
    if one is other or other is UNDEFINED:
        return one
    if one is UNDEFINED:
        return other
    if one == other:
        return one
    return ELSEWHERE if is_elsewhere(one) and is_elsewhere(other) else UNKNOWN


def is_elsewhere(value: Value) -> bool:
    """Whether a value is ELSEWHERE or above it."""
    return value is ELSEWHERE or isinstance(value, (Constant, Address, MapHandle))


State = tuple[Value, ...]  # of r0..r10

UNREACHED: State = (UNDEFINED,) * 11
ANYTHING: State = (UNKNOWN,) * 11
AT_START: State = (UNKNOWN, CONTEXT, *ANYTHING[2:])  # of the program; r10 is among what is not known


def join_states(one: State, other: State) -> State:
    """`join`, register by register: `one` itself when it does not move."""
    if one is UNREACHED or one == other:  # which most are
        return other if one is UNREACHED else one
    joined = tuple(map(join, one, other))
    return one if joined == one else joined
