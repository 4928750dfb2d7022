"""Maps that survive a reload: which live map a definition may go on with, and what differs when it may not.

A map that the object defines holds state (counters, connections), so the next generation goes on with the live one. A
frozen map holds configuration and is always made anew. A prog array is made anew, too: refilling the live one would
change the running generation. `.data` and `.bss` are both configuration and state, see `Carried`.
"""

from __future__ import annotations

import os

from elfpatch import index as ix
from elfpatch.deploy.load import effective_entries, possible_cpus
from elfpatch.errors import BadConfiguration, ElfpatchError, raise_all
from elfpatch.kernel import abi, bpf, bpffs
from elfpatch.patch.image import make_image
from elfpatch.patch.setting import from_set

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.deploy.paths import Layout
    from elfpatch.deploy.prepare import Prepared
    from elfpatch.deploy.record import Record
    from elfpatch.patch.image import Image

_DEVMAPS = (abi.MAP_TYPE_DEVMAP, abi.MAP_TYPE_DEVMAP_HASH)
_LRU_HASHES = (abi.MAP_TYPE_LRU_HASH, abi.MAP_TYPE_LRU_PERCPU_HASH)


class Carried:
    """What the next generation takes over: `reuse` fds by row of MAPS, and for `.data` and `.bss` sections whose
    configuration changes `contents`: the live bytes with the changed values in them, by row of SECTIONS. `copied` and
    `replaced` are the names of maps that were copied so, or given up because --replace-maps was said. `ids`: the ids of
    reused maps."""

    __slots__ = ("contents", "copied", "ids", "replaced", "reuse")

    def __init__(self) -> None:
        self.reuse: dict[int, int] = {}
        self.ids: dict[int, int] = {}
        self.contents: dict[int, bytes] = {}
        self.copied: list[str] = []
        self.replaced: list[str] = []

    def close(self) -> None:
        for fd in self.reuse.values():
            os.close(fd)
        self.reuse = {}


def pin_path(layout: Layout, name: str, definition: ix.Map, section: str = "") -> str:
    """Where the map of a definition is pinned: shared by name when the object asks for that, else the deployment's."""
    if definition.pinning:
        return layout.shared_map(definition.name)
    return layout.map(name, section or definition.name)


def is_state(definition: ix.Map) -> bool:
    """Whether a map is kept for the next generation."""
    frozen = definition.section >= 0 and definition.flags & abi.F_RDONLY_PROG
    return not frozen and not is_private_prog_array(definition)


def is_private_prog_array(definition: ix.Map) -> bool:
    """Whether a map is a prog array that each generation has for itself. It must be pinned all the same: the kernel
    empties a prog array when the last file descriptor and pin are gone, whoever still calls through it."""
    return definition.type == abi.MAP_TYPE_PROG_ARRAY and not definition.pinning


def carry(
    layout: Layout, name: str, image: Image, prepared: Prepared, record: Record | None, *, replace: bool
) -> Carried:
    """Find the live maps of a deployment that its next generation uses. Raises BadConfiguration with every difference
    of every map that does not fit, unless `replace`."""
    carried = Carried()
    index = image.template.index
    problems: list[ElfpatchError] = []
    if not bpffs.is_mounted(layout.bpffs):
        return carried
    try:
        for row in prepared.maps:
            definition = index.row(ix.Map, row)
            if not is_state(definition):
                continue
            if definition.section >= 0:
                _carry_data(layout, name, image, row, definition, record, carried)
            elif record is not None or definition.pinning:  # pins without a record are no deployment's
                _carry_map(layout, name, row, definition, carried, problems, replace=replace)
        raise_all(problems)
    except BaseException:
        carried.close()
        raise
    return carried


def _carry_map(
    layout: Layout,
    name: str,
    row: int,
    definition: ix.Map,
    carried: Carried,
    problems: list[ElfpatchError],
    *,
    replace: bool,
) -> None:
    path = pin_path(layout, name, definition)
    fd = bpffs.open_pin(path)
    if fd is None:
        return
    try:
        live = bpf.map_info(fd)
        wrong = differences(definition, live)
    except ElfpatchError:
        os.close(fd)
        raise
    if not wrong:
        carried.reuse[row] = fd
        carried.ids[row] = live.map_id
        return
    os.close(fd)
    if replace and not definition.pinning:
        carried.replaced.append(definition.name)
        return
    hint = "remove the pin" if definition.pinning else "--replace-maps gives up its contents"
    problems.append(
        BadConfiguration(
            f"the live map differs from what the object wants: {'; '.join(wrong)}",
            where=f"map {definition.name} at {path}",
            hint=hint,
        )
    )


