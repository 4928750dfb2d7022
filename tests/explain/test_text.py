"""Listings as people see them. What they say was compared with the sources in fixtures/objects/src."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from elfpatch.cli import main as entry
from elfpatch.explain import text
from tests.explain.support import EVERY, OBJECTS, name_of, one, programs
from tests.support.cli import Cli

V3 = OBJECTS / "clang-19-v3"

PLAIN = """\
program plain (section tc)

plain:
  ; int plain(struct __sk_buff *skb)  @ plain.bpf.c:22
      0  (bf) r6 = r1
  ; skb->mark = mark + sum(skb->len);  @ plain.bpf.c:24
      1  (18) r1 = &mark
      3  (61) r7 = *(u32 *)(r1 +0)                              <- mark = 42
      4  (61) r1 = *(u32 *)(r6 +0)
      5  (85) call sum
      6  (0c) w0 += w7
      7  (63) *(u32 *)(r6 +8) = r0
  ; return TC_ACT_UNSPEC;  @ plain.bpf.c:25
      8  (b4) w0 = -1
      9  (95) exit

sum:
  ; return table[slot & 3] + addend + zeroed;  @ plain.bpf.c:18
     10  (54) w1 &= 3
     11  (67) r1 <<= 3
     12  (18) r2 = &table                                       <- table = [1,2,3,4] at first
     14  (0f) r2 += r1
     15  (79) r1 = *(u64 *)(r2 +0)
     16  (18) r2 = &addend
     18  (69) r2 = *(u16 *)(r2 +0)                              <- addend = 7 at first
     19  (0c) w1 += w2
     20  (18) r2 = &zeroed
     22  (61) r0 = *(u32 *)(r2 +0)                              <- zeroed = 0 at first
     23  (0c) w0 += w1
     24  (95) exit

  25 insns
"""
PLAIN_SPECIALISED = """\
-     1        (18) r1 = &mark                                  removed: its result is not used
-     3        (61) r7 = *(u32 *)(r1 +0)                        <- mark = 42 -> 43
                                                                removed: folded to 0x2b, which needs no register
      4     1  (61) r1 = *(u32 *)(r6 +0)
"""
JUMP_TABLE = """\
jump_table_xdp:
  ; int jump_table_xdp(struct xdp_md *ctx)  @ jump_table.bpf.c:87
      0     0  (b4) w0 = 1
  ; if (branch_unlikely(rare))  @ jump_table.bpf.c:89
-     1        (05) goto pc+0 <2>                               <- key rare (off): never jumps
                                                                removed: it jumps to what is next
      2     1  (b4) w0 = 3
  ; return branch_likely(usual) ? XDP_TX : XDP_PASS;  @ jump_table.bpf.c:91
      3     2  (05) goto pc+1 <5>                               <- key usual (off): always jumps
  ; }  @ jump_table.bpf.c:92
      4     3  (95) exit
      5     4  (b4) w0 = 2
      6     5  (05) goto pc-3 <4>

  7 -> 6 insns; 0 branches decided, 0 loads folded, 0 functions removed
"""
KEYS = """\
one:
  ; static __noinline __u64 one(__u64 value)  @ keys.bpf.c:64
     33  (bf) r0 = r1
     34  (b7) r1 = 0
  ; if (static_branch_unlikely(&local))  @ keys.bpf.c:68
     35  (a5) if r1 < 0x0 goto pc+2 <38>                        <- key one.local (off): never jumps
     36  (05) goto pc+0 <37>
  ; return value;  @ keys.bpf.c:70
     37  (95) exit
  ; value += 1000;  @ keys.bpf.c:69
     38  (07) r0 += 1000                                        cold: not reached with these values
  ; if (static_branch_unlikely(&local))  @ keys.bpf.c:68
     39  (05) goto pc+0 <40>
     40  (05) goto pc-4 <37>

cold_only:
  ; static __noinline __u64 cold_only(__u64 value)  @ keys.bpf.c:34
     41  (bf) r0 = r1                                           cold: not reached with these values
"""
ALPHA_ON = """\
~     4  (a5) if r2 < 0x0 goto pc+14 <19> -> (35) if r2 >= 0x0 goto pc+14  <- key alpha (off -> on): always jumps
      5  (05) goto pc+0 <6>                                     cold: not reached with these values
"""
IMMEDIATE = """\
-     0        (18) r1 = 0xf8 -> (18) r1 = 0x5                  <- immediate i_s8 = -8 -> 5
                                                                removed: its result is not used
