"""Which program runs on which target."""

from __future__ import annotations

import pytest

from elfpatch import index as ix
from elfpatch.deploy.select import select
from elfpatch.deploy.target import parse
from elfpatch.errors import BadConfiguration, BadObject, Missing
from elfpatch.template.sections import section_type


def index_of(*programs: tuple[str, str]) -> ix.Index:
    """An index of programs given as (name, section)."""
    rows: list[ix.Row] = []
    for name, section in programs:
        bare = section.removeprefix("?")
        kind = section_type(bare)
        flags = 0 if section.startswith("?") else ix.AUTOLOAD
        nothing = (b"",) * 5  # instructions and what they say of themselves
        rows.append(ix.Program(name, bare, kind.prog_type, kind.attach_type, flags, "", *nothing, 0, 0, ""))
    tables: dict[type[ix.Row], list[ix.Row]] = {ix.Program: rows}
    return ix.Index(ix.encode(tables, big_endian=False, elf_header=bytes(64), object_data=bytes(64)))


def chosen(target: str, *programs: tuple[str, str]) -> str:
    selection = select(index_of(*programs), [parse(target)])
    return programs[selection.for_target[0]][0]


@pytest.mark.parametrize(
    ("target", "programs", "name"),
    [
        ("tcx:e:ingress", [("a", "tc")], "a"),
        ("tcx:e:egress", [("a", "tcx/ingress"), ("b", "tcx/egress")], "b"),
        ("tc:e:ingress", [("a", "tc/ingress"), ("b", "tc/egress")], "a"),
        ("tcx:e:ingress", [("a", "xdp"), ("b", "classifier")], "b"),
        ("xdp:e", [("a", "xdp"), ("b", "tc")], "a"),
        ("xdp:e", [("a", "xdp/devmap"), ("b", "xdp.frags")], "b"),
        ("tcx:e:ingress", [("a", "from-container")], "a"),  # the target says the type
        ("tcx:e:egress", [("a", "ingress"), ("b", "egress")], "b"),
        ("xdp:e", [("a", "mine"), ("b", "xdp")], "b"),
        ("tcx:e:ingress,prog=b", [("a", "tc"), ("b", "tc")], "b"),
        ("cgroup:/c:connect4", [("a", "cgroup/connect6"), ("b", "cgroup/connect4")], "b"),
        ("cgroup:/c:egress", [("a", "cgroup_skb/ingress"), ("b", "cgroup_skb/egress")], "b"),
        ("cgroup:/c:ingress", [("a", "cgroup/skb")], "a"),
    ],
)
def test_the_program_that_fits(target: str, programs: list[tuple[str, str]], name: str) -> None:
    assert chosen(target, *programs) == name


@pytest.mark.parametrize(
    ("target", "programs", "error", "said"),
    [
        ("tcx:e:ingress", [("a", "tc"), ("b", "tc")], BadConfiguration, "several programs fit: a, b"),
        ("tcx:e:ingress", [("a", "xdp")], BadConfiguration, "no program of the object is of type sched_cls"),
        ("tcx:e:ingress,prog=c", [("a", "tc")], Missing, "there are a"),
        ("xdp:e,prog=a", [("a", "tc")], BadConfiguration, "of type sched_cls"),
        ("cgroup:/c:connect4", [("a", "cgroup/connect6")], BadConfiguration, "no program"),
        ("tcx:e:ingress", [], BadObject, "holds no program"),
    ],
)
def test_what_does_not_fit(target: str, programs: list[tuple[str, str]], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as raised:
        chosen(target, *programs)
    assert said in str(raised.value)


def test_without_targets_all_that_load_by_default() -> None:
    selection = select(index_of(("a", "tc"), ("b", "?tc"), ("c", "xdp")), [])
    assert [wanted.program.name for wanted in selection.wanted.values()] == ["a", "c"]


def test_without_targets_a_section_must_say_the_type() -> None:
    with pytest.raises(BadObject, match="give a --target"):
        select(index_of(("a", "from-container")), [])


def test_one_program_of_no_type_on_two_types_of_target() -> None:
    with pytest.raises(BadConfiguration, match="different types"):
        select(index_of(("a", "prog")), [parse("xdp:e"), parse("tcx:e:ingress")])
