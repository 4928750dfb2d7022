"""`make demo`, for a person to read: every `$` line is a command that is run as shown."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from elfpatch.kernel import bpf
from scripts import private
from scripts.demo import network
from scripts.demo.network import ENDPOINT, ENDPOINT_MAC, OTHER, Receiver, Sender

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "fixtures" / "templates"
ELFPATCH = Path(sys.executable).with_name("elfpatch")
TARGET = f"tcx:{network.HOST_IF}:ingress"
PINNED_COUNTERS = "/sys/fs/bpf/elfpatch/endpoint/maps/counters"
VERDICTS = ("passed", "audited", "spoofed MAC", "spoofed ARP", "spoofed IPv4", "spoofed IPv6", "spoofed NDP")
VERDICTS = (*VERDICTS, "denied port", "denied protocol", "malformed")
CHANGES = 40
RATE = 2000  # packets a second
IDENTITY = ("--set", f"ep.ip4={ENDPOINT}", "--set", f"ep.mac={ENDPOINT_MAC}")


class Failed(Exception):
    """What was shown is not what should be."""


def say(text: str = "", *, bold: bool = False) -> None:
    print(f"\033[1m{text}\033[0m" if bold and sys.stdout.isatty() else text, flush=True)


def fit(line: str) -> str:
    """Cut to the terminal's width; whole when the output goes elsewhere."""
    width = shutil.get_terminal_size().columns
    return f"{line[: width - 1]}…" if sys.stdout.isatty() and len(line) > width else line


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Failed(what)


def run(*words: str, show: bool = True, lines: int = 100) -> str:
    """Run elfpatch as a hook would, a process of its own."""
    if show:
        say(f"   $ elfpatch {shlex.join(words)}")
    done = subprocess.run(
        [ELFPATCH, *words], capture_output=True, text=True, check=False, cwd=TEMPLATES, stdin=subprocess.DEVNULL
    )
    if show:
        for line in (done.stdout + done.stderr).splitlines()[:lines]:
            say(fit(f"     {line}"))
    if done.returncode:
        raise Failed(f"elfpatch {shlex.join(words)} exited with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def counters() -> dict[str, int]:
    """Packets by verdict, from the pinned map: a value of each CPU for each verdict."""
    fd = bpf.obj_get(PINNED_COUNTERS)
    try:
        with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
            cpus = int(file.read().strip().replace(",", "-").rsplit("-", 1)[-1]) + 1
        found = {}
        for number, name in enumerate(VERDICTS):
            values = struct.unpack(f"{2 * cpus}Q", bpf.map_lookup(fd, struct.pack("I", number), 16 * cpus))
            found[name] = sum(values[::2])
        return found
    finally:
        os.close(fd)


def show_counters() -> dict[str, int]:
    found = counters()
    shown = ", ".join(f"{name} {count}" for name, count in found.items() if count)
    say(f"   the template's own counters: {shown}")
    return found


def seen_by(sender: Sender, receiver: Receiver, source: str, port: int, count: int = 100) -> int:
    """Send a burst; how many arrived."""
    receiver.take()
    sender.burst(source, port, count)
    time.sleep(0.2)
    return receiver.take().flows[source, port]


def probe(sender: Sender, receiver: Receiver, wanted: dict[tuple[str, int], int]) -> None:
    """Send 100 packets of each kind and hold what arrives against what should."""
    for (source, port), count in wanted.items():
        arrived = seen_by(sender, receiver, source, port)
        what = "its own address" if source == ENDPOINT else "an address not its own"
        verdict = "pass" if arrived else "are dropped"
        say(f"   100 packets from {source} ({what}) to port {port}: {arrived} arrive, they {verdict}")
        expect(arrived == count, f"{count} of 100 packets from {source} to port {port} should arrive")


def seconds(function, *arguments: object, **options: object) -> float:
    began = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - began


def interpreter() -> None:
    subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)


def new_mark(mark: int) -> tuple[str, ...]:
    return ("apply", "--reuse-values", "--set", f"ep.id={mark}", "endpoint.o")


# --- the acts


def act_template() -> None:
    say("\n1. A template: a compiled object, and an index of what can be set in it", bold=True)
    run("inspect", "endpoint.o")


def act_apply(sender: Sender, receiver: Receiver) -> None:
    say(
        "\n2. It is given an endpoint's identity and put on the interface that the endpoint's packets come in by",
        bold=True,
    )
    probe(sender, receiver, {(ENDPOINT, 443): 100, (OTHER, 443): 100})
    run("apply", "--target", TARGET, *IDENTITY, "--set", "ep.id=1", "endpoint.o")
    probe(sender, receiver, {(ENDPOINT, 443): 100, (ENDPOINT, 8080): 100, (OTHER, 443): 0})
    show_counters()


