"""A layered drawing of a directed graph: boxes in ranks, edges as lines with right angles that cross no box.

The steps are Sugiyama's (1981). Edges back to a box that leads there are set aside; a box's rank is the longest path to
it; an edge that skips ranks passes through cells of its own there, which all edges to one box share, so that they join
to one line; cells are ordered in their ranks by the mean of their neighbours, and moved towards them as far as the
order allows. Between two ranks each target has a level of its own for the lines that go to it. Edges back leave below
their box, rise at the drawing's right side and enter above the other one.

Coordinates are pixels, y grows downwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

_BETWEEN = 26.0  # from box to box of a rank
_CELL = 10.0  # width of a line that passes through a rank
_LANE = 10.0  # from line to line at the side
_LEVEL = 7.0  # from line to line between two ranks
_ABOVE, _BELOW = 18.0, 16.0  # of the levels between two ranks: room for labels, and for arrowheads
_PORT = 26.0  # between the two edges that leave a box
_SWEEPS = 10
_PULLS = 16
_STRAIGHT = 20.0  # how much more a line's cell resists to being moved than a box does


@dataclass(slots=True)
class Box:
    """A box: size in, position of its upper left corner out."""

    key: int
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0


@dataclass(slots=True, frozen=True)
class Link:
    """An edge. `faint`: it gives way to others where they share a line."""

    source: int
    target: int
    word: str
    faint: bool = False


@dataclass(slots=True)
class Line:
    """A part of one or more edges, through these points."""

    points: list[tuple[float, float]]
    faint: bool


@dataclass(slots=True)
class Label:
    """A word beside the place where an edge leaves its box; `left`: it ends at x instead of beginning there."""

    word: str
    x: float
    y: float
    left: bool
    faint: bool


@dataclass(slots=True)
class Drawing:
    """`arrows`: (x, y, faint) of the tips of arrowheads, which point down."""

    boxes: list[Box]
    lines: list[Line] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    arrows: list[tuple[float, float, bool]] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0


def draw(boxes: list[Box], links: list[Link]) -> Drawing:
    """Place the boxes (the first is the entry) and route the links."""
    back = _back_links(boxes, links)
    forward = [link for link in links if link not in back]
    ranks = _ranks(boxes, forward)
    cells = _Cells(boxes, forward, ranks)
    _order(cells.ranks)
    _place(cells.ranks)
    return _Router(cells, forward, sorted(back, key=_source), ranks).drawing()


def _source(link: Link) -> int:
    return link.source


# --- ranks ------------------------------------------------------------------------------------------------------


def _back_links(boxes: list[Box], links: list[Link]) -> set[Link]:
    """The links without which there is no cycle: those to a box that a depth-first search is still inside of."""
    leaving: dict[int, list[Link]] = {box.key: [] for box in boxes}
    for link in links:
        leaving[link.source].append(link)
    back: set[Link] = set()
    done: set[int] = set()
    for box in boxes:
        if box.key in done:
            continue
        inside = {box.key}
        path = [(box.key, iter(leaving[box.key]))]
        while path:
            key, rest = path[-1]
            step = next(rest, None)
            if step is None:
                path.pop()
                inside.discard(key)
                done.add(key)
            elif step.target in inside:
                back.add(step)
            elif step.target not in done:
                inside.add(step.target)
                path.append((step.target, iter(leaving[step.target])))
    return back


def _ranks(boxes: list[Box], forward: list[Link]) -> dict[int, int]:
    """By key, the length of the longest path to a box. One that nothing leads to stands above what it leads to."""
    entering = dict.fromkeys((box.key for box in boxes), 0)
    leaving: dict[int, list[int]] = {box.key: [] for box in boxes}
    for link in forward:
        entering[link.target] += 1
        leaving[link.source].append(link.target)
    ranks = dict.fromkeys(entering, 0)
    roots = [key for key, count in entering.items() if not count]
    pending = list(roots)
    while pending:
        key = pending.pop()
        for target in leaving[key]:
            ranks[target] = max(ranks[target], ranks[key] + 1)
            entering[target] -= 1
            if not entering[target]:
                pending.append(target)
    for key in roots[1:]:
        if leaving[key]:
            ranks[key] = max(0, min(ranks[target] for target in leaving[key]) - 1)
    return ranks


# --- cells ------------------------------------------------------------------------------------------------------


class _Cell:
    """A place in a rank: a box's, or that of the lines to box `target` that pass through. `x` is its middle."""

    __slots__ = ("box", "down", "target", "up", "width", "x")

    def __init__(self, target: int, box: Box | None) -> None:
        self.target = target
        self.box = box
        self.width = box.width if box else _CELL
        self.up: list[_Cell] = []
        self.down: list[_Cell] = []
        self.x = 0.0


