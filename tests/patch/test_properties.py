"""Properties over random types and values, both byte orders, against ctypes as an independent encoder."""

import ctypes
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from elfpatch.errors import ElfpatchError
from elfpatch.index import ENUM, SECTION_DATA, SIGNED, Type, Variable
from elfpatch.patch.address import (
    ipv4_bytes,
    ipv4_text,
    ipv6_bytes,
    ipv6_text,
    mac_bytes,
    mac_text,
    masked,
    prefix_parts,
    prefix_text,
)
from elfpatch.patch.bits import read_bits, write_bits
from elfpatch.patch.image import Template, digest, make_image, written
from elfpatch.patch.number import parse_integer
from elfpatch.patch.path import leaves, resolve
from elfpatch.patch.setting import from_set, from_set_json
from elfpatch.patch.units import duration_number, duration_text, size_number, size_text
from elfpatch.patch.value import show

from .synthetic import Builder

UNSIGNED = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}
SIGNED_TYPES = {1: ctypes.c_int8, 2: ctypes.c_int16, 4: ctypes.c_int32, 8: ctypes.c_int64}
COLOURS = {"RED": 0, "GREEN": 7, "BLUE": 1 << 31}


# --- random types: a description, built twice (for elfpatch and for ctypes) --------------------------------------

sizes = st.sampled_from([1, 2, 4, 8])
scalars = st.one_of(
    st.tuples(st.just("int"), sizes, st.booleans()),
    st.just(("bool",)),
    st.just(("enum",)),
    st.tuples(st.just("fields"), st.sampled_from([1, 2, 4]), st.booleans(), st.lists(st.integers(1, 8), min_size=1)),
)
types = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.tuples(st.just("array"), inner, st.integers(1, 3)),
        st.tuples(st.just("struct"), st.lists(inner, min_size=1, max_size=4)),
    ),
    max_leaves=8,
)


def fitting(size: int, widths: list[int]) -> list[int]:
    """The first of the widths that fit one storage unit together."""
    kept: list[int] = []
    for width in widths:
        if sum(kept) + width <= 8 * size:
            kept.append(width)
    return kept


def build(b: Builder, shape) -> int:
    kind = shape[0]
    if kind == "int":
        return b.int(shape[1], signed=shape[2])
    if kind == "bool":
        return b.bool()
    if kind == "enum":
        return b.enum("colour", COLOURS)
    if kind == "fields":
        base = b.int(shape[1], signed=shape[2])
        return b.struct("bits", *((f"b{n}", base, width) for n, width in enumerate(fitting(shape[1], shape[3]))))
    if kind == "array":
        return b.array(build(b, shape[1]), shape[2])
    return b.struct("s", *((f"m{n}", build(b, inner)) for n, inner in enumerate(shape[1])))


def oracle(shape, base):
    """The same type in ctypes; `base` is its structure class of one byte order."""
    kind = shape[0]
    if kind == "int":
        return (SIGNED_TYPES if shape[2] else UNSIGNED)[shape[1]]
    if kind == "bool":
        return ctypes.c_uint8
    if kind == "enum":
        return ctypes.c_uint32
    if kind == "fields":
        unit = (SIGNED_TYPES if shape[2] else UNSIGNED)[shape[1]]
        fields = [(f"b{n}", unit, width) for n, width in enumerate(fitting(shape[1], shape[3]))]
        return type("Bits", (base,), {"_fields_": fields})
    if kind == "array":
        return oracle(shape[1], base) * shape[2]
    return type("S", (base,), {"_fields_": [(f"m{n}", oracle(inner, base)) for n, inner in enumerate(shape[1])]})


def draw_value(draw, shape):
    kind = shape[0]
    if kind == "int":
        bits = 8 * shape[1]
        return draw(st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if shape[2] else st.integers(0, (1 << bits) - 1))
    if kind == "bool":
        return draw(st.booleans())
    if kind == "enum":
        return draw(st.sampled_from(list(COLOURS)))
    if kind == "fields":
        found = {}
        for n, width in enumerate(fitting(shape[1], shape[3])):
            low, high = (-(1 << width - 1), (1 << width - 1) - 1) if shape[2] else (0, (1 << width) - 1)
            found[f"b{n}"] = draw(st.integers(low, high))
        return found
    if kind == "array":
        return [draw_value(draw, shape[1]) for _ in range(shape[2])]
    return {f"m{n}": draw_value(draw, inner) for n, inner in enumerate(shape[1])}


