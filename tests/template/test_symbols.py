"""The variables of the index against llvm-readelf: names, places, sizes, and what is settable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from elfpatch import index as ix
from tests.template.oracles import (
    ALL,
    OBJECTS,
    READELF,
    is_data,
    name_of,
    output,
    symbols,
    template_of,
)

fixtures = pytest.mark.parametrize("path", ALL, ids=name_of)


def variables(path: Path) -> Iterator[ix.Variable]:
    """All but the static keys, which test_keys.py is about."""
    return (row for row in template_of(path).index.rows(ix.Variable) if not row.flags & ix.KEY)


def is_key(name: str, path: Path) -> bool:
    return any(row.flags & ix.KEY for _, row in template_of(path).index.variables_named(name))


@fixtures
def test_every_data_symbol_is_a_variable_and_nothing_else_is(path):
    template = template_of(path)
    wanted = sorted(
        (symbol.name, symbol.section, symbol.value, symbol.size, symbol.local)
        for symbol in symbols(path)
        if symbol.kind == "Object" and is_data(symbol.section) and not is_key(symbol.name, path)
    )
    found = sorted(
        (
            variable.name,
            template.section(variable.section).name,
            variable.offset,
            variable.size,
            bool(variable.flags & ix.STATIC),
        )
        for variable in variables(path)
    )
    assert found == wanted


@fixtures
def test_every_program_is_a_function_outside_text(path):
    wanted = [s.name for s in symbols(path) if s.kind == "Function" and s.section not in (".text", "Undefined")]
    assert sorted(program.name for program in template_of(path).index.rows(ix.Program)) == sorted(wanted)


@pytest.mark.parametrize("path", [path for path in ALL if path.stem != "keys_unneeded"], ids=name_of)
def test_every_program_is_put_together(path):
    """Also those that this kernel or libbpf does not load; what is not in the object is left to the loader."""
    assert [program.problem for program in template_of(path).index.rows(ix.Program) if program.problem] == []


# As the sources say it
NOT_SETTABLE = {"sections": {"folded_global", "partly", "unused", "unused_data", "unused_bss"}}


@fixtures
def test_folded_and_unused_variables_are_not_settable_and_the_others_are(path):
    wrong = {variable.name for variable in variables(path) if not variable.flags & ix.SETTABLE}
    wanted = set(NOT_SETTABLE.get(path.stem, ()))
    wanted &= {variable.name for variable in variables(path)}
    assert wrong == wanted
    for variable in variables(path):
        assert bool(variable.why_not) == (variable.name in wanted)


@fixtures
def test_liveness_is_what_the_relocations_say(path):
    """llvm-readelf prints the symbol of each relocation: a global that one names is live, one that none names is not.
    (Statics are named by section and addend in the instruction, which it does not print.)"""
    named = {line.split()[-1] for line in output(READELF, "-r", "-W", path).splitlines() if "R_BPF_64_64" in line}
    for variable in variables(path):
        if not variable.flags & ix.STATIC:
            assert bool(variable.flags & ix.LIVE) == (variable.name in named), variable.name


def test_statics_of_one_name_have_each_its_place():
    template = template_of(OBJECTS / "linked" / "linked.o")
    limits = template.index.variables_named("limit")
    values = [template.section_bytes(v.section)[v.offset : v.offset + v.size] for _, v in limits]
    assert sorted(values) == [b"\1\0\0\0", b"\2\0\0\0"]
    tuned = [variable for _, variable in template.index.variables_named("tuned")]
    assert sorted(variable.size for variable in tuned) == [4, 8]
    assert {template.index.row(ix.Type, variable.type).size for variable in tuned} == {4, 8}
