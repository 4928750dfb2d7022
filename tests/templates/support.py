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
from dataclasses import dataclass, replace
from functools import cache
from mmap import MAP_SHARED, PAGESIZE, PROT_READ, PROT_WRITE, mmap
from pathlib import Path

from elfpatch import index as ix
from elfpatch.deploy import load as deploy
from elfpatch.deploy.prepare import prepare
from elfpatch.deploy.select import select
from elfpatch.kernel import bpf
from elfpatch.patch.image import Image, Template, make_image
from elfpatch.patch.setting import from_set
from elfpatch.template.build import build
from tests.support.net import unique
from tests.support.packets import ip4, ip6

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


def as_options(settings: Settings) -> list[str]:
    """`settings` as options of the command line."""
    return [word for path, text in settings.items() for word in ("--set", f"{path}={text}")]


def _as_c(text: str) -> str:
    """A value of the command line as a C initializer."""
    units = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
    if text in ("true", "false", "on", "off"):
        return str(int(text in ("true", "on")))
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
    """A map that the program uses. It does not own its file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.info = bpf.map_info(fd)

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


# Flags in the length of a record of a ring buffer; see BPF_RINGBUF_BUSY_BIT in the kernel's bpf.h.
RECORD_BUSY, RECORD_DISCARDED = 1 << 31, 1 << 30


def consume(ring: Map) -> list[bytes]:
    """The records of a BPF_MAP_TYPE_RINGBUF, which makes room for others. The kernel maps the position of the consumer
    in the first page, that of the producer in the second, and then the data twice in a row, so no record is torn."""
    size, found = ring.info.max_entries, []
    with (
        mmap(ring.fd, PAGESIZE, MAP_SHARED, PROT_READ | PROT_WRITE) as consumer,
        mmap(ring.fd, PAGESIZE + 2 * size, MAP_SHARED, PROT_READ, offset=PAGESIZE) as producer,
    ):
        (at,), (end,) = struct.unpack_from("Q", consumer), struct.unpack_from("Q", producer)
        while at < end:
            start = PAGESIZE + at % size
            (length,) = struct.unpack_from("I", producer, start)
            assert not length & RECORD_BUSY, "a program is still writing"
            discarded, length = length & RECORD_DISCARDED, length & ~RECORD_DISCARDED
            if not discarded:
                found.append(producer[start + 8 : start + 8 + length])
            at += 8 + (length + 7) // 8 * 8
        struct.pack_into("Q", consumer, 0, at)
    return found


@dataclass(frozen=True)
class Event:
    """`struct event` of events.h; `verdict` by its name, `time` in nanoseconds of CLOCK_MONOTONIC."""

    time: int
    id: int
    ifindex: int
    length: int
    verdict: str
    head: bytes


def event_of(packet: bytes, verdict: str, *, id: int = 0, ifindex: int = 1) -> Event:
    """The event that a packet should give, at time 0. TEST_RUN lets packets come from `lo`, number 1."""
    return Event(0, id, ifindex, len(packet), verdict, packet[:64].ljust(64, b"\0"))


def untimed(events: list[Event]) -> list[Event]:
    return [replace(event, time=0) for event in events]


@dataclass
class Loaded:
    """A program that is loaded, with its maps. `verdicts` names the rows of its map `counters`."""

    program: str
    verdicts: list[str]
    fd: int
    maps: dict[str, Map]

    def run(self, packet: bytes, ctx: bytes = b"", *, repeat: int = 1) -> Result:
        # With room for a `struct xdp_md` to come back, the kernel takes an empty one for the packet's bounds.
        ctx_size = 0 if self.program.startswith("xdp") else SK_BUFF_SIZE
        run = bpf.prog_test_run(
            self.fd, packet, ctx, repeat=repeat, data_out_size=len(packet) + 256, ctx_out_size=ctx_size
        )
        return Result(run.retval, run.data_out, run.ctx_out)

    def map(self, name: str) -> Map:
        return self.maps[name]

    def counters(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes of every verdict that was reached."""
        found = {name: self.map("counters").counter(number) for number, name in enumerate(self.verdicts)}
        return {name: counter for name, counter in found.items() if counter[0]}

    def events(self) -> list[Event]:
        """What was reported since the last call."""
        found = [struct.unpack("QIIII64s", record) for record in consume(self.map("events"))]
        return [Event(*head, self.verdicts[verdict], packet) for *head, verdict, packet in found]

    def deny(self, prefix: str) -> None:
        """Put a prefix, e.g. `10.0.0.0/8`, into the list of xdp_filter."""
        address, length = prefix.split("/")
        name, packed = ("deny6", ip6(address)) if ":" in address else ("deny4", ip4(address))
        self.map(name).put(struct.pack("I", int(length)) + packed, bytes(8))


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

    def image(self, name: str, settings: Settings) -> Image:
        data = self.template(name).read_bytes()
        template = Template(f"{name}.o", data, ix.Index(ix.find(data)))
        return make_image(template, [from_set(f"{path}={text}") for path, text in settings.items()])

    def load(self, name: str, settings: Settings, how: str = "patched") -> Loaded:
        """`compiled` is the source compiled with `settings`. The others are the template: `patched` by an apply,
        `written` to an object that libbpf loads, `specialized`, or neither (`plain`) and just loaded."""
        match how:
            case "patched":
                return self.attach(name, settings)
            case "plain" | "specialized":
                return self._in_memory(name, settings, specialize=how == "specialized")
            case "compiled":
                path = compile_template(name, self.work / f"{unique(name)}.o", *as_constants(settings))
            case "written":
                path = self.work / f"{unique(name)}.o"
                self.elfpatch("patch", *as_options(settings), "-o", str(path), str(self.template(name)))
            case _:
                raise ValueError(how)
        pins = self.bpffs / how / path.stem
        bpftool_load(path, pins)
        self._undo.callback(shutil.rmtree, pins)
        return self._pinned(name, pins)

    def attach(self, name: str, settings: Settings, *targets: str) -> Loaded:
        """Apply a template to targets of the command line, e.g. `tcx:veth0:ingress,netns=NAME`."""
        deployment = unique(f"{name}_")
        options = as_options(settings) + [word for target in targets for word in ("--target", target)]
        self.elfpatch("apply", "--name", deployment, *options, str(self.template(name)))
        self._undo.callback(self.elfpatch, "detach", deployment)
        return self._pinned(name, self.bpffs / "elfpatch" / deployment)

    def _in_memory(self, name: str, settings: Settings, *, specialize: bool) -> Loaded:
        image = self.image(name, settings)
        index = image.template.index
        prepared = prepare(image, select(index, []), specialize=specialize)
        made = self._undo.enter_context(deploy.load(image, prepared))
        (fd,) = made.progs.values()
        return self._loaded(name, fd, {index.row(ix.Map, row).name: map_fd for row, map_fd in made.maps.items()})

    def _pinned(self, name: str, pins: Path) -> Loaded:
        def opened(pin: Path) -> int:
            fd = bpf.obj_get(str(pin))
            self._undo.callback(os.close, fd)
            return fd

        maps = {pin.name: opened(pin) for pin in (pins / "maps").iterdir()}
        return self._loaded(name, opened(pins / "progs" / name), maps)

    def _loaded(self, name: str, fd: int, maps: dict[str, int]) -> Loaded:
        verdicts = verdict_names(name) if name != "mark" else []
        return Loaded(name, verdicts, fd, {name: Map(map_fd) for name, map_fd in maps.items()})

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
