"""An image -> loaded programs and maps. Nothing is pinned or attached here; closing what was loaded leaves no trace.

The order is the kernel's: BTF, maps, contents of data maps and their freezing (only a frozen read-only map's bytes are
constants for the verifier, so dead code goes), programs, and last the initial elements that name maps or programs.
"""

from __future__ import annotations

import os
from errno import E2BIG, EINVAL, EOPNOTSUPP
from struct import pack, pack_into

from elfpatch import index as ix
from elfpatch.deploy.select import needs_btf_target
from elfpatch.deploy.shared import Shared
from elfpatch.errors import BadObject, SyscallFailed, Unsupported
from elfpatch.kernel import abi, bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable
    from types import TracebackType

    from elfpatch.deploy.prepare import Prepared, Ready
    from elfpatch.deploy.reuse import Carried
    from elfpatch.deploy.shared import Held
    from elfpatch.errors import ElfpatchError
    from elfpatch.patch.image import Image

_RINGBUFS = (abi.MAP_TYPE_RINGBUF, abi.MAP_TYPE_USER_RINGBUF)
# Types whose map_alloc_check or check_btf refuses type ids for key and value (libbpf: bpf_object__create_map)
_WITHOUT_BTF = (
    abi.MAP_TYPE_PROG_ARRAY,
    abi.MAP_TYPE_PERF_EVENT_ARRAY,
    abi.MAP_TYPE_CGROUP_ARRAY,
    abi.MAP_TYPE_STACK_TRACE,
    abi.MAP_TYPE_ARRAY_OF_MAPS,
    abi.MAP_TYPE_HASH_OF_MAPS,
    abi.MAP_TYPE_DEVMAP,
    abi.MAP_TYPE_DEVMAP_HASH,
    abi.MAP_TYPE_CPUMAP,
    abi.MAP_TYPE_XSKMAP,
    abi.MAP_TYPE_SOCKMAP,
    abi.MAP_TYPE_SOCKHASH,
    abi.MAP_TYPE_QUEUE,
    abi.MAP_TYPE_STACK,
    abi.MAP_TYPE_RINGBUF,
    abi.MAP_TYPE_USER_RINGBUF,
    abi.MAP_TYPE_BLOOM_FILTER,
)


class Loaded:
    """What was loaded: fds of `progs` by row of PROGRAMS and of `maps` by row of MAPS. `reused` are the rows of maps
    that were not made here. `with` closes what is not shared with others and gives the rest back."""

    __slots__ = ("_infos", "_own", "_shared", "_store", "btf", "identity", "maps", "notes", "progs", "reused")

    def __init__(self, store: Shared) -> None:
        self.btf = -1
        self.maps: dict[int, int] = {}
        self.progs: dict[int, int] = {}
        self.reused: set[int] = set()
        self.notes: list[str] = []
        self.identity: dict[int, object] = {}  # of maps that others may use, too: equal for one and the same map
        self._store = store
        self._shared: list[Held] = []
        self._own: list[int] = []
        self._infos: dict[int, Held | bpf.ProgInfo] = {}

    def own(self, fd: int) -> int:
        """Close this fd with the others."""
        self._own.append(fd)
        return fd

    def share(self, key: Hashable, make: Callable[[], int], hooks: Collection[str] = ()) -> Held | None:
        """`Shared.take`, given back with the others."""
        one = self._store.take(key, make, hooks)
        if one is not None:
            self._shared.append(one)
        return one

    def add_program(self, row: int, one: Held | int) -> None:
        if isinstance(one, int):
            self.progs[row] = self.own(one)
        else:
            self.progs[row] = one.fd
            self._infos[row] = one

    def info(self, row: int) -> bpf.ProgInfo:
        """What the kernel says of a program, asked once."""
        known = self._infos.get(row)
        if isinstance(known, bpf.ProgInfo):
            return known
        if known is not None and known.info is not None:
            return known.info
        info = bpf.prog_info(self.progs[row])
        if known is None:
            self._infos[row] = info
        else:
            known.info = info
        return info

    def close(self) -> None:
        for fd in self._own:
            os.close(fd)
        for one in self._shared:
            self._store.give_back(one)
        self._own, self._shared = [], []

    def __enter__(self) -> Loaded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    image: Image,
    prepared: Prepared,
    carried: Carried | None = None,
    store: Shared | None = None,
    hooks: dict[int, list[str]] | None = None,
) -> Loaded:
    """Load programs and the maps that they need.

    `carried`: live maps, and contents, to go on with; its fds become the result's. `store`: what other instances have
    loaded, and may use of this one. `hooks`: the places where a program is meant to go, by row of PROGRAMS. Raises
    VerifierRejected, SyscallFailed, Unsupported, BadObject; everything is closed then, the fds of `carried` included.
    """
    loaded = Loaded(store or Shared())
    contents: dict[int, bytes] = {}
    if carried is not None:
        contents = carried.contents
        for row, fd in carried.reuse.items():
            loaded.maps[row] = loaded.own(fd)
        loaded.identity.update(carried.ids)
        loaded.reused.update(carried.reuse)
    try:
        _check(image, prepared)
        index = image.template.index
        info = index.info
        _load_btf(info, prepared, loaded)
        for row in prepared.maps:
            if row not in loaded.maps:
                _add_map(image, index, row, loaded, contents)
        for row, ready in prepared.programs.items():
            _add_program(image, info, ready, loaded, hooks.get(row, ()) if hooks else ())
        _fill_slots(index, prepared, loaded)
    except BaseException:
        loaded.close()
        raise
    return loaded


