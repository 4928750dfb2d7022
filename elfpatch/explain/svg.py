"""The control-flow graph as one SVG file that needs nothing else: text that can be selected, a layout of our own."""

from __future__ import annotations

from elfpatch.explain.layout import Box, Drawing, Link, draw
from elfpatch.explain.listing import graph_lines, header, summary_lines
from elfpatch.explain.model import COLD, LIVE, NEVER, REMOVED, Block, Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CHAR = 6.7  # of a monospace font of 11 pixels: 0.602 em in DejaVu Sans Mono, 0.6 in Courier; no common one is wider
_ROW = 14.0
_PAD = 9.0
_MARGIN = 24.0
_APART = 60.0  # from function to function
_PAGE = 1500.0  # functions stand beside each other up to this width
_MEANINGS = {
    LIVE: "can run with these values",
    COLD: "in the program, not reached with these values",
    REMOVED: "not in what the kernel gets",
}
_FAINT = {True: ' class="faint"', False: ""}

_STYLE = f"""
text {{ font: 11px "DejaVu Sans Mono", Menlo, Consolas, "Liberation Mono", monospace; white-space: pre; fill: #1c2430 }}
.program {{ font-size: 17px; font-weight: bold }}
.function {{ font-size: 13px; font-weight: bold }}
.state {{ font-weight: bold }}
.source {{ fill: #5d6b7c }}
.enter {{ fill: #7a4a00 }}
.word {{ font-size: 10px; fill: #44546a }}
.summary {{ fill: #44546a }}
rect {{ stroke-width: 1.5 }}
.{LIVE} rect {{ fill: #f3faf4; stroke: #2e7d32 }}
.{LIVE} .state {{ fill: #1b5e20 }}
.{COLD} rect {{ fill: #f1f6fd; stroke: #1565c0; stroke-dasharray: 8 4 }}
.{COLD} .state {{ fill: #0d47a1 }}
.{REMOVED} rect {{ fill: #fdf3f2; stroke: #c62828; stroke-dasharray: 2 3 }}
.{REMOVED} .state {{ fill: #b71c1c }}
.gone {{ fill: #9b4a46 }}
.changed {{ fill: #8a5300 }}
path {{ fill: none; stroke: #4a5a70; stroke-width: 1.2; stroke-linejoin: round }}
path.faint {{ stroke: #a9b4c2; stroke-dasharray: 5 4 }}
polygon {{ fill: #4a5a70 }}
polygon.faint {{ fill: #a9b4c2 }}
"""


def svg(title: str, programs: Sequence[Program]) -> str:
    """One drawing of all programs, below each other."""
    y = _MARGIN
    parts, width = _legend(_MARGIN, y)
    y += 44
    for number, program in enumerate(programs):
        drawn, wide, y = _program(program, number, y)
        parts += drawn
        width = max(width, wide)
        y += _APART
    names = ", ".join(program.name for program in programs)
    width, height = width + _MARGIN, y
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-labelledby="title desc">'
    )
    return "\n".join(
        (
            '<?xml version="1.0" encoding="UTF-8"?>',
            head,
            f'<title id="title">{_escaped(title)}: control flow</title>',
            f'<desc id="desc">{_escaped(_description(programs, names))}</desc>',
            f"<style>{_STYLE}</style>",
            f'<path d="M0 0H{width:.0f}V{height:.0f}H0Z" style="fill:#fff;stroke:none"/>',
            *parts,
            "</svg>",
            "",
        )
    )


def _description(programs: Sequence[Program], names: str) -> str:
    blocks = [block for program in programs for block in program.blocks]
    counts = ", ".join(f"{sum(block.state == state for block in blocks)} {state}" for state in (LIVE, COLD, REMOVED))
    return f"Control-flow graphs of {names or 'no program'}. Blocks: {counts}. Each block lists its instructions."


def _legend(x: float, y: float) -> tuple[list[str], float]:
    """What the three borders mean, and where it ends."""
    parts = []
    for state, meaning in _MEANINGS.items():
        wide = (len(state) + 2 + len(meaning)) * _CHAR + 2 * _PAD
        parts += [
            f'<g class="{state}"><rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="24" rx="3"/>',
            _text(x + _PAD, y + 16, state, "state"),
            _text(x + _PAD + (len(state) + 2) * _CHAR, y + 16, meaning) + "</g>",
        ]
        x += wide + 16
    return parts, x - 16


