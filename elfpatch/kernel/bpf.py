"""bpf(2), one function per command that elfpatch needs.

Thin: arguments go into `union bpf_attr` as the kernel lays it out (checked in the kernel's BTF), results and errno come
out unchanged. File descriptors are plain ints that the *caller* closes; the kernel opens them close-on-exec.

Every function raises `errors.SyscallFailed` with the kernel's errno, or `errors.NoPermission` when the kernel answered
EPERM or EACCES to a caller without the capabilities that bpf(2) wants.
"""

from __future__ import annotations

import os
from errno import EACCES, EAGAIN, EINTR, ENOENT, ENOSPC, EPERM
from struct import pack_into, unpack_from

from elfpatch import errors
from elfpatch.kernel import abi
from elfpatch.kernel.libc import address, address_of_buffer
from elfpatch.kernel.libc import bpf as _bpf

LOAD_ATTEMPTS = 5  # of BPF_PROG_LOAD that a signal interrupted (EAGAIN), as in libbpf
INTERRUPTED_ATTEMPTS = 100  # of any other call (EINTR)
LOG_START = 64 << 10  # bytes of verifier log asked for first
LOG_LIMIT = 64 << 20  # and at most
FIRST_GUESS = 64  # ids asked for at once: the kernel's own limit, which inherited programs or bound maps can pass
QUERY_LIMIT = 4096  # programs on one hook, at most

_MAP_CREATE = "=7I16s5IQ"
_ELEM = "=I4xQQQ"
_PROG_LOAD = "=IIQQIIQII16sIIIIQIIQIIIIQQII"
_LINK_CREATE = "=IIIII4xQ"
_QUERY = "=IIIIQI4xQQQQ"
_TEST_RUN = "=IIIIQQIIIIQQIII4x"


def failure(operation: str, number: int, what: str = "", *, where: str = "", hint: str = "") -> errors.ElfpatchError:
    """The exception for errno `number`: NoPermission where a capability is lacking, else SyscallFailed."""
    if number in {EPERM, EACCES}:
        from elfpatch.kernel.caps import lacking

        missing = lacking()
        if missing:
            return errors.NoPermission(
                f"{what or operation}: not permitted", where=where, hint=f"needs root, or {' and '.join(missing)}"
            )
    return errors.SyscallFailed(operation, number, what, where=where, hint=hint)


def _call(command: int, operation: str, attr: bytearray, what: str = "") -> int:
    for _ in range(INTERRUPTED_ATTEMPTS):
        result = _bpf(command, attr)
        if result != -EINTR:
            break
    if result < 0:
        raise failure(operation, -result, what)
    return result


def _name(text: str) -> bytes:
    """An object name as the kernel takes it: 15 bytes of [A-Za-z0-9_.]; other characters become `_`."""
    encoded = text.encode("ascii", "replace")[: abi.OBJ_NAME_LEN - 1]
    if encoded.replace(b"_", b"").isalnum():
        return encoded
    return bytes(byte if chr(byte).isalnum() or byte in b"_." else 0x5F for byte in encoded)


# --- maps


def map_create(
    kind: int,
    key_size: int,
    value_size: int,
    max_entries: int,
    flags: int = 0,
    *,
    name: str = "",
    btf_fd: int = 0,
    key_type_id: int = 0,
    value_type_id: int = 0,
    inner_map_fd: int = 0,
    numa_node: int = 0,
    map_extra: int = 0,
) -> int:
    """Create a map of type `kind`; sizes in bytes. Returns its fd."""
    attr = bytearray(72)
    pack_into(
        _MAP_CREATE, attr, 0, kind, key_size, value_size, max_entries, flags, inner_map_fd, numa_node, _name(name),
        0, btf_fd, key_type_id, value_type_id, 0, map_extra,
    )  # fmt: skip
    return _call(abi.MAP_CREATE, "BPF_MAP_CREATE", attr, f"creating map {name}" if name else "")


def _elem(command: int, operation: str, fd: int, key: bytes, other: int, flags: int = 0) -> int:
    attr = bytearray(32)
    pack_into(_ELEM, attr, 0, fd, address(key), other, flags)
    return _call(command, operation, attr)


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Store `value` under `key`. A per-CPU map's value is one 8-byte-aligned copy per possible CPU."""
    _elem(abi.MAP_UPDATE_ELEM, "BPF_MAP_UPDATE_ELEM", fd, key, address(value), flags)


