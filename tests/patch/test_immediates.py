"""Immediates in written objects, byte by byte. What an instruction must hold is read out of the data section of the
same source compiled with the values; relocations are compared as llvm-readelf shows them."""

from __future__ import annotations

import struct
from functools import cache, lru_cache
from pathlib import Path

import pytest

from elfpatch import index as ix
from elfpatch.errors import BadObject, BadValue
from elfpatch.patch.image import Image, Template, digest, make_image, written
from elfpatch.patch.setting import from_set
from elfpatch.template.build import build, original
from elfpatch.template.compile import compile_object
from tests.differential.immediates import FETCH, FETCHED
from tests.differential.immediates import IMMEDIATES as VALUES
from tests.differential.support import compile_fixture
from tests.differential.values import ValueSet
from tests.template.oracles import OBJECTS, name_of
from tests.template.sites import IMMEDIATES, LD_IMM64, FoundImmediate, View, edited, view

HERE = OBJECTS / "clang-19-v3"
DEFAULT = ValueSet("default", {})
SETS = [DEFAULT, *VALUES]
FETCHES = [OBJECTS / variant / "fetch.o" for variant in ("clang-14-v2", "clang-19-v3", "without-btf", "big-endian")]

cases = pytest.mark.parametrize(
    ("path", "values"),
    [pytest.param(path, values, id=f"{name_of(path)}-{values.name}") for path in IMMEDIATES for values in SETS],
)
both_forms = pytest.mark.parametrize("form", ["as compiled", "built"])


@cache
def base(path: Path, form: str, asked: tuple[str, ...] = ()) -> bytes:
    return path.read_bytes() if form == "as compiled" else build(path.read_bytes(), path.stem, asked)


@lru_cache(32)
def opened(data: bytes, asked: tuple[str, ...] = ()) -> Template:
    block = ix.find(data)
    if block is None:
        return Template("prog.o", data, ix.Index(compile_object(data, "prog", asked=asked)))
    index = ix.Index(block)
    ix.verify(index, data)
    return Template("prog.o", data, index)


def image_of(data: bytes, values: ValueSet, asked: tuple[str, ...] = ()) -> Image:
    return make_image(opened(data, asked), [from_set(f"{path}={text}") for path, text in values.settings.items()])


def held(compiled: View, found: FoundImmediate) -> int:
    """What a label's bytes are in the object that the compiler made: zero-extended to 64 bits."""
    raw = compiled.contents(found.data)[found.address : found.address + found.size]
    return int.from_bytes(raw, "big" if compiled.order == ">" else "little")


def value_of(data: bytes, at: int, order: str) -> int:
    """The number in an LD_IMM64, which must be a plain one."""
    opcode, registers, off, low, opcode2, registers2, off2, high = struct.unpack_from(order + "BBhIBBhI", data, at)
    source = registers & 15 if order == ">" else registers >> 4
    assert (opcode, source, off, opcode2, registers2, off2) == (LD_IMM64, 0, 0, 0, 0, 0)
    return int(high << 32 | low)


@cases
def test_instructions_hold_what_the_compiler_would_have_put_into_the_data(path, values, tmp_path):
    compiled = View(compile_fixture(path, values.macros, tmp_path))
    seen = view(path)
    for form in ("as compiled", "built"):
        after = written(image_of(base(path, form), values))
        for found in seen.immediates():
            assert value_of(after, found.at, seen.order) == held(compiled, found), found
            assert after[found.at + 1] == seen.data[found.at + 1]
        for name in {found.data for found in seen.immediates()}:
            section = seen.section(name)
            assert after[section.offset : section.offset + section.size] == compiled.contents(name)


@cases
@both_forms
def test_relocations_of_immediates_are_gone_and_others_in_order(path, values, form, tmp_path):
    out = tmp_path / path.name
    out.write_bytes(written(image_of(base(path, form), values)))
    seen, after = view(path), View(out)
    gone = {(found.section, found.offset) for found in seen.immediates()}
    wanted = {
        section: [row for row in rows if (section, row[0]) not in gone] for section, rows in seen.relocations().items()
    }
    found = after.relocations()
    assert {section: rows for section, rows in found.items() if rows} == {s: r for s, r in wanted.items() if r}
    assert sum(map(len, wanted.values())) == sum(map(len, seen.relocations().values())) - len(gone)
    assert seen.symbols == after.symbols


@cases
@both_forms
def test_only_the_receipt_differs(path, values, form):
    data = base(path, form)
    image = image_of(data, values)
    after = written(image)
    made = bytearray(data)
    for change in image.receipt:
        start = change.file_offset
        assert data[start : start + len(change.old)] == change.old != change.new
        assert len(change.old) == len(change.new)
        made[start : start + len(change.new)] = change.new
    assert bytes(made) == after
    if form == "built":  # relocations are as they are since it was built: values alone change
        labels = {at for found in view(path).immediates() for at in range(found.at, found.at + 16)}
        sections = {found.data for found in view(path).immediates()}
        for name in sections:
            section = view(path).section(name)
            labels |= set(range(section.offset, section.offset + section.size))
        assert {at for at in range(len(data)) if data[at] != after[at]} <= labels


@pytest.mark.parametrize("path", IMMEDIATES, ids=name_of)
def test_every_way_leads_to_the_same_bytes_and_back(path):
    data = base(path, "built")
    assert not image_of(data, DEFAULT).receipt
    current, before = data, dict(opened_defaults(data))
    for values in VALUES:
        current = written(image_of(current, values))
        assert current == written(image_of(data, values))
        assert not image_of(current, values).receipt
    assert written(image_of(current, ValueSet("before", before))) == data
    assert original(data) == path.read_bytes()
    assert build(data, path.stem) == data


