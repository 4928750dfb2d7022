"""What a patched object does is what the same source does when it is compiled with the values.

Four programs must behave alike, in verdicts, packets and maps: the patched object as libbpf loads it, the values
applied in memory by elfpatch, the source compiled with the values as initial values, and compiled with them as
constants.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from elfpatch.cli.main import main
from tests.differential.support import compile_fixture, observed
from tests.differential.values import FIXTURES, TEMPLATES, WITHOUT_BTF, ValueSet
from tests.template.oracles import BY_LIBBPF, LOADABLE, OBJECTS, ROOT, Loaded, name_of
from tests.templates.support import as_constants, compile_template

CASES = [
    pytest.param(path, values, id=f"{name_of(path)}-{values.name}")
    for path in LOADABLE
    if path.parent.name != "without-btf"
    for values in FIXTURES.get(path.stem, ())
]
# Each further compilation tells little: constants fold in the same way wherever they come from
AS_CONSTANTS = [case for case in CASES if case.values[0].parent.name in ("clang-14-v2", "clang-19-v3")]


def adapted(path: Path, values: ValueSet) -> ValueSet:
    """GNU C 12 has no declaration tags: an address that only a tag makes one is a number to it."""
    settings = dict(values.settings)
    if path.parent.name == "bpf-gcc" and "cfg.ip4" in settings:
        settings["cfg.ip4"] = "0x0a000005"
    return ValueSet(values.name, settings, values.macros)


def patch(path: Path, settings: dict[str, str], tmp_path: Path) -> Path:
    out = tmp_path / "patched" / path.name
    out.parent.mkdir(exist_ok=True)
    words = [word for place, text in settings.items() for word in ("--set", f"{place}={text}")]
    assert main(["patch", "--state-dir", str(tmp_path / "state"), "-o", str(out), *words, str(path)]) == 0
    return out


@pytest.mark.parametrize(("path", "values"), CASES)
def test_patched_applied_and_compiled_fixtures_behave_alike(path, values, tmp_path, by_libbpf, by_elfpatch):
    values = adapted(path, values)
    patched = patch(path, values.settings, tmp_path)
    applied = by_elfpatch(path, values.settings)
    again = by_elfpatch(patched)
    assert again.tags() == applied.tags()
    theirs = by_libbpf(patched) if path in BY_LIBBPF else None
    if theirs:
        assert applied.tags() == theirs.tags()
        for program in theirs.programs:
            assert applied.xlated(program) == theirs.xlated(program)
    compiled = compile_fixture(path, values.macros, tmp_path)
    oracle = by_libbpf(compiled) if theirs else by_elfpatch(compiled)
    wanted = observed(oracle)
    assert any(wanted.values())
    assert observed(applied) == wanted
    assert observed(again) == wanted
    if theirs:
        assert observed(theirs) == wanted
    assert wanted != observed(by_elfpatch(path)) or path.stem in ("cgroup", "stamp")


@pytest.mark.parametrize(("path", "values"), AS_CONSTANTS)
def test_patched_fixtures_behave_as_if_the_values_were_constants(path, values, tmp_path, by_libbpf):
    theirs = by_libbpf(patch(path, values.settings, tmp_path))
    constant = by_libbpf(compile_fixture(path, values.macros, tmp_path, constants=True))
    assert observed(theirs) == observed(constant)


@pytest.mark.parametrize("values", WITHOUT_BTF, ids=lambda values: values.name)
@pytest.mark.parametrize("name", ["plain", "plain_removed"])
def test_objects_without_btf(name, values, tmp_path, by_libbpf, by_elfpatch):
    path = OBJECTS / "without-btf" / f"{name}.o"
    theirs = by_libbpf(patch(path, values.settings, tmp_path))
    applied = by_elfpatch(path, values.settings)
    assert applied.tags() == theirs.tags()
    oracle = by_libbpf(compile_fixture(path.with_name("plain.o"), values.macros, tmp_path))
    assert observed(theirs) == observed(applied) == observed(oracle)


# --- shipped templates

CONFIGURED = [
    pytest.param(name, settings, id=f"{name}-{number}")
    for name, sets in TEMPLATES.items()
    for number, settings in enumerate(sets)
]


@pytest.mark.parametrize(("name", "settings"), CONFIGURED)
def test_patched_applied_and_compiled_templates_behave_alike(name, settings, tmp_path, by_libbpf, by_elfpatch):
    path = ROOT / "fixtures" / "templates" / f"{name}.o"
    theirs = by_libbpf(patch(path, settings, tmp_path))
    applied = by_elfpatch(path, settings)
    assert applied.tags() == theirs.tags()
    for program in theirs.programs:
        assert applied.xlated(program) == theirs.xlated(program)
    constant = by_libbpf(compile_template(name, tmp_path / f"{name}.o", *as_constants(settings)))
    wanted = without_data(observed(constant))
    assert without_data(observed(theirs)) == wanted
    assert without_data(observed(applied)) == wanted


def without_data(found: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in found.items() if ".rodata" not in key}


def test_the_observation_tells_programs_apart(by_libbpf, tmp_path):
    """A different value is seen: a comparison that never fails would show nothing."""
    for stem, values in FIXTURES.items():
        path = OBJECTS / "clang-19-v3" / f"{stem}.o"
        if stem in ("cgroup", "stamp"):
            continue
        seen: list[dict[str, object]] = []
        for one in (ValueSet("default", {}), *values):
            loaded: Loaded = by_libbpf(patch(path, one.settings, tmp_path))
            seen.append(observed(loaded))
        assert all(a != b for n, a in enumerate(seen) for b in seen[:n]), stem