def map_lookup(fd: int, key: bytes, value_size: int, flags: int = 0) -> bytes:
    """The `value_size` bytes under `key`; SyscallFailed with ENOENT when there is none."""
    value = bytearray(value_size)
    _elem(abi.MAP_LOOKUP_ELEM, "BPF_MAP_LOOKUP_ELEM", fd, key, address_of_buffer(value), flags)
    return bytes(value)


def map_delete(fd: int, key: bytes) -> None:
    """Delete `key`; SyscallFailed with ENOENT when it is not there."""
    _elem(abi.MAP_DELETE_ELEM, "BPF_MAP_DELETE_ELEM", fd, key, 0)


def map_next_key(fd: int, key: bytes | None, key_size: int) -> bytes | None:
    """The key after `key` (None: the first one), or None after the last."""
    found = bytearray(key_size)
    try:
        _elem(abi.MAP_GET_NEXT_KEY, "BPF_MAP_GET_NEXT_KEY", fd, key or b"", address_of_buffer(found))
    except errors.SyscallFailed as error:
        if error.errno == ENOENT:
            return None
        raise
    return bytes(found)


def map_freeze(fd: int) -> None:
    """Make the map read-only for user space, for good. The verifier then takes a read-only map's bytes as constants."""
    attr = bytearray(4)
    pack_into("=I", attr, 0, fd)
    _call(abi.MAP_FREEZE, "BPF_MAP_FREEZE", attr)


# --- BTF and programs


def btf_load(data: bytes) -> int:
    """Load BTF; returns its fd."""
    attr = bytearray(32)
    pack_into("=QQIII4x", attr, 0, address(data), 0, len(data), 0, 0)
    return _call(abi.BTF_LOAD, "BPF_BTF_LOAD", attr)


def _prog_load(attr: bytearray) -> int:
    """BPF_PROG_LOAD; returns the fd or -errno."""
    for _ in range(LOAD_ATTEMPTS):
        result = _bpf(abi.PROG_LOAD, attr)
        if result not in {-EAGAIN, -EINTR}:
            break
    return result


class ProgSpec:
    """The arguments of one BPF_PROG_LOAD. Byte strings are kept alive here while the kernel reads them.

    `insns` are 8 bytes each. `func_info`, `line_info` and `core_relos` are arrays of records of the given size in
    bytes, instruction offsets in instructions (in bytes for `core_relos`), and need `btf_fd`.
    """

    __slots__ = (
        "attach_btf_id", "attach_prog_fd", "btf_fd", "core_relo_rec_size", "core_relos", "expected_attach_type",
        "fd_array", "flags", "func_info", "func_info_rec_size", "insns", "kern_version", "kind", "license", "line_info",
        "line_info_rec_size", "name",
    )  # fmt: skip

    def __init__(
        self,
        kind: int,
        insns: bytes,
        license: str,
        *,
        name: str = "",
        expected_attach_type: int = 0,
        flags: int = 0,
        kern_version: int = 0,
        btf_fd: int = 0,
        func_info: bytes = b"",
        func_info_rec_size: int = 8,
        line_info: bytes = b"",
        line_info_rec_size: int = 16,
        core_relos: bytes = b"",
        core_relo_rec_size: int = 16,
        attach_btf_id: int = 0,
        attach_prog_fd: int = 0,
        fd_array: bytes = b"",
    ) -> None:
        self.kind = kind
        self.insns = insns
        self.license = license.encode() + b"\0"
        self.name = _name(name)
        self.expected_attach_type = expected_attach_type
        self.flags = flags
        self.kern_version = kern_version
        self.btf_fd = btf_fd
        self.func_info = func_info
        self.func_info_rec_size = func_info_rec_size
        self.line_info = line_info
        self.line_info_rec_size = line_info_rec_size
        self.core_relos = core_relos
        self.core_relo_rec_size = core_relo_rec_size
        self.attach_btf_id = attach_btf_id
        self.attach_prog_fd = attach_prog_fd
        self.fd_array = fd_array

    def attr(self, log_level: int = 0, log: bytearray | None = None) -> bytearray:
        """`union bpf_attr` of this load, valid as long as this object and `log` live."""
        attr = bytearray(144)
        pack_into(
            _PROG_LOAD, attr, 0,
            self.kind, len(self.insns) // 8, address(self.insns), address(self.license),
            log_level, len(log) if log else 0, address_of_buffer(log) if log else 0,
            self.kern_version, self.flags, self.name, 0, self.expected_attach_type, self.btf_fd,
            self.func_info_rec_size if self.func_info else 0, address(self.func_info),
            len(self.func_info) // self.func_info_rec_size,
            self.line_info_rec_size if self.line_info else 0, address(self.line_info),
            len(self.line_info) // self.line_info_rec_size,
            self.attach_btf_id, self.attach_prog_fd, len(self.core_relos) // self.core_relo_rec_size,
            address(self.fd_array), address(self.core_relos), self.core_relo_rec_size if self.core_relos else 0, 0,
        )  # fmt: skip
        return attr


