"""Network namespaces joined by a veth pair, made for one test and always removed.

    with VethPair() as net:
        net.a.send(udp(net.a, net.b, b"hello"))
        frame = net.b.receive(lambda frame: b"hello" in frame)

Both ends have an address of each family and know each other's MAC, so no ARP, no neighbour discovery and no router
messages disturb a count. Nothing here uses elfpatch: what it says of the kernel is independent.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import secrets
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
PACKET_IGNORE_OUTGOING = 23
SOL_PACKET = 263
SO_RCVBUFFORCE = 33
JOIN_TIMEOUT = 120.0  # seconds that a function run in a namespace may take

_libc = ctypes.CDLL(None, use_errno=True)


def unique(prefix: str = "ep") -> str:
    """A name that no other test uses, 8 characters for a 2-character prefix."""
    return prefix + secrets.token_hex(3)


def command(*argv: str, check: bool = True, timeout: float = 30.0) -> str:
    """Run a command; returns its standard output. A failure shows what it wrote to standard error."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)} exited with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class NetNs:
    """A named network namespace; a context manager that makes and removes it."""

    def __init__(self, name: str = "") -> None:
        self.name = name or unique()

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    def create(self) -> NetNs:
        command("ip", "netns", "add", self.name)
        try:
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.remove()
            raise
        return self

    def remove(self) -> None:
        command("ip", "netns", "del", self.name, check=False)

    def __enter__(self) -> NetNs:
        return self.create()

    def __exit__(self, *_: object) -> None:
        self.remove()

    def ip(self, *argv: str) -> str:
        """`ip -n NAME ...`"""
        return command("ip", "-n", self.name, *argv)

    def tc(self, *argv: str) -> str:
        """`tc -n NAME ...`"""
        return command("tc", "-n", self.name, *argv)

    def command(self, *argv: str, check: bool = True, timeout: float = 30.0) -> str:
        """Run a command inside. bpffs stays visible, as it does not with `ip netns exec`."""
        return command("nsenter", f"--net={self.path}", *argv, check=check, timeout=timeout)

    def popen(self, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command inside; the caller ends it."""
        return subprocess.Popen(["nsenter", f"--net={self.path}", *argv], **options)

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function in a thread that lives in this namespace; returns or raises what it does."""
        results: list[T] = []
        raised: list[BaseException] = []

        def body() -> None:
            try:
                with open(self.path) as file:
                    if _libc.setns(file.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), f"setns {self.path}")
                results.append(function(*args, **kwargs))
            except BaseException as error:  # handed on to the caller
                raised.append(error)

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        thread.join(JOIN_TIMEOUT)
        if raised:
            raise raised[0]
        if not results:
            raise TimeoutError(f"{function!r} in namespace {self.name}")
        return results[0]

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this namespace, for use from anywhere."""
        return self.run(socket.socket, family, kind, protocol)

    def ifindex(self, ifname: str) -> int:
        return self.run(socket.if_nametoindex, ifname)


class End:
    """One end of a veth pair: interface, namespace, addresses, and a raw socket to send and receive frames."""

    def __init__(self, ns: NetNs, ifname: str, mac: str, ip4: str, ip6: str) -> None:
        self.ns = ns
        self.ifname = ifname
        self.mac = mac
        self.ip4 = ip4
        self.ip6 = ip6
        self._raw: socket.socket | None = None

    @property
    def ifindex(self) -> int:
        return self.ns.ifindex(self.ifname)

    def packet_socket(self) -> socket.socket:
        """A new AF_PACKET socket: frames that come in. It sees them after XDP and *before* TC ingress."""
        raw = self.ns.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        raw.bind((self.ifname, ETH_P_ALL))
        return raw

    @property
    def raw(self) -> socket.socket:
        """The end's own AF_PACKET socket, opened at the first use."""
        if self._raw is None:
            self._raw = self.packet_socket()
        return self._raw

    def udp_socket(self, port: int = 0, *, family: int = socket.AF_INET) -> socket.socket:
        """A UDP socket of the namespace bound to this end's address."""
        udp = self.ns.socket(family, socket.SOCK_DGRAM)
        udp.bind((self.ip4 if family == socket.AF_INET else self.ip6, port))
        return udp

    def send(self, frame: bytes) -> None:
        """Send one Ethernet frame out of this interface."""
        self.raw.send(frame)

    def receive(self, wanted: Callable[[bytes], bool] = bool, timeout: float = 2.0) -> bytes | None:
        """The next frame that came in and is wanted, or None after `timeout` seconds."""
        for frame in self.frames(timeout):
            if wanted(frame):
                return frame
        return None

    def frames(self, timeout: float) -> Iterator[bytes]:
        """Frames as they come in, for `timeout` seconds."""
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            self.raw.settimeout(left)
            try:
                yield self.raw.recv(65535)
            except TimeoutError:
                return

    def drain(self) -> None:
        """Forget the frames that came in so far."""
        self.raw.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.raw.recv(65535)

    def close(self) -> None:
        if self._raw is not None:
            self._raw.close()
            self._raw = None


