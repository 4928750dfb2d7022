"""Paths and what they name."""

import pytest

from elfpatch.index import Variable
from elfpatch.patch.path import leaves, resolve

from .synthetic import Builder, patched, refusal, refusals, value_bytes


def template(big=False):
    b = Builder(big=big, stem="gate")
    u8, u16, u32 = b.int(1), b.int(2), b.int(4)
    halves = b.struct("", ("low", u16), ("high", u16))
    either = b.union("", ("raw", u32), ("", halves))
    port = b.struct("port", ("number", u16), ("open", b.bool()))
    table = b.struct("table", ("ports", b.array(port, 2, 3)), ("", either), ("tail", b.array(u8, 0)))
    b.var("table", table).var("grid", b.array(u16, 2, 3), meta=b.meta("cells", maximum=9)).var("foo", u32)
    b.var("fn.count", u32).var("fn.count.max", u32).var("fn", port)
    b.var("fn.port", port)
    b.var("twin", u32).var("twin", port, section=".rodata").var("only", u32)
    b.var("folded", u32, flags=0, why="it is const without volatile").var("mystery", u32, flags=0)
    return b.template()


@pytest.mark.parametrize(
    "path, offset, size",
    [
        ("foo", 0, 4),
        ("gate:foo", 0, 4),
        ("table.ports", 0, 24),
        ("table.ports[1]", 12, 12),
        ("table.ports[1][2]", 20, 4),
        ("table.ports[1][2].open", 22, 1),
        ("table.ports[0x1][0b1].number", 16, 2),
        ("table.raw", 24, 4),
        ("table.high", 26, 2),
        ("table.tail", 28, 0),
        ("grid[1][2]", 10, 2),
        ("grid[1]", 6, 6),
        ("fn.count", 0, 4),
        ("fn.count.max", 0, 4),
        ("fn.number", 0, 2),
        ("fn.port.open", 2, 1),
    ],
)
def test_resolved(path, offset, size):
    place = resolve(template().index, path)
    assert (place.offset - place.variable.offset, place.size) == (offset, size)
    assert place.path == path.removeprefix("gate:").replace("0x1", "1").replace("0b1", "1")


@pytest.mark.parametrize(
    "setting, words",
    [
        ("fooo=1", "there is no variable `fooo` (did you mean foo?)"),
        ("ofo=1", "did you mean foo?"),
        ("zzzzzz=1", "variables that can be set: "),
        ("prog:foo=1", "there is no object `prog` here (the object is gate)"),
        (":foo=1", "there is no object ``"),
        ("table.port=1", "table has no member `port` (did you mean ports?)"),
        ("table.zzz=1", "(members: ports, raw, low, high, tail)"),
        ("table.=1", "has no member ``"),
        ("table.ports[2]=1", "index 2 of table.ports is outside 0..1"),
        ("table.ports[-1]=1", "index -1 of table.ports is outside 0..1"),
        ("table.ports[1][3].number=1", "index 3 of table.ports[1] is outside 0..2"),
        ("table.ports[]=1", "the index of table.ports is wrong"),
        ("table.ports[01]=1", "leading zero"),
        ("table.ports[1=1", "no closing bracket"),
        ("table.ports[0]x=1", "neither a .member nor an [index]"),
        ("table.tail[0]=1", "the array is empty"),
        ("foo.bar=1", "foo has no members: it is u32"),
        ("foo[0]=1", "foo is not an array: it is u32"),
        ("grid.x=1", "grid has no members: it is u16[2][3]"),
        ("twin=1", "2 variables are named twin (name one of them: twin@"),
        ("twin@.data+0x99=1", "no twin is at `.data+0x99`"),
        ("foo @.data=1", "there is no variable"),
        ("[0]=1", "the path names no variable"),
        (".a=1", "there is no variable `.a`"),
        ("folded=1", "folded cannot be set: it is const without volatile (--force"),
        ("mystery=1", "mystery cannot be set: the program does not read it"),
    ],
)
def test_refused(setting, words):
    assert words in refusal(template(), setting)


def test_statics_of_one_name_are_told_apart_by_section_and_offset():
    t = template()
    (line,) = refusals(t, "twin=1")
    choices = line.partition("name one of them: ")[2].rstrip(")").split(", ")
    assert len(choices) == 2 and choices[0] != choices[1]
    data, rodata = sorted(choices, key=lambda choice: ".rodata" in choice)
    image = patched(t, f"{data}=7", f"{rodata}.number=9")
    assert [change.path for change in image.receipt] == [data, f"{rodata}.number"]
    assert [change.section for change in image.receipt] == [".data", ".rodata"]
    assert value_bytes(image, data) == b"\7\0\0\0"
    only = resolve(t.index, "only")
    assert resolve(t.index, f"only@.data+{only.offset:#x}").path == "only"


def test_force_writes_what_is_not_settable():
    image = patched(template(), "folded=3", force=True)
    assert value_bytes(image, "folded") == b"\3\0\0\0"


def test_tags_of_an_array_hold_for_its_elements():
    t = template()
    assert resolve(t.index, "grid[1][2]").description == "cells"
    assert "10 is outside 0..9" in refusal(t, "grid[1][2]=10")


def test_leaves_in_order_of_declaration():
    index = template().index
    rows = {variable.name: row for row, variable in enumerate(index.rows(Variable))}
    assert [place.path for place in leaves(index, rows["table"])] == [
        "table.ports",
        "table.raw",
        "table.low",
        "table.high",
        "table.tail",
    ]
    opened = [place.path for place in leaves(index, rows["grid"], open_arrays=True)]
    assert opened == [f"grid[{i}][{j}]" for i in range(2) for j in range(3)]


def test_every_problem_is_reported_together():
    lines = refusals(template(), "nope=1", "foo=x", "table.ports[9]=1", "folded=1", "grid[0][0]=1")
    assert len(lines) == 4
    assert all(line.startswith("--set ") for line in lines)
