"""Static keys and immediates at the command line: what is shown, how they are set, and how bad input is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from pathlib import Path

import pytest

from elfpatch.kernel import bpf
from tests.cli.test_bad_input import assert_refused
from tests.support.cli import Cli
from tests.template.oracles import OBJECTS
from tests.template.sites import edited, source_lines, view

KEYS = OBJECTS / "clang-19-v3" / "keys.o"
TABLE = OBJECTS / "clang-19-v3" / "jump_table.o"
FETCH = OBJECTS / "clang-19-v3" / "fetch.o"
ESCAPE = OBJECTS / "clang-19-v3" / "escape.o"
DEFAULTS = {"alpha": "off", "back": "on", "beta": "on", "delta": "off", "entry": "off"}
DEFAULTS |= {"one.local": "off", "two.local": "on"}


# --- shown ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [KEYS, TABLE, OBJECTS / "big-endian" / "keys.o"], ids=lambda path: path.parent.name)
def test_inspect_lists_every_site_as_json(plain_cli, path):
    shown = plain_cli.ok("inspect", "-j", str(path)).json
    found = {
        (key["path"], site["kind"], site["likely"], site["section"], site["section_offset"], site["offset"])
        for key in shown["keys"]
        for site in key["sites"]
    }
    assert found == {(s.key, s.kind, s.likely, s.section, s.offset, s.at) for s in view(path).sites()}
    lines = source_lines(path)
    for key in shown["keys"]:
        assert key["settable"] and key["why_not"] is None and not key["required"]
        for site in key["sites"]:
            assert site["state"] == key["default"] in ("on", "off")
            assert site["source"] == lines[site["section"], site["section_offset"]]
            assert site["programs"]
    assert not {variable["path"] for variable in shown["variables"]} & {key["path"] for key in shown["keys"]}


def test_inspect_shows_keys_with_their_state_and_description(plain_cli):
    shown = {key["path"]: key for key in plain_cli.ok("inspect", "-j", str(KEYS)).json["keys"]}
    assert {name: key["default"] for name, key in shown.items()} == DEFAULTS
    assert shown["entry"]["description"] == "its jump is the first of a function"
    assert shown["delta"]["description"] is None
    both = {program for site in shown["back"]["sites"] for program in site["programs"]}
    assert both == {"keys", "keys_xdp"}  # `rounds` is a function that both call


def test_inspect_as_text(plain_cli):
    text = plain_cli.ok("inspect", str(KEYS)).out
    assert re.search(r"^  entry  off  its jump is the first of a function$", text, re.M)
    assert re.search(r"^    keys, keys_xdp  first_insn insn 0 .*keys\.bpf\.c:\d+ +off +opcode +unlikely$", text, re.M)
    more = sum(site.key == "alpha" for site in view(KEYS).sites()) - 8
    assert f"({more} more sites; --all shows them)" in text
    everything = plain_cli.ok("inspect", "--all", str(KEYS)).out
    assert "more sites" not in everything
    assert len(re.findall(r" insn \d+ ", everything)) == len(view(KEYS).sites())
    assert re.search(r"jump_table insn \d+ .* offset +likely$", plain_cli.ok("inspect", str(TABLE)).out, re.M)


def test_inspect_says_why_a_key_cannot_be_set(plain_cli):
    path = OBJECTS / "stripped" / "keys_unneeded.o"
    assert "cannot be set: it has no sites" in plain_cli.ok("inspect", str(path)).out
    (alpha, *_) = plain_cli.ok("inspect", "-j", str(path)).json["keys"]
    assert not alpha["settable"] and "--strip-unneeded" in alpha["why_not"] and not alpha["sites"]


def test_inspect_follows_a_patch(plain_cli, tmp_path):
    out = tmp_path / "keys.o"
    plain_cli.ok("patch", "-o", str(out), "--set", "alpha=on", "--set", "back=off", str(KEYS))
    shown = {key["path"]: key for key in plain_cli.ok("inspect", "-j", str(out)).json["keys"]}
    assert {name: key["default"] for name, key in shown.items()} == DEFAULTS | {"alpha": "on", "back": "off"}
    assert {site["state"] for site in shown["alpha"]["sites"]} == {"on"}


def test_schema_has_keys(plain_cli):
    properties = plain_cli.ok("schema", str(KEYS)).json["properties"]
    assert set(properties) == {*DEFAULTS, "one", "two"}  # a dotted name may be given nested as well
    alpha = properties["alpha"]
    assert alpha["default"] == "off" and alpha["description"].startswith("expected to be off")
    assert {"type": "boolean"} in alpha["anyOf"] and {"enum": [0, 1]} in alpha["anyOf"]
    (words, *_) = [one["pattern"] for one in alpha["anyOf"] if "pattern" in one]
    assert all(re.search(words, word) for word in ("on", "off", "yes", "no", "true", "false", "0", "1"))
    assert not re.search(words, "2")


# --- set --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "alpha=on", "--set", "beta=no"],
        ["--set", "alpha=true", "--set", "beta=0"],
        ["--set", "alpha=1", "--set", "beta=off"],
        ["--set-json", "alpha=true", "--set-json", "beta=false"],
        ["--set-json", 'alpha="on"', "--set-json", "beta=0"],
        ["--set-hex", "alpha=01000000", "--set-hex", "beta=00000000"],
    ],
    ids=" ".join,
)
def test_ways_to_set(plain_cli, tmp_path, words):
    wanted, out = tmp_path / "wanted.o", tmp_path / "out.o"
    plain_cli.ok("patch", "-o", str(wanted), "--set", "alpha=yes", "--set", "beta=false", str(KEYS))
    plain_cli.ok("patch", "-o", str(out), *words, str(KEYS))
    assert out.read_bytes() == wanted.read_bytes() != KEYS.read_bytes()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("v.json", '{"alpha": true, "beta": "off", "one.local": 1}'),
        ("v.toml", 'alpha = "on"\nbeta = false\n"one.local" = true\n'),
    ],
)
def test_values_files(plain_cli, tmp_path, name, text):
    file, wanted, out = tmp_path / name, tmp_path / "wanted.o", tmp_path / "out.o"
    file.write_text(text)
    given = ["--set", "alpha=on", "--set", "beta=off", "--set", "one.local=on"]
    plain_cli.ok("patch", "-o", str(wanted), *given, str(KEYS))
    plain_cli.ok("patch", "-o", str(out), "-f", str(file), str(KEYS))
    assert out.read_bytes() == wanted.read_bytes()
    plain_cli.ok("patch", "-o", str(out), "-f", str(file), "--set", "alpha=off", str(KEYS))
    assert out.read_bytes() != wanted.read_bytes()


@pytest.mark.parametrize("path", [KEYS, TABLE], ids=lambda path: path.stem)
def test_the_receipt_lists_the_differing_ranges(plain_cli, tmp_path, path):
    template, out = tmp_path / path.name, tmp_path / "out.o"
    plain_cli.ok("build", "-o", str(template), str(path))
    key = "alpha" if path == KEYS else "rare"
    receipt = plain_cli.ok("patch", "-j", "-o", str(out), "--set", f"{key}=on", str(template)).json
    before, after = template.read_bytes(), bytearray(template.read_bytes())
    sites = {site.at: site for site in view(path).sites() if site.key == key}
    words = {at for name, at in view(path).words().items() if name == key}
    for change in receipt["changes"]:
        old, new = bytes.fromhex(change["old_bytes"]), bytes.fromhex(change["bytes"])
        assert before[change["offset"] :].startswith(old)
        after[change["offset"] : change["offset"] + len(old)] = new
        assert (change["path"], change["old"], change["new"]) == (key, "off", "on")
        site = sites.get(change["offset"])
        assert (change.get("function"), change.get("insn")) == ((site.function, site.insn) if site else (None, None))
    assert bytes(after) == out.read_bytes()
    assert {change["offset"] for change in receipt["changes"]} == set(sites) | words
    again = plain_cli.ok("patch", "-j", "-o", str(out), "--set", f"{key}=on", str(out)).json
    assert not again["changes"] and again["config_sha256"] == receipt["config_sha256"]
    back = plain_cli.ok("patch", "-o", str(out), "--set", f"{key}=off", str(out)).out
    assert out.read_bytes() == before
    assert f"{len(sites)} places in code" in back


def test_plan_and_apply_say_what_a_key_becomes(cli):
    words = ["--name", "keys", str(KEYS)]
    assert "entry  off -> on  (01000000)" in cli.ok("plan", "--set", "entry=on", *words).out
    applied = cli.ok("apply", "--set", "entry=on", *words)
    assert "entry  off -> on" in applied.out
    planned = cli.ok("plan", "-j", "--set", "alpha=on", "--set", "entry=on", *words).json
    assert [(change["path"], change["old"], change["new"]) for change in planned["changes"]] == [("alpha", "off", "on")]
    assert "entry  on -> off" in cli.ok("apply", *words).out
    assert cli.ok("status", "-j", "keys").json
    cli.ok("detach", "keys")
    assert not cli.left()


def test_offset_keys_are_planned_and_reused(cli):
    words = ["--name", "table", str(TABLE)]
    cli.ok("apply", "--set", "rare=on", *words)
    folder = Path(cli.layout.pins("table")) / "progs"
    fd = bpf.obj_get(str(folder / "jump_table_xdp"))
    assert bpf.prog_test_run(fd, bytes(64)).retval == 1  # XDP_DROP
    os.close(fd)
    kept = cli.ok("apply", "--reuse-values", "--set", "usual=on", *words)
    assert "usual  off -> on" in kept.out and "rare" not in kept.out
    cli.ok("detach", "table")


def test_check_takes_keys(cli):
    body = cli.ok("check", "-j", "--set", "alpha=on", "--set", "beta=off", str(KEYS)).json
    assert {program["name"] for program in body["programs"]} == {"keys", "keys_xdp"}
    words = ["--set", "usual=on", str(TABLE)]
    plain, less = (cli.ok("check", "-j", *more, *words).json for more in ([], ["--specialize"]))
    (plain_insns, insns) = ({p["name"]: p["insns"] for p in found["programs"]} for found in (plain, less))
    assert insns["jump_table"] <= plain_insns["jump_table"]
    # with one off and the other on no site jumps: none costs an instruction, nor do the cold blocks
    sites = [site for site in view(TABLE).sites() if site.function == "jump_table_xdp"]
    size = view(TABLE).section("xdp").size // 8
    assert insns["jump_table_xdp"] <= plain_insns["jump_table_xdp"] < size - len(sites)


def test_a_required_key(cli, compiled):
    path = compiled(
        "#include <static_key.h>\nDEFINE_STATIC_KEY_FALSE(must, CONFIG_REQUIRED);\n"
        'SEC("xdp") int p(struct xdp_md *ctx) { return static_branch_unlikely(&must) ? XDP_DROP : XDP_PASS; }'
    )
    assert cli.ok("inspect", "-j", path).json["keys"][0]["required"]
    assert_refused(cli("check", path), 65, "must: it is required and not set")
    for state in ("on", "off"):  # also the one that it has
        cli.ok("check", "--set", f"must={state}", path)


# --- immediates -------------------------------------------------------------------------------------------------


def test_immediates_are_marked_and_asked_for(plain_cli, tmp_path):
    shown = plain_cli.ok("inspect", "-j", str(OBJECTS / "clang-19-v3" / "immediates.o")).json["variables"]
    assert all(variable["immediate"] for variable in shown)
    assert not any(v["immediate"] for v in plain_cli.ok("inspect", "-j", str(FETCH)).json["variables"])
    asked = ["--immediate", "IDENTITY", "--immediate", "COOKIE:value"]
    now = plain_cli.ok("inspect", "-j", *asked, str(FETCH)).json["variables"]
    assert {v["path"] for v in now if v["immediate"]} == {"IDENTITY", "COOKIE"}
    assert "immediate" in plain_cli.ok("inspect", *asked, str(FETCH)).out
    template = tmp_path / "fetch.o"
    plain_cli.ok("build", *asked, "-o", str(template), str(FETCH))
    receipt = plain_cli.ok("patch", "-j", "-o", str(tmp_path / "o.o"), "--set", "IDENTITY=5", str(template)).json
    assert {change["path"] for change in receipt["changes"]} == {"IDENTITY"}
    numbers = {change["bytes"] for change in receipt["changes"] if "insn" in change}
    assert all(bytes.fromhex(raw)[4:8] == struct.pack("<I", 5) for raw in numbers)
    assert_refused(plain_cli("inspect", "--immediate", "PORT", str(template)), 65, "without PORT as an immediate")


@pytest.mark.parametrize(
    ("path", "words", "said"),
    [
        (ESCAPE, ["--immediate", "in_map"], "its address is stored at escape_to_map instruction"),
        (ESCAPE, ["--immediate", "as_key"], "its address is passed to bpf_map_lookup_elem at escape_to_helper"),
        (ESCAPE, ["--immediate", "table:value"], "depends on more than the address at indexed instruction"),
        (ESCAPE, ["--immediate", "both"], "it is written to at in_all_ways instruction"),
        (ESCAPE, ["--immediate", "nope"], "there is no variable 'nope' (there are as_key"),
        (FETCH, ["--immediate", "COOKIE"], "--immediate COOKIE:value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
@pytest.mark.parametrize("verb", ["patch", "build"])
def test_what_cannot_be_an_immediate(plain_cli, tmp_path, path, words, said, verb):
    out = tmp_path / "out.o"
    done = plain_cli(verb, *words, "-o", str(out), str(path))
    assert_refused(done, 65, said)
    assert not out.exists()
    if "instruction" in said:
        assert re.search(r"instruction \d+ \(escape\.bpf\.c:\d+\)", done.err)


# --- bad input --------------------------------------------------------------------------------------------------


def damaged(cli: Cli, tmp_path: Path, indexed: bool, at: int, new: bytes, path: Path = KEYS) -> Path:
    out = tmp_path / "damaged.o"
    if indexed:
        cli.ok("build", "-o", str(out), str(path))
    else:
        shutil.copy(path, out)
    out.write_bytes(edited(out.read_bytes(), at, new))
    return out


@pytest.mark.parametrize("indexed", [False, True], ids=["as compiled", "built"])
@pytest.mark.parametrize("words", [[], ["--set", "entry=on"], ["--set", "alpha=on"]], ids=" ".join)
def test_sites_that_disagree(plain_cli, tmp_path, indexed, words):
    site = [site for site in view(KEYS).sites() if site.key == "alpha"][3]
    path = damaged(plain_cli, tmp_path, indexed, site.at, b"\x35")
    done = plain_cli("patch", *words, "-o", str(tmp_path / "out.o"), str(path))
    where = f"{site.function} instruction {site.insn} ({source_lines(KEYS)[site.section, site.offset]})"
    assert_refused(done, 65, "static key alpha: its sites disagree: it is off, and not so at", where)
    assert not (tmp_path / "out.o").exists()
    assert_refused(plain_cli("plan", *words, str(path)), 65, "its sites disagree")
    shown = {key["path"]: key for key in plain_cli.ok("inspect", "-j", str(path)).json["keys"]}
    assert {found["state"] for found in shown["alpha"]["sites"]} == {"on", "off"}


def test_force_makes_them_agree_again(plain_cli, tmp_path):
    site = [site for site in view(KEYS).sites() if site.key == "alpha"][3]
    path = damaged(plain_cli, tmp_path, False, site.at, b"\x35")
    out = tmp_path / "out.o"
    plain_cli.ok("patch", "--force", "--set", "alpha=off", "-o", str(out), str(path))
    assert out.read_bytes() == KEYS.read_bytes()


@pytest.mark.parametrize(
    ("inside", "new", "said"),
    [
        (0, b"\x15", "opcode 0x15"),
        (4, b"\5\0\0\0", "imm 5"),
        (1, b"\x31", "src 3"),
        (2, struct.pack("<h", 500), "the target of its site at"),
        (2, struct.pack("<h", -500), "is outside the function"),
    ],
    ids=["opcode", "imm", "src", "forward", "back"],
)
def test_a_tampered_instruction(plain_cli, tmp_path, inside, new, said):
    site = next(site for site in view(KEYS).sites() if site.key == "entry")
    where = f"{site.function} instruction {site.insn} ({source_lines(KEYS)[site.section, site.offset]})"
    path = damaged(plain_cli, tmp_path, False, site.at + inside, new)
    done = plain_cli("patch", "--set", "entry=on", "-o", str(tmp_path / "out.o"), str(path))
    assert_refused(done, 65, "entry cannot be set", where, said)
    plain_cli.ok("patch", "--set", "alpha=on", "-o", str(tmp_path / "out.o"), str(path))
    path = damaged(plain_cli, tmp_path, True, site.at + inside, new)
    done = plain_cli("patch", "--set", "entry=on", "-o", str(tmp_path / "out.o"), str(path))
    if inside:
        assert_refused(done, 65, "the object is not the one its index was made from", str(path))
    else:
        assert_refused(done, 65, "static key entry", "no branch that it switches but opcode 0x15", where)


@pytest.mark.parametrize(
    ("path", "key", "said"),
    [
        ("stripped/keys_unneeded.o", "alpha", "it has no sites"),
        ("stripped/keys_unneeded.o", "beta", "there is no variable `beta`"),
        ("clang-19-v3/keys_linked_b.o", "shared", "the object does not define it: link it"),
        ("linked/keys_twice.o", "same", "2 static keys have this name"),
        ("linked/keys_twice.o", "same@.elfpatch.keys+0x4", "2 static keys have this name"),
        ("clang-19-v3/keys.o", "alpha.enabled", "has no members"),
        ("clang-19-v3/keys.o", "alfa", "no variable `alfa`"),
    ],
)
def test_keys_that_cannot_be_set(plain_cli, tmp_path, path, key, said):
    done = plain_cli("patch", "--set", f"{key}=on", "-o", str(tmp_path / "out.o"), str(OBJECTS / path))
    assert_refused(done, 65, said)
    assert not (tmp_path / "out.o").exists()


@pytest.mark.parametrize("words", [["--set-hex", "alpha=02000000"], ["--set", "alpha=hex:ff000000"]], ids=" ".join)
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "forced"])
def test_raw_words_that_mean_nothing(plain_cli, tmp_path, words, force):
    done = plain_cli("patch", *force, *words, "-o", str(tmp_path / "out.o"), str(KEYS))
    assert_refused(done, 65, "neither off nor on", "give on or off")


def test_a_damaged_table_is_told(plain_cli, tmp_path):
    at = view(TABLE).header_at(".jump_table") + 32
    size = view(TABLE).section(".jump_table").size
    path = damaged(plain_cli, tmp_path, False, at, struct.pack("<Q", size + 8), TABLE)
    for verb in ("inspect", "check", "plan"):
        assert_refused(plain_cli(verb, str(path)), 65, ".jump_table", "not whole rows of 16", str(path))


def test_values_of_another_object(plain_cli, tmp_path):
    file = tmp_path / "values.json"
    file.write_text(json.dumps({"alpha": "maybe", "beta": 2, "gamma": True}))
    done = plain_cli("patch", "-f", str(file), "-o", str(tmp_path / "out.o"), str(KEYS))
    assert_refused(done, 65, "alpha", "beta", "gamma")
    assert len(done.err.strip().split("\n")) == 3
