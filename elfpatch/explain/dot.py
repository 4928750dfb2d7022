"""The control-flow graph for Graphviz: a cluster for each function, a node for each block."""

from __future__ import annotations

from elfpatch.explain.listing import graph_lines, header, summary_lines
from elfpatch.explain.model import COLD, LIVE, NEVER, REMOVED, Block, Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Border and colour of a block; its state is also the first word in it
_STYLES = {
    LIVE: 'style="solid", color="#1b5e20"',
    COLD: 'style="dashed", color="#1a4f8b"',
    REMOVED: 'style="dotted", color="#b71c1c", fontcolor="#7f1d1d"',
}


def dot(title: str, programs: Sequence[Program]) -> str:
    """One digraph of all programs."""
    lines = [
        f"digraph {_quoted(title)} {{",
        "  graph [fontname=monospace, fontsize=12, labeljust=l];",
        "  node [shape=box, fontname=monospace, fontsize=10, penwidth=1.5];",
        "  edge [fontname=monospace, fontsize=9];",
    ]
    for number, program in enumerate(programs):
        label = "; ".join(
            (f"program {program.name}", *([program.problem] if program.problem else summary_lines(program)))
        )
        lines += [f"  subgraph cluster_{number} {{", f"    label={_quoted(label)};"]
        lines += [f"    {line}" for line in _program(program, number)]
        lines.append("  }")
    return "\n".join((*lines, "}", ""))


def _program(program: Program, number: int) -> Iterator[str]:
    if not program.blocks:  # Graphviz draws no empty cluster
        yield f"nothing_{number} [label={_quoted('no instructions')}];"
    clusters: dict[int, list[Block]] = {}
    for block in program.blocks:
        start = max(start for start in program.functions if start <= block.first)
        clusters.setdefault(start, []).append(block)
    for start, blocks in clusters.items():
        yield f"subgraph cluster_{number}_{start} {{"
        yield f"  label={_quoted(program.functions[start])};"
        for block in blocks:
            rows = [header(block), *graph_lines(program.insns_of(block))]
            label = "".join(f"{_escaped(row)}\\l" for row in rows)
            yield f'  b{number}_{block.first} [label="{label}", {_STYLES[block.state]}];'
        yield "}"
    for block in program.blocks:
        for edge in block.successors:
            style = ", style=dashed" if edge.kind == NEVER or block.state == REMOVED else ""
            yield f"b{number}_{block.first} -> b{number}_{edge.block} [label={edge.kind}{style}];"


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """Text inside a quoted string of dot: control characters, which names may hold, become escapes that are seen."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown.replace("\\", "\\\\").replace('"', '\\"')