def _check(image: Image, prepared: Prepared) -> None:
    index = image.template.index
    path = image.template.path
    if index.big_endian:
        raise BadObject(
            "a big-endian object cannot be loaded on this host", where=path, hint="patch it with `elfpatch patch -o`"
        )
    for ready in prepared.programs.values():
        program = ready.wanted.program
        if program.problem:
            raise BadObject(program.problem, where=path)
        if needs_btf_target(program):
            raise Unsupported(
                f"program {program.name} in section {program.section} attaches to a kernel function or "
                "another program, which elfpatch does not do yet",
                where=path,
            )
        if ready.externs:
            raise Unsupported(
                f"program {program.name} uses {', '.join(ready.externs)}: external symbols (.ksyms, .kconfig, kfuncs) "
                "are not resolved yet",
                where=path,
            )


def _load_btf(info: ix.Info, prepared: Prepared, loaded: Loaded) -> None:
    if not info.btf:
        return
    try:
        one = loaded.share("BTF", lambda: bpf.btf_load(info.btf))
    except SyscallFailed as error:
        if any(ready.core_relos for ready in prepared.programs.values()):
            raise
        # As for libbpf, BTF is optional when nothing depends on it: names and source lines are lost, no more.
        loaded.notes.append(f"the kernel refused the object's BTF ({error.what}): loaded without it")
    else:
        assert one is not None
        loaded.btf = one.fd


# --- maps -------------------------------------------------------------------------------------------------------