def _program(program: Program, number: int, y: float) -> tuple[list[str], float, float]:
    """What is drawn, how wide it is, and where it ends."""
    parts = [_text(_MARGIN, y + 16, f"program {program.name}", "program")]
    y += 34
    said = [f"cannot be loaded: {program.problem}"] if program.problem else summary_lines(program)
    for line in (*said, *program.notes):
        parts.append(_text(_MARGIN, y, line, "summary"))
        y += _ROW
    wide = _MARGIN + max((len(line) for line in (*said, *program.notes)), default=0) * _CHAR
    y += 16
    x, row = _MARGIN, 0.0
    for name, blocks in _functions(program):
        rows = {block.first: list(graph_lines(program.insns_of(block))) for block in blocks}
        drawing = _drawing(blocks, rows)
        title = max(drawing.width, len(name) * 8.2)
        if x > _MARGIN and x + title > _PAGE:
            x, y, row = _MARGIN, y + row + _APART, 0.0
        parts.append(f'<g transform="translate({x:.1f} {y:.1f})">')
        parts.append(_text(0, 8, name, "function"))
        parts += _function(drawing, blocks, rows, f"p{number}")
        parts.append("</g>")
        wide = max(wide, x + title)
        x += title + _APART
        row = max(row, drawing.height + 16)
    return parts, wide, y + row


def _functions(program: Program) -> Iterator[tuple[str, list[Block]]]:
    """Name and blocks of each function."""
    starts = sorted(program.functions)
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        inside = [b for b in program.blocks if b.first >= start and (end is None or b.first < end)]
        if inside:
            yield program.functions[start], inside


def _drawing(blocks: list[Block], rows: dict[int, list[str]]) -> Drawing:
    boxes = []
    for block in blocks:
        lines = [header(block), *rows[block.first]]
        width = max(len(line) for line in lines) * _CHAR + 2 * _PAD
        boxes.append(Box(block.first, width, len(lines) * _ROW + 2 * _PAD - 4))
    links = [
        Link(b.first, edge.block, edge.kind, edge.kind == NEVER or b.state == REMOVED)
        for b in blocks
        for edge in b.successors
    ]
    return draw(boxes, links)


def _function(drawing: Drawing, blocks: list[Block], rows: dict[int, list[str]], prefix: str) -> Iterator[str]:
    """`prefix` begins the ids of the blocks."""
    yield '<g transform="translate(0 16)">'
    for line in sorted(drawing.lines, key=lambda line: not line.faint):  # what can be taken lies over what cannot
        points = "L".join(f"{x:.1f} {y:.1f}" for x, y in line.points)
        yield f'<path{_FAINT[line.faint]} d="M{points}"/>'
    for x, y, faint in drawing.arrows:
        yield f'<polygon{_FAINT[faint]} points="{x:.1f},{y:.1f} {x - 4:.1f},{y - 8:.1f} {x + 4:.1f},{y - 8:.1f}"/>'
    for label in drawing.labels:
        anchor = ' text-anchor="end"' if label.left else ""
        yield f'<text class="word" x="{label.x:.1f}" y="{label.y:.1f}"{anchor}>{label.word}</text>'
    by_key = {block.first: block for block in blocks}
    for box in drawing.boxes:
        yield from _box(box, by_key[box.key], rows[box.key], f"{prefix}-{box.key}")
    yield "</g>"


def _box(box: Box, block: Block, rows: list[str], name: str) -> Iterator[str]:
    yield f'<g class="block {block.state}" id="{name}">'
    yield f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="3"/>'
    x, y = box.x + _PAD, box.y + _PAD + 9
    yield _text(x, y, header(block), "state")
    for row in rows:
        y += _ROW
        yield _text(x, y, row, _kind(row))
    yield "</g>"


def _kind(row: str) -> str:
    """The class of a line of a block, by its first column."""
    return {";": "source", "-": "gone", "~": "changed"}.get(row[0], "enter" if "  <- " in row else "")


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}" xml:space="preserve">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    """For XML, which has no control characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
