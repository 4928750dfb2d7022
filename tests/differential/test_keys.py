"""Static keys on the kernel: every setting loads, and does what the source does with the keys as constants.

The oracle is compiled by clang 19 with `-DELFPATCH_CONSTANTS`, whatever compiler made the object under test.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from elfpatch import index as ix
from elfpatch import insn as isa
from elfpatch.deploy.load import load
from elfpatch.deploy.prepare import prepare
from elfpatch.deploy.select import select
from elfpatch.kernel import bpf
from elfpatch.patch.image import Image, Template, make_image, written
from elfpatch.patch.setting import from_set
from elfpatch.template.build import build
from elfpatch.template.compile import compile_object
from tests.differential.support import PACKETS, compile_fixture, observed, observed_in_memory
from tests.template.oracles import OBJECTS, name_of
from tests.template.sites import JUMP_TABLES, KEYS, compile_c

pytestmark = pytest.mark.usefixtures("kernel")
States = dict[str, bool]
KEY_NAMES = ("alpha", "back", "beta", "delta", "entry", "one.local", "two.local")
LOADED_KEYS = [path for path in KEYS if path.parent.name != "big-endian"]
LOADED_TABLES = [path for path in JUMP_TABLES if path.parent.name != "big-endian"]
BY_CLANG = [path for path in (*LOADED_KEYS, *LOADED_TABLES) if path.parent.name != "bpf-gcc"]  # libbpf 1.1 takes those


def key_settings() -> list[States]:
    """Of 128: none, all, each key alone on and alone off, and as many again by chance."""
    found = [dict.fromkeys(KEY_NAMES, on) for on in (False, True)]
    found += [{key: (key == one) == on for key in KEY_NAMES} for one in KEY_NAMES for on in (True, False)]
    rng = random.Random("keys")
    rest = [dict(zip(KEY_NAMES, bits, strict=True)) for bits in product((False, True), repeat=len(KEY_NAMES))]
    return found + rng.sample([states for states in rest if states not in found], 24)


SETTINGS = {
    "keys": key_settings(),
    "jump_table": [dict(zip(("rare", "usual"), bits, strict=True)) for bits in product((False, True), repeat=2)],
}


@cache
def template_of(path: Path) -> Template:
    data = path.read_bytes()
    return Template(str(path), data, ix.Index(compile_object(data, path.stem)))


def name_in(template: Template, key: str) -> str:
    """GNU C numbers what is local to a function: its sites tell which is which."""
    function, dot, name = key.rpartition(".")
    if not dot or template.index.variables_named(key):
        return key
    owners = {site.variable for site in template.index.rows(ix.Site) if site.function == function}
    (found,) = {template.index.row(ix.Variable, row).name for row in owners}
    assert found.startswith(f"{name}.")
    return found


def image_of(template: Template, states: States) -> Image:
    named = {name_in(template, key): "on" if on else "off" for key, on in states.items()}
    return make_image(template, [from_set(f"{key}={state}") for key, state in named.items()])


Seen = dict[str, object]


class Constants:
    """What the sources do with their keys as constants; each setting is compiled once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, Seen] = {}

    def seen(self, stem: str, states: States, variant: str = "clang-19-v3") -> Seen:
        name = f"{variant} {stem} {states}"
        if name not in self.known:
            changes = {key.replace(".", "_"): str(int(on)) for key, on in states.items()}
            folder = self.folder / str(len(self.known))
            folder.mkdir()
            out = compile_fixture(OBJECTS / variant / f"{stem}.o", changes, folder, constants=True)
            data = out.read_bytes()
            self.known[name] = observed_in_memory(make_image(opened(data, stem), []))
        return self.known[name]


def opened(data: bytes, stem: str = "prog") -> Template:
    block = ix.find(data)
    return Template(f"{stem}.o", data, ix.Index(compile_object(data, stem) if block is None else block))


@pytest.fixture(scope="module")
def constants(tmp_path_factory: pytest.TempPathFactory) -> Constants:
    return Constants(tmp_path_factory.mktemp("constants"))


@pytest.mark.parametrize("specialize", [False, True], ids=["plain", "specialized"])
@pytest.mark.parametrize("path", [*LOADED_KEYS, *LOADED_TABLES], ids=name_of)
def test_every_setting_loads_and_behaves_as_constants_do(path, specialize, constants):
    template = template_of(path)
    different = set()
    for states in SETTINGS[path.stem]:
        seen = observed_in_memory(image_of(template, states), specialize=specialize)
        assert seen == constants.seen(path.stem, states), states
        different.add(repr(seen))
    assert len(different) > len(SETTINGS[path.stem]) * 3 // 4, "the programs show which keys are on"


@pytest.mark.parametrize("path", BY_CLANG, ids=name_of)
def test_what_is_written_loads_with_libbpf_and_does_the_same(path, constants, tmp_path, by_libbpf):
    """A few settings; opcode sites give the kernel the same instructions, so the rest follow from the test before."""
    built = opened(build(path.read_bytes(), path.stem), path.stem)
    for number, states in enumerate([*SETTINGS[path.stem][:4], *SETTINGS[path.stem][-3:]]):
        out = tmp_path / str(number) / path.name
        out.parent.mkdir()
        image = image_of(built, states)
        out.write_bytes(written(image))
        theirs = by_libbpf(out)
        assert observed(theirs) == constants.seen(path.stem, states), states
        again = make_image(opened(out.read_bytes(), path.stem), [])
        for one in (image, again):
            prepared = prepare(one, select(one.template.index, []))
            with load(one, prepared) as ours:
                tags = {
                    prepared.programs[row].wanted.program.name: bpf.prog_info(fd).tag for row, fd in ours.progs.items()
                }
            assert (tags == theirs.tags()) == (path.stem == "keys")


