"""A row of the cost table: figures of each subject, its ratio to each rival, the bound; and how it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scripts.bench.measure import Spread


@dataclass(frozen=True)
class Ratio:
    """A figure that has a bound. `at_least`: the bound is the least it may be. `what` says which to which."""

    what: str
    found: Spread
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.found.median >= self.bound if self.at_least else self.found.median <= self.bound


@dataclass
class Row:
    """`figures` by subject in `unit`; `kernel` is the share of a subject's processor time spent in the kernel; `curves`
    are (size, figure) pairs of what grows."""

    key: str
    name: str
    rounds: int
    unit: str = "ms"
    figures: dict[str, Spread] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    kernel: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def report(rows: Sequence[Row]) -> list[str]:
    """The rows for a person."""
    return [line for row in rows for line in _report_row(row)]


def _report_row(row: Row) -> list[str]:
    facts = "".join(f"; {key} {value}".rstrip() for key, value in row.facts.items())
    lines = ["", f"{row.name} ({row.rounds} rounds{facts})"]
    for subject, found in row.figures.items():
        share = f", {row.kernel[subject]:.0%} of its processor time in the kernel" if subject in row.kernel else ""
        lines.append(
            f"  {subject:<34}{_short(found.median):>10} {row.unit}   middle half {_short(found.low)} to "
            f"{_short(found.high)}, all {_short(found.least)} to {_short(found.most)}{share}"
        )
    for ratio in row.ratios:
        found, sign = ratio.found, "at least" if ratio.at_least else "at most"
        lines.append(
            f"  {ratio.what:<34}{found.median:10.4g}   middle half {found.low:.4g} to {found.high:.4g}"
            f"   ({sign} {ratio.bound:g}: {'met' if ratio.met else 'missed'})"
        )
    for curve, points in row.curves.items():
        lines.append(f"  {curve}: " + ", ".join(f"{size:g}: {_short(figure)}" for size, figure in points))
    return lines


def _short(figure: float) -> str:
    return f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.3g}"