def differences(definition: ix.Map, live: bpf.MapInfo) -> list[str]:
    """Every way in which a live map differs from a definition, in words."""
    pairs = (
        ("type", definition.type, live.type),
        ("key size", definition.key_size, live.key_size),
        ("value size", definition.value_size, live.value_size),
        ("max entries", _kernel_entries(definition), live.max_entries),
        ("flags", _kernel_flags(definition), live.flags),
        ("map_extra", definition.extra, live.map_extra),
    )
    return [
        f"{what} {_shown(what, have)} instead of {_shown(what, want)}" for what, want, have in pairs if want != have
    ]


def _kernel_flags(definition: ix.Map) -> int:
    """The flags that the kernel tells of a map made as defined: it makes device maps read-only for programs."""
    return (
        definition.flags
        | (abi.F_NUMA_NODE if definition.numa_node >= 0 else 0)
        | (abi.F_RDONLY_PROG if definition.type in _DEVMAPS else 0)
    )


def _kernel_entries(definition: ix.Map) -> int:
    """The entries that the kernel tells of a map made as defined: of an LRU list per CPU all are equally long."""
    entries = effective_entries(definition)
    if definition.type in _LRU_HASHES and definition.flags & abi.F_NO_COMMON_LRU:
        return -(-entries // possible_cpus()) * possible_cpus()
    return entries


def _shown(what: str, number: int) -> str:
    if what == "type":
        from elfpatch.uapi import MAP_TYPES

        return MAP_TYPES[number] if number < len(MAP_TYPES) else str(number)
    return f"{number:#x}" if what == "flags" else str(number)


def _carry_data(
    layout: Layout, name: str, image: Image, row: int, definition: ix.Map, record: Record | None, carried: Carried
) -> None:
    """A writable data section: the live map itself when its configuration stays as it is, else a copy of its live
    bytes with the changed variables set. Of another template nothing is taken over: its variables lie elsewhere."""
    index = image.template.index
    if record is None or record.template_sha256 != index.template_sha256.hex():
        return
    section = image.template.section(definition.section)
    fd = bpffs.open_pin(pin_path(layout, name, definition, section.name))
    if fd is None:
        return
    try:
        info = bpf.map_info(fd)
        fits = not differences(definition, info)
        same = record.sections.get(section.name) == section_digest(image, definition.section)
        if fits and same:
            carried.reuse[row] = fd
            carried.ids[row] = info.map_id
            fd = -1
        elif fits:
            live = bpf.map_lookup(fd, b"\0\0\0\0", section.size)
            carried.contents[definition.section] = _overlaid(image, definition.section, record, live)
            carried.copied.append(section.name)
    finally:
        if fd >= 0:
            os.close(fd)


def section_digest(image: Image, number: int) -> str:
    """SHA-256 of the initial contents of a data section; `default` when they are the template's (a `.bss` may have
    megabytes, which are not worth hashing)."""
    if not image.touched(number):
        return "default"
    held = image.section_bytes(number)
    if held == image.template.section_bytes(number):
        return "default"
    digest = ix.sha256()
    digest.update(held)
    return digest.hexdigest()


def _overlaid(image: Image, number: int, record: Record, live: bytes) -> bytes:
    """The live bytes with each variable whose configuration changed set to its new value.

    What the running program writes between this copy and the swap is lost, so this is only done when it must be.
    """
    settings = [from_set(f"{path}={text}") for path, text in record.settings]
    before = make_image(image.template, settings, force=True)
    old, new = before.section_bytes(number), image.section_bytes(number)
    mixed = bytearray(live)
    for place in (*before.places, *image.places):
        span = slice(place.offset, place.offset + place.size)
        if place.section == number and old[span] != new[span]:
            mixed[span] = new[span]
    return bytes(mixed)