def prog_load(spec: ProgSpec) -> int:
    """Load and verify a program without a log, which is several times faster than with one. Returns its fd."""
    result = _prog_load(spec.attr())
    if result < 0:
        raise failure("BPF_PROG_LOAD", -result, f"loading program {spec.name.decode()}" if spec.name else "")
    return result


def prog_load_log(spec: ProgSpec, log_level: int = 1) -> tuple[int, int, str]:
    """Load a program with the verifier's log: (fd, 0, log), or (-1, errno, log) when it was rejected; never raises.

    The log buffer grows to what the kernel says it needs (`log_true_size`, 6.4+) or fourfold, at most to LOG_LIMIT; a
    longer log is cut, and the errno then is that of a load without log, not the ENOSPC of the log.
    """
    size = LOG_START
    while True:
        log = bytearray(size)
        attr = spec.attr(log_level, log)
        result = _prog_load(attr)
        if result != -ENOSPC or size >= LOG_LIMIT:
            break
        (wanted,) = unpack_from("=I", attr, 140)
        size = min(max(size * 4, wanted), LOG_LIMIT)
    if result == -ENOSPC:
        result = _prog_load(spec.attr())
    text = bytes(log.partition(b"\0")[0]).decode("utf-8", "replace")
    return (result, 0, text) if result >= 0 else (-1, -result, text)


# --- pins


def obj_pin(fd: int, path: str) -> None:
    """Pin a map, program or link under `path` in a bpffs, where nothing may be yet (EEXIST)."""
    name = os.fsencode(path) + b"\0"
    attr = bytearray(16)
    pack_into("=QII", attr, 0, address(name), fd, 0)
    _call(abi.OBJ_PIN, "BPF_OBJ_PIN", attr, f"pinning at {path}")


def obj_get(path: str) -> int:
    """Open what is pinned under `path`; returns a new fd. SyscallFailed with ENOENT when there is nothing."""
    name = os.fsencode(path) + b"\0"
    attr = bytearray(16)
    pack_into("=QII", attr, 0, address(name), 0, 0)
    return _call(abi.OBJ_GET, "BPF_OBJ_GET", attr, f"opening pin {path}")


# --- links


def link_create(
    prog_fd: int, target: int, attach_type: int, *, flags: int = 0, relative: int = 0, expected_revision: int = 0
) -> int:
    """Attach a program by a link; returns the link's fd. The last reference to a link detaches it.

    `target` is an interface index in the thread's network namespace, or a cgroup directory's fd. `relative` and
    `expected_revision` place a TCX program among others (F_BEFORE, F_AFTER in `flags`).
    """
    attr = bytearray(32)
    pack_into(_LINK_CREATE, attr, 0, prog_fd, target, attach_type, flags, relative, expected_revision)
    return _call(abi.LINK_CREATE, "BPF_LINK_CREATE", attr)


def link_update(link_fd: int, new_prog_fd: int, old_prog_fd: int) -> None:
    """Replace `old_prog_fd` by `new_prog_fd` on a link, atomically, if and only if the old one is still there.

    The compare cannot be left out. EPERM: another program is there. ENOLINK: the link's target is gone.
    """
    attr = bytearray(16)
    pack_into("=IIII", attr, 0, link_fd, new_prog_fd, abi.F_REPLACE, old_prog_fd)
    for _ in range(INTERRUPTED_ATTEMPTS):
        result = _bpf(abi.LINK_UPDATE, attr)
        if result != -EINTR:
            break
    if result < 0:
        # Not `failure`: EPERM here is the lost compare, whatever the caller's capabilities.
        raise errors.SyscallFailed("BPF_LINK_UPDATE", -result)


def link_detach(link_fd: int) -> None:
    """Detach a link's program now, whoever else still holds the link. Linux 5.9+."""
    attr = bytearray(4)
    pack_into("=I", attr, 0, link_fd)
    _call(abi.LINK_DETACH, "BPF_LINK_DETACH", attr)


# --- by id


def _by_id(command: int, operation: str, number: int) -> int:
    attr = bytearray(12)
    pack_into("=I", attr, 0, number)
    return _call(command, operation, attr)


