"""The demo's private world: namespaces of its own, a veth pair, who sends and who receives.

The demo's process has its own network and mount namespace from the start (see scripts/private.py), the sender has
another network namespace. Nothing has a name outside of them, so all of it, bpffs and programs included, is gone when
they end, however they end.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from scripts.private import command

HOST, ENDPOINT, OTHER = "10.0.0.1", "10.0.0.5", "10.0.0.66"
HOST_MAC, ENDPOINT_MAC = "02:00:00:00:00:01", "02:00:00:00:00:05"
HOST_IF, ENDPOINT_IF = "veth0", "eth0"
PORTS = (443, 8080)
SO_RCVMARK = 75


def build(sender: int) -> None:
    """The veth pair between this namespace and the one of process `sender`."""
    inside = ("nsenter", f"--net=/proc/{sender}/ns/net")
    command(
        *("ip", "link", "add", HOST_IF, "address", HOST_MAC, "type", "veth"),
        *("peer", "name", ENDPOINT_IF, "address", ENDPOINT_MAC, "netns", str(sender)),
    )
    # Without link-local addresses nobody sends what the demo did not send.
    command("ip", "link", "set", HOST_IF, "addrgenmode", "none")
    command(*inside, "ip", "link", "set", ENDPOINT_IF, "addrgenmode", "none")
    command("ip", "addr", "add", f"{HOST}/24", "dev", HOST_IF)
    for address in (ENDPOINT, OTHER):
        command(*inside, "ip", "addr", "add", f"{address}/24", "dev", ENDPOINT_IF)
        command("ip", "neigh", "replace", address, "lladdr", ENDPOINT_MAC, "dev", HOST_IF, "nud", "permanent")
    command("ip", "link", "set", HOST_IF, "up")
    command(*inside, "ip", "link", "set", ENDPOINT_IF, "up")
    command(*inside, "ip", "neigh", "replace", HOST, "lladdr", HOST_MAC, "dev", ENDPOINT_IF, "nud", "permanent")


class Sender:
    """The endpoint's process; see sender.py for what it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-m", "scripts.demo.sender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends this
        )
        self.tell("stop")  # answered when it runs, that is: inside its namespace

    def tell(self, line: str) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def burst(self, source: str, port: int, count: int) -> None:
        self.tell(f"burst {source} {port} {count}")

    def close(self) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.close()
            self.process.wait(2)
        except (subprocess.TimeoutExpired, OSError):
            self.process.kill()
            self.process.wait()


@dataclass
class Seen:
    """What arrived: datagrams by mark, by (source, port); the numbers that came of the last stream."""

    marks: Counter[int] = field(default_factory=Counter)
    flows: Counter[tuple[str, int]] = field(default_factory=Counter)
    numbers: set[int] = field(default_factory=set)


class Receiver(threading.Thread):
    """Receives behind the hook, and reads from each datagram the mark that it left the hook with."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._lock = threading.Condition()
        self._seen = Seen()
        self._ending = False
        self.last_mark = -1
        self.sockets = [self._open(port) for port in PORTS]

    def _open(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVMARK, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((HOST, port))
        sock.settimeout(0.1)
        return sock

    def run(self) -> None:
        others = [threading.Thread(target=self._receive, args=(sock,), daemon=True) for sock in self.sockets[1:]]
        for thread in others:
            thread.start()
        self._receive(self.sockets[0])

    def _receive(self, sock: socket.socket) -> None:
        port = sock.getsockname()[1]
        while not self._ending:
            try:
                data, extra, _, (source, _) = sock.recvmsg(64, 64)
            except TimeoutError:
                continue
            mark = struct.unpack("I", extra[0][2])[0] if extra else 0
            with self._lock:
                self._seen.marks[mark] += 1
                self._seen.flows[source, port] += 1
                self._seen.numbers.add(int.from_bytes(data, "big"))
                self.last_mark = mark
                self._lock.notify_all()

    def take(self) -> Seen:
        """What arrived since the last call."""
        with self._lock:
            seen, self._seen = self._seen, Seen()
        return seen

    def wait_for_mark(self, mark: int, timeout: float = 2.0) -> bool:
        """Whether a datagram with this mark comes in time."""
        with self._lock:
            return self._lock.wait_for(lambda: self.last_mark == mark, timeout)

    def close(self) -> None:
        self._ending = True


@contextmanager
def world() -> Iterator[tuple[Sender, Receiver]]:
    """Sender and receiver, joined."""
    sender = Sender()
    try:
        build(sender.process.pid)
        receiver = Receiver()
        receiver.start()
        try:
            yield sender, receiver
        finally:
            receiver.close()
    finally:
        sender.close()