class _Cells:
    """The cells of each rank, joined to their neighbours in the next ones. `faint`: the joints that only faint links
    use."""

    def __init__(self, boxes: list[Box], forward: list[Link], ranks: dict[int, int]) -> None:
        self.ranks: list[list[_Cell]] = [[] for _ in range(max(ranks.values(), default=0) + 1)]
        self.of_box: dict[int, _Cell] = {}
        self.passing: dict[tuple[int, int], _Cell] = {}
        self.faint: dict[tuple[int, int], bool] = {}
        for box in boxes:
            self.of_box[box.key] = cell = _Cell(box.key, box)
            self.ranks[ranks[box.key]].append(cell)
        for link in forward:
            above = self.of_box[link.source]
            for rank in range(ranks[link.source] + 1, ranks[link.target] + 1):
                below = self._cell(link.target, rank, last=rank == ranks[link.target])
                self._join(above, below, link.faint)
                above = below

    def _cell(self, target: int, rank: int, *, last: bool) -> _Cell:
        if last:
            return self.of_box[target]
        if (target, rank) not in self.passing:
            self.passing[target, rank] = cell = _Cell(target, None)
            self.ranks[rank].append(cell)
        return self.passing[target, rank]

    def _join(self, above: _Cell, below: _Cell, faint: bool) -> None:
        key = (id(above), id(below))
        if key not in self.faint:
            above.down.append(below)
            below.up.append(above)
        self.faint[key] = self.faint.get(key, True) and faint


def _order(ranks: list[list[_Cell]]) -> None:
    """Order the cells of each rank by the mean place of their neighbours above, then below, and so on."""
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        places: dict[int, float] = {}
        for cells in ranks if downwards else reversed(ranks):
            wanted: dict[int, float] = {}
            for number, cell in enumerate(cells):
                near = [places[id(other)] for other in (cell.up if downwards else cell.down)]
                wanted[id(cell)] = sum(near) / len(near) if near else number / max(len(cells), 1)
            cells.sort(key=lambda cell: wanted[id(cell)])
            for number, cell in enumerate(cells):
                places[id(cell)] = (number + 0.5) / len(cells)


def _place(ranks: list[list[_Cell]]) -> None:
    """Put each cell as near to its neighbours as the order allows."""
    for cells in ranks:
        _settle(cells, [0.0] * len(cells))
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        for cells in ranks if downwards else reversed(ranks):
            _settle(cells, [_wanted(cell, downwards) for cell in cells])
    _straighten(ranks)
    left = min((cell.x - cell.width / 2 for cells in ranks for cell in cells), default=0.0)
    for cells in ranks:
        for cell in cells:
            cell.x -= left


def _straighten(ranks: list[list[_Cell]]) -> None:
    """Pull the cells of each line to its mean, boxes making room."""
    for _ in range(_PULLS):
        lines: dict[int, list[float]] = {}
        for cells in ranks:
            for cell in cells:
                if cell.box is None:
                    lines.setdefault(cell.target, []).append(cell.x)
        for cells in ranks:
            wanted = [cell.x if cell.box else sum(lines[cell.target]) / len(lines[cell.target]) for cell in cells]
            _settle(cells, wanted)


def _wanted(cell: _Cell, downwards: bool) -> float:
    near = (cell.up if downwards else cell.down) or cell.up + cell.down
    if cell.box is None:  # a line stays straight, wherever the boxes are that join it
        near = [other for other in (*cell.up, *cell.down) if other.box is None] or near
    return sum(other.x for other in near) / len(near) if near else cell.x


