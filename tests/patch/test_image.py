"""Images: precedence, overlaps, receipts, written objects, digests, records."""

import hashlib

import pytest

from elfpatch.errors import BadValue, UsageError
from elfpatch.index import ELF_HEADER_SIZE
from elfpatch.patch.image import digest, make_image, written
from elfpatch.patch.path import resolve
from elfpatch.patch.setting import TEXT, Setting, from_mapping, from_set, from_set_hex, from_set_json
from elfpatch.patch.value import brief

from .synthetic import Builder, patched, refusal, refusals, shown, value_bytes

ORDERS = pytest.mark.parametrize("big", [False, True], ids=["little", "big"])


def template(big=False):
    b = Builder(big=big)
    u8, u16, u32 = b.int(1), b.int(2), b.int(4)
    either = b.union("either", ("word", u32), ("halves", b.array(u16, 2)), ("quad", b.array(u8, 4)))
    ep = b.struct("ep", ("a", u32), ("f1", u8, 3), ("f2", u8, 5), ("u", either), ("list", b.array(u16, 4)))
    b.var("foo", u32, b"\1\2\3\4").var("bar", u16).var("ep", ep).var("counter", u32, section=".bss")
    b.var("buffer", b.array(u8, 1 << 24), section=".bss").var("name", b.array(b.char(), 8), section=".rodata")
    b.var("folded", u32, flags=0, why="folded").var("fn.var", u32).var("fn.other", u32)
    return b.template()


def differing(one: bytes, other: bytes) -> list[int]:
    assert len(one) == len(other)
    return [at for at in range(len(one)) if one[at] != other[at]]


# --- what the user says -----------------------------------------------------------------------------------------


def test_a_setting_is_split_at_the_first_equals_sign_only():
    setting = from_set("name=a=b,c=d")
    assert (setting.path, setting.value) == ("name", "a=b,c=d")
    assert value_bytes(patched(template(), "name=a=b,c"), "name") == b"a=b,c\0\0\0"


@pytest.mark.parametrize(
    "make, option", [(from_set, "--set"), (from_set_json, "--set-json"), (from_set_hex, "--set-hex")]
)
@pytest.mark.parametrize("text", ["foo", "=1", ""])
def test_a_setting_needs_path_and_value(make, option, text):
    with pytest.raises(UsageError) as caught:
        make(text)
    assert str(caught.value).startswith(f"{option}: ") and f"write {option} PATH=VALUE" in str(caught.value)


@pytest.mark.parametrize(
    "digits, words",
    [
        ("0102030", "not whole bytes"),
        ("010203", "3 bytes given, u32 has exactly 4"),
        ("0102030405", "5 bytes given"),
        ("0x01020304", "leave out the prefix"),
        ("01 02 03 04", "not a row of hexadecimal digits"),
        ("", "0 bytes given"),
    ],
)
def test_hex_is_exact(digits, words):
    assert words in refusal(template(), hexes=[f"foo={digits}"])


def test_hex_is_raw_bytes_in_every_byte_order():
    for big in (False, True):
        assert value_bytes(patched(template(big), hexes=["foo=0a0b0c0d"]), "foo") == b"\x0a\x0b\x0c\x0d"


# --- precedence and overlaps ------------------------------------------------------------------------------------


def test_later_files_win_over_earlier_and_the_command_line_over_files():
    settings = [
        from_set("bar=3"),
        *from_mapping({"foo": 2, "bar": 2, "ep": {"a": 2}}, "two.json", 1),
        *from_mapping({"foo": 1, "bar": 1, "ep": {"a": 1, "f1": 1}}, "one.json", 0),
    ]
    image = make_image(template(), settings)
    assert [shown(image, path) for path in ("foo", "bar", "ep.a", "ep.f1")] == ["2", "3", "2", "1"]


def test_a_file_may_nest_or_lengthen_paths():
    mapping = {"ep": {"a": 1, "list": {"2": 5}}, "ep.f1": 3, "ep.u.word": 9, "fn": {"var": 4, "other": 5}}
    image = make_image(template(), from_mapping(mapping, "values.toml", 0))
    assert [shown(image, path) for path in ("ep.a", "ep.list[2]", "ep.f1", "ep.u.word", "fn.var", "fn.other")] == [
        "1",
        "5",
        "3",
        "9",
        "4",
        "5",
    ]


