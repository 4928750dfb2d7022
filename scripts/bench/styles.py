"""One program (packets.bpf.c) with the same settings given in several ways, each loaded by elfpatch itself."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from elfpatch import index as ix
from elfpatch.deploy.load import load
from elfpatch.deploy.prepare import prepare
from elfpatch.deploy.select import select
from elfpatch.deploy.source import open_template
from elfpatch.kernel import bpf
from elfpatch.patch.image import Image, image_to_load
from elfpatch.patch.setting import from_set
from scripts.build_templates import compile_object

SOURCE = Path(__file__).with_name("packets.bpf.c")

# Members of `struct config` and switches, as --set takes them
MEMBERS = {
    "network": "10.1.0.0",
    "netmask": "255.255.0.0",
    "service": "10.9.0.1",
    "admin": "10.1.0.7",
    "id": "77",
    "ports[0]": "53",
    "ports[1]": "80",
    "ports[2]": "853",
    "ports[3]": "443",
    "port_low": "8000",
    "port_high": "8099",
    "vlan": "0",
    "max_length": "1480",
    "min_ttl": "2",
    "dscp": "10",
    "mac": "02:00:00:00:00:0a",
    "gateway": "02:00:00:00:00:0b",
    "pass_other": "true",
}
SWITCHES = {"accounting": "true", "deny_list": "false", "debug": "false"}

COMPILED, KEYS, RODATA, MAP = range(4)


@dataclass(frozen=True)
class Style:
    """A way to give the settings: the macro that chooses it in the source, the map that then holds them ("": none), and
    whether elfpatch specialises the program."""

    name: str
    kind: int
    flag: str = ""
    holder: str = ""
    specialize: bool = False


CONSTANTS = Style("compiled-in constants", COMPILED, "-DELFPATCH_CONSTANTS")
STYLES = (
    CONSTANTS,
    Style("keys + immediates, specialised", KEYS, specialize=True),
    Style("frozen .rodata, specialised", RODATA, "-DCONFIG_RODATA", ".rodata", specialize=True),
    Style("keys + immediates", KEYS),
    Style("frozen .rodata", RODATA, "-DCONFIG_RODATA", ".rodata"),
    Style("array map", MAP, "-DCONFIG_MAP=BPF_MAP_TYPE_ARRAY", "settings"),
    Style("hash map", MAP, "-DCONFIG_MAP=BPF_MAP_TYPE_HASH", "settings"),
)


@dataclass(frozen=True)
class Sizes:
    """Instructions as loaded, as the verifier walked them, and as it left them; bytes of machine code. Bytes of kernel
    memory are those that a program or map is charged with (machine code is not among them): `settings_memory` is that
    of the map that holds the settings, `maps_memory` by name that of the other maps of an instance."""

    insns: int
    verified: int
    xlated: int
    jited_bytes: int
    memory: int
    settings_memory: int
    maps_memory: dict[str, int]


@dataclass(frozen=True)
class Running:
    """A loaded program."""

    fd: int
    sizes: Sizes


@dataclass(frozen=True)
class Build:
    """A style, its image, and the settings as a `struct config`, for the map that may hold them."""

    style: Style
    image: Image
    value: bytes


def build_all(work: Path, clang: str) -> list[Build]:
    """Every style compiled and patched. Objects go into the folder `work`."""
    value = settings_bytes(work, clang)
    return [Build(style, image_of(style, work, clang), value) for style in STYLES]


def load_build(build: Build, opened: ExitStack) -> Running:
    """Load it as `elfpatch apply` would; `opened` closes it."""
    style, image = build.style, build.image
    index = image.template.index
    prepared = prepare(image, select(index, []), specialize=style.specialize)
    loaded = opened.enter_context(load(image, prepared))
    names = {row: index.row(ix.Map, row).name for row in loaded.maps}
    holders = {row for row, name in names.items() if style.holder and name.endswith(style.holder)}
    if style.kind == MAP:
        (row,) = holders
        bpf.map_update(loaded.maps[row], bytes(4), build.value)
    ((row, fd),) = loaded.progs.items()
    info = bpf.prog_info(fd)
    sizes = Sizes(
        insns=len(prepared.programs[row].insns) // 8,
        verified=info.verified_insns,
        xlated=info.xlated_len // 8,
        jited_bytes=info.jited_len,
        memory=memlock(fd),
        settings_memory=sum(memlock(loaded.maps[row]) for row in holders),
        maps_memory={name: memlock(loaded.maps[row]) for row, name in names.items() if row not in holders},
    )
    return Running(fd, sizes)


def image_of(style: Style, work: Path, clang: str) -> Image:
    """The object of a style, compiled, with the settings in it (unless a map will hold them)."""
    path = work / f"packets-{style.flag.rpartition('_')[2].lower() or 'keys'}.o"
    if not path.exists():
        flags = (style.flag, *constants()) if style.kind == COMPILED else (style.flag,) if style.flag else ()
        compile_object(SOURCE, path, *flags, clang=clang)
    members = {f"config.{name}": text for name, text in MEMBERS.items()}
    given = {
        COMPILED: {},
        KEYS: members | SWITCHES,
        RODATA: members | {f"config.{name}": text for name, text in SWITCHES.items()},
        MAP: {},
    }[style.kind]
    return image_to_load(open_template(str(path)), [from_set(f"{name}={text}") for name, text in given.items()])


def settings_bytes(work: Path, clang: str) -> bytes:
    """The settings as a `struct config`, switches included: what elfpatch writes into .rodata."""
    (style,) = (one for one in STYLES if one.kind == RODATA and not one.specialize)
    image = image_of(style, work, clang)
    ((_, variable),) = image.template.index.variables_named("config")
    return image.bytes_at(variable.section, variable.offset, variable.size)


def constants() -> list[str]:
    """The settings as macros, for the compiler: made from the words, not by elfpatch, and so a check of it too."""
    designators = ", ".join(f".{name} = {as_c(text)}" for name, text in MEMBERS.items())
    switches = [f"-D{name.upper()}_DEFAULT={as_c(text)}" for name, text in SWITCHES.items()]
    return [f"-DCONFIG_DEFAULT={designators}", *switches]


def as_c(text: str) -> str:
    """A value of the command line as a C initializer."""
    if text in ("true", "false"):
        return str(int(text == "true"))
    if text.count(".") == 3:
        return hex(int.from_bytes(socket.inet_aton(text), sys.byteorder))
    if ":" in text:
        return "{ " + ", ".join(f"0x{byte}" for byte in text.split(":")) + " }"
    return text


def memlock(fd: int) -> int:
    """Bytes of kernel memory that the program or map behind `fd` is charged with."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))
