"""Switching static keys: which bytes of an object change, and that every way leads back.

What the bytes must be is made here from what llvm-readelf says of the labels and of .jump_table (tests/template/sites).
"""

from __future__ import annotations

import random
import struct
from functools import cache, lru_cache
from pathlib import Path

import pytest

from elfpatch import index as ix
from elfpatch.errors import BadObject, BadValue, Problems
from elfpatch.patch.image import Image, Template, digest, make_image, written
from elfpatch.patch.setting import from_set, from_set_hex
from elfpatch.template.build import build, original
from elfpatch.template.compile import compile_object
from tests.template.oracles import OBJECTS, name_of
from tests.template.sites import JUMP_TABLES, KEYS, FoundSite, edited, is_on_offset, says_on, view

PATHS = [*KEYS, *JUMP_TABLES, OBJECTS / "linked" / "keys_linked.o"]
HERE = OBJECTS / "clang-19-v3"
States = dict[str, bool]
FORMS = ("as compiled", "built")


@cache
def base(path: Path, form: str) -> bytes:
    return path.read_bytes() if form == "as compiled" else build(path.read_bytes(), path.stem)


@lru_cache(32)
def opened(data: bytes, stem: str = "prog") -> Template:
    """A template of these bytes, as elfpatch opens a file that holds them."""
    block = ix.find(data)
    if block is None:
        return Template(f"{stem}.o", data, ix.Index(compile_object(data, stem)))
    index = ix.Index(block)
    ix.verify(index, data)
    return Template(f"{stem}.o", data, index)


def defaults(path: Path) -> States:
    """The state of each key as the object's own bytes say."""
    seen = view(path)
    found: States = {}
    for site in seen.sites():
        raw = seen.data[site.at : site.at + 8]
        found[site.key] = says_on(site, raw[0]) if site.kind == "opcode" else is_on_offset(site, raw, seen.order)
    return found


def site_bytes(site: FoundSite, on: bool, order: str) -> bytes:
    """What a site must be in a written object."""
    jumps = on != site.likely
    if site.kind == "opcode":
        return b"\x35" if jumps else b"\xa5"
    distance = (site.target - site.offset) // 8 - 1
    registers = 0xA0 if order == ">" else 0x0A  # r10 is dst
    return struct.pack(order + "BBhi", 0x55 if jumps else 0x15, registers, distance, 0)


def owned(path: Path, key: str) -> dict[int, int]:
    """The ranges of the file that a key owns: offset to size."""
    seen = view(path)
    ranges = {site.at: 1 if site.kind == "opcode" else 8 for site in seen.sites() if site.key == key}
    return ranges | {at: 4 for name, at in seen.words().items() if name == key}


def expected(path: Path, data: bytes, states: States) -> bytes:
    """`data`, an object in any state, with its keys as `states` say."""
    seen = view(path)
    made = bytearray(data)
    for site in seen.sites():
        raw = site_bytes(site, states[site.key], seen.order)
        made[site.at : site.at + len(raw)] = raw
    for name, at in seen.words().items():
        made[at : at + 4] = struct.pack(seen.order + "I", states[name])
    return bytes(made)


def settings(states: States) -> list[object]:
    return [from_set(f"{key}={'on' if on else 'off'}") for key, on in states.items()]


def image_of(data: bytes, states: States) -> Image:
    return make_image(opened(data), settings(states))


def samples(path: Path) -> list[States]:
    """All off, all on, each key alone on and alone off, and a few more."""
    keys = sorted(defaults(path))
    rng = random.Random(name_of(path))
    found = [dict.fromkeys(keys, on) for on in (False, True)]
    found += [{key: (key == one) == on for key in keys} for one in keys for on in (True, False)]
    return found + [{key: rng.random() < 0.5 for key in keys} for _ in range(4)]


both_forms = pytest.mark.parametrize("form", FORMS)
each_object = pytest.mark.parametrize("path", PATHS, ids=name_of)


@each_object
@both_forms
def test_written_objects_are_as_the_labels_say(path, form):
    data = base(path, form)
    for states in samples(path):
        assert written(image_of(data, states)) == expected(path, data, states)


