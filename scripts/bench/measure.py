"""Timing whole processes, interleaved: every round runs each subject once, in turning order, so that whatever else the
machine does meets all of them alike. A ratio is taken inside each round."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WARM_UP = 3

# The number of the round -> the command lines to run one after the other
Subject = Callable[[int], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Spread:
    """Of a list of figures: the least, the quartiles, the greatest."""

    least: float
    low: float
    median: float
    high: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        ordered = sorted(figures)
        low, median, high = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
        return cls(ordered[0], low, median, high, ordered[-1])

    def scaled(self, factor: float) -> Spread:
        return Spread(*(factor * figure for figure in vars(self).values()))


class CommandFailed(Exception):
    """A measured command did not exit with 0."""


@dataclass
class Usage:
    """Seconds of processor time in user space and in the kernel.

    The kernel knows their sum exactly and divides it by what its timer ticks met, which says nothing of one short
    process. The ticks fall anywhere in it, though, so that over many processes the sums come out right.
    """

    user: float = 0
    system: float = 0

    @property
    def kernel_share(self) -> float:
        return self.system / (self.user + self.system or 1)


def spawn(words: Sequence[str], quiet: int, usage: Usage | None = None) -> None:
    """Run a command to its end with as little of our own as can be; output goes to the file `quiet`."""
    actions = [(os.POSIX_SPAWN_DUP2, quiet, 1), (os.POSIX_SPAWN_DUP2, quiet, 2)]
    _, status, used = os.wait4(os.posix_spawnp(words[0], list(words), os.environ, file_actions=actions), 0)
    if usage is not None:
        usage.user += used.ru_utime
        usage.system += used.ru_stime
    if status:
        raise CommandFailed(f"{' '.join(words)}: exit {os.waitstatus_to_exitcode(status)}")


def interleave(subjects: dict[str, Subject], rounds: int, used: dict[str, Usage]) -> dict[str, list[float]]:
    """Seconds of each subject in each round, after a few that do not count; `used` gets the processor time of each.
    Raises CommandFailed."""
    names = list(subjects)
    times: dict[str, list[float]] = {name: [] for name in names}
    quiet = os.open(os.devnull, os.O_WRONLY)
    try:
        warm_up = min(WARM_UP, rounds // 2)
        for number in range(warm_up + rounds):
            if number == warm_up:
                used.update({name: Usage() for name in names})
            shift = number % len(names)
            for name in (*names[shift:], *names[:shift]):
                commands = subjects[name](number)
                began = time.perf_counter()
                for words in commands:
                    spawn(words, quiet, used.get(name))
                took = time.perf_counter() - began
                if number >= warm_up:
                    times[name].append(took)
    finally:
        os.close(quiet)
    return times


def ratios(times: dict[str, list[float]], subject: str, rival: str) -> Spread:
    """How many times the rival's time the subject takes, round by round."""
    return Spread.of([mine / theirs for mine, theirs in zip(times[subject], times[rival], strict=True)])