def possible_cpus() -> int:
    """How many CPUs the kernel may ever have: what a per-CPU map holds copies for."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        ranges = file.read().strip()
    return int(ranges.replace(",", "-").rsplit("-", 1)[-1]) + 1


def effective_entries(definition: ix.Map) -> int:
    """max_entries as the kernel is given it: ring buffers are whole pages, a power of two of them, and a perf event
    array without a size has a slot for each CPU (libbpf does the same)."""
    if definition.type == abi.MAP_TYPE_PERF_EVENT_ARRAY and definition.max_entries == 0:
        return possible_cpus()
    if definition.type in _RINGBUFS and definition.max_entries:
        pages = -(-definition.max_entries // 4096)
        return 4096 << (pages - 1).bit_length()
    return definition.max_entries


def _add_map(image: Image, index: ix.Index, row: int, loaded: Loaded, contents: dict[int, bytes]) -> None:
    definition = index.row(ix.Map, row)
    if definition.problem:
        raise BadObject(definition.problem, where=image.template.path)
    section = definition.section
    if section < 0:
        loaded.maps[row] = loaded.own(_empty_map(index, definition, loaded))
        return
    data: bytes | None = contents.get(section)
    if data is None and (image.touched(section) or image.template.section(section).has_bytes):  # else zeros, as it is
        data = image.section_bytes(section)
    if definition.flags & abi.F_RDONLY_PROG:
        key = (row, data)
        one = loaded.share(key, lambda: _data_map(index, definition, data, loaded))
        assert one is not None
        loaded.maps[row] = one.fd
        loaded.identity[row] = key
    else:
        loaded.maps[row] = loaded.own(_data_map(index, definition, data, loaded))


def _empty_map(index: ix.Index, definition: ix.Map, loaded: Loaded) -> int:
    if definition.inner < 0:
        return _create(definition, loaded.btf, 0)
    inner = _create(index.row(ix.Map, definition.inner), loaded.btf, 0)
    try:
        return _create(definition, loaded.btf, inner)
    finally:
        os.close(inner)


def _data_map(index: ix.Index, definition: ix.Map, data: bytes | None, loaded: Loaded) -> int:
    """The map of a data section; one that programs may only read is frozen."""
    fd = _empty_map(index, definition, loaded)
    try:
        if data is not None:
            bpf.map_update(fd, b"\0\0\0\0", data)
        if definition.flags & abi.F_RDONLY_PROG:
            bpf.map_freeze(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _create(definition: ix.Map, btf: int, inner: int) -> int:
    typed = btf >= 0 and definition.type not in _WITHOUT_BTF and bool(definition.btf_key or definition.btf_value)
    try:
        return _create_once(definition, btf if typed else 0, inner)
    except SyscallFailed as error:
        if not typed or error.errno not in (EINVAL, E2BIG, EOPNOTSUPP, abi.ENOTSUPP):
            raise _explained(definition, error) from None
    try:
        return _create_once(definition, 0, inner)
    except SyscallFailed as error:
        raise _explained(definition, error) from None


def _create_once(definition: ix.Map, btf: int, inner: int) -> int:
    numa = definition.numa_node
    return bpf.map_create(
        definition.type,
        definition.key_size,
        definition.value_size,
        effective_entries(definition),
        definition.flags | (abi.F_NUMA_NODE if numa >= 0 else 0),
        name=definition.name,
        btf_fd=btf,
        key_type_id=definition.btf_key if btf else 0,
        value_type_id=definition.btf_value if btf else 0,
        inner_map_fd=inner,
        numa_node=max(numa, 0),
        map_extra=definition.extra,
    )


def _explained(definition: ix.Map, error: SyscallFailed) -> ElfpatchError:
    from elfpatch.uapi import MAP_TYPES

    kind = MAP_TYPES[definition.type] if definition.type < len(MAP_TYPES) else str(definition.type)
    error.where = f"map {definition.name} ({kind})"
    if error.errno == EINVAL and not definition.max_entries:
        error.hint = "its max_entries is 0"
    elif error.errno == EINVAL:
        error.hint = (
            f"key {definition.key_size} bytes, value {definition.value_size} bytes, {definition.max_entries} entries, "
            f"flags {definition.flags:#x}: this kernel takes no such map"
        )
    return error


def _fill_slots(index: ix.Index, prepared: Prepared, loaded: Loaded) -> None:
    for slot in prepared.slots:
        if slot.map not in loaded.maps or slot.map in loaded.reused:
            continue
        fds = loaded.maps if slot.kind == ix.SLOT_MAP else loaded.progs
        if slot.ref not in fds:
            continue
        try:
            bpf.map_update(loaded.maps[slot.map], pack("=I", slot.key), pack("=I", fds[slot.ref]))
        except SyscallFailed as error:
            error.where = f"map {index.row(ix.Map, slot.map).name}, slot {slot.key}"
            if error.errno == EINVAL and slot.kind != ix.SLOT_MAP:
                error.hint = "programs that call each other must be of one type and attach type: see their sections"
            raise


# --- programs ---------------------------------------------------------------------------------------------------


def _add_program(image: Image, info: ix.Info, ready: Ready, loaded: Loaded, hooks: Collection[str]) -> None:
    """Load a program, unless another instance has the very same one: the same instructions over the same maps."""
    wanted = ready.wanted
    one: Held | None = None
    if all(row in loaded.identity for row in ready.refs.values()):
        maps = tuple([(slot, loaded.identity[row]) for slot, row in ready.refs.items()])
        key = (wanted.row, wanted.prog_type, wanted.attach_type, loaded.btf >= 0, bytes(ready.insns), maps)
        one = loaded.share(key, lambda: _load_program(image, info, ready, loaded), hooks)
    loaded.add_program(wanted.row, _load_program(image, info, ready, loaded) if one is None else one)


def _load_program(image: Image, info: ix.Info, ready: Ready, loaded: Loaded) -> int:
    wanted = ready.wanted
    program = wanted.program
    insns = bytearray(ready.insns)
    for insn, row in ready.refs.items():
        pack_into("<i", insns, insn * 8 + 4, loaded.maps[row])
    typed = loaded.btf >= 0
    flags = (abi.F_SLEEPABLE if program.flags & ix.SLEEPABLE else 0) | (
        abi.F_XDP_HAS_FRAGS if program.flags & ix.FRAGS else 0
    )
    spec = bpf.ProgSpec(
        wanted.prog_type,
        bytes(insns),
        info.license,
        name=program.name,
        expected_attach_type=wanted.attach_type,
        flags=flags,
        kern_version=info.kern_version,
        btf_fd=loaded.btf if typed else 0,
        func_info=ready.func_info if typed else b"",
        func_info_rec_size=info.func_info_rec_size or 8,
        line_info=ready.line_info if typed else b"",
        line_info_rec_size=info.line_info_rec_size or 16,
        core_relos=ready.core_relos if typed else b"",
        core_relo_rec_size=info.core_relo_rec_size or 16,
    )
    try:
        return bpf.prog_load(spec)
    except SyscallFailed as error:
        from elfpatch.deploy.verifier import rejected

        raise rejected(spec, image, program, error) from None