@each_object
@both_forms
def test_one_key_changes_its_own_sites_and_its_word(path, form):
    """An object with offset sites as compiled is brought into its written form along with it."""
    data = base(path, form)
    for key, on in defaults(path).items():
        image = image_of(data, {key: not on})
        after = written(image)
        assert after == expected(path, data, defaults(path) | {key: not on})
        changed = {at for at in range(len(data)) if data[at] != after[at]}
        assert len(after) == len(data)
        if form == "built" or path not in JUMP_TABLES:
            assert changed <= {at for start, size in owned(path, key).items() for at in range(start, start + size)}
            assert {start for start in owned(path, key) if data[start : start + 8] != after[start : start + 8]}
            assert {change.path for change in image.receipt} == {key}


@each_object
@both_forms
def test_the_receipt_is_the_difference(path, form):
    data = base(path, form)
    for states in samples(path):
        image = image_of(data, states)
        after = written(image)
        made = bytearray(data)
        for change in image.receipt:
            start = change.file_offset
            assert owned(path, change.path)[start] == len(change.old) == len(change.new)
            assert data[start : start + len(change.old)] == change.old != change.new
            made[start : start + len(change.new)] = change.new
        assert bytes(made) == after
        assert len({change.file_offset for change in image.receipt}) == len(image.receipt)
        assert (not image.receipt) == (after == data)


@each_object
def test_setting_what_is_set_changes_nothing(path):
    data = base(path, "built")
    for states in [defaults(path), *samples(path)]:
        once = written(image_of(data, states))
        again = image_of(once, states)
        assert not again.receipt and not again.values and written(again) == once
        assert not make_image(opened(once), []).receipt


@each_object
@both_forms
def test_every_way_leads_to_the_same_bytes_and_back(path, form):
    data = base(path, form)
    current = data
    for states in samples(path):
        current = written(image_of(current, states))
        assert current == expected(path, data, states)
    back = written(image_of(current, defaults(path)))
    assert back == expected(path, data, defaults(path))
    if form == "built" or path not in JUMP_TABLES:
        assert back == data


@each_object
def test_a_written_object_without_an_index_is_read_back(path):
    """Of offset sites: `if r10 == 0` and `if r10 != 0` are known as such sites."""
    data = base(path, "as compiled")
    for states in samples(path)[:6]:
        template = opened(written(image_of(data, states)))
        for key, on in states.items():
            image = make_image(template, [])
            assert bool(int.from_bytes(image.raw(template.place(key)), "little")) == on
            assert not [v.why_not for _, v in template.index.variables_named(key) if v.why_not]


@each_object
@both_forms
def test_the_digest_is_that_of_the_written_object_and_of_no_other(path, form):
    data = base(path, form)
    found = {}
    for states in samples(path):
        image = image_of(data, states)
        stored = make_image(opened(written(image)), [])
        assert stored.template.index.template_sha256 == image.template.index.template_sha256
        assert digest(stored) == digest(image)
        found[tuple(states.items())] = digest(image)
    assert len(set(found.values())) == len(found)


@each_object
def test_the_index_of_a_patched_template_is_the_same_and_holds(path):
    data = base(path, "built")
    block = bytes(ix.find(data) or b"")
    for states in samples(path):
        after = written(image_of(data, states))
        assert bytes(ix.find(after) or b"") == block
        ix.verify(ix.Index(block), after)


@each_object
def test_building_is_repeatable_and_keeps_values(path):
    raw = path.read_bytes()
    data = build(raw, path.stem)
    assert build(raw, path.stem) == data == build(data, path.stem)
    assert data[64 : len(raw)] == expected(path, raw, defaults(path))[64:]
    if path not in JUMP_TABLES:
        assert original(data) == raw
    for states in samples(path)[:4]:
        patched = written(image_of(data, states))
        assert build(patched, path.stem) == patched
        assert build(written(image_of(raw, states)), path.stem) == patched


# --- what is not done -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [HERE / "keys.o", OBJECTS / "big-endian" / "keys.o"], ids=name_of)
@both_forms
def test_sites_that_disagree_are_refused_with_the_place(path, form):
    data = base(path, form)
    for site in view(path).sites():
        other = b"\xa5" if data[site.at] == 0x35 else b"\x35"
        template = opened(edited(data, site.at, other))
        for values in ([], [from_set(f"{site.key}=on")]):
            with pytest.raises(BadObject, match="sites disagree") as raised:
                make_image(template, values)
            where = f"{site.function} instruction {site.insn} ("
            assert where in str(raised.value) and f"static key {site.key}" in str(raised.value)
        forced = make_image(template, settings(defaults(path)), force=True)
        assert written(forced) == data


