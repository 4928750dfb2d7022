"""The figures of a run as one SVG picture, written by hand: ratios against their bounds, and how cost grows.

A pure function of the JSON. Colours follow the reader's light or dark scheme.
"""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

WIDTH = 860
LABEL = 400  # where bars begin
BAR_SPAN = 330  # that of the scale from LEAST to MOST
LINE = 22
LEAST, MOST = 0.01, 10.0  # of ratio / bound
CURVE_WIDTH, CURVE_HEIGHT = 170, 130

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 14px } .dim { fill: #59636e } .end { text-anchor: end }
.met { fill: #2f7d4f } .missed { fill: #c0392b } .spread { stroke: #1f2328; stroke-width: 1.5 }
.bound { stroke: #59636e; stroke-dasharray: 4 3 } .axis { stroke: #c5ccd3 } .paper { fill: #ffffff }
.curve { fill: none; stroke: #2563b0; stroke-width: 2 } .dot { fill: #2563b0 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .dim { fill: #9aa4af } .met { fill: #4cae78 } .missed { fill: #f0705f }
.spread { stroke: #e6edf3 } .bound { stroke: #9aa4af } .axis { stroke: #3d444d } .paper { fill: #0d1117 }
.curve { stroke: #6cb0ff } .dot { fill: #6cb0ff }
}
"""

Ratio = dict[str, Any]


def draw(body: dict[str, Any]) -> str:
    """The SVG of what `make bench --json` writes."""
    bars = [(row, ratio) for row in body["rows"] if not row["curves"] for ratio in row["ratios"]]
    curves = [(row, kind, points) for row in body["rows"] for kind, points in row["curves"].items()]
    parts = _bars(bars)
    top = 70 + LINE * len(bars) + 30
    if curves:
        parts.append(_text(20, top, "ms of a whole apply, by size (both axes logarithmic)", "title"))
        for number, (row, kind, points) in enumerate(curves):
            slopes = [one["found"]["median"] for one in row["ratios"] if one["what"] == f"exponent of {kind}"]
            title = f"{kind}: exponent {slopes[0]:.2f}" if slopes else kind
            parts += _curve(20 + number * (CURVE_WIDTH + 40), top + 18, title, points)
        top += CURVE_HEIGHT + 60
    machine = body["machine"]
    parts.append(_text(20, top, f"{machine['date']}, {machine['cpu']}, Linux {machine['kernel']}", "dim"))
    height = top + 16
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="what elfpatch costs">',
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(text)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float, style: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" class="{style}"/>'


# --- ratios


def share(ratio: Ratio, figure: float) -> float:
    """The part of what is allowed that a figure takes: 1 is the bound, less is better. A bound of 0 allows nothing."""
    if ratio["at_least"]:
        return ratio["bound"] / figure if figure else math.inf
    if not ratio["bound"]:
        return math.inf if figure else 0.0
    return figure / ratio["bound"]


def _place(part: float) -> float:
    """Where on the scale."""
    part = min(max(part, LEAST), MOST)
    return LABEL + BAR_SPAN * math.log(part / LEAST) / math.log(MOST / LEAST)


def _bars(bars: list[tuple[dict[str, Any], Ratio]]) -> list[str]:
    bottom = 62 + LINE * len(bars)
    parts = [
        _text(
            20, 26, "What it costs, as a share of its bound (shorter is better; the line is the middle half)", "title"
        ),
        *(_line(_place(part), 52, _place(part), bottom, "axis") for part in (0.01, 0.1, 10)),
        *(_text(_place(part) - 10, 46, f"{part:g}", "dim") for part in (0.01, 0.1, 10)),
        _text(_place(1) - 16, 46, "bound", "dim"),
    ]
    for number, (row, ratio) in enumerate(bars):
        y = 60 + LINE * number
        found = ratio["found"]
        part = share(ratio, found["median"])
        met = "met" if part <= 1 else "missed"
        low, high = sorted(_place(share(ratio, found[end])) for end in ("low", "high"))
        sign = "≥" if ratio["at_least"] else "≤"
        parts += [
            _text(LABEL - 10, y + 11, f"{row['key']}, {ratio['what']}", "end"),
            f'<rect x="{LABEL}" y="{y}" width="{max(_place(part) - LABEL, 2):.1f}" height="14" rx="2" class="{met}"/>',
            _line(low, y + 7, high, y + 7, "spread"),
            _text(LABEL + BAR_SPAN + 12, y + 11, f"{found['median']:.3g}  ({sign} {ratio['bound']:g})"),
        ]
    parts.append(_line(_place(1), 50, _place(1), bottom, "bound"))
    return parts


# --- growth


def _scaled(figures: list[float], span: float) -> list[float]:
    least, most = math.log(min(figures)), math.log(max(figures))
    return [span * (math.log(figure) - least) / ((most - least) or 1) for figure in figures]


def _curve(x: float, y: float, title: str, points: list[list[float]]) -> list[str]:
    sizes, costs = ([float(point[at]) for point in points] for at in (0, 1))
    across = _scaled(sizes, CURVE_WIDTH - 34)
    up = _scaled([*costs, min(costs) * 10], CURVE_HEIGHT - 40)[: len(costs)]
    base = y + CURVE_HEIGHT
    places = [(x + 6 + a, base - 8 - b) for a, b in zip(across, up, strict=True)]
    parts = [
        _text(x, y + 8, title),
        _line(x, base, x + CURVE_WIDTH, base, "axis"),
        _line(x, y + 18, x, base, "axis"),
        f'<polyline class="curve" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in places)}"/>',
    ]
    for (a, b), size, cost in zip(places, sizes, costs, strict=True):
        parts.append(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3"/>')
        parts.append(_text(a - 6, base + 14, f"{size:g}", "dim"))
        parts.append(_text(a - 6, b - 7, f"{cost:.3g}", "dim"))
    return parts
