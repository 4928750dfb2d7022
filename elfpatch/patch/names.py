"""Did you mean: the names nearest to one that does not exist."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN = 12  # names listed at most


def distance(one: str, other: str) -> int:
    """How many edits (insert, delete, replace a character, swap neighbours) turn one name into the other."""
    rows = [list(range(len(other) + 1))]
    for i, left in enumerate(one, 1):
        row = [i]
        for j, right in enumerate(other, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (left != right))
            if i > 1 and j > 1 and left == other[j - 2] and one[i - 2] == right:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The few of `known` that `name` may have meant, best first."""
    found = []
    wanted = name.lower()
    for candidate in known:
        other = candidate.lower()
        edits = distance(wanted, other)
        if edits <= max(1, len(name) // 3) or (len(name) > 2 and (wanted in other or other in wanted)):
            found.append((edits, candidate))
    return [candidate for _, candidate in sorted(found)[:3]]


def did_you_mean(name: str, known: Iterable[str], what: str) -> str:
    """A hint: the nearest names, or else all of them. `what` is the plural of what they name."""
    names = list(dict.fromkeys(known))
    near = nearest(name, names)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if not names:
        return f"there are no {what}"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(names[:SHOWN])}{more}"
