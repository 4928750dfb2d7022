"""Source lines hold up to the next one, names are found by what func_info says."""

from __future__ import annotations

from elfpatch.explain.debuginfo import DebugInfo, Lines
from elfpatch.explain.model import Source
from tests.explain.support import OBJECTS, images, one


def test_a_line_holds_up_to_the_next_one_and_not_into_the_next_function() -> None:
    first, second = Source("a.c", 1, "one"), Source("a.c", 2, "two")
    lines = Lines([(1, first), (4, second)], [0, 6])
    assert [lines.at(slot) for slot in range(8)] == [None, first, first, first, second, second, None, None]


def test_strings_outside_of_the_btf_are_empty() -> None:
    info = DebugInfo(images(OBJECTS / "clang-19-v3" / "plain.o")[0].template.index.info.btf)
    assert info.string(1 << 31) == ""
    assert DebugInfo(b"").string(0) == ""


def test_functions_have_their_names_in_both_byte_orders() -> None:
    for folder in ("clang-19-v3", "big-endian"):
        assert one(OBJECTS / folder / "calls.o", "fourth").functions == {0: "fourth", 8: "leaf"}
