"""The layout of any graph: boxes apart from each other, lines around them, every edge from end to end."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from elfpatch.explain.layout import Box, Drawing, Link, draw

Point = tuple[float, float]


@st.composite
def graphs(draw_from: st.DrawFn) -> tuple[list[Box], list[Link]]:
    """Up to two edges from each of up to 14 boxes to any, itself included; boxes that nothing leads to as well."""
    count = draw_from(st.integers(1, 14))
    size = st.floats(40, 400)
    boxes = [Box(key, draw_from(size), draw_from(size)) for key in range(count)]
    links = []
    for key in range(count):
        targets = draw_from(st.lists(st.integers(0, count - 1), max_size=2))
        links += [
            Link(key, to, word, draw_from(st.booleans())) for to, word in zip(targets, ("fall", "taken"), strict=False)
        ]
    return boxes, links


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_any_graph(graph: tuple[list[Box], list[Link]]) -> None:
    boxes, links = graph
    drawing = draw(boxes, links)
    assert sorted(box.key for box in drawing.boxes) == [box.key for box in boxes]
    check_boxes(drawing)
    check_lines(drawing)
    check_ends(drawing, links)


def check_boxes(drawing: Drawing) -> None:
    for a, b in combinations(drawing.boxes, 2):
        apart = a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
        assert apart
    for box in drawing.boxes:
        assert box.x > -0.1 and box.x + box.width <= drawing.width + 0.1
        assert box.y > 0 and box.y + box.height <= drawing.height


def check_lines(drawing: Drawing) -> None:
    """Lines go straight up, down, left or right, within the drawing and through no box."""
    for line in drawing.lines:
        for (x0, y0), (x1, y1) in pairwise(line.points):
            assert abs(x0 - x1) < 0.1 or abs(y0 - y1) < 0.1
            assert min(x0, x1) > -0.1 and max(x0, x1) <= drawing.width
            assert min(y0, y1) >= 0 and max(y0, y1) <= drawing.height
            for box in drawing.boxes:
                inside_x = min(x0, x1) < box.x + box.width - 0.1 and max(x0, x1) > box.x + 0.1
                inside_y = min(y0, y1) < box.y + box.height - 0.1 and max(y0, y1) > box.y + 0.1
                assert not (inside_x and inside_y)


def check_ends(drawing: Drawing, links: list[Link]) -> None:
    """From the bottom of a link's box its lines lead to the tip of an arrow on the other one's top."""
    by_key = {box.key: box for box in drawing.boxes}
    tips = {(round(x), round(y)) for x, y, _ in drawing.arrows}
    assert len(drawing.labels) == len(links)
    for link in links:
        source, target = by_key[link.source], by_key[link.target]
        tip = (round(target.x + target.width / 2), round(target.y))
        assert tip in tips
        starts = [line.points[0] for line in drawing.lines if leaves(line.points[0], source)]
        assert len(starts) == sum(other.source == link.source for other in links)
        assert any(tip in reached(drawing, start) for start in starts)
    for box in drawing.boxes:
        led = [tips & reached(drawing, line.points[0]) for line in drawing.lines if leaves(line.points[0], box)]
        assert all(len(found) == 1 for found in led)  # a line joins those to the same box only


def leaves(point: Point, box: Box) -> bool:
    return abs(point[1] - box.y - box.height) < 0.1 and box.x <= point[0] <= box.x + box.width


def reached(drawing: Drawing, start: Point) -> set[tuple[int, int]]:
    """The ends of lines (rounded) that are connected with `start`."""
    found: set[int] = set()
    pending = [start]
    ends = set()
    while pending:
        at = pending.pop()
        for number, line in enumerate(drawing.lines):
            if number not in found and touches(line.points, at):
                found.add(number)
                pending += [line.points[0], line.points[-1]]
                ends |= {(round(x), round(y)) for x, y in (line.points[0], line.points[-1])}
    return ends


def touches(points: list[Point], at: Point) -> bool:
    if len(points) == 1:
        points = [points[0], points[0]]
    return any(
        min(x0, x1) - 0.1 <= at[0] <= max(x0, x1) + 0.1 and min(y0, y1) - 0.1 <= at[1] <= max(y0, y1) + 0.1
        for (x0, y0), (x1, y1) in pairwise(points)
    )


def test_a_chain_goes_straight_down() -> None:
    drawing = draw([Box(key, 100 + 40 * key, 50) for key in range(4)], [Link(k, k + 1, "fall") for k in range(3)])
    assert {round(box.x + box.width / 2) for box in drawing.boxes} == {110}
    assert all(len(line.points) == 2 for line in drawing.lines)


def test_an_edge_back_goes_round_the_side() -> None:
    drawing = draw([Box(0, 100, 50), Box(1, 100, 50)], [Link(0, 1, "fall"), Link(1, 0, "taken")])
    side = max(x for line in drawing.lines for x, _ in line.points)
    assert side > 100
    assert any({x for x, _ in line.points} == {side} for line in drawing.lines)