def test_problems_in_a_file_name_it_and_the_key():
    with pytest.raises(BadValue, match=r"values\.toml: ep: ep\.a: -1 is outside"):
        make_image(template(), from_mapping({"ep": {"a": -1}}, "values.toml", 0))
    with pytest.raises(BadValue, match=r"values\.toml: fm: there is no variable `fm`"):
        make_image(template(), from_mapping({"fm": {"var": 1}}, "values.toml", 0))


@pytest.mark.parametrize(
    "sets, json, words",
    [
        (["foo=1", "foo=1"], [], "foo is set twice (also by --set foo=1)"),
        (["ep.a=1"], ['ep={"f1":1}'], "ep.a overlaps ep"),
        (["ep.u.word=1", "ep.u.halves[1]=1"], [], "ep.u.halves[1] overlaps ep.u.word"),
        (["ep.list[1]=1"], ["ep.list=[1,2,3,4]"], "ep.list[1] overlaps ep.list"),
        (["prog:foo=1", "foo=2"], [], "foo is set twice"),
        (["ep.f1=1", "ep.f1=2"], [], "ep.f1 is set twice"),
    ],
)
def test_overlaps_in_one_level_are_refused(sets, json, words):
    assert words in refusal(template(), *sets, json=json)


def test_what_a_wide_value_covers_is_found_behind_a_narrow_one():
    lines = refusals(template(), "ep.a=1", "ep.list[1]=1", json=['ep={"f1":1}'])
    assert [line.partition(": ")[2] for line in lines] == [
        'ep.a overlaps ep (set by --set-json ep={"f1":1})',
        'ep.list[1] overlaps ep (set by --set-json ep={"f1":1})',
    ]


def test_a_place_inside_another_one_is_not_listed_beside_it():
    settings = [*from_mapping({"ep.list": [1, 2, 3, 4]}, "f", 0), from_set("ep.list[1]=9")]
    image = make_image(template(), settings)
    assert [change.path for change in image.receipt] == ["ep.list"]
    assert [path for path, _ in image.settings_text] == [f"ep.list[{at}]" for at in range(4)]


def test_values_that_overlap_in_part_are_recorded_as_the_whole_variable():
    b = Builder()
    u8, u32 = b.int(1), b.int(4)
    one, other = b.struct("one", ("a", u8), ("wide", u32)), b.struct("other", ("b", b.array(u8, 6)), ("c", u8))
    t = b.var("v", b.union("v", ("one", one), ("other", other))).template()
    settings = [*from_mapping({"v.one.wide": 0x04030201}, "f", 0), from_set("v.other.b=hex:000000000000")]
    settings += [Setting(TEXT, "v.other.c", "7", "late", 1)]
    image = make_image(t, settings)
    assert image.settings_text == [("v", f"hex:{value_bytes(image, 'v').hex()}")]
    assert patched(t, *("=".join(pair) for pair in image.settings_text)).sections == image.sections


def test_neighbours_do_not_overlap():
    image = patched(
        template(), "ep.f1=1", "ep.f2=2", "ep.u.quad=hex:01020304", "ep.list[0]=1", "ep.list[1]=2", "ep.a=1"
    )
    assert len(image.receipt) == 6


@ORDERS
def test_across_levels_the_later_wins_on_the_bits_they_share(big):
    settings = [*from_mapping({"ep.u.word": 0x01020304}, "f", 0), from_set("ep.u.halves[1]=0")]
    image = make_image(template(big), settings)
    assert value_bytes(image, "ep.u") == (b"\1\2\0\0" if big else b"\4\3\0\0")
    assert patched(template(big), *("=".join(pair) for pair in image.settings_text)).sections == image.sections


# --- receipt and object -----------------------------------------------------------------------------------------