def _settle(cells: list[_Cell], wanted: list[float]) -> None:
    """The middles that are nearest to those wanted, by weighted least squares, with room for every cell: neighbours
    that would overlap form a group that stands where their mean is (pool adjacent violators)."""
    room = [0.0]
    for left, right in pairwise(cells):
        gap = _BETWEEN if left.box and right.box else _BETWEEN / 2 if left.box or right.box else 0.0
        room.append(room[-1] + (left.width + right.width) / 2 + gap)
    groups: list[tuple[float, float, int]] = []  # mean, weight, cells
    for cell, want, offset in zip(cells, wanted, room, strict=True):
        mean, weight, count = want - offset, 1.0 if cell.box else _STRAIGHT, 1
        while groups and groups[-1][0] > mean:
            other, heavy, many = groups.pop()
            mean = (mean * weight + other * heavy) / (weight + heavy)
            weight, count = weight + heavy, count + many
        groups.append((mean, weight, count))
    number = 0
    for mean, _, count in groups:
        for _ in range(count):
            cells[number].x = mean + room[number]
            number += 1


# --- lines ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Bus:
    """The level of the lines to one target in one gap: where they come from, from above, and where they go on, down to
    the next rank or up at the side."""

    drops: list[tuple[float, bool]] = field(default_factory=list)  # x, faint
    to: float = 0.0
    side: bool = False  # `to` is a lane
    arrow: bool = False
    y: float = 0.0

    def span(self) -> tuple[float, float]:
        every = [x for x, _ in self.drops] + [self.to]
        return min(every), max(every)

    @property
    def faint(self) -> bool:
        return all(faint for _, faint in self.drops)


