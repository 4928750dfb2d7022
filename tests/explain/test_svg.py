"""The drawing: well-formed, complete, nothing on top of anything else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from elfpatch.explain.listing import graph_lines, header
from elfpatch.explain.model import Block, Edge, Insn, Program, Summary
from elfpatch.explain.svg import svg
from tests.explain.support import FEW, OBJECTS, name_of, one, programs

SVG = "{http://www.w3.org/2000/svg}"
_GLYPH = 0.602 * 11  # DejaVu Sans Mono, the widest of the fonts that are asked for

Rectangle = tuple[float, float, float, float]


def rectangle(element: ElementTree.Element) -> Rectangle:
    x, y, width, height = (float(element.get(key, "nan")) for key in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def groups(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The blocks by their ids."""
    found = [group for group in root.iter(f"{SVG}g") if (group.get("class") or "").startswith("block ")]
    made = {group.get("id", ""): group for group in found}
    assert len(made) == len(found)
    return made


def placed(parent: ElementTree.Element, x: float = 0, y: float = 0) -> Iterator[Rectangle]:
    """Where in the drawing the blocks are."""
    moved = (parent.get("transform") or "translate(0 0)").removeprefix("translate(").removesuffix(")").split()
    x, y = x + float(moved[0]), y + float(moved[1])
    for group in parent.findall(f"{SVG}g"):
        if (group.get("class") or "").startswith("block "):
            (box,) = map(rectangle, group.findall(f"{SVG}rect"))
            yield box[0] + x, box[1] + y, box[2] + x, box[3] + y
        else:
            yield from placed(group, x, y)


def texts(group: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in group.iter(f"{SVG}text")]


@pytest.mark.parametrize("specialize", [False, True], ids=["as it is", "specialised"])
@pytest.mark.parametrize("path", FEW, ids=name_of)
def test_a_drawing_is_whole(path: Path, specialize: bool) -> None:
    made = [program for _, program in programs(path, specialize=specialize)]
    root = ElementTree.fromstring(svg(path.name, made))
    assert [root.find(f"{SVG}{name}") is not None for name in ("title", "desc")] == [True, True]
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    found = groups(root)
    assert len(found) == sum(len(program.blocks) for program in made)
    for number, program in enumerate(made):
        for block in program.blocks:
            group = found[f"p{number}-{block.first}"]
            assert group.get("class") == f"block {block.state}"
            assert texts(group) == [header(block), *graph_lines(program.insns_of(block))]
    boxes = list(placed(root))
    assert len(boxes) == len(found)
    assert all(x > 0 and right <= width and y > 0 and bottom <= height for x, y, right, bottom in boxes)
    assert not [pair for pair in combinations(boxes, 2) if overlap(*pair)]
    for group in found.values():
        (box,) = map(rectangle, group.findall(f"{SVG}rect"))
        for text in group.iter(f"{SVG}text"):
            x, y = float(text.get("x", "nan")), float(text.get("y", "nan"))
            assert box[0] < x and x + len(text.text or "") * _GLYPH < box[2]
            assert box[1] < y - 9 and y + 3 < box[3]


def overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_names_are_escaped() -> None:
    program = one(OBJECTS / "clang-19-v3" / "plain.o", "plain")
    program.insns[0].text = "<b>&amp;\x01\ud800"
    root = ElementTree.fromstring(svg("</title>&", [program]).encode())
    assert texts(groups(root)["p0-0"])[2] == "     0 <b>&amp;\\x01\\ud800"
    assert (root.findtext(f"{SVG}title") or "").startswith("</title>&")


def test_no_colour_is_needed_to_tell_blocks_apart() -> None:
    style = ElementTree.fromstring(svg("x", [])).findtext(f"{SVG}style") or ""
    dashes = {state: line for state in ("cold", "removed") for line in style.splitlines() if f".{state} rect" in line}
    assert "stroke-dasharray: 8 4" in dashes["cold"]
    assert "stroke-dasharray: 2 3" in dashes["removed"]
    (live,) = [line for line in style.splitlines() if ".live rect" in line]
    assert "dasharray" not in live


def large(count: int) -> Program:
    """A program of `count` instructions as a compiler makes them: a long chain of tests, most of which leave for one of
    a few ends, with loops among them."""
    insns = [
        Insn(slot, 1, bytes(8), f"(b7) r{slot % 10} = {slot}", "", None, "main", None, [], "live")
        for slot in range(count)
    ]
    firsts = list(range(0, count, 5))
    blocks = []
    for number, first in enumerate(firsts):
        edges = [Edge(firsts[number + 1], "fall")] if number + 1 < len(firsts) else []
        far = firsts[number // 7 * 5] if number % 11 == 10 else firsts[-1 - number % 4]
        if edges and number + 5 < len(firsts):
            edges.append(Edge(far, "taken"))
        blocks.append(Block(first, min(first + 5, count), "main", "live", edges))
    return Program("main", "tc", insns, blocks, {0: "main"}, Summary(count, count))


def test_a_large_program_is_drawn_in_seconds() -> None:
    program = large(2000)
    started = time.process_time()
    root = ElementTree.fromstring(svg("large", [program]))
    assert time.process_time() - started < 5
    assert len(groups(root)) == len(program.blocks) == 400
