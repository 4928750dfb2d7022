"""A line for each instruction, as text, dot and svg show it."""

from __future__ import annotations

from elfpatch.explain.model import COLD, IMMEDIATE, KEY, REMOVED, Block, Insn, Program, Source, Value
from elfpatch.explain.syntax import MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# In the first column, so that what happens to an instruction needs no colour to be seen
KEPT_MARK, CHANGED_MARK, REMOVED_MARK = " ", "~", "-"
_SOURCE_SHOWN = 80  # columns of a source line in a graph


def mark(insn: Insn) -> str:
    """The mark of the first column."""
    if insn.state == REMOVED:
        return REMOVED_MARK
    return CHANGED_MARK if insn.changed else KEPT_MARK


def stages(insn: Insn) -> list[str]:
    """An instruction's texts: as the template has it, with the values, specialised; those alone that differ, in the
    order. A jump has the slot behind it that it goes to, `<12>`, in the first."""
    texts = [insn.text if insn.default_text is None else insn.default_text]
    if insn.target is not None:
        bare = texts[0].removesuffix(MARK)
        texts[0] = f"{bare} <{insn.target}>{texts[0][len(bare) :]}"
    if insn.default_text is not None:
        texts.append(insn.text)
    if insn.new_text is not None:
        texts.append(insn.new_text)
    return texts


def value_note(value: Value) -> str:
    """`foo = 42 -> 43`, `key debug (off): never jumps`, `immediate ep.ip4 = 10.0.0.5`."""
    now = value.value if value.default is None else f"{value.default} -> {value.value}"
    if value.kind == KEY:
        return f"key {value.path} ({now}): {'always' if value.jumps else 'never'} jumps"
    word = "immediate " if value.kind == IMMEDIATE else ""
    return f"{word}{value.path} = {now}" + ("" if value.constant else " at first")


def notes(insn: Insn, before: Insn | None) -> list[str]:
    """What stands beside an instruction. What it shares with the one before it is not said again."""
    found = [f"<- {value_note(value)}" for value in insn.values]
    if insn.removed_because and (before is None or before.removed_because != insn.removed_because):
        found.append(f"removed: {insn.removed_because.removeprefix('unreachable: ')}")
    if insn.state == COLD and (before is None or before.state != COLD):
        found.append("cold: not reached with these values")
    return found


def source_text(source: Source, width: int = _SOURCE_SHOWN) -> str:
    """`; text  @ file:line`, as bpftool and the verifier write it; the text is cut where it takes too many columns."""
    where = f"@ {source.file}:{source.line}"
    room = max(width - len(where) - 4, 16)
    text = source.text if len(source.text) <= room else f"{source.text[: room - 3]}..."
    return f"; {text}  {where}" if text else f"; {where}"


def graph_lines(insns: Sequence[Insn]) -> Iterator[str]:
    """The lines of a block of a graph: source lines, instructions with what stands beside them."""
    before: Insn | None = None
    for insn in insns:
        if insn.source is not None and (before is None or before.source != insn.source):
            yield source_text(insn.source)
        beside = [note for note in notes(insn, before) if not note.startswith("cold:")]
        yield "  ".join((f"{mark(insn)} {insn.slot:>4} {' -> '.join(stages(insn))}", *beside))
        before = insn


def header(block: Block) -> str:
    """`live  12..20`: a block's state and its slots."""
    return f"{block.state}  {block.first}..{block.end - 1}"


def summary_lines(program: Program) -> list[str]:
    """What became of a program, in words."""
    done = program.summary
    count = done.insns_before
    if not program.transformed:
        cold = sum(insn.width for insn in program.insns if insn.state == COLD)
        return [f"{_many(count, 'insn')}, {cold} of them cold" if cold else _many(count, "insn")]
    gone = done.functions_removed
    decided, folded = _many(done.branches_decided, "branch", "branches"), _many(done.loads_folded, "load")
    lines = [
        f"{done.insns_before} -> {_many(done.insns_after, 'insn')}; {decided} decided, {folded} folded, "
        f"{_many(len(gone), 'function')} removed"
    ]
    if gone:
        lines.append(f"functions removed: {', '.join(gone)}")
    if done.maps_not_needed:
        lines.append(f"maps not needed: {', '.join(done.maps_not_needed)}")
    return lines


def _many(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"