"""


def test_a_listing(cli: Cli) -> None:
    assert cli.ok("explain", str(V3 / "plain.o")).out == PLAIN


def test_specialised_before_and_after(cli: Cli) -> None:
    out = cli.ok("explain", "--specialize", "--set", "mark=43", str(V3 / "plain.o")).out
    assert PLAIN_SPECIALISED in out
    assert "25 -> 22 insns; 0 branches decided, 1 load folded, 0 functions removed\n" in out
    assert "maps not needed: plain.rodata\n" in out


def test_a_value_without_specialising_changes_no_instruction(cli: Cli) -> None:
    out = cli.ok("explain", "--set", "mark=43", str(V3 / "plain.o")).out
    assert out == PLAIN.replace("mark = 42", "mark = 42 -> 43")


@pytest.mark.parametrize("folder", ["clang-19-v3", "big-endian"])
def test_a_jump_table_leaves_dead_code_out_in_both_byte_orders(cli: Cli, folder: str) -> None:
    out = cli.ok("explain", "--prog", "jump_table_xdp", str(OBJECTS / folder / "jump_table.o")).out
    assert JUMP_TABLE in out


def test_keys_and_what_they_leave_cold(cli: Cli) -> None:
    path = str(V3 / "keys.o")
    assert KEYS in cli.ok("explain", "--prog", "keys_xdp", path).out
    assert ALPHA_ON in cli.ok("explain", "--prog", "keys_xdp", "--set", "alpha=on", path).out


@pytest.mark.parametrize("folder", ["clang-19-v3", "big-endian"])
def test_an_immediate_before_and_after_in_both_byte_orders(cli: Cli, folder: str) -> None:
    path = str(OBJECTS / folder / "immediates.o")
    out = cli.ok("explain", "--prog", "immediates_xdp", "--set", "i_s8=5", "--specialize", path).out
    assert IMMEDIATE in out
    assert out.endswith("  15 -> 2 insns; 2 branches decided, 0 loads folded, 0 functions removed\n")


def test_functions_and_callbacks_are_named(cli: Cli) -> None:
    out = cli.ok("explain", "--prog", "third", str(V3 / "calls.o")).out
    lines = [line.strip() for line in out.splitlines()]
    assert [line for line in lines if line.endswith(":") and " " not in line] == [
        "third:", "add_step:", "leaf:", "add_cell:"
    ]  # fmt: skip
    assert "15  (18) r2 = subprog[add_step]" in lines
    assert "49  (85) call leaf" in lines
    assert "25  (18) r1 = map[cells]" in lines
    assert "18  (85) call bpf_loop#181" in lines


@pytest.mark.parametrize(
    ("instruction", "entered"),
    [
        ("18  (71) r3 = *(u8 *)(r1 +4)", "<- cfg.mac[0] = 2"),
        ("52  (69) r2 = *(u16 *)(r1 +22)", "<- cfg.inner.b = -2"),
        ("60  (69) r2 = *(u16 *)(r1 +34)", "<- cfg.either.part.b = 0"),  # of a union the member that fits
        ("40  (69) r2 = *(u16 *)(r1 +14)", "<- cfg.high = 0"),  # and not cfg.word, which shares its bytes
        ("119  (71) r2 = *(u8 *)(r1 +1)", "<- tight.b+0 = 0x2"),
    ],
)
def test_members_are_named(instruction: str, entered: str) -> None:
    listing = [" ".join(line.split()) for _, line in text.lines(one(V3 / "structs.o", "structs"))]
    assert f"{' '.join(instruction.split())} {entered}" in listing


def test_without_btf_there_are_no_lines_and_functions_are_named_by_place() -> None:
    listing = [line for _, line in text.lines(one(OBJECTS / "without-btf" / "plain.o", "plain"))]
    assert not [line for line in listing if line.lstrip().startswith(";")]
    assert "function_at_10:" in listing
    assert any(line.endswith("<- mark = hex:2a000000") for line in listing)


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_a_line_is_longer_than_a_terminal_only_for_what_it_cannot_break(path: Path) -> None:
    for _, program in programs(path, specialize=True):
        for _, line in text.lines(program):
            assert len(line) <= 120 or len(line.split("  ")[-1]) > 56, line


def test_colour_only_on_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(V3 / "plain.o")
    assert "\x1b" not in cli.ok("explain", "--specialize", path).out

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown() -> str:
        out = Terminal()
        with contextlib.redirect_stdout(out):
            assert entry.main(["explain", "--state-dir", cli.layout.state, "--specialize", path]) == 0
        return out.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = shown()
    assert "\x1b[31m-     1" in coloured
    plain = re.sub(r"\x1b\[\d*m", "", coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown() == plain
    assert PLAIN_SPECIALISED.splitlines()[0] in plain
