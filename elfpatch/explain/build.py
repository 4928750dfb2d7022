"""An image's program -> what is said of it."""

from __future__ import annotations

from elfpatch import disasm
from elfpatch import insn as isa
from elfpatch.explain.debuginfo import DebugInfo
from elfpatch.explain.entries import Entries
from elfpatch.explain.model import COLD, KEY, LIVE, REMOVED, Block, Insn, Program, Summary, Value
from elfpatch.explain.places import Places, address_text
from elfpatch.explain.reach import Reach
from elfpatch.flow.program import function_target, heads, width
from elfpatch.helpers import helper_name
from elfpatch.index import FIXUP_EXTERN, FIXUP_MAP_VALUE, Fixup, Map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from elfpatch import index as ix
    from elfpatch.explain.syntax import Operand, Syntax
    from elfpatch.flow.program import Code
    from elfpatch.flow.propagate import Memory
    from elfpatch.patch.image import Image
    from elfpatch.patch.specialise import Specialised


class Given:
    """What a program is explained from: `code` with the values of `image`, `default` with the template's; `done`: what
    was made of `code`, None when the kernel gets it as it is; `memory`: the constant data."""

    __slots__ = ("code", "default", "defaults", "done", "image", "memory", "program", "specialize")

    def __init__(
        self,
        image: Image,
        defaults: Image,
        program: ix.Program,
        code: Code,
        default: Code,
        done: Specialised | None,
        memory: Memory,
        *,
        specialize: bool,
    ) -> None:
        self.image = image
        self.defaults = defaults
        self.program = program
        self.code = code
        self.default = default
        self.done = done
        self.memory = memory
        self.specialize = specialize


def unloadable(program: ix.Program) -> Program:
    """A program without instructions, for its problem."""
    return Program(program.name, program.section, [], [], {}, Summary(0, 0), program.problem)


def explain(given: Given, syntax: Syntax) -> Program:
    """The model of one program."""
    code, program = given.code, given.program
    index = given.image.template.index
    debug = DebugInfo(index.info.btf)
    functions = debug.functions(code, program.name)
    entries = Entries(given.image, given.defaults, Places(index))
    # What keys decide must be known to find what is reached, and that to find where variables are loaded.
    keys = entries.find(program, code, _nothing_known)
    sites = {slot: value.jumps for slot, values in keys.items() for value in values if value.kind == KEY}
    reach = Reach(code, given.memory, {slot: bool(jumps) for slot, jumps in sites.items()})
    values = entries.find(program, code, reach.state)
    insns = _instructions(given, syntax, functions, debug, values)
    blocks = list(_blocks(reach, insns, functions))
    _set_states(insns, blocks)
    done = given.done
    return Program(
        program.name,
        program.section,
        insns,
        blocks,
        functions,
        _summary(given, functions),
        notes=_notes(reach, done),
        transformed=done is not None and not done.why_not,
        specialized=given.specialize,
    )


def _nothing_known(slot: int) -> None:
    return None


def _notes(reach: Reach, done: Specialised | None) -> list[str]:
    notes = [f"its control flow is not understood: {reach.why_not}"] if reach.why_not else []
    if done is not None and done.why_not:
        notes.append(f"it stays as it is: {done.why_not}")
    return notes


# --- instructions -----------------------------------------------------------------------------------------------


def _instructions(
    given: Given, syntax: Syntax, functions: dict[int, str], debug: DebugInfo, values: dict[int, list[Value]]
) -> list[Insn]:
    code, done = given.code, given.done
    operand = _operands(given, functions)
    raw = code.encode()
    texts = syntax(raw, code.big_endian, operand)
    before = given.default.encode()
    defaults = syntax(before, code.big_endian, operand)
    lines = debug.lines(code)
    made = []
    function = given.program.name
    for slot in heads(code):
        function = functions.get(slot, function)
        insn, wide = code.insns[slot], width(code.insns[slot])
        own = slice(slot * isa.SIZE, (slot + wide) * isa.SIZE)
        made.append(
            Insn(
                slot,
                wide,
                raw[own],
                texts[slot],
                operand(slot, insn) or _helper(insn),
                disasm.target(slot, insn),
                function,
                lines.at(slot),
                values.get(slot, []),
                LIVE,
                default_text=defaults.get(slot) if before[own] != raw[own] else None,
                new_slot=slot,
                new_width=wide,
            )
        )
    if done is not None and not done.why_not:
        _compare(given, done, made, syntax)
    return made


