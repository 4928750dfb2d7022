"""What is said of a program. Instructions are counted in slots of 8 bytes, of the program before it is specialised."""

from __future__ import annotations

from dataclasses import dataclass, field

LIVE, COLD, REMOVED = "live", "cold", "removed"
VARIABLE, KEY, IMMEDIATE = "variable", "key", "immediate"
# How an edge is left: by running on or by a jump, where both or only one is possible; or by a branch that is decided
FALL, TAKEN, NEVER, ALWAYS = "fall", "taken", "never", "always"


@dataclass(slots=True, frozen=True)
class Value:
    """A value that enters at an instruction. `path`: the variable, member or element, with `+N` when it is not the
    whole of it. `default`: the template's, when the value is another one. `constant`: it cannot change while the
    program runs. `jumps`: of a key, whether its branch does."""

    kind: str
    path: str
    value: str
    default: str | None = None
    constant: bool = True
    jumps: bool | None = None


@dataclass(slots=True, frozen=True)
class Source:
    """A line of the source. `text` is "" when the object does not hold it."""

    file: str
    line: int
    text: str


@dataclass(slots=True)
class Insn:
    """An instruction. `width`: its slots. `text`: with the values given; `default_text`: with the template's, when
    that is another; `new_text`, `new_raw`: once specialised, when that is more than another distance of a jump.
    `operand`: the map, place, helper or function that it names, "" when it names none. `target`: the slot that it may
    jump to."""

    slot: int
    width: int
    raw: bytes
    text: str
    operand: str
    target: int | None
    function: str
    source: Source | None
    values: list[Value]
    state: str
    default_text: str | None = None
    new_slot: int | None = None
    new_width: int = 0
    new_text: str | None = None
    new_raw: bytes | None = None
    removed_because: str = ""

    @property
    def changed(self) -> bool:
        """Whether the values or specialising made another instruction of it."""
        return self.default_text is not None or self.new_text is not None


@dataclass(slots=True, frozen=True)
class Edge:
    """To the block whose first slot is `block`. `kind`: FALL, TAKEN, NEVER or ALWAYS."""

    block: int
    kind: str


@dataclass(slots=True)
class Block:
    """A basic block, slots [first, end); `first` is its id, too."""

    first: int
    end: int
    function: str
    state: str
    successors: list[Edge]


@dataclass(slots=True, frozen=True)
class Summary:
    """What specialising did. `insns_before`, `insns_after` count slots."""

    insns_before: int
    insns_after: int
    branches_decided: int = 0
    loads_folded: int = 0
    functions_removed: list[str] = field(default_factory=list)
    maps_not_needed: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Program:
    """A program. `functions`: name by start. `problem`: why it cannot be loaded (there are no instructions then).
    `notes`: what is not known of it and why. `transformed`: whether the kernel gets other instructions than `insns`;
    `specialized`: whether that is for more than what no edge leads to."""

    name: str
    section: str
    insns: list[Insn]
    blocks: list[Block]
    functions: dict[int, str]
    summary: Summary
    problem: str = ""
    notes: list[str] = field(default_factory=list)
    transformed: bool = False
    specialized: bool = False

    def insns_of(self, block: Block) -> list[Insn]:
        """The instructions of a block."""
        return [insn for insn in self.insns if block.first <= insn.slot < block.end]
