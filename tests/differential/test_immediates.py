"""Immediates on the kernel: what a written object does is what the source does with the values as constants; it loads
with every tool, without a map for them, and the object as compiled does neither."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from elfpatch import index as ix
from elfpatch.deploy.prepare import prepare
from elfpatch.deploy.select import select
from elfpatch.patch.image import Image, Template, make_image, written
from elfpatch.patch.setting import from_set
from elfpatch.template.build import build
from elfpatch.template.compile import compile_object
from tests.differential.immediates import FETCH, FETCHED, IMMEDIATES
from tests.differential.support import PACKETS, compile_fixture, observed, observed_in_memory
from tests.differential.values import ValueSet
from tests.support.net import VethPair, udp
from tests.template.oracles import OBJECTS, libbpf_load, name_of, output, show_program
from tests.template.sites import IMMEDIATES as OBJECTS_WITH
from tests.template.sites import compile_c

pytestmark = pytest.mark.usefixtures("kernel")
LOADED = [path for path in OBJECTS_WITH if path.parent.name != "big-endian"]
BY_CLANG = [path for path in LOADED if path.parent.name != "bpf-gcc"]  # libbpf 1.1 takes those
FETCHES = [OBJECTS / variant / "fetch.o" for variant in ("clang-14-v2", "clang-19-v3", "without-btf")]
DEFAULT = ValueSet("default", {})
Seen = dict[str, object]


def template_of(path: Path, asked: tuple[str, ...] = ()) -> Template:
    data = path.read_bytes()
    block = ix.find(data)
    return Template(path.name, data, ix.Index(compile_object(data, path.stem, asked=asked) if block is None else block))


def image_of(template: Template, settings: dict[str, str]) -> Image:
    return make_image(template, [from_set(f"{path}={text}") for path, text in settings.items()])


class Constants:
    """What the sources do with the values as constants: compiled by clang 19, once for each set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, Seen] = {}

    def seen(self, stem: str, values: ValueSet) -> Seen:
        name = f"{stem}-{values.name}"
        if name not in self.known:
            folder = self.folder / name
            folder.mkdir()
            path = compile_fixture(OBJECTS / "clang-19-v3" / f"{stem}.o", values.macros, folder, constants=True)
            self.known[name] = observed_in_memory(image_of(template_of(path), {}))
        return self.known[name]


@pytest.fixture(scope="module")
def constants(tmp_path_factory: pytest.TempPathFactory) -> Constants:
    return Constants(tmp_path_factory.mktemp("constants"))


def data_maps(template: Template) -> set[int]:
    return {row for row, definition in enumerate(template.index.rows(ix.Map)) if definition.section >= 0}


@pytest.mark.parametrize("path", LOADED, ids=name_of)
def test_values_in_memory_behave_as_constants(path, constants):
    template = template_of(path)
    found = []
    for values in (DEFAULT, *IMMEDIATES):
        image = image_of(template, values.settings)
        for specialize in (False, True):
            seen = observed_in_memory(image, specialize=specialize)
            assert seen == constants.seen("immediates", values), values.name
            prepared = prepare(image, select(template.index, []), specialize=specialize)
            assert data_maps(template) and not data_maps(template) & set(prepared.maps)
        found.append(seen)
    assert all(a != b for number, a in enumerate(found) for b in found[:number])


@pytest.mark.parametrize("path", BY_CLANG, ids=name_of)
def test_a_written_object_behaves_as_constants_do_under_libbpf(path, constants, tmp_path, by_libbpf):
    built = tmp_path / "built.o"
    built.write_bytes(build(path.read_bytes(), path.stem))
    for template in (template_of(path), template_of(built)):
        for values in (IMMEDIATES[2], *IMMEDIATES[:2]):
            out = tmp_path / path.name
            out.write_bytes(written(image_of(template, values.settings)))
            theirs = by_libbpf(out)
            assert observed(theirs) == constants.seen("immediates", values)
            # libbpf binds .rodata to every program, whether one refers to it or not
            assert set(theirs.maps()) - {"immediat.rodata"} == {"seen"}
    assert observed_in_memory(image_of(template_of(built), {})) == constants.seen("immediates", DEFAULT)


@pytest.mark.parametrize("path", BY_CLANG, ids=name_of)
def test_an_object_as_compiled_computes_with_addresses(path, constants, session_bpffs):
    """The contrast: libbpf loads it or not, but it does not do the same."""
    loaded = libbpf_load(path, session_bpffs)
    if isinstance(loaded, str):
        assert "pointer" in loaded or "leak" in loaded or "map_value" in loaded
        return
    try:
        assert observed(loaded) != constants.seen("immediates", DEFAULT)
    finally:
        loaded.remove()


