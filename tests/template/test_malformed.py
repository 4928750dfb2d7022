"""What is not an object, or a damaged one: an index or one BadObject, within two seconds, and never anything else."""

from __future__ import annotations

import contextlib
import random
import struct
import time

import pytest

from elfpatch import index as ix
from elfpatch.cli.inspect import as_json
from elfpatch.cli.main import main
from elfpatch.deploy.prepare import ready
from elfpatch.deploy.select import Wanted
from elfpatch.errors import BadObject, ElfpatchError
from elfpatch.patch.image import Template, make_image, written
from elfpatch.template.compile import compile_object
from tests.template.mutate import boundaries, byte_order, headers, mutated
from tests.template.oracles import ALL, OBJECTS, UNWRITTEN, name_of, run

SCALARS = OBJECTS / "clang-19-v3" / "scalars.o"
STRUCTS = OBJECTS / "clang-19-v3" / "structs.o"
LINKED = OBJECTS / "linked" / "linked.o"


def attempt(data: bytes) -> BadObject | None:
    """Compile and read it all; the error, or None when it was an object. Fails for any other exception."""
    began = time.perf_counter()
    error = None
    try:
        index = ix.Index(compile_object(data, "fixture"))
        ix.verify(index, data)
        as_json(Template("fixture.o", data, index))
    except BadObject as caught:
        error = caught
        assert error.exit_code == 65
        assert "\n" not in str(error)
        assert len(error.lines()) == 1
    assert time.perf_counter() - began < 2
    return error


def refused(data: bytes, match: str) -> None:
    error = attempt(bytes(data))
    assert error is not None
    assert match in str(error)


@pytest.mark.parametrize("block", range(20))
def test_mutated_objects(block):
    """2,000 of them; what they were made with is in the message of a failure."""
    verdicts = []
    for seed in range(block * 100, block * 100 + 100):
        rng = random.Random(seed)
        path = rng.choice(ALL)
        data = mutated(path.read_bytes(), rng)
        try:
            verdicts.append(attempt(data) is None)
        except BaseException as error:
            error.add_note(f"seed {seed}, {name_of(path)}")
            raise
    assert 10 < sum(verdicts) < 90  # else they were damaged too much or too little


IN_CODE = [path for path in ALL if path.stem in (*UNWRITTEN, "escape", "keys", "keys_linked", "keys_twice")]
ASKED = ("IDENTITY", "PORT", "COOKIE:value", "LIMIT", "NODE_MAC_1", "loaded", "table", "both")


@pytest.mark.parametrize("block", range(10))
def test_mutated_objects_with_values_in_their_code(block):
    """Keys and immediates, asked for or declared; and what can be loaded is specialised."""
    specialised = 0
    for seed in range(block * 100, block * 100 + 100):
        rng = random.Random(f"code {seed}")
        path = rng.choice(IN_CODE)
        data = mutated(path.read_bytes(), rng)
        asked = tuple(rng.sample(ASKED, 3)) if path.stem in ("fetch", "escape") else ()
        try:
            template = Template("fixture.o", data, ix.Index(compile_object(data, "fixture", asked=asked)))
            image = make_image(template, [])
            image_written = written(image)
            assert len(image_written) == len(data)
            for row, program in enumerate(template.index.rows(ix.Program)):
                ready(image, Wanted(row, program, program.type, 0), specialize=True)
                specialised += 1
        except ElfpatchError as error:
            assert "\n" not in str(error)
        except BaseException as error:
            error.add_note(f"seed {seed}, {name_of(path)}")
            raise
    assert specialised > 30  # else they were damaged too much


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_objects_cut_at_every_boundary(path):
    data = path.read_bytes()
    rng = random.Random(name_of(path))
    for size in (*boundaries(data), *(rng.randrange(len(data)) for _ in range(5))):
        error = attempt(data[:size])
        # The table of section headers ends an object of clang and of GNU as, so that no shorter one is whole.
        assert error is not None or size >= max(header.at for header in headers(data)) + 64, size


