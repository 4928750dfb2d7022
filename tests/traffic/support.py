"""A stream of numbered packets over a veth pair, and what became of each."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tests.support.net import VethPair

UNSTAMPED = 0xFFFFFFFF
RATE = 40_000  # packets a second
NUMBERS = 1 << 22
_HEADER = 32
_STOP, _SENT, _RECEIVED, _LATEST, _LATEST_SECOND, _OVERFLOWED, _READY = range(7)


def compile_helper(folder: Path) -> Path:
    out = folder / "traffic"
    source = Path(__file__).with_name("traffic.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-o", str(out), str(source)], check=True, timeout=60)
    return out


class Verdict:
    """What became of the packets from the first that was stamped on.

    `unprocessed` came with the stamp that they were sent with, so they met no program; `lost` did not come; `backward`
    met an older version than the packet before them.
    """

    def __init__(self, stamps: tuple[int, ...], overflowed: int) -> None:
        first = next((at for at, stamp in enumerate(stamps) if stamp not in (0, UNSTAMPED)), len(stamps))
        counted = stamps[first:]
        self.packets = len(counted)
        self.lost = counted.count(0) - overflowed
        self.unprocessed = counted.count(UNSTAMPED)
        self.versions = Counter(stamp for stamp in counted if stamp not in (0, UNSTAMPED))
        came = [stamp for stamp in counted if stamp not in (0, UNSTAMPED)]
        self.backward = sum(later < earlier for earlier, later in pairwise(came))

    def __repr__(self) -> str:
        return (
            f"<{self.packets} packets, {len(self.versions)} versions: {self.unprocessed} unprocessed, "
            f"{self.lost} lost, {self.backward} backward>"
        )


class Traffic:
    """Packets from end `a` to end `b`, from `with` on until `stop`."""

    def __init__(self, helper: Path, net: VethPair, folder: Path, rate: int = RATE) -> None:
        self.helper = helper
        self.net = net
        self.rate = rate
        self.file = folder / f"traffic-{time.monotonic_ns()}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Traffic:
        a, b = self.net.a, self.net.b
        self.file.write_bytes(b"")
        os.truncate(self.file, _HEADER + 4 * NUMBERS)
        with self.file.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _HEADER + 4 * NUMBERS)
        try:
            self._start(b.ns.popen(str(self.helper), "recv", b.ifname, str(self.file)), 2)
            self._start(a.ns.popen(str(self.helper), "send", a.ifname, str(self.file), str(self.rate)), 1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, process: subprocess.Popen[bytes], flag: int) -> None:
        self._processes.append(process)
        until = time.monotonic() + 10
        while not self._word(_READY) & flag:
            assert process.poll() is None, "the traffic helper failed"
            assert time.monotonic() < until, "the traffic helper does not start"
            time.sleep(0.001)

    def _word(self, number: int) -> int:
        return int(struct.unpack_from("I", self._shared, 4 * number)[0])

    @property
    def latest(self) -> int:
        """The stamp of the packet that came last."""
        return self._word(_LATEST)

    @property
    def latest_second(self) -> int:
        return self._word(_LATEST_SECOND)

    @property
    def received(self) -> int:
        return self._word(_RECEIVED)

    def wait_for(self, stamp: int, timeout: float = 5.0) -> None:
        """Until a packet with this stamp has come."""
        until = time.monotonic() + timeout
        while self.latest != stamp:
            assert time.monotonic() < until, f"no packet of version {stamp}; the latest has {self.latest}"
            time.sleep(0.0001)

    def stop(self) -> Verdict:
        """End the stream, wait for what is under way, and judge."""
        struct.pack_into("I", self._shared, 0, 1)
        for process in reversed(self._processes):
            assert process.wait(20) == 0
        sent = self._word(_SENT)
        return Verdict(struct.unpack_from(f"{sent}I", self._shared, _HEADER), self._word(_OVERFLOWED))

    def __exit__(self, *_: object) -> None:
        struct.pack_into("I", self._shared, 0, 1)
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._shared.close()
        self.file.unlink(missing_ok=True)