def prog_fd_by_id(number: int) -> int:
    """A new fd of the program with this id; SyscallFailed with ENOENT when it is gone."""
    return _by_id(abi.PROG_GET_FD_BY_ID, "BPF_PROG_GET_FD_BY_ID", number)


def map_fd_by_id(number: int) -> int:
    """A new fd of the map with this id; SyscallFailed with ENOENT when it is gone."""
    return _by_id(abi.MAP_GET_FD_BY_ID, "BPF_MAP_GET_FD_BY_ID", number)


def link_fd_by_id(number: int) -> int:
    """A new fd of the link with this id; SyscallFailed with ENOENT when it is gone."""
    return _by_id(abi.LINK_GET_FD_BY_ID, "BPF_LINK_GET_FD_BY_ID", number)


def _next_id(command: int, operation: str, after: int) -> int:
    attr = bytearray(12)
    pack_into("=I", attr, 0, after)
    try:
        _call(command, operation, attr)
    except errors.SyscallFailed as error:
        if error.errno == ENOENT:
            return 0
        raise
    (found,) = unpack_from("=I", attr, 4)
    return int(found)


def prog_next_id(after: int = 0) -> int:
    """The next program id after `after`, 0 at the end."""
    return _next_id(abi.PROG_GET_NEXT_ID, "BPF_PROG_GET_NEXT_ID", after)


def map_next_id(after: int = 0) -> int:
    """The next map id after `after`, 0 at the end."""
    return _next_id(abi.MAP_GET_NEXT_ID, "BPF_MAP_GET_NEXT_ID", after)


def link_next_id(after: int = 0) -> int:
    """The next link id after `after`, 0 at the end."""
    return _next_id(abi.LINK_GET_NEXT_ID, "BPF_LINK_GET_NEXT_ID", after)


# --- information


class ProgInfo:
    """What the kernel says of a program. `load_time` is nanoseconds since boot, lengths are bytes, `tag` is hex."""

    __slots__ = (
        "btf_id", "ifindex", "jited_len", "load_time", "map_ids", "name", "prog_id", "run_cnt", "run_time_ns", "tag",
        "type", "uid", "verified_insns", "xlated_len",
    )  # fmt: skip

    def __init__(self, info: bytearray, map_ids: list[int]) -> None:
        self.type, self.prog_id, tag, self.jited_len, self.xlated_len = unpack_from("=II8sII", info)
        self.tag = tag.hex()
        self.load_time, self.uid = unpack_from("=QI", info, 40)
        self.name = _text(info[64:80])
        (self.ifindex,) = unpack_from("=I", info, 80)
        (self.btf_id,) = unpack_from("=I", info, 128)
        self.run_time_ns, self.run_cnt = unpack_from("=QQ", info, 192)
        (self.verified_insns,) = unpack_from("=I", info, 216)
        self.map_ids = map_ids


class MapInfo:
    """What the kernel says of a map. Sizes in bytes; `frozen` is `map_frozen`."""

    __slots__ = (
        "btf_id", "flags", "key_size", "key_type_id", "map_extra", "map_id", "max_entries", "name", "type",
        "value_size", "value_type_id",
    )  # fmt: skip

    def __init__(self, info: bytearray) -> None:
        (self.type, self.map_id, self.key_size, self.value_size, self.max_entries, self.flags) = unpack_from(
            "=6I", info
        )
        self.name = _text(info[24:40])
        self.btf_id, self.key_type_id, self.value_type_id = unpack_from("=III", info, 64)
        (self.map_extra,) = unpack_from("=Q", info, 80)


class LinkInfo:
    """What the kernel says of a link. `ifindex` (xdp, tcx) or `cgroup_id` (cgroup) is 0 once the link is detached."""

    __slots__ = ("attach_type", "cgroup_id", "ifindex", "kind", "link_id", "prog_id")

    def __init__(self, info: bytearray) -> None:
        number, self.link_id, self.prog_id = unpack_from("=III", info)
        self.kind = abi.LINK_TYPES[number] if number < len(abi.LINK_TYPES) else str(number)
        self.ifindex = self.cgroup_id = self.attach_type = 0
        if self.kind == "cgroup":
            self.cgroup_id, self.attach_type = unpack_from("=QI", info, 16)
        elif self.kind in {"tcx", "netkit"}:
            self.ifindex, self.attach_type = unpack_from("=II", info, 16)
        elif self.kind == "xdp":
            (self.ifindex,) = unpack_from("=I", info, 16)
            self.attach_type = abi.ATTACH_XDP


def _text(field: bytearray) -> str:
    return bytes(field).split(b"\0", 1)[0].decode("ascii", "replace")