def header_with(**fields: int) -> bytes:
    """The object with fields of its ELF header changed: name=(value), by offset."""
    places = {"elf_class": (4, "B"), "order": (5, "B"), "type": (16, "H"), "machine": (18, "H"), "table": (40, "Q")}
    places |= {"row_size": (58, "H"), "count": (60, "H"), "names": (62, "H")}
    data = bytearray(SCALARS.read_bytes())
    for name, value in fields.items():
        at, code = places[name]
        struct.pack_into("<" + code, data, at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "not an ELF file"),
        (b"\x7fELF", "truncated"),
        (b"int main(void) { return 0; }\n", "not an ELF file"),
        (b"\0" * 4096, "not an ELF file"),
        (SCALARS.read_bytes()[:1000], "truncated"),
        (header_with(elf_class=1), "32-bit"),
        (header_with(elf_class=7), "no known class"),
        (header_with(order=3), "byte order"),
        (header_with(machine=62), "machine 62"),
        (header_with(type=2), "not a relocatable object"),
        (header_with(type=3), "not a relocatable object"),
        (header_with(table=0), "no section headers"),
        (header_with(table=1 << 60), "truncated"),
        (header_with(row_size=40), "no section headers"),
        (header_with(count=0), "no section headers"),
        (header_with(count=0xFFFF), "truncated"),
        (header_with(names=0xFFFE), "section names"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_ebpf_object(data, match):
    refused(data, match)


@pytest.mark.parametrize(("flags", "match"), [(("-c",), "machine 62"), (("-shared",), "machine 62")])
def test_objects_of_the_host(flags, match, tmp_path):
    (tmp_path / "a.c").write_text("int x = 1;\n")
    run("gcc", *flags, "-fPIC", "-o", tmp_path / "a.o", tmp_path / "a.c")
    refused((tmp_path / "a.o").read_bytes(), match)


def section_at(data: bytes, number: int) -> int:
    return headers(data)[number].at


def numbered(path, name: str) -> int:
    """The number of a section."""
    rows = run("llvm-readelf-19", "-S", "-W", path).stdout.splitlines()
    return next(int(row.strip()[1:].split("]")[0]) for row in rows if f" {name} " in f"{row} ")


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [(24, 1 << 40, "truncated"), (32, 1 << 40, "truncated"), (24, (1 << 64) - 1, "truncated")],
)
@pytest.mark.parametrize("name", ["tc", ".BTF", ".rodata", "license"])
def test_sections_outside_the_file(name, field, value, match):
    data = bytearray(SCALARS.read_bytes())
    struct.pack_into("<Q", data, section_at(data, numbered(SCALARS, name)) + field, value)
    refused(data, match)


def symbol_at(path, name: str) -> int:
    """Where the file has a symbol."""
    rows = run("llvm-readelf-19", "-s", "-W", path).stdout.splitlines()
    number = next(int(row.split(":")[0]) for row in rows if row.split() and row.split()[-1] == name)
    data = path.read_bytes()
    return next(h.offset for h in headers(data) if h.type == 2) + 24 * number


@pytest.mark.parametrize(
    ("at", "code", "value", "match"),
    [
        (6, "H", 0x7000, "of"),  # section
        (8, "Q", 1 << 20, "ends at byte"),  # value
        (16, "Q", 1 << 20, "ends at byte"),  # size
        (16, "Q", 2, "BTF gives it 4 bytes, the symbol table 2"),
    ],
)
def test_symbols_that_contradict_their_section_or_btf(at, code, value, match):
    data = bytearray(SCALARS.read_bytes())
    struct.pack_into("<" + code, data, symbol_at(SCALARS, "v_u32") + at, value)
    refused(data, match)


def test_btf_that_puts_a_variable_elsewhere():
    """After bpftool has linked it, BTF has offsets."""
    data = bytearray(LINKED.read_bytes())
    struct.pack_into("<Q", data, symbol_at(LINKED, "shared") + 8, 4)
    refused(data, "BTF")


