"""How cost grows: the slope of the straight line through the logarithms (1: linear), above the fixed cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Points = Sequence[tuple[float, float]]
NOISE = 0.05  # of the cost of the least size: growth under it says nothing


def exponent(points: Points) -> float | None:
    """Of (size, cost) pairs in order of size. Growth is counted from the least size on, in size and in cost, so that
    what does not depend on size drops out without being guessed: a guess that assumes linear growth finds it. Sizes
    whose growth is noise are left out; None: fewer than two are left."""
    (least, first), *others = points
    above = [(math.log(size - least), math.log(cost - first)) for size, cost in others if cost - first > NOISE * first]
    if len(above) < 2:
        return None
    return statistics.linear_regression(*zip(*above, strict=True)).slope