def opened_defaults(data: bytes) -> list[tuple[str, str]]:
    """Every value of VALUES as the template has it."""
    template = opened(data)
    found = []
    for name in VALUES[0].settings:
        raw = template.raw(template.place(name))
        assert isinstance(raw, bytes)
        found.append((name, f"hex:{raw.hex()}"))
    return found


@pytest.mark.parametrize("path", IMMEDIATES, ids=name_of)
@both_forms
def test_the_digest_is_that_of_what_was_written(path, form):
    digests = set()
    for values in SETS:
        image = image_of(base(path, form), values)
        digests.add(digest(image))
        if form == "built":
            assert digest(image_of(written(image), DEFAULT)) == digest(image)
            assert digest(image) == digest(
                image_of(written(image_of(base(path, form), VALUES[0])), filled(values, path))
            )
    assert len(digests) == len(SETS)


def filled(values: ValueSet, path: Path) -> ValueSet:
    """The values in full: those that are not set are the template's."""
    return ValueSet(values.name, dict(opened_defaults(base(path, "built"))) | values.settings)


@pytest.mark.parametrize("path", IMMEDIATES, ids=name_of)
def test_what_was_written_without_an_index_says_what_to_do(path):
    """Nothing in it says which variable an instruction stands for: it can be looked at and loaded, no more."""
    after = written(image_of(base(path, "as compiled"), VALUES[2]))
    template = opened(after)
    assert written(make_image(template, [])) == after
    assert template.index.count(ix.Immediate) == 0
    immediates = [row for row in template.index.rows(ix.Variable) if row.flags & ix.IMMEDIATE]
    assert immediates or path.parent.name == "bpf-gcc"  # which knows no tags
    for variable in immediates:
        assert not variable.flags & ix.SETTABLE
        assert "elfpatch build" in variable.why_not
        with pytest.raises(BadValue, match="elfpatch build"):
            make_image(template, [from_set(f"{variable.name}=hex:{'00' * variable.size}")])


def test_tampering_is_seen():
    path = HERE / "immediates.o"
    data = base(path, "built")
    seen = view(path)
    found = seen.immediates()[5]
    with pytest.raises(BadObject, match="not the one its index was made from"):
        opened(edited(data, found.at + 16, bytes((data[found.at + 16] ^ 1,))))
    # inside the instruction: put right by the next patch, as its value is in the data section
    changed = edited(data, found.at + 4, b"\x99")
    assert written(image_of(changed, VALUES[2])) == written(image_of(data, VALUES[2]))


@pytest.mark.parametrize("value", ["60001", "65536", "-1"])
def test_a_value_that_does_not_fit_is_refused(value):
    with pytest.raises(BadValue, match="i_u16"):
        image_of(base(HERE / "immediates.o", "built"), ValueSet("bad", {"i_u16": value}))


# --- asked for by name ------------------------------------------------------------------------------------------

WIDTHS = {"IDENTITY": 4, "PORT": 2, "NODE_MAC_1": 4, "NODE_MAC_2": 2, "COOKIE": 8, "NODE_IP_1": 8, "NODE_IP_2": 8}


@pytest.mark.parametrize("path", FETCHES, ids=name_of)
@pytest.mark.parametrize("values", FETCH, ids=lambda values: values.name)
@both_forms
def test_fetched_values_are_in_their_instructions(path, values, form, tmp_path):
    """Decoded by hand; the numbers are the settings themselves."""
    typed = {name: (f"u{8 * (8 if WIDTHS.get(name) == 8 else 4)}:{text}") for name, text in values.settings.items()}
    typed["PORT"] = f"u16:{values.settings['PORT']}"
    settings = ValueSet(values.name, typed if path.parent.name == "without-btf" else values.settings)
    out = tmp_path / "fetch.o"
    out.write_bytes(after := written(image_of(base(path, form, FETCHED), settings, FETCHED)))
    seen, left = view(path), View(out)
    checked = set()
    for section, rows in seen.relocations().items():
        for offset, _, name, _ in rows:
            at = seen.section(section).offset + offset if section in ("tc", "xdp", "classifier") else -1
            if at >= 0 and name in WIDTHS:
                wanted = int(values.settings[name]) & (1 << 8 * WIDTHS[name]) - 1
                assert value_of(after, at, seen.order) == wanted, name
                checked.add(name)
            elif at >= 0 and name == "LIMIT":
                value_of(after, at, seen.order)
                opcode, registers, off, imm = struct.unpack_from(seen.order + "BBhI", after, at + 16)
                assert (opcode, off, imm) == (0xB4, 0, int(values.settings["LIMIT"]))  # w = LIMIT
                old = seen.data[at + 17]
                assert registers == (old & 0xF0 if seen.order == ">" else old & 0x0F)
                checked.add(name)
    assert checked == {*WIDTHS, "LIMIT"}
    assert not [rows for section, rows in left.relocations().items() if section in ("tc", "xdp", "classifier") and rows]
    others = [section for section in seen.relocations() if section not in ("tc", "xdp", "classifier")]
    for section in others:
        assert left.relocations()[section] == seen.relocations()[section]


def test_one_of_several_is_written_and_the_rest_keep_their_relocations(tmp_path):
    path = HERE / "fetch.o"
    out = tmp_path / "fetch.o"
    out.write_bytes(written(image_of(path.read_bytes(), ValueSet("one", {"PORT": "7"}), ("PORT",))))
    before, after = view(path).relocations(), View(out).relocations()
    for section in ("tc", "xdp", "classifier"):
        assert after[section] == [row for row in before[section] if row[2] != "PORT"]
    assert len(before["tc"]) == len(after["tc"]) + 1