def fill(shape, target, value):
    """Store `value` into a ctypes structure, member by member."""
    for n, (name, inner) in enumerate(value.items()):
        member = shape[1][n] if shape[0] == "struct" else None
        if member is None or member[0] in ("int", "bool"):
            setattr(target, name, inner)
        elif member[0] == "enum":
            setattr(target, name, COLOURS[inner])
        elif member[0] == "array":
            fill_array(member, getattr(target, name), inner)
        else:
            fill(member, getattr(target, name), inner)


def fill_array(shape, target, value):
    for n, inner in enumerate(value):
        if shape[1][0] in ("int", "bool"):
            target[n] = inner
        elif shape[1][0] == "enum":
            target[n] = COLOURS[inner]
        elif shape[1][0] == "array":
            fill_array(shape[1], target[n], inner)
        else:
            fill(shape[1], target[n], inner)


@st.composite
def cases(draw):
    shape = ("struct", draw(st.lists(types, min_size=1, max_size=4)))
    return shape, draw_value(draw, shape), draw(st.booleans())


def templates(shape, big: bool, fill_byte: bytes = b"\0") -> Template:
    b = Builder(big=big)
    kind = build(b, shape)
    size = b.types[kind].size
    return b.var("before", b.int(8), b"\x5a" * 8).var("v", kind, fill_byte * size).var("z", b.int(1)).template()


def expected(shape, value, big: bool) -> bytes:
    made = oracle(shape, ctypes.BigEndianStructure if big else ctypes.LittleEndianStructure)()
    fill(shape, made, value)
    return bytes(made)