class VethPair:
    """Two namespaces, `a` and `b`, joined by a veth pair, up and addressed."""

    def __init__(self, *, queues: int = 1) -> None:
        stem = unique()
        self.queues = queues
        self.a = End(NetNs(stem + "a"), "veth0", "02:00:00:00:00:0a", "10.77.0.1", "fd77::1")
        self.b = End(NetNs(stem + "b"), "veth1", "02:00:00:00:00:0b", "10.77.0.2", "fd77::2")

    def __enter__(self) -> VethPair:
        try:
            for end in (self.a, self.b):
                end.ns.create()
            self._join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _join(self, index: int = 0) -> None:
        a, b = self.a, self.b
        many = ["numtxqueues", str(self.queues), "numrxqueues", str(self.queues)]
        # Made in namespace b, its peer in a: nothing ever shows in the machine's own namespace.
        b.ns.ip(
            *("link", "add", b.ifname, *(("index", str(index)) if index else ()), "address", b.mac, *many),
            *("type", "veth", "peer", "name", a.ifname, "address", a.mac, *many, "netns", a.ns.name),
        )
        for end, other in ((a, b), (b, a)):
            end.ns.run(_quiet, end.ifname)
            end.ns.ip("addr", "add", f"{end.ip4}/24", "dev", end.ifname)
            end.ns.ip("addr", "add", f"{end.ip6}/64", "dev", end.ifname, "nodad")
            end.ns.ip("link", "set", end.ifname, "up")
            for address in (other.ip4, other.ip6):
                end.ns.ip("neigh", "replace", address, "lladdr", other.mac, "dev", end.ifname, "nud", "permanent")

    def __exit__(self, *_: object) -> None:
        for end in (self.a, self.b):
            end.close()
            end.ns.remove()

    def recreate_b(self, *, index: int) -> None:
        """Delete the pair and make it anew, with this interface index in `b`."""
        for end in (self.a, self.b):
            end.close()
        self.b.ns.ip("link", "del", self.b.ifname)
        self._join(index)


def _quiet(ifname: str) -> bool:
    """No router solicitations, no link-local address: an idle interface sends nothing."""
    for key, value in (("addr_gen_mode", "1"), ("accept_dad", "0"), ("router_solicitations", "0")):
        with open(f"/proc/sys/net/ipv6/conf/{ifname}/{key}", "w") as file:  # of the calling thread's namespace
            file.write(value)
    return True


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def checksum(data: bytes) -> int:
    """The Internet checksum of `data`."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(
    source: End,
    to: End,
    payload: bytes,
    *,
    sport: int = 4000,
    dport: int = 5000,
    ip_source: str = "",
    ip_to: str = "",
    mac_source: str = "",
    vlan: int | None = None,
    version: int = 4,
) -> bytes:
    """An Ethernet frame with a UDP datagram from one end to another; any field may be forged."""
    src = ipaddress.ip_address(ip_source or (source.ip4 if version == 4 else source.ip6)).packed
    dst = ipaddress.ip_address(ip_to or (to.ip4 if version == 4 else to.ip6)).packed
    length = 8 + len(payload)
    pseudo = src + dst + (struct.pack("!xBH", 17, length) if version == 4 else struct.pack("!I3xB", length, 17))
    header = struct.pack("!HHHH", sport, dport, length, 0)
    header = header[:6] + struct.pack("!H", checksum(pseudo + header + payload) or 0xFFFF)
    if version == 4:
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, 17, 0) + src + dst
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    else:
        ip = struct.pack("!IHBB", 6 << 28, length, 17, 64) + src + dst
    tag = struct.pack("!HH", 0x8100, vlan) if vlan is not None else b""
    ethertype = struct.pack("!H", 0x0800 if version == 4 else 0x86DD)
    return mac_bytes(to.mac) + mac_bytes(mac_source or source.mac) + tag + ethertype + ip + header + payload


def cgroup2_mount() -> str:
    """Where the cgroup2 hierarchy is mounted. AssertionError when it is not."""
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            _, where, kind, *_ = line.split()
            if kind == "cgroup2":
                return where
    raise AssertionError("no cgroup2 file system is mounted")


class Cgroup:
    """A cgroup of one's own; a context manager that makes and removes it."""

    def __init__(self, name: str = "") -> None:
        self.path = os.path.join(cgroup2_mount(), name or unique())

    def __enter__(self) -> Cgroup:
        os.mkdir(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.path)

    @property
    def id(self) -> int:
        return os.stat(self.path).st_ino

    def run(self, function: Callable[..., bytes], *args: Any) -> bytes:
        """Call a function in a forked child inside the cgroup; returns the bytes that it returns."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.close(reader)
                with open(os.path.join(self.path, "cgroup.procs"), "w") as procs:
                    procs.write(str(os.getpid()))
                os.write(writer, function(*args))
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            result = file.read()
        _, status = os.waitpid(child, 0)
        if status:
            raise AssertionError(f"{function!r} failed in cgroup {self.path}")
        return result


class Bpffs:
    """A bpffs of one's own mounted on `path`; a context manager that mounts and unmounts it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> Bpffs:
        os.makedirs(self.path, exist_ok=True)
        command("mount", "-t", "bpf", "bpf", self.path)
        return self

    def __exit__(self, *_: object) -> None:
        command("umount", "--lazy", self.path, check=False)
