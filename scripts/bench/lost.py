"""Packets that meet neither the old nor the new program while a program is replaced again and again.

Packets flow from one end of a veth pair to the other, where mark.o on TCX marks them and a classic filter, which the
kernel runs after all of TCX, counts those with a mark and those without. In lock-step: the next replacement waits for
packets that came after the last. The contrast takes the program off and puts the next one on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from elfpatch.deploy.paths import Layout
from elfpatch.deploy.plan import Request
from elfpatch.deploy.transaction import apply, detach
from elfpatch.patch.setting import from_set
from scripts.bench.measure import Spread
from scripts.bench.processes import MARK
from scripts.bench.rows import Ratio, Row
from scripts.build_templates import compile_object

SOURCE = Path(__file__).with_name("observer.bpf.c")
NEAR, FAR = "lost0", "lost1"
PATIENCE = 5.0  # seconds for a packet to come
SENDER = """
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
frame = b"\\xff" * 6 + b"\\x02" * 6 + b"\\x88\\xb5" + bytes(46)
while True:
    try:
        out.send(frame)
    except OSError:
        pass
"""


class Observer:
    """The counting filter on NEAR."""

    def __init__(self, work: Path, clang: str) -> None:
        path, pins = work / "observer.o", "/sys/fs/bpf/observer"
        compile_object(SOURCE, path, clang=clang)
        subprocess.run(["bpftool", "prog", "load", str(path), pins, "pinmaps", f"{pins}-maps"], check=True)
        subprocess.run(["tc", "qdisc", "add", "dev", NEAR, "clsact"], check=True)
        there = ["tc", "filter", "add", "dev", NEAR, "ingress"]
        subprocess.run([*there, "bpf", "direct-action", "pinned", pins], check=True)
        self.map = f"{pins}-maps/counts"

    def counts(self) -> tuple[int, int]:
        """Packets without a mark, and with one."""
        shown = subprocess.run(["bpftool", "-j", "map", "dump", "pinned", self.map], capture_output=True, check=True)
        return tuple(one["formatted"]["value"] for one in json.loads(shown.stdout))

    def wait(self) -> None:
        """Until another packet with a mark has come."""
        before, until = self.counts()[1], time.monotonic() + PATIENCE
        while self.counts()[1] == before:
            if time.monotonic() > until:
                raise TimeoutError("no packets come")


@contextmanager
def packets() -> Iterator[None]:
    sender = subprocess.Popen([sys.executable, "-I", "-c", SENDER, FAR])
    try:
        yield
    finally:
        sender.kill()
        sender.wait()


def missed(observer: Observer, change: Callable[[int], object], count: int) -> tuple[int, int]:
    """Packets that met no program over so many changes, and all packets. The first change is not counted."""
    change(1)
    with packets():
        observer.wait()
        bare, marked = observer.counts()
        for number in range(2, count + 2):
            change(number)
            observer.wait()
        bare_now, marked_now = observer.counts()
    return bare_now - bare, bare_now - bare + marked_now - marked


def measure(work: Path, clang: str, count: int) -> Row:
    """Over `count` replacements, and a tenth as many of the contrast."""
    subprocess.run(["ip", "link", "add", NEAR, "type", "veth", "peer", "name", FAR], check=True)
    for iface in (NEAR, FAR):
        subprocess.run(["ip", "link", "set", iface, "up"], check=True)
    observer = Observer(work, clang)
    layout = Layout(str(work / "state-lost"), "/sys/fs/bpf")
    target = f"tcx:{NEAR}:ingress"

    def replace(number: int) -> None:
        apply(layout, Request(str(MARK), [from_set(f"foo={number}")], [target], name="lost"))

    def off_and_on(number: int) -> None:
        if number > 1:
            detach(layout, "lost")
        replace(number)

    lost, seen = missed(observer, replace, count)
    detach(layout, "lost")
    contrast, contrast_seen = missed(observer, off_and_on, max(3, count // 10))
    detach(layout, "lost")
    return Row(
        key="lost",
        name=f"packets that meet neither program over {count} replacements",
        rounds=1,
        unit="packets",
        figures={
            "missed by replacing": Spread.of([float(lost)]),
            f"missed by {max(3, count // 10)} x detach, attach": Spread.of([float(contrast)]),
        },
        ratios=[Ratio("packets missed", Spread.of([float(lost)]), 0)],
        facts={"packets": f"{seen}, in the contrast {contrast_seen}"},
    )
