"""static_key.h and config.h with every compiler, optimization level and instruction set: a program says by its result
which keys are on, and what its immediates are."""

from __future__ import annotations

import struct
import subprocess
from itertools import product
from pathlib import Path

import pytest

from elfpatch.deploy.load import load
from elfpatch.deploy.prepare import prepare
from elfpatch.deploy.select import select
from elfpatch.deploy.source import open_template
from elfpatch.kernel import bpf
from elfpatch.patch.image import make_image
from elfpatch.patch.setting import from_set
from tests.support.require import require
from tests.templates.support import SOURCES

# No helper is called: what libbpf's headers make of one without optimization is no call
SOURCE = """
#include <linux/bpf.h>
#include "config.h"
#include "static_key.h"

DEFINE_STATIC_KEY_FALSE(rare, CONFIG_DESC("off to begin with"));
DEFINE_STATIC_KEY_TRUE(usual);
static DEFINE_STATIC_KEY_FALSE(own);
IMMEDIATE __u16 small = 0x1234;
IMMEDIATE __u64 wide = 0x1122334455667788;
IMMEDIATE struct { __u32 first; __s8 second; } pair = { 7, -3 };

static __attribute__((noinline)) int twice(int value)
{
	if (static_branch_unlikely(&rare))
		value += 2;
	if (static_branch_likely(&rare))
		value += 4;
	return value;
}

static inline __attribute__((always_inline)) int inlined(int value)
{
	if (static_branch_likely(&usual))
		value += 16;
	if (!static_branch_unlikely(&own))
		value += 128;
	return value;
}

__attribute__((section("tc"))) int program(struct __sk_buff *skb)
{
	int value = inlined(inlined(inlined(twice(1)))); /* no loop: without optimization the verifier sees no end of one */

	if (static_branch_unlikely(&rare) && static_branch_unlikely(&usual))
		value += 1024;
	skb->cb[0] = immediate(small);
	skb->cb[1] = immediate(wide) >> 32;
	skb->cb[2] = immediate(pair.first);
	skb->cb[3] = immediate(pair.second);
	return value;
}

char _license[] __attribute__((section("license"))) = "Dual MIT/GPL";
"""
CLANG = [
    (clang, level, cpu)
    for clang, level, cpu in product(
        ("clang-14", "clang-16", "clang-19"), ("0", "1", "2", "3", "s", "z"), ("v1", "v2", "v3")
    )
] + [("clang-19", level, "v4") for level in ("0", "1", "2", "3", "s", "z")]
GCC = [("bpf-gcc", level, "v3") for level in ("0", "1", "2", "3", "s")]
CB = 48  # of struct __sk_buff


def build(compiler: str, level: str, cpu: str, folder: Path) -> Path:
    require(compiler, "gcc")
    source, out = folder / "headers.bpf.c", folder / "headers.o"
    source.write_text(SOURCE)
    multiarch = subprocess.run(["gcc", "-print-multiarch"], check=True, capture_output=True, text=True).stdout.strip()
    words = [compiler, "--target=bpf", "-g", f"-mcpu={cpu}"] if compiler != "bpf-gcc" else [compiler, "-gbtf"]
    words += [f"-O{level}", "-I", str(SOURCES), "-idirafter", f"/usr/include/{multiarch}", "-idirafter", "/usr/include"]
    subprocess.run([*words, "-c", str(source), "-o", str(out)], check=True)
    return out


def run(path: Path, values: list[str], *, specialize: bool) -> tuple[int, tuple[int, ...]]:
    template = open_template(str(path))
    image = make_image(template, [from_set(text) for text in values])
    prepared = prepare(image, select(template.index, []), specialize=specialize)
    with load(image, prepared) as loaded:
        (fd,) = loaded.progs.values()
        done = bpf.prog_test_run(fd, bytes(64), ctx_out_size=192)
    return done.retval, struct.unpack_from("4I", done.ctx_out, CB)


@pytest.mark.root
@pytest.mark.parametrize(("compiler", "level", "cpu"), [*CLANG, *GCC])
def test_keys_and_immediates_are_what_they_are_set_to(compiler: str, level: str, cpu: str, tmp_path: Path) -> None:
    path = build(compiler, level, cpu, tmp_path)
    for rare, usual, own in product((False, True), repeat=3):
        keys = [f"{name}={'on' if on else 'off'}" for name, on in (("rare", rare), ("usual", usual), ("own", own))]
        wanted = 1 + 6 * rare + 48 * usual + 384 * (not own) + 1024 * (rare and usual)
        for specialize in (False, True):
            assert run(path, keys, specialize=specialize) == (wanted, (0x1234, 0x11223344, 7, 0xFFFFFFFD))
    values = ["small=65535", "wide=0xfedcba9876543210", "pair.first=4294967295", "pair.second=127"]
    assert run(path, values, specialize=False) == (1 + 48 + 384, (0xFFFF, 0xFEDCBA98, 0xFFFFFFFF, 127))