@pytest.mark.parametrize("path", [p for p in BY_CLANG if p.parent.name not in ("clang-19-v3", "stripped")], ids=name_of)
def test_the_oracle_does_not_depend_on_the_compiler(path, constants):
    for states in SETTINGS[path.stem][:2]:
        assert constants.seen(path.stem, states, path.parent.name) == constants.seen(path.stem, states)


@pytest.mark.parametrize("path", LOADED_TABLES, ids=name_of)
def test_offset_sites_as_compiled_do_not_load(path, by_libbpf):
    """Why they are written in another form."""
    with pytest.raises(AssertionError, match="unreachable insn"):
        by_libbpf(path)


@pytest.mark.parametrize("specialize", [False, True])
def test_a_key_of_two_linked_objects(specialize):
    """keys_a returns the length and what `other`, of the second unit, adds."""
    template = template_of(OBJECTS / "linked" / "keys_linked.o")
    for shared, own in product((False, True), repeat=2):
        seen = observed_in_memory(image_of(template, {"shared": shared, "own": own}), specialize=specialize)
        more = 0x2000 * shared + 0x1000 * own + 3 * shared
        assert [run.verdict for run in seen["keys_a"]] == [len(packet) + more for packet in PACKETS]
        assert {run.verdict for run in seen["keys_b"]} == {3 if shared else 4 if own else 5}


# --- what a site costs ------------------------------------------------------------------------------------------

COST = """
#include "fixture.h"
#include "static_key.h"
#define barrier(x) asm volatile("" : "+r"(x))
#if KIND == 1
DEFINE_STATIC_KEY_FALSE(rare);
DEFINE_STATIC_KEY_TRUE(usual);
#define RARE static_branch_unlikely(&rare)
#define USUAL static_branch_likely(&usual)
#elif KIND == 2
volatile int rare, usual;
#define SITE(insn, name, likely) ({ __label__ jump; _Bool jumped_ = 0; \\
    asm goto("1:\\n\\t" insn "\\n\\t.pushsection .jump_table, \\"aw\\"\\n\\t.balign 8\\n\\t" \\
         ".long 1b - .\\n\\t.long %l[jump] - .\\n\\t.quad %c[key_] - . + " #likely "\\n\\t" \\
         ".popsection" : : [key_] "i"(&name) : : jump); \\
    if (0) { jump: jumped_ = 1; } jumped_; })
#define RARE __builtin_expect(SITE("goto +0", rare, 0), 0)
#define USUAL __builtin_expect(!SITE("goto +0", usual, 1), 1)
#else
#define RARE 0
#define USUAL 1
#endif
SEC("xdp") int cost(struct xdp_md *ctx)
{
    __u64 sum = ctx->data_end - ctx->data;

#define STEP barrier(sum); if (RARE) sum = sum * 3 + bpf_ktime_get_ns(); barrier(sum); \\
    if (USUAL) sum += 1; else sum = bpf_get_prandom_u32();
    STEP STEP STEP STEP STEP
    barrier(sum);
    return sum & 1 ? XDP_TX : XDP_PASS;
}
LICENSE;
"""
STEPS = 5


def loaded_insns(path: Path, *, specialize: bool = False) -> tuple[int, list[isa.Insn]]:
    """Translated instructions, and those that were loaded, of the only program."""
    image = make_image(template_of(path), [])
    prepared = prepare(image, select(image.template.index, []), specialize=specialize)
    with load(image, prepared) as loaded:
        (fd,) = loaded.progs.values()
        (ready,) = prepared.programs.values()
        code = [isa.decode(ready.insns, slot) for slot in range(len(ready.insns) // isa.SIZE)]
        return bpf.prog_info(fd).xlated_len // 8, code


@pytest.mark.parametrize("clang", ["clang-14", "clang-16", "clang-19"])
def test_what_a_site_that_does_nothing_costs(clang, tmp_path):
    none, by_opcode, by_offset = (
        compile_c(COST, tmp_path / f"cost{kind}.o", f"-DKIND={kind}", clang=clang) for kind in range(3)
    )
    bare, _ = loaded_insns(none)
    xlated, _ = loaded_insns(by_opcode)
    assert bare <= xlated <= bare + 2 * STEPS  # at most one `r = 0` each
    specialized, _ = loaded_insns(by_opcode, specialize=True)
    assert specialized == bare
    xlated, code = loaded_insns(by_offset)
    assert xlated == bare
    assert len(code) == bare  # before the verifier, too
    assert not [insn for insn in code if insn.opcode in (isa.JA, isa.JA32) and not insn.off and not insn.imm]


@pytest.mark.parametrize("path", LOADED_TABLES, ids=name_of)
def test_lines_and_functions_stay_with_their_instructions(path, by_elfpatch):
    """bpftool shows source lines in what the verifier made of a program whose dead arms were removed."""
    loaded = by_elfpatch(path)
    source = (OBJECTS / "src" / "jump_table.bpf.c").read_text().split("\n")
    shown = loaded.xlated("jump_table")
    assert "subprogram" in shown and "only_when_rare" not in shown
    lines = [line for line in shown.split("\n") if line.startswith(";")]
    assert lines
    for line in lines:
        text, _, rest = line[2:].partition(" [file:")
        number = int(rest.split("line_num:")[1].split()[0])
        assert source[number - 1].strip().startswith(text.strip()[:20])
    on = by_elfpatch(path, {"rare": "on"}).xlated("jump_table")
    assert "only_when_rare" in on


def test_no_setting_is_lost():
    assert len({tuple(states.items()) for states in SETTINGS["keys"]}) == 40 and LOADED_TABLES and len(LOADED_KEYS) > 5