@ORDERS
def test_only_the_receipt_ranges_of_a_written_object_differ(big):
    t = template(big)
    image = patched(t, "foo=7", "ep.f2=9", "ep.list[3]=0xffff", "name=hello")
    data = written(image)
    allowed = {at for change in image.receipt for at in range(change.file_offset, change.file_offset + len(change.new))}
    assert set(differing(t.data, data)) <= allowed and len(data) == len(t.data)
    for change in image.receipt:
        span = slice(change.file_offset, change.file_offset + len(change.new))
        assert (t.data[span], data[span]) == (change.old, change.new)
        assert image.sections[1 if change.section == ".rodata" else 0][change.offset :].startswith(change.new)
    assert [change.new_text for change in image.receipt] == ["7", "9", "65535", "hello"]
    assert t.data == template(big).data, "the template was changed"


def test_a_value_that_is_there_already_is_recorded_but_no_change():
    image = patched(template(), "foo=0x04030201")
    assert image.receipt == [] and image.settings_text == [("foo", str(0x04030201))]
    assert written(image) == image.template.data


def test_bss_takes_values_in_memory_but_not_in_a_file():
    image = patched(template(), "counter=5", "foo=1")
    assert value_bytes(image, "counter") == b"\5\0\0\0"
    change = next(change for change in image.receipt if change.path == "counter")
    assert change.file_offset is None
    with pytest.raises(BadValue, match=r"counter lies in \.bss, which has no bytes in the file"):
        written(image)
    assert written(patched(template(), "counter=0")) == template().data


def test_untouched_sections_are_not_copied():
    image = patched(template(), "foo=1")
    assert image.touched(0) and not image.touched(2)
    assert len(image.sections) == 3 and not image.sections[2].strip(b"\0")


def test_settings_without_text_are_recorded_as_hex():
    image = patched(template(), hexes=["ep.u=01020304", "ep.list=0100020003000400"])
    assert image.settings_text == [("ep.u", "hex:01020304")] + [(f"ep.list[{at}]", str(at + 1)) for at in range(4)]
    assert patched(template(), *("=".join(pair) for pair in image.settings_text)).sections == image.sections


def test_a_struct_set_as_bytes_is_recorded_by_its_members_when_they_say_it_all():
    data = "01000000" + "4d" + "000000" + "0000000000000000" + "0000" * 2
    image = patched(template(), hexes=[f"ep={data}"])
    paths = [path for path, _ in image.settings_text]
    assert paths[:3] == ["ep.a", "ep.f1", "ep.f2"]
    padding = patched(template(), hexes=[f"ep={data.replace('4d0000', '4d0001')}"])
    assert [path for path, _ in padding.settings_text] == ["ep"]


def test_a_long_array_is_recorded_as_one_hex():
    b = Builder()
    t = b.var("v", b.array(b.int(2), 65)).var("w", b.array(b.int(2), 64)).template()
    image = patched(t, hexes=["v=" + "0100" * 65, "w=" + "0100" * 64])
    assert image.settings_text[0] == ("v", "hex:" + "0100" * 65) and len(image.settings_text) == 65


def test_people_see_large_values_in_brief():
    t = template()
    place = resolve(t.index, "buffer")
    assert brief(t.index, place, bytes(1 << 24)) == "(16777216 bytes, all zero)"
    assert brief(t.index, resolve(t.index, "bar"), b"\2\0") == "2"


# --- digest -----------------------------------------------------------------------------------------------------


def test_the_digest_is_of_the_values_however_they_came():
    t = template()
    base, one = digest(patched(t)), digest(patched(t, "foo=7"))
    assert base != one and len(base) == 64
    assert one == digest(patched(t, hexes=["foo=07000000"]))
    assert base == digest(patched(t, "foo=0x04030201"))
    assert digest(patched(t, "foo=7", "counter=1")) not in (base, one)
    assert digest(patched(t, "foo=7", "counter=0")) == one
    assert digest(patched(t, "folded=1", force=True)) != base


def test_the_digest_is_the_same_in_memory_and_in_a_written_object():
    t = template()
    image = patched(t, "foo=7", "ep.f1=3")
    reopened = type(t)(t.path, written(image), t.index)
    assert digest(patched(reopened)) == digest(image)
    assert written(patched(reopened, "foo=0x04030201", "ep.f1=0")) == t.data


