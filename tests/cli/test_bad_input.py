"""Bad input: one clear line, the documented exit code, and nothing changed on disk, in bpffs or on any hook."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import ENDPOINT, MARK, ROOT, Cli, Result
from tests.support.net import VethPair

OUT_OF_BOUNDS = """
const volatile __u32 slot = 1;
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64[4]); }
	values SEC(".maps");
SEC("tc") int reader(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 *row = bpf_map_lookup_elem(&values, &zero);

	return row ? row[slot] : 0;
}
"""

FOLDED = """
const __u32 folded = 7;
volatile const __u32 used = 1;
volatile const __u32 unused = 1;
SEC("tc") int p(struct __sk_buff *skb) { return folded + used; }
"""


def held() -> list[str]:
    """The BPF objects that this process keeps open: what is neither pinned nor held is gone."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue  # the folder's own
    return [name for name in found if "bpf" in name and name.startswith("anon_inode")]


def assert_refused(done: Result, code: int, *words: str) -> None:
    assert done.code == code, done.err
    lines = done.err.strip().split("\n")
    assert lines[0].startswith("elfpatch: error: ")
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 64, "no verb given"),
        (["aply"], 64, "did you mean apply?"),
        (["apply"], 64, "apply needs OBJECT"),
        (["apply", "a.o", "b.o"], 64, "too much"),
        (["apply", "--sett", "a=1", MARK], 64, "did you mean --set?"),
        (["apply", MARK, "--set"], 64, "--set needs PATH=VALUE"),
        (["apply", "--set", "foo", MARK], 64, "no `=`"),
        (["apply", "--force=1", MARK], 64, "takes no value"),
        (["apply", "--name", "a", "--name", "b", MARK], 64, "given twice"),
        (["apply", "--name", "../x", MARK], 64, "cannot name a deployment"),
        (["apply", "--lock-timeout", "soon", MARK], 64, "not a time"),
        (["apply", "--target", "tcx:eth0", MARK], 64, "a direction is needed"),
        (["apply", "--target", "bogus:eth0", MARK], 64, "no known kind"),
        (["patch", MARK], 64, "-o FILE"),
        (["apply", "/nonexistent/x.o"], 66, "no such file"),
        (["apply", "/"], 65, "directory"),
        (["status", "nobody"], 66, "no deployment named nobody"),
        (["detach", "nobody"], 66, "no deployment named nobody"),
        (["patch", "-o", "/nonexistent/out.o", "--set", "foo=1", MARK], 66, "cannot write it"),
        (["apply", "-f", "/nonexistent/values.toml", MARK], 66, "values.toml"),
    ],
)
def test_usage_and_missing_files(plain_cli: Cli, words: list[str], code: int, said: str) -> None:
    assert_refused(plain_cli(*words), code, said)
    assert plain_cli.left() == []


def damaged(tmp_path: Path, change: Callable[[bytearray], bytes | bytearray | None]) -> str:
    data = bytearray(Path(MARK).read_bytes())
    made = change(data)
    path = tmp_path / "damaged.o"
    path.write_bytes(data if made is None else made)
    return str(path)


def _flip(data: bytearray, at: int) -> None:
    data[at] ^= 1


def _put16(data: bytearray, at: int, value: int) -> None:
    struct.pack_into("<H", data, at, value)