def act_policy(sender: Sender, receiver: Receiver) -> None:
    say("\n3. Its policy changes: from now on only port 443", bold=True)
    policy = ("--reuse-values", "--set", "ep.policy.mode=POLICY_ENFORCE", "--set", "ep.policy.ports[0]=443")
    run("plan", *policy, "endpoint.o")
    run("apply", *policy, "endpoint.o")
    probe(sender, receiver, {(ENDPOINT, 443): 100, (ENDPOINT, 8080): 0, (OTHER, 443): 0})
    kept = show_counters()
    expect(kept["passed"] >= 300 and kept["spoofed IPv4"] == 200, "the counters should survive the change")
    say("   they count on: the map went over to the new program")


def act_traffic(sender: Sender, receiver: Receiver) -> None:
    say(f"\n4. {CHANGES} changes of ep.id, the packets' mark, while {RATE} packets a second flow", bold=True)
    marks = range(2, 2 + CHANGES)
    sender.tell(f"stream {ENDPOINT} 443 {RATE}")
    receiver.take()
    applies, plain = [], []
    for mark in marks:
        if mark in (marks[0], marks[1]):
            say(f"   $ elfpatch {shlex.join(new_mark(mark))}{'' if mark == marks[0] else '     ...'}")
        applies.append(seconds(run, *new_mark(mark), show=False))
        expect(receiver.wait_for_mark(mark), f"packets with mark {mark} should come")
        plain.append(seconds(interpreter))
    sent = int(sender.tell("stop").split()[1])
    time.sleep(0.2)
    seen = receiver.take()
    other = sum(count for mark, count in seen.marks.items() if mark not in (1, *marks))
    say(f"   {sent} packets sent, {len(seen.numbers)} arrived, with {len(seen.marks)} different marks")
    say(f"   packets that saw neither the old nor the new program: {other}")
    expect(other == 0 and len(seen.numbers) == sent, "every packet should be marked, and none lost")
    show_times("elfpatch apply", applies)
    show_times("python -I -c pass", plain)
    ratio = statistics.median(applies) / statistics.median(plain)
    say(f"   so a change of configuration costs {ratio:.1f} times the start of the interpreter")


def show_times(what: str, times: list[float]) -> None:
    low, middle, high = (1000 * value for value in (min(times), statistics.median(times), max(times)))
    say(f"   {what:<18} {middle:6.1f} ms in the middle ({low:.1f} to {high:.1f}), a process each, beside the traffic")


def act_contrast(sender: Sender, receiver: Receiver) -> None:
    say("\n5. For contrast: the same change by taking the program off and putting it on again", bold=True)
    sender.tell(f"stream {ENDPOINT} 443 {RATE}")
    receiver.take()
    time.sleep(0.1)
    run("detach", "endpoint")
    run("apply", "--target", TARGET, *IDENTITY, "--set", "ep.id=1000", "endpoint.o", lines=2)
    expect(receiver.wait_for_mark(1000), "packets with mark 1000 should come")
    sender.tell("stop")
    time.sleep(0.2)
    bare = receiver.take().marks[0]
    say(f"   packets that saw neither program: {bare}")
    expect(bare > 0, "a detached program should be missed by some packet")


def act_end() -> None:
    say("\n6. What runs, and the end of it", bold=True)
    run("apply", "--reuse-values", "endpoint.o")
    run("status")
    run("detach", "endpoint")


def play() -> None:
    release = os.uname().release
    say("elfpatch: a compiled filter takes new configuration while packets flow", bold=True)
    say(f"Linux {release}, Python {sys.version.split()[0]}; no compiler takes part: the template was built beforehand.")
    say("Namespaces, bpffs and records are private to this program and vanish with it.")
    with tempfile.TemporaryDirectory(prefix="elfpatch-demo-") as state, network.world() as (sender, receiver):
        os.environ["ELFPATCH_STATE_DIR"] = state
        os.environ.pop("ELFPATCH_BPFFS", None)
        act_template()
        act_apply(sender, receiver)
        act_policy(sender, receiver)
        act_traffic(sender, receiver)
        act_contrast(sender, receiver)
        act_end()
    say("\nEverything went as it should; nothing is left behind.", bold=True)


def stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    problem = private.why_not()
    if problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 77 if os.geteuid() else 69
    private.enter("scripts.demo")
    signal.signal(signal.SIGTERM, stop)
    try:
        play()
    except KeyboardInterrupt:
        print("\ndemo: interrupted; nothing is left behind", file=sys.stderr)
        return 130
    except Failed as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