def test_neighbours_and_other_templates_have_digests_of_their_own():
    b = Builder()
    t = b.var("a", b.int(16)).var("b", b.int(16)).var("c", b.int(4)).template()
    image = patched(t, "b=1", "c=2")
    assert digest(patched(type(t)(t.path, written(image), t.index))) == digest(image)
    assert digest(patched(b.template(b"\x5a"), "b=1", "c=2")) != digest(image)


# --- required ---------------------------------------------------------------------------------------------------


def required_template():
    b = Builder()
    u32 = b.int(4)
    need = b.meta(required=1)
    inner = b.struct("inner", ("x", u32, 0, need), ("y", u32))
    ep = b.struct("ep", ("ip", u32, 0, need), ("opt", u32), ("in", b.array(inner, 2)))
    b.var("ep", ep, b"\1" * 24, default=b"\1" * 24).var("must", u32, meta=need, default=bytes(4)).var("free", u32)
    return b.template()


def test_required_values_that_are_missing():
    t = required_template()
    assert patched(t).unset_required() == ["ep.ip", "ep.in[0].x", "ep.in[1].x", "must"]
    assert patched(t, "ep.ip=5", "must=1", "ep.opt=3").unset_required() == ["ep.in[0].x", "ep.in[1].x"]
    assert patched(t, "must=0", "ep.ip=0x01010101", "ep.in[1].x=4").unset_required() == ["ep.in[0].x"]


def test_a_required_variable_that_nobody_reads_is_not_asked_for():
    b = Builder()
    need = b.meta(required=1)
    b.var("dead", b.int(4), meta=need, default=bytes(4), flags=0, why="unused")
    b.var("must", b.int(4), meta=need, default=bytes(4))
    assert patched(b.template()).unset_required() == ["must"]


def test_a_written_object_carries_its_required_values():
    t = required_template()
    image = patched(t, "ep.ip=5", "ep.in[0].x=1", "ep.in[1].x=1", "must=3")
    assert patched(type(t)(t.path, written(image), t.index)).unset_required() == []


def test_nothing_is_written_when_something_is_wrong():
    assert len(refusals(template(), "foo=1", "bar=70000", "nope=1")) == 2


def test_the_digest_of_a_forced_value_that_reaches_into_a_settable_variable():
    b = Builder()
    b.var("wide", b.array(b.int(1), 20), flags=0)
    row, _ = b.variables[-1]
    b.variables[-1] = (row, b"\1" * 8)  # its last four bytes are those of `foo`
    t = b.var("foo", b.int(4), b"\7").template()
    new = bytes(range(20))
    image = patched(t, hexes=[f"wide={new.hex()}"], force=True)
    assert t.settable_ranges == [(ELF_HEADER_SIZE + 16, ELF_HEADER_SIZE + 20)]
    old = t.data[ELF_HEADER_SIZE : ELF_HEADER_SIZE + 20]
    lines = [f"\n.data+{at:#x}={new[at]:#x}".encode() for at in range(20) if new[at] != old[at]]
    expected = hashlib.sha256(t.index.template_sha256 + new[16:] + b"".join(lines)).hexdigest()
    assert digest(image) == expected


def test_two_names_of_one_bit_are_in_each_others_way():
    b = Builder()
    u8 = b.int(1)
    t = b.var("v", b.union("v", ("one", u8, 1), ("other", u8, 1))).template()
    assert "overlap" in refusal(t, "v.one=1", "v.other=1")


def test_what_a_tag_forbids_to_write_is_recorded_as_bytes():
    b = Builder()
    address = b.struct("in6_addr", ("bytes", b.array(b.int(1), 16)))
    t = b.var("v", address, meta=b.meta(format="mac")).template()
    assert "cannot hold one" in refusal(t, "v=fe80::1")
    image = patched(t, hexes=["v=" + "ab" * 16])
    again = patched(t, *(f"{path}={text}" for path, text in image.settings_text))
    assert digest(again) == digest(image)