@pytest.mark.parametrize(
    ("change", "said", "mendable"),
    [
        (lambda data: b"", "not an ELF file", False),
        (lambda data: b"#!/bin/sh\n", "not an ELF file", False),
        (lambda data: data[:40], "less than an ELF header", False),
        (lambda data: data[: len(data) // 2], "truncated", False),
        (lambda data: data[:-1], "truncated", False),
        (lambda data: _put16(data, 18, 62) or data[:-16], "for machine 62", False),
        (lambda data: data.__setitem__(4, 1) or data[:-16], "32-bit", False),
        (lambda data: _flip(data, 0x44), "not the one its index was made from", True),  # an instruction
        (lambda data: _flip(data, len(data) - 100), "damaged", True),  # in the index
        (lambda data: _flip(data, len(data) - 10), "index", True),  # in the trailer
    ],
    ids=["empty", "script", "stub", "half", "cut", "machine", "32-bit", "code", "index", "trailer"],
)
def test_objects(
    plain_cli: Cli, tmp_path: Path, change: Callable[[bytearray], bytes | None], said: str, mendable: bool
) -> None:
    path = damaged(tmp_path, change)
    for verb in (["inspect"], ["apply", "--set", "foo=1"], ["patch", "-o", str(tmp_path / "out.o")]):
        done = plain_cli(*verb, path)
        assert_refused(done, 65, path, said)
    assert plain_cli.left() == []
    assert not (tmp_path / "out.o").exists()
    if mendable:  # that is what build is for
        plain_cli.ok("build", path)
        plain_cli.ok("inspect", path)
    else:
        assert_refused(plain_cli("build", path), 65, path, said)


def test_an_index_of_a_newer_version(plain_cli: Cli, tmp_path: Path) -> None:
    from elfpatch import index as ix

    data = bytearray(Path(MARK).read_bytes())
    start = data.rindex(ix.MAGIC)
    struct.pack_into("<I", data, start + 8, ix.VERSION + 1)
    path = tmp_path / "newer.o"
    path.write_bytes(data)
    assert_refused(plain_cli("inspect", str(path)), 65, "upgrade elfpatch")


def test_all_bad_values_are_reported_at_once(plain_cli: Cli) -> None:
    values = ["ep.ip4=10.0.0.300", "ep.mac=zz", "ep.policy.mode=NOPE", "ep.policy.ports[99]=1", "ep.nope=1", "epp=1"]
    done = plain_cli("apply", *(word for value in values for word in ("--set", value)), ENDPOINT)
    assert_refused(done, 65)
    for value in values:
        assert f"--set {value}: " in done.err
    assert len(done.err.strip().split("\n")) == len(values)  # ep.ip4, which is required, was given, if badly
    assert "did you mean ep?" in done.err
    assert plain_cli.left() == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["foo=1", "foo=2"], "set twice"),
        (["bar=1"], "no variable `bar`"),
        (["foo=4294967296"], "outside 0..4294967295"),
        (["foo=-1"], "unsigned"),
        (["foo=010"], "leading zero"),
        (["foo="], "not an integer"),
        (["foo=1,bar=2"], "not an integer"),
        (["foo=10.0.0.1"], "ipv4"),
        (["foo[0]=1"], "foo"),
        (["foo.x=1"], "foo"),
    ],
)
def test_values(plain_cli: Cli, tmp_path: Path, values: list[str], said: str) -> None:
    out = tmp_path / "out.o"
    words = [word for value in values for word in ("--set", value)]
    for verb in (["apply"], ["plan"], ["patch", "-o", str(out)]):
        assert_refused(plain_cli(*verb, *words, MARK), 65, said)
    assert not out.exists()
    assert plain_cli.left() == []


def test_what_is_required_is_reported_with_the_rest(plain_cli: Cli) -> None:
    for verb in ("apply", "plan", "check"):
        done = plain_cli(verb, "--set", "ep.mac=zz", ENDPOINT)
        assert_refused(done, 65, "--set ep.mac=zz", "ep.ip4: it is required")
    assert "required" not in plain_cli("patch", "-o", "/dev/null", "--set", "ep.mac=zz", ENDPOINT).err


def test_a_full_disk_is_not_called_a_permission(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from elfpatch.deploy import record

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.os, "write", full)
    assert_refused(cli("apply", "--set", "foo=1", MARK), 78, "no space left")
    monkeypatch.undo()
    assert cli.left() == []
    assert held() == []


def test_a_required_variable_never_loads_unset(cli: Cli) -> None:
    before = held()
    assert_refused(cli("apply", ENDPOINT), 65, "ep.ip4", "required")
    assert_refused(cli("check", ENDPOINT), 65, "ep.ip4", "required")
    assert cli.left() == []
    assert held() == before


def test_folded_and_unused_variables(cli: Cli, compiled: Callable[..., str]) -> None:
    path = compiled(FOLDED)
    assert_refused(cli("apply", "--set", "folded=1", path), 65, "const without volatile")
    assert_refused(cli("apply", "--set", "unused=1", path), 65, "no instruction refers to it")
    assert cli.left() == []
    cli.ok("check", "--force", "--set", "folded=1", "--set", "used=3", path)


def test_a_forced_patch_is_a_template_again(plain_cli: Cli, compiled: Callable[..., str], tmp_path: Path) -> None:
    plain, indexed, forced, back = compiled(FOLDED), *(str(tmp_path / name) for name in ("indexed.o", "f.o", "b.o"))
    plain_cli.ok("build", "-o", indexed, plain)
    plain_cli.ok("patch", "--force", "--set", "folded=1", "-o", forced, indexed)
    assert (
        plain_cli.ok("inspect", "-j", forced).json["template_sha256"]
        != plain_cli.ok("inspect", "-j", indexed).json["template_sha256"]
    )
    plain_cli.ok("patch", "--force", "--set", "folded=7", "-o", back, forced)
    assert Path(back).read_bytes() == Path(indexed).read_bytes()