def texts(value, path: str):
    """The same value as `--set` texts of its scalars."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from texts(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from texts(inner, f"{path}[{n}]")
    else:
        yield f"{path}={str(value).lower() if isinstance(value, bool) else value}"


def contents(image) -> bytes:
    place = resolve(image.template.index, "v")
    return image.section_bytes(SECTION_DATA)[place.offset : place.offset + place.size]


@settings(max_examples=300, deadline=None)
@given(cases())
def test_json_makes_the_bytes_that_ctypes_makes(case):
    shape, value, big = case
    image = make_image(templates(shape, big, b"\xff"), [from_set_json(f"v={json.dumps(value)}")])
    assert contents(image) == expected(shape, value, big)


@settings(max_examples=200, deadline=None)
@given(cases())
def test_texts_make_the_bytes_that_ctypes_makes_and_touch_nothing_else(case):
    shape, value, big = case
    template = templates(shape, big)
    image = make_image(template, [from_set(text) for text in texts(value, "v")])
    assert contents(image) == expected(shape, value, big)
    data = written(image)
    allowed = {at for change in image.receipt for at in range(change.file_offset, change.file_offset + len(change.new))}
    assert {at for at in range(len(data)) if data[at] != template.data[at]} <= allowed


@settings(max_examples=200, deadline=None)
@given(cases())
def test_a_patch_and_its_inverse_give_back_the_identical_bytes(case):
    shape, value, big = case
    template = templates(shape, big)
    image = make_image(template, [from_set(text) for text in texts(value, "v")])
    patched = Template(template.path, written(image), template.index)
    back = make_image(patched, [from_set(f"{change.path}={change.old_text}") for change in image.receipt])
    assert written(back) == template.data
    assert digest(make_image(patched, [])) == digest(image)


@settings(max_examples=200, deadline=None)
@given(cases(), st.booleans())
def test_the_record_makes_the_same_image(case, as_hex):
    shape, value, big = case
    template = templates(shape, big, b"\xff")
    whole = f"v=hex:{expected(shape, value, big).hex()}" if as_hex else None
    sets = [from_set(whole)] if whole else [from_set_json(f"v={json.dumps(value)}")]
    image = make_image(template, sets)
    again = make_image(template, [from_set("=".join(pair)) for pair in image.settings_text])
    assert again.sections == image.sections and again.settings_text == image.settings_text


@settings(max_examples=200, deadline=None)
@given(cases(), st.data())
def test_every_leaf_of_random_bytes_is_shown_so_that_it_is_read_back(case, data):
    shape, _, big = case
    template = templates(shape, big)
    place = resolve(template.index, "v")
    raw = data.draw(st.binary(min_size=place.size, max_size=place.size))
    image = make_image(template, [from_set(f"v=hex:{raw.hex()}")])
    row = next(n for n, variable in enumerate(template.index.rows(Variable)) if variable.name == "v")
    for leaf in leaves(template.index, row, open_arrays=True):
        value = image.raw(leaf)
        text = show(template.index, leaf, value)
        assert isinstance(leaf.type, Type)
        again = make_image(template, [from_set(f"{leaf.path}={text}")])
        assert again.raw(leaf) == value
    whole = show(template.index, place, raw)
    again = make_image(template, [from_set_json(f"v={whole}")])
    for leaf in leaves(template.index, row, open_arrays=True):
        assert again.raw(leaf) == image.raw(leaf)


# --- texts ------------------------------------------------------------------------------------------------------


@given(st.text(max_size=12))
def test_no_text_crashes_or_is_taken_for_something_else(text):
    b = Builder()
    kinds = [b.int(4), b.int(8, signed=True), b.bool(), b.enum("e", {"A": 0, "B": -1}), b.array(b.char(), 6)]
    kinds += [b.array(b.int(1), 6), b.array(b.int(1), 16), b.float(), b.int(4, be=True)]
    for n, kind in enumerate(kinds):
        b.var(f"v{n}", kind)
    for n, form in enumerate(("ipv4", "duration", "size", "port", "flags")):
        b.var(f"t{n}", kinds[3] if form == "flags" else kinds[0], meta=b.meta(format=form))
    template = b.template()
    for name in [f"v{n}" for n in range(len(kinds))] + [f"t{n}" for n in range(5)]:
        try:
            image = make_image(template, [from_set(f"{name}={text}")])
        except ElfpatchError as error:
            assert error.exit_code == 65 and "\n" not in str(error)
            continue
        place = resolve(template.index, name)
        again = make_image(template, [from_set(f"{name}={show(template.index, place, image.raw(place))}")])
        assert again.sections == image.sections


@given(st.text("abce.[]0129@+:=x ", max_size=12))
def test_no_path_crashes(path):
    b = Builder()
    pair = b.struct("p", ("a", b.int(1)), ("b", b.array(b.int(1), 2)))
    template = b.var("a", pair).var("b", b.array(pair, 2)).var("c.a", b.int(1)).var("e", pair).var("e", pair).template()
    try:
        place = resolve(template.index, path)
    except ElfpatchError as error:
        assert error.exit_code == 65 and "\n" not in str(error)
    else:
        assert place.bit_offset >= 0 and place.bit_offset + place.bit_size <= 8 * place.variable.size


@given(st.text("0123456789abfxoXOB_-+ .", max_size=10))
def test_integers_are_python_literals_without_liberties(text):
    try:
        number = parse_integer(text)
    except ElfpatchError:
        return
    assert number == int(text, 0) and text == text.strip() and "+" not in text


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 128) - 1), st.binary(min_size=6, max_size=6))
def test_addresses_round_trip(four, six, mac):
    import ipaddress

    assert ipv4_text(ipv4_bytes(str(ipaddress.IPv4Address(four)))) == str(ipaddress.IPv4Address(four))
    assert ipv6_bytes(ipv6_text(six.to_bytes(16, "big"))) == six.to_bytes(16, "big")
    assert ipv6_bytes(str(ipaddress.IPv6Address(six))) == six.to_bytes(16, "big")
    assert mac_bytes(mac_text(mac)) == mac


@given(st.integers(0, (1 << 128) - 1), st.integers(0, 128), st.booleans())
def test_prefixes_agree_with_the_standard_library(address, prefix, short):
    import ipaddress

    length = 4 if short else 16
    prefix = min(prefix, 8 * length)
    data = (address & (1 << 8 * length) - 1).to_bytes(length, "big")
    network = ipaddress.ip_network((data, prefix), strict=False)
    assert masked(data, prefix) == network.network_address.packed
    assert prefix_parts(str(network), length) == (network.network_address.packed, prefix)
    assert prefix_parts(prefix_text(masked(data, prefix), prefix), length)[1] == prefix


@given(st.integers(0, 1 << 63), st.sampled_from(["", "ns", "us", "ms", "s"]))
def test_durations_round_trip(number, unit):
    assert duration_number(duration_text(number, unit), unit) == number


@given(st.integers(0, 1 << 63), st.sampled_from(["", "B", "KiB", "MiB", "kB"]))
def test_sizes_round_trip(number, unit):
    assert size_number(size_text(number, unit), unit) == number


@given(st.binary(min_size=12, max_size=12), st.integers(0, 60), st.integers(1, 32), st.integers(0), st.booleans())
def test_bits_are_written_where_they_are_read(data, first, size, value, big):
    value &= (1 << size) - 1
    buffer = bytearray(data)
    write_bits(buffer, first, size, value, big=big)
    assert read_bits(buffer, first, size, big=big) == value
    write_bits(buffer, first, size, read_bits(data, first, size, big=big), big=big)
    assert buffer == data


def test_the_synthetic_enum_is_unsigned():
    b = Builder()
    kind = b.types[b.enum("colour", COLOURS)]
    assert kind.kind == ENUM and not kind.flags & SIGNED