# --- by name ----------------------------------------------------------------------------------------------------


def fetched(path: Path, values: ValueSet) -> dict[str, str]:
    """Settings for the object: one without BTF must be told how wide numbers are."""
    if path.parent.name != "without-btf":
        return values.settings
    wide = {"COOKIE": 64, "NODE_IP_1": 64, "NODE_IP_2": 64, "PORT": 16}
    return {name: f"u{wide.get(name, 32)}:{text}" for name, text in values.settings.items()}


@pytest.mark.parametrize("path", FETCHES, ids=name_of)
def test_fetched_values_behave_as_constants(path, constants, tmp_path, by_libbpf):
    template = template_of(path, FETCHED)
    for values in (DEFAULT, *FETCH):
        wanted = constants.seen("fetch", values)
        image = image_of(template, fetched(path, values))
        assert observed_in_memory(image) == wanted
        assert observed_in_memory(image, specialize=True) == wanted
        out = tmp_path / path.name
        out.write_bytes(written(image))
        theirs = by_libbpf(out)
        assert observed(theirs) == wanted
        assert not any(show_program(pin).get("map_ids") for pin in theirs.programs.values())
    packets = [run.packet for run in wanted["fetch_xdp"]]
    assert all(packet[:4] == bytes.fromhex("02a1b2c3") for packet in packets if packet)


@pytest.mark.parametrize("path", FETCHES, ids=name_of)
def test_fetch_as_compiled_does_not_load(path, session_bpffs):
    assert isinstance(libbpf_load(path, session_bpffs), str)


def test_without_the_folded_load_a_map_stays(tmp_path, by_libbpf, constants):
    """`mixed` reads LIMIT as any program does: in the map that it keeps, elfpatch sets it as well."""
    path = OBJECTS / "clang-19-v3" / "fetch.o"
    asked = tuple(name for name in FETCHED if name != "LIMIT")
    out = tmp_path / "fetch.o"
    out.write_bytes(written(image_of(template_of(path, asked), FETCH[2].settings)))
    theirs = by_libbpf(out)
    assert observed(theirs) == constants.seen("fetch", FETCH[2])
    assert [bool(show_program(pin).get("map_ids")) for pin in theirs.programs.values()] == [False, False, True]


# --- tc ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[VethPair]:
    with VethPair() as made:
        yield made


def attach_by_tc(pair: VethPair, path: Path, section: str) -> str:
    """`tc filter add ... bpf da obj`, on the second end; what tc shows of the program then."""
    end = pair.b
    if "clsact" not in end.ns.tc("qdisc", "show", "dev", end.ifname):
        end.ns.tc("qdisc", "add", "dev", end.ifname, "clsact")
    where = ("dev", end.ifname, "ingress")
    end.ns.tc("filter", "del", *where)
    # not through `ip netns exec`, which hides bpffs: iproute2 wants one
    end.ns.tc("filter", "add", *where, "bpf", "da", "obj", str(path), "sec", section)
    return end.ns.tc("-j", "filter", "show", *where)


def arrives(pair: VethPair) -> bool:
    with pair.b.ns.socket(2, 2) as receiver:
        receiver.bind((pair.b.ip4, 5000))
        receiver.settimeout(0.5)
        pair.a.send(udp(pair.a, pair.b, b"hello" * 20))
        try:
            return receiver.recv(2000) == b"hello" * 20
        except TimeoutError:
            return False


@pytest.mark.parametrize("path", [FETCHES[1], FETCHES[2]], ids=name_of)
def test_tc_loads_what_was_written(path, pair, tmp_path):
    """`fetch` lets a packet pass when PORT is above 442."""
    template = template_of(path, FETCHED)
    for port, passes in (("443", True), ("442", False), ("65535", True)):
        values = ValueSet(port, {**FETCH[2].settings, "PORT": port})
        out = tmp_path / f"{port}.o"
        out.write_bytes(written(image_of(template, fetched(path, values))))
        shown = json.loads(attach_by_tc(pair, out, "tc"))
        (number,) = {row["options"]["prog"]["id"] for row in shown if "prog" in row.get("options", {})}
        assert not json.loads(output("bpftool", "-j", "prog", "show", "id", str(number))).get("map_ids")
        assert arrives(pair) == passes
    assert "classifier" in attach_by_tc(pair, out, "classifier") or arrives(pair)
    with pytest.raises(AssertionError, match="exited with"):
        attach_by_tc(pair, path, "tc")


