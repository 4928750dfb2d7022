"""Loads a shipped template with a configuration, and runs it.

Every behaviour is tested on two programs that must not differ: the template as patched, and the same source compiled
with the configuration as constants (`-DELFPATCH_CONSTANTS`), which is the oracle for the patching.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from elfpatch.kernel import bpf
from elfpatch.template.build import build
from tests.support.net import unique

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "bpf_templates"
FIXTURES = ROOT / "fixtures" / "templates"
CLANGS = ("clang-14", "clang-16", "clang-19")
CLANG = os.environ.get("ELFPATCH_TEST_CLANG", "")  # build the templates under test with this compiler
OBJECTS = os.environ.get("ELFPATCH_TEST_TEMPLATES", "")  # or take them from this folder

XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = 1, 2, 3, 4
SK_BUFF_SIZE = 192  # struct __sk_buff
TC_NEXT, TC_SHOT = 0xFFFFFFFF, 2

Settings = dict[str, str]


# --- objects


def compile_template(name: str, out: Path, *flags: str) -> Path:
    """Compile a shipped template as `make templates` does."""
    return compile_source(SOURCES / f"{name}.bpf.c", out, *flags)


def compile_source(source: Path, out: Path, *flags: str, clang: str = CLANG or "clang-19") -> Path:
    multiarch = subprocess.run(["gcc", "-print-multiarch"], check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(
        [clang, "-O2", "-g", "-Wall", "-Werror", "--target=bpf", "-mcpu=v3", "-I", str(SOURCES)]
        + [f"-I/usr/include/{multiarch}", *flags, "-c", str(source), "-o", str(out)],
        check=True,
    )
    return out


def as_constants(settings: Settings) -> list[str]:
    """The compiler flags that make `settings` constants of the program; see config.h."""
    values: dict[str, list[str]] = {}
    for path, text in settings.items():
        name, rest = re.fullmatch(r"(\w+)(.*)", path).groups()
        values.setdefault(name, []).append(f"{rest} = {_as_c(text)}" if rest else _as_c(text))
    return ["-DELFPATCH_CONSTANTS", *(f"-D{name.upper()}_DEFAULT={', '.join(made)}" for name, made in values.items())]


def _as_c(text: str) -> str:
    """A value of the command line as a C initializer."""
    units = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
    if text in ("true", "false"):
        return str(int(text == "true"))
    if match := re.fullmatch(r"([\d.]+)/(\d+)", text):
        return f"{{ .prefixlen = {match[2]}, .address = {_as_c(match[1])} }}"
    if re.fullmatch(r"\d+(\.\d+){3}", text):
        return hex(int.from_bytes(socket.inet_aton(text), sys.byteorder))
    if re.fullmatch(r"[\da-f]{2}(:[\da-f]{2}){5}", text):
        return "{ " + ", ".join(f"0x{byte}" for byte in text.split(":")) + " }"
    if ":" in text:
        return "{ { { " + ", ".join(map(str, socket.inet_pton(socket.AF_INET6, text))) + " } } }"
    if match := re.fullmatch(r"(\d+)([num]?s)", text):
        return str(int(match[1]) * units[match[2]])
    return text


# --- loaded programs


@dataclass(frozen=True)
class Result:
    verdict: int
    packet: bytes
    ctx: bytes

    @property
    def mark(self) -> int:
        """`mark` of a `struct __sk_buff`."""
        return struct.unpack_from("I", self.ctx, 8)[0]


@cache
def possible_cpus() -> int:
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return 1 + max(int(number) for number in re.findall(r"\d+", text))


class Map:
    """A map that the program uses, by its pin."""

    def __init__(self, pin: Path) -> None:
        self.fd = bpf.obj_get(str(pin))
        self.info = bpf.map_info(self.fd)

    def put(self, key: bytes, value: bytes) -> None:
        bpf.map_update(self.fd, key, value)

    def get(self, key: bytes) -> bytes:
        return bpf.map_lookup(self.fd, key, self.info.value_size)

    def keys(self) -> list[bytes]:
        found: list[bytes] = []
        key = bpf.map_next_key(self.fd, None, self.info.key_size)
        while key is not None:
            found.append(key)
            key = bpf.map_next_key(self.fd, key, self.info.key_size)
        return found

    def counter(self, number: int) -> tuple[int, int]:
        """(packets, bytes) of a per-CPU `struct counter`, over all CPUs."""
        raw = bpf.map_lookup(self.fd, struct.pack("I", number), 16 * possible_cpus())
        values = struct.unpack(f"{2 * possible_cpus()}Q", raw)
        return sum(values[::2]), sum(values[1::2])


@dataclass
class Loaded:
    """A program that is loaded and pinned, with its maps. `verdicts` names the rows of its map `counters`."""

    pins: Path
    program: str
    verdicts: list[str]
    _maps: dict[str, Map] = field(default_factory=dict)

    @cached_property
    def fd(self) -> int:
        return bpf.obj_get(str(self.pins / "progs" / self.program))

    def run(self, packet: bytes, ctx: bytes = b"", *, repeat: int = 1) -> Result:
        # With room for a `struct xdp_md` to come back, the kernel takes an empty one for the packet's bounds.
        ctx_size = 0 if self.program.startswith("xdp") else SK_BUFF_SIZE
        run = bpf.prog_test_run(
            self.fd, packet, ctx, repeat=repeat, data_out_size=len(packet) + 256, ctx_out_size=ctx_size
        )
        return Result(run.retval, run.data_out, run.ctx_out)

    def map(self, name: str) -> Map:
        if name not in self._maps:
            self._maps[name] = Map(self.pins / "maps" / name)
        return self._maps[name]

    def counters(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes of every verdict that was reached."""
        found = {name: self.map("counters").counter(number) for number, name in enumerate(self.verdicts)}
        return {name: counter for name, counter in found.items() if counter[0]}

    def close(self) -> None:
        if "fd" in vars(self):
            os.close(self.fd)
        for opened in self._maps.values():
            os.close(opened.fd)