def _helper(insn: isa.Insn) -> str:
    return helper_name(insn.imm) if insn.opcode == isa.CALL and not insn.src else ""


def _operands(given: Given, functions: dict[int, str]) -> Operand:
    """What names the operands of a program: maps, places in data sections, functions, symbols of the kernel."""
    code, index = given.code, given.image.template.index
    places = Places(index)
    rows = index.rows(Fixup, given.program.first_fixup, given.program.fixups)
    externs = {fixup.insn: fixup.name for fixup in rows if fixup.kind == FIXUP_EXTERN}

    def operand(slot: int, insn: isa.Insn) -> str:
        if slot in externs:
            return externs[slot]
        start = function_target(code, slot)
        if start is not None:
            name = functions.get(start, f"function_at_{start}")
            return name if insn.opcode == isa.CALL else f"subprog[{name}]"
        if slot not in code.refs or not insn.src:
            return ""
        kind, row, offset = code.refs[slot]
        definition = index.row(Map, row)
        if kind != FIXUP_MAP_VALUE:
            return f"map[{definition.name}]"
        place = places.starting(definition.section, offset)
        return f"&{address_text(place, offset)}" if place else f"map[{definition.name}]+{offset}"

    return operand


def _compare(given: Given, done: Specialised, insns: list[Insn], syntax: Syntax) -> None:
    """Put in what became of each instruction. Those that are others now have no operand with a name."""
    new = done.code
    raw = new.encode()
    texts = syntax(raw, new.big_endian, _no_name)
    for insn in insns:
        at = done.moved[insn.slot]
        if at < 0:
            insn.state, insn.new_slot, insn.new_width = REMOVED, None, 0
            insn.removed_because = done.removed.get(insn.slot, "")
            continue
        insn.new_slot, insn.new_width = at, width(new.insns[at])
        if _is_another(given.code, insn.slot, new, at):
            insn.new_text = texts[at]
            insn.new_raw = raw[at * isa.SIZE : (at + insn.new_width) * isa.SIZE]


def _no_name(slot: int, insn: isa.Insn) -> str:
    return ""


def _spans(code: Code) -> Iterator[tuple[int, int]]:
    """Start and end of each function."""
    return zip(code.starts, [*code.starts[1:], len(code.insns)], strict=True)


def _is_another(code: Code, slot: int, new: Code, at: int) -> bool:
    """Whether an instruction is another one than before, distances of jumps and calls aside."""
    return _without_distance(code, slot) != _without_distance(new, at)


def _without_distance(code: Code, slot: int) -> tuple[int, ...]:
    insn = code.insns[slot]
    jumps = disasm.target(slot, insn) is not None
    far = insn.opcode == isa.JA32 or function_target(code, slot) is not None
    upper = code.insns[slot + 1].imm if width(insn) == 2 else 0
    return (insn.opcode, insn.dst, insn.src, 0 if jumps else insn.off, 0 if far else insn.imm, upper)


# --- blocks and the whole ---------------------------------------------------------------------------------------


def _blocks(reach: Reach, insns: list[Insn], functions: dict[int, str]) -> Iterator[Block]:
    by_slot = {insn.slot: insn for insn in insns}
    function = ""
    for first, end in reach.blocks:
        function = functions.get(first, function)
        own = [by_slot[slot] for slot in range(first, end) if slot in by_slot]
        state = LIVE if first in reach.reached else COLD
        if all(insn.state == REMOVED for insn in own):
            state = REMOVED
        yield Block(first, end, function, state, reach.edges[first])


def _set_states(insns: list[Insn], blocks: list[Block]) -> None:
    """An instruction that is left is as live as its block."""
    state = {slot: block.state for block in blocks for slot in range(block.first, block.end)}
    for insn in insns:
        if insn.state != REMOVED:
            insn.state = state[insn.slot]


def _summary(given: Given, functions: dict[int, str]) -> Summary:
    code, done = given.code, given.done
    if done is None or done.why_not:
        return Summary(len(code.insns), len(code.insns))
    gone = [functions[s] for s, end in _spans(code) if all(done.moved[slot] < 0 for slot in range(s, end))]
    used = {row for _, row, _ in done.code.refs.values()}
    unused = sorted({row for _, row, _ in code.refs.values()} - used)
    index = given.image.template.index
    return Summary(
        len(code.insns),
        len(done.code.insns),
        len(done.decided),
        len(done.folded) + sum(why.startswith("folded ") for why in done.removed.values()),
        gone,
        [index.row(Map, row).name for row in unused],
    )