def test_tc_loads_declared_immediates(pair, tmp_path):
    path = OBJECTS / "clang-19-v3" / "immediates.o"
    out = tmp_path / "immediates.o"
    out.write_bytes(written(image_of(template_of(path), IMMEDIATES[1].settings)))
    attach_by_tc(pair, out, "tc")
    assert arrives(pair)


# --- loads that become moves ------------------------------------------------------------------------------------

LOADS = """
#include "fixture.h"
#ifdef ELFPATCH_CONSTANTS
#define DATA static const
#else
#define DATA volatile
#endif
struct mixed { __u8 a; __s16 b; __u32 c; __u64 d; __s8 e[3]; };
DATA __s8 s8 = V_s8;
DATA __s16 s16 = V_s16;
DATA __s32 s32 = V_s32;
DATA __s64 s64 = V_s64;
DATA __u8 u8 = V_u8;
DATA __u16 u16 = V_u16;
DATA __u32 u32 = V_u32;
DATA __u64 u64 = V_u64;
DATA bool flag = V_flag;
DATA struct mixed all = { V_u8, V_s16, V_u32, V_u64, { V_s8, 1, -1 } };
SEEN(16);
SEC("xdp") int loads(struct xdp_md *ctx)
{
    struct seen *seen = seen_slots();

    if (!seen)
        return XDP_ABORTED;
    seen->slot[0] = s8;
    seen->slot[1] = s16;
    seen->slot[2] = s32;
    seen->slot[3] = s64;
    seen->slot[4] = u8;
    seen->slot[5] = u16;
    seen->slot[6] = u32;
    seen->slot[7] = u64;
    seen->slot[8] = flag;
    seen->slot[9] = all.a;
    seen->slot[10] = all.b;
    seen->slot[11] = all.c;
    seen->slot[12] = all.d;
    seen->slot[13] = all.e[0] * 3 + all.e[1] + all.e[2];
    seen->slot[14] = s8 < 0 ? u64 / 3 : s64;
    return s32 < 0 ? XDP_DROP : XDP_PASS;
}
LICENSE;
"""
NAMES = ("s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64", "flag")
NUMBERS = [
    (0, 0, 0, 0, 0, 0, 0, 0, 0),
    (-128, -32768, -(1 << 31) + 1, -(1 << 62), 255, 65535, (1 << 32) - 1, (1 << 64) - 1, 1),
    (127, 32767, (1 << 31) - 1, 1 << 62, 128, 32768, 1 << 31, 1 << 63, 1),
    (-1, -1, -1, -1, 1, 1, 1, 1, 0),
]


@pytest.mark.parametrize(
    ("clang", "cpu"),
    [("clang-14", "v1"), ("clang-14", "v3"), ("clang-16", "v2"), ("clang-19", "v3"), ("clang-19", "v4")],
)
def test_plain_loads_turned_into_moves(clang, cpu, tmp_path, by_libbpf):
    """Of every width and sign; with -mcpu=v4 the compiler uses sign-extending loads."""
    ones = [f"-DV_{name}=1" for name in NAMES]  # zeros would be in .bss, which has no bytes
    template = template_of(compile_c(LOADS, tmp_path / "loads.o", *ones, clang=clang, cpu=cpu), (*NAMES, "all"))
    kinds = {(row.kind, row.size, row.signed) for row in template.index.rows(ix.Immediate)}
    assert {(ix.IMMEDIATE_LOAD, size, 0) for size in (1, 2, 4, 8)} <= kinds
    assert ((ix.IMMEDIATE_LOAD, 1, 1) in kinds) == (cpu == "v4")
    for numbers in NUMBERS:
        given = dict(zip(NAMES, numbers, strict=True))
        c = [f"-DV_{name}={number}{'ULL' if name == 'u64' else ''}" for name, number in given.items()]
        oracle = compile_c(LOADS, tmp_path / "const.o", *c, "-DELFPATCH_CONSTANTS", clang=clang, cpu=cpu)
        wanted = observed_in_memory(image_of(template_of(oracle), {}), packets=PACKETS[:1])
        settings = {name: str(number) for name, number in given.items()}
        settings |= {f"all.{m}": settings[n] for m, n in (("a", "u8"), ("b", "s16"), ("c", "u32"), ("d", "u64"))}
        settings |= {"all.e[0]": settings["s8"], "all.e[1]": "1", "all.e[2]": "-1"}
        image = image_of(template, settings)
        assert observed_in_memory(image, packets=PACKETS[:1]) == wanted, given
        assert observed_in_memory(image, specialize=True, packets=PACKETS[:1]) == wanted
        out = tmp_path / "loads_written.o"
        out.write_bytes(written(image))
        theirs = by_libbpf(out)
        assert observed(theirs, PACKETS[:1]) == wanted
        assert set(theirs.maps()) == {"seen"}