@pytest.mark.parametrize("path", JUMP_TABLES, ids=name_of)
@both_forms
def test_offset_sites_that_disagree_are_refused(path, form):
    data = base(path, form)
    seen = view(path)
    for site in seen.sites():
        if sum(other.key == site.key for other in seen.sites()) == 1:
            continue
        flipped = site_bytes(site, not defaults(path)[site.key], seen.order)
        with pytest.raises(BadObject, match=f"static key {site.key}: its sites disagree"):
            make_image(opened(edited(data, site.at, flipped)), [])


@pytest.mark.parametrize("variant", ["clang-19-v3", "big-endian"])
def test_a_tampered_template_is_no_template(variant):
    """Only what a key owns may differ: not the offset, the operand or the neighbours of its jump."""
    path = OBJECTS / variant / "keys.o"
    data = base(path, "built")
    for site in view(path).sites():
        for inside in (1, 2, 3, 4, 7, 8, -1):
            bad = edited(data, site.at + inside, bytes((data[site.at + inside] ^ 0x40,)))
            with pytest.raises(BadObject, match="not the one its index was made from"):
                opened(bad)


def test_an_opcode_that_is_no_branch_is_refused_in_a_template():
    path = HERE / "keys.o"
    data = base(path, "built")
    site = view(path).sites()[2]
    template = opened(edited(data, site.at, b"\xb7"))
    with pytest.raises(BadObject, match="no branch that it switches but opcode 0xb7") as raised:
        make_image(template, [])
    assert f"{site.function} instruction {site.insn} (keys.bpf.c:" in str(raised.value)


@pytest.mark.parametrize("word", [b"\2\0\0\0", b"\0\0\0\1", b"\1\1\0\0"])
def test_a_word_that_is_neither_on_nor_off_is_refused(word):
    path = HERE / "keys.o"
    at = view(path).words()["alpha"]
    with pytest.raises(BadObject, match=f"static key alpha: its word is {word.hex()}, neither off nor on"):
        make_image(opened(edited(base(path, "built"), at, word)), [])
    with pytest.raises(BadValue, match=f"alpha: {word.hex()} is neither off nor on"):
        make_image(opened(base(path, "built")), [from_set_hex(f"alpha={word.hex()}")])
    assert make_image(opened(base(path, "built")), [from_set_hex("alpha=01000000")]).receipt


def test_a_word_and_sites_that_disagree_are_refused():
    path = HERE / "keys.o"
    bad = edited(base(path, "built"), view(path).words()["entry"], b"\1\0\0\0")
    with pytest.raises(BadObject, match=r"its sites disagree: it is on, and not so at first_insn instruction 0 \(keys"):
        make_image(opened(bad), [])


def test_every_key_that_is_wrong_is_told():
    path = HERE / "keys.o"
    bad = base(path, "built")
    for key in ("alpha", "delta"):
        at = next(site.at for site in view(path).sites() if site.key == key)
        bad = edited(bad, at, b"\x35")
    with pytest.raises(Problems) as raised:
        make_image(opened(bad), [])
    assert "static key alpha" in str(raised.value) and "static key delta" in str(raised.value)


@pytest.mark.parametrize(
    ("path", "key", "said"),
    [
        (OBJECTS / "stripped" / "keys_unneeded.o", "alpha", "no sites"),
        (HERE / "keys_linked_b.o", "shared", "does not define it"),
        (OBJECTS / "linked" / "keys_twice.o", "same@.elfpatch.keys+0x0", "have this name"),
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else None,
)
@both_forms
def test_keys_that_cannot_be_set(path, key, said, form):
    template = opened(base(path, form))
    with pytest.raises(BadValue, match=said):
        make_image(template, [from_set(f"{key}=on")])
    assert not make_image(template, []).receipt


@pytest.mark.parametrize("text", ["2", "maybe", "", "-1", "hex:02000000"])
def test_values_that_are_neither_on_nor_off(text):
    with pytest.raises(BadValue, match="alpha"):
        make_image(opened(base(HERE / "keys.o", "built")), [from_set(f"alpha={text}")])


@pytest.mark.parametrize(
    ("text", "on"), [("on", 1), ("true", 1), ("yes", 1), ("1", 1), ("off", 0), ("no", 0), ("0", 0)]
)
def test_the_words_for_on_and_off(text, on):
    template = opened(base(HERE / "keys.o", "built"))
    image = make_image(template, [from_set(f"beta={text}")])
    assert image.raw(template.place("beta")) == bytes((on, 0, 0, 0))
    assert bool(image.receipt) != bool(on)