def test_btf_that_gives_a_section_another_size():
    btf = headers(LINKED.read_bytes())[numbered(LINKED, ".BTF")]
    data = bytearray(LINKED.read_bytes())
    place = data.index(struct.pack("<III", 15 << 24 | 3, 12, 22), btf.offset, btf.offset + btf.size)
    struct.pack_into("<I", data, place + 4, 16)
    refused(data, "BTF gives the section 16 bytes, ELF 12")


@pytest.mark.parametrize(
    ("at", "code", "value"),
    [(0, "H", 0), (2, "B", 2), (4, "I", 1 << 30), (8, "I", 1 << 30), (12, "I", 1 << 30), (16, "I", 1 << 30)],
)
def test_btf_with_a_damaged_header(at, code, value):
    data = bytearray(STRUCTS.read_bytes())
    btf = headers(data)[numbered(STRUCTS, ".BTF")]
    struct.pack_into("<" + code, data, btf.offset + at, value)
    refused(data, ".BTF")


def test_a_member_that_ends_outside_its_struct():
    data = bytearray(STRUCTS.read_bytes())
    btf = headers(data)[numbered(STRUCTS, ".BTF")]
    place = data.index(struct.pack("<II", 4 << 24 | 3, 13), btf.offset, btf.offset + btf.size)  # struct tight
    struct.pack_into("<I", data, place + 8 + 2 * 12 + 8, 48)  # its last member, a byte further
    refused(data, "ends outside its 13 bytes")


def relocation_at(path, name: str) -> int:
    data = path.read_bytes()
    return headers(data)[numbered(path, name)].offset


@pytest.mark.parametrize("path", [SCALARS, OBJECTS / "big-endian" / "scalars.o"], ids=name_of)
@pytest.mark.parametrize(
    ("at", "code", "value", "match"),
    [
        (0, "Q", 1 << 32, "outside the section"),
        (8, "Q", 0xFFFFFF << 32 | 1, "names symbol"),
    ],
)
def test_relocations_that_cannot_be(path, at, code, value, match):
    data = bytearray(path.read_bytes())
    struct.pack_into(byte_order(data) + code, data, relocation_at(path, ".reltc") + at, value)
    refused(data, match)


@pytest.mark.parametrize("path", [SCALARS, OBJECTS / "big-endian" / "scalars.o"], ids=name_of)
@pytest.mark.parametrize(
    ("info", "match"),
    [(1 << 32 | 10, "relocation of type 10"), (1 << 32 | 1, "neither a map, data nor a function")],
)
def test_a_relocation_that_a_program_cannot_have_is_said_when_it_is_to_be_loaded(path, info, match):
    """Values can be written into such an object all the same."""
    data = bytearray(path.read_bytes())
    struct.pack_into(byte_order(data) + "Q", data, relocation_at(path, ".reltc") + 8, info)
    [program] = ix.Index(compile_object(bytes(data), "scalars")).rows(ix.Program)
    assert match in program.problem
    assert not program.insns


# --- as a user meets them


@pytest.mark.parametrize("verb", ["inspect", "patch", "plan", "apply", "check", "build", "schema"])
@pytest.mark.parametrize("content", [b"", b"no object", SCALARS.read_bytes()[:3000]], ids=["empty", "text", "cut"])
def test_every_verb_says_so_in_one_line_and_changes_nothing(verb, content, tmp_path, capsys):
    path = tmp_path / "broken.o"
    path.write_bytes(content)
    words = [verb, *(["-o", str(tmp_path / "out.o")] if verb == "patch" else [])]
    words += [] if verb == "build" else ["--state-dir", str(tmp_path / "state")]
    with contextlib.suppress(SystemExit):
        assert main([*words, str(path)]) == 65
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"elfpatch: error: {path}: ")
    assert path.read_bytes() == content
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob("state/*.deployment"))
