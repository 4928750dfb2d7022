"""A program as a listing for people, 120 columns wide where the instructions allow it."""

from __future__ import annotations

from elfpatch.explain.listing import KEPT_MARK, mark, notes, source_text, stages, summary_lines
from elfpatch.explain.model import Insn, Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    # What a line is (a mark of the listing, or one of the words below) and the line
    Styled = tuple[str, str]

HEADING, SOURCE, PLAIN = "heading", "source", KEPT_MARK
_WIDTH = 120
_MARGIN = 64  # where what stands beside an instruction begins

_COLOURS = {HEADING: "1", SOURCE: "36", "-": "31", "~": "33"}


def lines(program: Program) -> Iterator[Styled]:
    """The listing. Columns: a mark (`-` removed, `~` changed), the slot, the slot once specialised when the program is,
    the instruction, and from column 64 what enters there and why it is removed."""
    yield HEADING, f"program {program.name} (section {program.section})"
    if program.problem:
        yield PLAIN, f"  cannot be loaded: {program.problem}"
        return
    for note in program.notes:
        yield PLAIN, f"  note: {note}"
    before: Insn | None = None
    for insn in program.insns:
        if insn.slot in program.functions:
            yield PLAIN, ""
            yield HEADING, f"{program.functions[insn.slot]}:"
            before = None
        if insn.source is not None and (before is None or before.source != insn.source):
            yield SOURCE, f"  {source_text(insn.source, _WIDTH - 2)}"
        for line in _lines(insn, before, both=program.transformed):
            yield mark(insn), line
        before = insn
    yield PLAIN, ""
    for line in summary_lines(program):
        yield PLAIN, f"  {line}"


def coloured(line: Styled) -> str:
    """A line for a terminal."""
    style, text = line
    colour = _COLOURS.get(style)
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and text else text


def _lines(insn: Insn, before: Insn | None, *, both: bool) -> Iterator[str]:
    new = ("" if insn.new_slot is None else str(insn.new_slot)).rjust(6) if both else ""
    head = f"{mark(insn)} {insn.slot:>5}{new}  "
    blank = " " * len(head)
    shown = [head]
    for number, stage in enumerate(stages(insn)):
        arrow = " -> " if number else ""
        if number and len(shown[-1]) + len(arrow) + len(stage) > _WIDTH:
            shown.append(f"{blank[:-1]}{arrow}")
            arrow = ""
        shown[-1] += arrow + stage
    for note in notes(insn, before):
        margin = max(_MARGIN, len(shown[-1].rstrip()) + 2)
        if margin + len(note) > _WIDTH and shown[-1].strip():
            shown.append("")
            margin = max(len(blank), min(_MARGIN, _WIDTH - len(note)))
        shown[-1] = shown[-1].ljust(margin) + note
    yield from shown
