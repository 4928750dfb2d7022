"""config.h: what it puts into an object, and what the shipped templates say with it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.templates.support import CLANGS, SOURCES, compile_source

TEMPLATES = sorted(path.name.removesuffix(".bpf.c") for path in SOURCES.glob("*.bpf.c"))

EXAMPLE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "config.h"

#ifndef FOO_DEFAULT
#define FOO_DEFAULT 7
#endif
#ifndef EP_DEFAULT
#define EP_DEFAULT
#endif
#ifndef PORTS_DEFAULT
#define PORTS_DEFAULT
#endif

enum mode { MODE_OFF, MODE_ON };

struct inner {
	__u16 ports[4] CONFIG_DESC("a = b, \\"c\\"") CONFIG_PORT;
};

struct endpoint {
	__be32 ip4 CONFIG_IPV4 CONFIG_REQUIRED;
	__u8 ip6[16] CONFIG_IPV6;
	__u8 mac[6] CONFIG_MAC;
	__u64 timeout CONFIG_DURATION CONFIG_UNIT("ms") CONFIG_RANGE(1, 18446744073709551615);
	struct inner inner CONFIG_DESC("nested");
};

CONFIG __u32 foo CONFIG_DESC("a scalar") CONFIG_MAX(4294967295) = FOO_DEFAULT;
CONFIG __s16 bar CONFIG_MIN(-5) CONFIG_UNIT("B") CONFIG_SIZE = -1;
CONFIG __u16 ports[8] CONFIG_DESC("an array") CONFIG_PORT = { 80, PORTS_DEFAULT };
CONFIG enum mode mode CONFIG_FLAGS = MODE_ON;
CONFIG struct endpoint ep CONFIG_DESC("a struct") = { .timeout = 9, EP_DEFAULT };

SEC("socket")
int prog(struct __sk_buff *skb)
{
	__u32 i = skb->mark;

	if (i >= 8)
		return -1;
	return foo + bar + ports[i] + mode + ep.ip4 + ep.ip6[i] + (int)ep.timeout + ep.inner.ports[i & 3] + ep.mac[i & 3];
}

char _license[] SEC("license") = "Dual MIT/GPL";
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "example.bpf.c"
    path.write_text(EXAMPLE)
    return path


def btf(path: Path) -> list[dict]:
    dump = subprocess.run(["bpftool", "-j", "btf", "dump", "file", path], check=True, capture_output=True, text=True)
    return json.loads(dump.stdout)["types"]


def tags(path: Path) -> dict[str, list[str]]:
    """The tags of every variable and member as bpftool reads them: `ep` and `endpoint.ip4`."""
    types = btf(path)
    by_id = {each["id"]: each for each in types}
    found: dict[str, list[str]] = {}
    for each in types:
        if each["kind"] != "DECL_TAG":
            continue
        tagged = by_id[each["type_id"]]
        index = each["component_idx"]
        place = tagged["name"]
        if index not in (-1, 0xFFFFFFFF):
            place += "." + tagged["members"][index]["name"]
        found.setdefault(place, []).append(each["name"].removeprefix("elfpatch:"))
        assert each["name"].startswith("elfpatch:")
    return {place: sorted(texts) for place, texts in found.items()}


@pytest.mark.parametrize("clang", CLANGS)
def test_the_tags_are_in_the_object(source, tmp_path, clang):
    made = compile_source(source, tmp_path / "example.o", clang=clang)
    assert tags(made) == {
        "foo": ["desc=a scalar", "max=4294967295"],
        "bar": ["format=size", "min=-5", "unit=B"],
        "ports": ["desc=an array", "format=port"],
        "mode": ["format=flags"],
        "ep": ["desc=a struct"],
        "endpoint.ip4": ["format=ipv4", "required"],
        "endpoint.ip6": ["format=ipv6"],
        "endpoint.mac": ["format=mac"],
        "endpoint.timeout": ["format=duration", "max=18446744073709551615", "min=1", "unit=ms"],
        "endpoint.inner": ["desc=nested"],
        "inner.ports": ['desc=a = b, "c"', "format=port"],
    }


def run(path: Path, mark: int, pin: Path) -> int:
    """The return value of the only program of an object for a `skb->mark`."""
    subprocess.run(["bpftool", "prog", "load", path, pin], check=True, capture_output=True)
    data, ctx = path.with_suffix(".data"), path.with_suffix(".ctx")
    data.write_bytes(bytes(64))
    ctx.write_bytes(bytes(8) + mark.to_bytes(4, "little") + bytes(180))
    command = ["bpftool", "-j", "prog", "run", "pinned", pin, "data_in", data, "ctx_in", ctx]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    pin.unlink()
    return json.loads(done.stdout)["retval"]


@pytest.mark.parametrize("clang", CLANGS)
def test_as_constants_the_values_are_those_given_to_the_compiler(source, tmp_path, session_bpffs, clang):
    pin = session_bpffs / f"example_{clang[-2:]}"
    expected = 7 - 1 + 80 + 1 + 0 + 0 + 9 + 0 + 0
    for flags in ([], ["-DELFPATCH_CONSTANTS"]):
        assert run(compile_source(source, tmp_path / "example.o", *flags, clang=clang), 0, pin) == expected
    flags = [
        "-DFOO_DEFAULT=100",
        "-DEP_DEFAULT=.timeout = 1000, .mac[1] = 3, .inner.ports = { 1, 2 }",
        "-DPORTS_DEFAULT=[1] = 5",
    ]
    for more in ([], ["-DELFPATCH_CONSTANTS"]):
        made = compile_source(source, tmp_path / "example.o", *flags, *more, clang=clang)
        assert run(made, 1, pin) == 100 - 1 + 5 + 1 + 1000 + 2 + 3


def test_as_constants_scalars_cost_no_map(tmp_path, session_bpffs):
    def maps_of(*flags: str) -> int:
        made = compile_source(SOURCES / "mark.bpf.c", tmp_path / "mark.o", *flags)
        pin = session_bpffs / "mark_constants"
        subprocess.run(["bpftool", "prog", "load", made, pin], check=True, capture_output=True)
        shown = subprocess.run(["bpftool", "-j", "prog", "show", "pinned", pin], check=True, capture_output=True)
        pin.unlink()
        return len(json.loads(shown.stdout).get("map_ids", []))

    assert (maps_of(), maps_of("-DELFPATCH_CONSTANTS", "-DFOO_DEFAULT=42")) == (1, 0)


def test_a_compiler_without_tags_builds_the_same_variables(source, tmp_path):
    assert shutil.which("bpf-gcc"), "bpf-gcc is missing (apt install gcc-bpf)"
    made = tmp_path / "example.o"
    multiarch = subprocess.run(["gcc", "-print-multiarch"], check=True, capture_output=True, text=True).stdout.strip()
    command = ["bpf-gcc", "-O2", "-gbtf", "-I", SOURCES, "-idirafter", "/usr/include"]
    subprocess.run(
        [*command, "-idirafter", f"/usr/include/{multiarch}", "-c", source, "-o", made], check=True, capture_output=True
    )
    names = {each["name"] for each in btf(made) if each["kind"] == "VAR"}
    assert {"foo", "bar", "ports", "mode", "ep"} <= names


# --- the shipped templates


@pytest.mark.parametrize("clang", CLANGS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_variable_and_member_says_what_it_is(tmp_path, name, clang):
    made = compile_source(SOURCES / f"{name}.bpf.c", tmp_path / f"{name}.o", clang=clang)
    types = btf(made)
    by_id = {each["id"]: each for each in types}
    found = tags(made)
    (rodata,) = (each for each in types if each["kind"] == "DATASEC" and each["name"] == ".rodata")

    def strip(number: int) -> dict:
        each = by_id[number]
        while each["kind"] in ("CONST", "VOLATILE", "TYPEDEF", "ARRAY"):
            each = by_id[each["type_id"]]
        return each

    waiting = []
    for entry in rodata["vars"]:
        var = by_id[entry["type_id"]]
        if by_id[var["type_id"]]["kind"] not in ("CONST", "VOLATILE") or var["linkage"] == "static":
            continue
        waiting.append((var["name"], var["type_id"]))
    assert waiting
    while waiting:
        place, type_id = waiting.pop()
        assert any(text.startswith("desc=") for text in found.get(place, [])), place
        kind = strip(type_id)
        if kind["kind"] == "STRUCT" and kind["name"] != "in6_addr":
            waiting += [(f"{kind['name']}.{member['name']}", member["type_id"]) for member in kind["members"]]


REQUIRED = {
    "mark": [],
    "xdp_filter": [],
    "endpoint": ["ep.ip4=10.0.0.5"],
    "xdp_lb": ["service.vip=192.0.2.1"],
    "connect4": ["proxy.ip4=127.0.0.1", "proxy.port=15001"],
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_required_and_no_more(loader, name):
    template = str(loader.template(name))

    def apply(settings: list[str], status: int) -> str:
        return loader.elfpatch("apply", "--name", f"required_{name}", *set_options(settings), template, status=status)

    for left_out in REQUIRED[name]:
        path = left_out.partition("=")[0]
        assert path in apply([setting for setting in REQUIRED[name] if setting != left_out], 65)
    apply(REQUIRED[name], 0)
    loader.elfpatch("detach", f"required_{name}")


@pytest.mark.parametrize(
    "name, setting",
    [
        ("mark", "foo=4294967296"),
        ("endpoint", "ep.policy.ports[0]=65536"),
        ("endpoint", "ep.policy.ports[16]=1"),
        ("endpoint", "ep.policy.mode=POLICY_UNKNOWN"),
        ("endpoint", "ep.ip4=10.0.0.256"),
        ("endpoint", "ep.mac=02:00:00:00:00"),
        ("xdp_filter", "limits.burst=0"),
        ("xdp_filter", "limits.pps=10000001"),
        ("xdp_filter", "limits.prefix4=33"),
        ("xdp_filter", "limits.prefix6=0"),
        ("xdp_filter", "limits.prefix6=129"),
        ("xdp_filter", "limits.penalty=61m"),
        ("xdp_lb", "backends[0].weight=65536"),
        ("xdp_lb", "backends[16].weight=1"),
        ("xdp_lb", "service.protocol=LB_SCTP"),
        ("xdp_lb", "service.mtu=64Ki"),
        ("connect4", "proxy.port=0"),
        ("connect4", "rules[0].net=10.0.0.0/33"),
        ("connect4", "rules[8].port=1"),
    ],
)
def test_values_that_make_no_sense_are_refused(loader, tmp_path, name, setting):
    out = tmp_path / "out.o"
    said = loader.elfpatch("patch", "--set", setting, "-o", str(out), str(loader.template(name)), status=65)
    assert setting.partition("=")[0].partition("[")[0] in said
    assert not out.exists()


NATURAL = {
    "mark": ["foo=0b1010"],
    "xdp_filter": ["limits.penalty=250ms", "limits.prefix6=128", "dry_run=on"],
    "xdp_lb": ["service.mtu=1500B", "service.protocol=LB_UDP", "backends[15].mac=02:00:00:00:00:01"],
    "connect4": ["rules[7].net=10.0.0.0/8", "proxy.uid=4294967295", "proxy.ip4=127.0.0.1"],
    "endpoint": ["ep.ip6=fd00::1", "ep.policy.serve=yes", "ep.mac=02:00:00:00:00:01", "ep.id=0xffff_ffff"],
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_natural_values_are_understood(loader, tmp_path, name):
    """The notations that the tags promise: durations, sizes, prefixes, addresses, names of an enum."""
    options = set_options(NATURAL[name])
    loader.elfpatch("patch", *options, "-o", str(tmp_path / "out.o"), str(loader.template(name)))


def set_options(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]