def _info(fd: int, info: bytearray) -> None:
    attr = bytearray(16)
    pack_into("=IIQ", attr, 0, fd, len(info), address_of_buffer(info))
    _call(abi.OBJ_GET_INFO_BY_FD, "BPF_OBJ_GET_INFO_BY_FD", attr)


def prog_info(fd: int) -> ProgInfo:
    """Information on a program."""
    count = FIRST_GUESS
    while True:
        ids = bytearray(4 * count)
        info = bytearray(232)
        pack_into("=IQ", info, 52, count, address_of_buffer(ids))
        _info(fd, info)
        (found,) = unpack_from("=I", info, 52)
        if found <= count:
            return ProgInfo(info, list(unpack_from(f"={found}I", ids)))
        count = found


def map_info(fd: int) -> MapInfo:
    """Information on a map."""
    info = bytearray(88)
    _info(fd, info)
    return MapInfo(info)


def map_frozen(fd: int) -> bool:
    """Whether user space can no longer write the map. Only /proc/self/fdinfo tells."""
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(info, 4096)
    finally:
        os.close(info)
    return b"\nfrozen:\t1" in text


def link_info(fd: int) -> LinkInfo:
    """Information on a link."""
    info = bytearray(128)
    _info(fd, info)
    return LinkInfo(info)


class Attached:
    """What sits on a hook, in the order in which it runs: ids of programs, and for TCX of the links (0: none)."""

    __slots__ = ("link_ids", "prog_ids", "revision")

    def __init__(self, prog_ids: list[int], link_ids: list[int], revision: int) -> None:
        self.prog_ids = prog_ids
        self.link_ids = link_ids
        self.revision = revision


def prog_query(target: int, attach_type: int, *, links: bool = False, flags: int = 0) -> Attached:
    """The programs on a TCX hook (`target` = interface index in the thread's namespace) or a cgroup (= its fd).

    `links` also asks for link ids and the revision, which cgroups of older kernels do not know.
    """
    count = FIRST_GUESS
    while True:
        prog_ids, link_ids = bytearray(4 * count), bytearray(4 * count)
        attr = bytearray(64)
        ids = address_of_buffer(link_ids) if links else 0
        pack_into(_QUERY, attr, 0, target, attach_type, flags, 0, address_of_buffer(prog_ids), count, 0, ids, 0, 0)
        try:
            _call(abi.PROG_QUERY, "BPF_PROG_QUERY", attr)
        except errors.SyscallFailed as error:
            if error.errno != ENOSPC or count >= QUERY_LIMIT:
                raise
            count *= 4
            continue
        (found,) = unpack_from("=I", attr, 24)
        (revision,) = unpack_from("=Q", attr, 56)
        layout = f"={found}I"
        return Attached(list(unpack_from(layout, prog_ids)), list(unpack_from(layout, link_ids)), revision)


# --- running


class TestRun:
    """The outcome of BPF_PROG_TEST_RUN: return value, data and context after the run, mean nanoseconds of one run."""

    __slots__ = ("ctx_out", "data_out", "duration_ns", "retval")
    __test__ = False  # not a class of tests, whatever pytest makes of its name

    def __init__(self, retval: int, data_out: bytes, ctx_out: bytes, duration_ns: int) -> None:
        self.retval = retval
        self.data_out = data_out
        self.ctx_out = ctx_out
        self.duration_ns = duration_ns


def prog_test_run(
    fd: int,
    data: bytes = b"",
    ctx: bytes = b"",
    *,
    repeat: int = 0,
    data_out_size: int = 0,
    ctx_out_size: int = 0,
    flags: int = 0,
) -> TestRun:
    """Run a program once (or `repeat` times) on `data` and `ctx`. Errno 524: not for this program type."""
    data_out, ctx_out = bytearray(data_out_size), bytearray(ctx_out_size)
    attr = bytearray(80)
    pack_into(
        _TEST_RUN, attr, 0, fd, 0, len(data), data_out_size, address(data), address_of_buffer(data_out), repeat, 0,
        len(ctx), ctx_out_size, address(ctx), address_of_buffer(ctx_out), flags, 0, 0,
    )  # fmt: skip
    _call(abi.PROG_TEST_RUN, "BPF_PROG_TEST_RUN", attr)
    retval, _, data_size = unpack_from("=III", attr, 4)
    duration, _, ctx_size = unpack_from("=III", attr, 36)
    return TestRun(retval, bytes(data_out[:data_size]), bytes(ctx_out[:ctx_size]), duration)