def verdict_names(name: str) -> list[str]:
    """The enumerators of `enum verdict` of a template, in order."""
    body = re.search(r"enum verdict \{(.*?)\bVERDICTS\b", (SOURCES / f"{name}.bpf.c").read_text(), re.S)
    assert body is not None
    return re.findall(r"\b[A-Z][A-Z0-9_]*\b", re.sub(r"/\*.*?\*/", "", body[1], flags=re.S))


class Loader:
    """Makes templates, loads them under a bpffs of its own, and takes all of it away again."""

    def __init__(self, work: Path, bpffs: Path) -> None:
        self.work = work
        self.bpffs = bpffs
        self._undo = ExitStack()

    def template(self, name: str) -> Path:
        """The object under test: of ELFPATCH_TEST_TEMPLATES, or the committed one, or built here."""
        if OBJECTS:
            return Path(OBJECTS) / f"{name}.o"
        if not CLANG and (FIXTURES / f"{name}.o").exists():
            return FIXTURES / f"{name}.o"
        out = self.work / "templates" / f"{name}.o"
        if not out.exists():
            out.parent.mkdir(exist_ok=True)
            compile_template(name, out)
            out.write_bytes(build(out.read_bytes(), name))
        return out

    def load(self, name: str, settings: Settings, how: str = "patched") -> Loaded:
        """`how`: `patched` is the template with `settings`, `compiled` the source compiled with them."""
        if how == "patched":
            return self.attach(name, settings)
        deployment = unique(f"{name}_")
        compiled = compile_template(name, self.work / f"{deployment}.o", *as_constants(settings))
        pins = self.bpffs / "compiled" / deployment
        bpftool_load(compiled, pins)
        self._undo.callback(shutil.rmtree, pins)
        return self._loaded(name, pins)

    def attach(self, name: str, settings: Settings, *targets: str) -> Loaded:
        """Apply a template to targets of the command line, e.g. `tcx:veth0:ingress,netns=NAME`."""
        deployment = unique(f"{name}_")
        options = [word for path, text in settings.items() for word in ("--set", f"{path}={text}")]
        options += [word for target in targets for word in ("--target", target)]
        self.elfpatch("apply", "--name", deployment, *options, str(self.template(name)))
        self._undo.callback(self.elfpatch, "detach", deployment)
        return self._loaded(name, self.bpffs / "elfpatch" / deployment)

    def _loaded(self, name: str, pins: Path) -> Loaded:
        loaded = Loaded(pins, name, verdict_names(name) if name != "mark" else [])
        self._undo.callback(loaded.close)
        return loaded

    def elfpatch(self, verb: str, *arguments: str, status: int = 0) -> str:
        """Run the command line with this loader's folders; what it wrote to standard error."""
        command = [sys.executable, str(ROOT / "scripts" / "elfpatch"), verb, *arguments]
        folders = {"ELFPATCH_STATE_DIR": str(self.work / "state"), "ELFPATCH_BPFFS": str(self.bpffs)}
        environment = {**os.environ, **folders, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
        assert done.returncode == status, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stderr

    def close(self) -> None:
        self._undo.close()


def bpftool_load(path: Path, pins: Path) -> None:
    """Load all programs of an object with bpftool, pinned as elfpatch pins them."""
    (pins / "maps").mkdir(parents=True)  # bpftool makes only the last folder of each path
    done = subprocess.run(
        ["bpftool", "prog", "loadall", str(path), str(pins / "progs"), "pinmaps", str(pins / "maps")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