class _Router:
    """Gap g lies above rank g; a bus is known by its gap and its target, or -1 - target when it leads to the side."""

    def __init__(self, cells: _Cells, forward: list[Link], back: list[Link], ranks: dict[int, int]) -> None:
        self.cells = cells
        self.back = back
        self.ranks = ranks
        self.width = max((cell.x + cell.width / 2 for row in cells.ranks for cell in row), default=0.0)
        targets = sorted({link.target for link in back})
        self.lanes = {target: self.width + 12.0 + number * _LANE for number, target in enumerate(targets)}
        if self.lanes:
            self.width = max(self.lanes.values()) + _LANE
        self.buses: dict[tuple[int, int], _Bus] = {}
        self.ports: dict[Link, float] = {}
        self.leaving: dict[int, list[Link]] = {}
        for link in (*forward, *back):
            self.leaving.setdefault(link.source, []).append(link)

    def drawing(self) -> Drawing:
        """The drawing, once: positions are written into the boxes."""
        for row in self.cells.ranks:
            for cell in row:
                self._leave(cell)
        for target, lane in self.lanes.items():
            bus = self._bus(self.ranks[target], target, self.cells.of_box[target].x)
            faint = all(link.faint for link in self.back if link.target == target)
            bus.drops.append((lane, faint))
            bus.arrow = True
        tops = self._levels()
        made = Drawing([cell.box for row in self.cells.ranks for cell in row if cell.box])
        self._lines(made, tops)
        self._labels(made)
        made.width = self.width
        made.height = tops[-1][1]
        return made

    def _bus(self, gap: int, key: int, to: float) -> _Bus:
        return self.buses.setdefault((gap, key), _Bus(to=to))

    def _leave(self, cell: _Cell) -> None:
        """The lines that leave a cell downwards."""
        if cell.box is None:
            (below,) = cell.down
            self._enter(cell, below, cell.x)
            return
        links = sorted(self.leaving.get(cell.target, []), key=lambda link: self._heading(cell, link))
        for number, link in enumerate(links):
            step = min(_PORT, cell.width / (len(links) + 1))
            port = self.ports[link] = cell.x + (number - (len(links) - 1) / 2) * step
            if link in self.back:
                bus = self._bus(self.ranks[cell.target] + 1, -1 - link.target, self.lanes[link.target])
                bus.side = True
                bus.drops.append((port, link.faint))
            else:
                self._enter(cell, self._next(cell, link), port)

    def _heading(self, cell: _Cell, link: Link) -> float:
        """Where a link goes at first, as x: the ports of a box are in this order, so that its lines do not cross."""
        return self.lanes[link.target] if link in self.back else self._next(cell, link).x

    def _next(self, cell: _Cell, link: Link) -> _Cell:
        return next(below for below in cell.down if below.target == link.target)

    def _enter(self, above: _Cell, below: _Cell, x: float) -> None:
        gap = self.ranks[above.target] + 1 if above.box else self._rank_of(above) + 1
        bus = self._bus(gap, below.target, below.x)
        bus.drops.append((x, self.cells.faint[id(above), id(below)]))
        bus.arrow = below.box is not None

    def _rank_of(self, cell: _Cell) -> int:
        if not hasattr(self, "_rank"):
            self._rank = {id(one): number for number, row in enumerate(self.cells.ranks) for one in row}
        return self._rank[id(cell)]

    def _levels(self) -> list[tuple[float, float]]:
        """Give each bus its level and each box its y. Top and bottom of each gap."""
        tops = []
        y = 0.0
        for gap in range(len(self.cells.ranks) + 1):
            buses = [bus for (number, _), bus in self.buses.items() if number == gap]
            levels = _spread(buses)
            bottom = y + (_ABOVE + levels * _LEVEL + _BELOW if buses else 4.0)
            for bus in buses:
                bus.y += y + _ABOVE
            tops.append((y, bottom))
            if gap < len(self.cells.ranks):
                row = self.cells.ranks[gap]
                for cell in row:
                    if cell.box:
                        cell.box.x, cell.box.y = cell.x - cell.width / 2, bottom
                y = bottom + max((cell.box.height for cell in row if cell.box), default=0.0)
        return tops

    def _lines(self, made: Drawing, tops: list[tuple[float, float]]) -> None:
        lanes: dict[int, tuple[float, float, bool]] = {}
        for (gap, key), bus in self.buses.items():
            top, bottom = tops[gap]
            down = bus.y if bus.side else bottom
            for x, faint in bus.drops:
                rising = x in self.lanes.values()
                start = bus.y if rising else self._start(gap, key, x, top)
                made.lines.append(Line(_bent([(x, start), (x, bus.y), (bus.to, bus.y), (bus.to, down)]), faint))
            if bus.arrow:
                made.arrows.append((bus.to, bottom, bus.faint))
            if bus.side:
                target = -1 - key
                upper = self.buses[self.ranks[target], target].y
                low, _, faint = lanes.get(target, (bus.y, upper, True))
                lanes[target] = (max(low, bus.y), upper, faint and bus.faint)
        for target, (low, upper, faint) in lanes.items():
            made.lines.append(Line([(self.lanes[target], low), (self.lanes[target], upper)], faint))
        for (_, rank), cell in self.cells.passing.items():
            faint = self.cells.faint[id(cell), id(cell.down[0])]
            made.lines.append(Line([(cell.x, tops[rank][1]), (cell.x, tops[rank + 1][0])], faint))

    def _start(self, gap: int, key: int, x: float, top: float) -> float:
        """The bottom of the box that a line leaves, which may be above the bottom of its rank."""
        for cell in self.cells.ranks[gap - 1]:
            if cell.box and cell.box.x <= x <= cell.box.x + cell.box.width:
                return cell.box.y + cell.box.height
        return top

    def _labels(self, made: Drawing) -> None:
        for key, links in self.leaving.items():
            cell = self.cells.of_box[key]
            assert cell.box is not None
            for link in links:
                x = self.ports[link]
                left = x < cell.x
                y = cell.box.y + cell.box.height + 11
                made.labels.append(Label(link.word, x - 4 if left else x + 4, y, left, link.faint))


def _spread(buses: list[_Bus]) -> int:
    """Put buses on levels so that no two overlap (`y` is then counted from the first level); how many levels."""
    ends: list[float] = []
    for bus in sorted(buses, key=lambda bus: bus.span()):
        low, high = bus.span()
        if high - low < 0.5:
            continue
        level = next((number for number, end in enumerate(ends) if end < low - 3), len(ends))
        if level == len(ends):
            ends.append(high)
        ends[level] = high
        bus.y = level * _LEVEL
    return len(ends)


def _bent(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points at which a line begins, bends and ends."""
    kept = points[:1]
    for point in points[1:]:
        if _same(point[0], kept[-1][0]) and _same(point[1], kept[-1][1]):
            continue
        if len(kept) > 1 and any(
            _same(point[axis], kept[-1][axis]) and _same(point[axis], kept[-2][axis]) for axis in (0, 1)
        ):
            kept.pop()
        kept.append(point)
    return kept


def _same(a: float, b: float) -> bool:
    return abs(a - b) < 0.05