def test_the_verifier_is_quoted_with_source_line_and_value(
    cli: Cli, compiled: Callable[..., str], net: VethPair
) -> None:
    path = compiled(OUT_OF_BOUNDS)
    target = f"tcx:{net.b.ifname}:ingress,netns={net.b.ns.name}"
    cli.ok("apply", "--name", "reader", "--target", target, path)
    running = cli("status", "-j", "reader").json["deployments"][0]["targets"][0]["prog"]["id"]
    left = cli.left()

    done = cli("apply", "--name", "reader", "--set", "slot=4", path)
    assert_refused(done, 1, "the verifier rejected program reader", "errno 13", ".bpf.c:", "slot=4")
    assert "row[slot]" in done.err
    assert "processed " not in done.err
    assert "processed " in cli("apply", "--name", "reader", "--set", "slot=4", "-v", path).err

    after = cli("status", "-j", "reader").json["deployments"][0]
    assert after["targets"][0]["live"] == {"state": "ours", "prog_id": running}
    assert not after["drift"]
    assert cli.left() == left
    as_json = cli("apply", "--name", "reader", "--set", "slot=4", "-j", path)
    assert as_json.json["result"] == "error"
    assert as_json.json["exit_code"] == 1


def test_a_missing_interface_or_namespace(cli: Cli, net: VethPair) -> None:
    before = held()
    here = f"netns={net.a.ns.name}"
    assert_refused(
        cli("apply", "--set", "foo=1", "--target", f"tcx:nosuch:ingress,{here}", MARK), 66, "nosuch", "veth0"
    )
    assert_refused(cli("apply", "--set", "foo=1", "--target", "tcx:x:ingress,netns=epnone", MARK), 66, "epnone")
    assert_refused(cli("apply", "--target", "cgroup:/nonexistent:connect4", MARK), 78, "no program")
    assert cli.left() == []
    assert held() == before


def test_no_program_for_the_target(cli: Cli, net: VethPair) -> None:
    target = f"xdp:{net.a.ifname},netns={net.a.ns.name}"
    assert_refused(
        cli("apply", "--set", "foo=1", "--target", target, MARK), 78, "no program of the object is of type xdp"
    )
    assert_refused(cli("apply", "--set", "foo=1", "--target", target + ",prog=nope", MARK), 66, "no program named nope")
    assert cli.left() == []


def test_a_busy_lock(cli: Cli) -> None:
    cli.ok("apply", "--set", "foo=1", MARK)
    with open(cli.layout.lock("mark"), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert_refused(cli("apply", "--set", "foo=2", "--lock-timeout", "50ms", MARK), 75, "being changed")
        assert_refused(cli("detach", "--lock-timeout", "0", "mark"), 75, "being changed")
    cli.ok("apply", "--set", "foo=2", MARK)


def test_without_privilege(cli: Cli, tmp_path: Path) -> None:
    """The kernel's refusal is told as what it is; what needs no kernel still works."""

    def unprivileged(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, ROOT / "scripts" / "elfpatch", *words]
            + ["--state-dir", cli.layout.state, "--bpffs", cli.layout.bpffs],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    for words in (["apply", "--set", "foo=1", MARK], ["check", "--set", "foo=1", MARK]):
        done = unprivileged(*words)
        assert_refused(Result(done.returncode, done.stdout, done.stderr), 77, "CAP_BPF")
    assert cli.left() == []
    for words in (
        ["inspect", MARK],
        ["plan", "--set", "foo=1", MARK],
        ["patch", "--set=foo=1", "-o", str(tmp_path / "o"), MARK],
    ):
        done = unprivileged(*words)
        assert done.returncode == 0, done.stderr


def test_a_big_endian_object_is_patched_but_never_loaded(
    cli: Cli, compiled: Callable[..., str], tmp_path: Path
) -> None:
    path = compiled(FOLDED, "--target=bpfeb")
    cli.ok("patch", "--set", "used=258", "-o", str(tmp_path / "out.o"), path)
    assert_refused(cli("apply", "--set", "used=2", path), 65, "big-endian")
    assert cli.left() == []


def test_a_bug_shows_no_traceback(plain_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from elfpatch.cli import inspect

    def broken(arguments: object) -> int:
        raise KeyError("surprise")

    monkeypatch.setattr(inspect, "run", broken)
    assert_refused(plain_cli("inspect", MARK), 70, "bug", "ELFPATCH_DEBUG")
