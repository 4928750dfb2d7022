"""A progress bar on a terminal; nothing anywhere else."""

from __future__ import annotations

import sys
import time

_REDRAW = 0.1  # seconds
_WIDTH = 24
_CLEAR = "\r\x1b[K"


class Progress:
    """Counts results and draws them on stderr. `total` 0: not known."""

    def __init__(self, total: int) -> None:
        self.done = 0
        self.failed = 0
        self._total = total
        self._start = time.monotonic()
        self._drawn = 0.0
        self._shown = sys.stderr.isatty()

    def add(self, *, failed: bool) -> None:
        self.done += 1
        self.failed += failed
        now = time.monotonic()
        if self._shown and now - self._drawn >= _REDRAW:
            self._drawn = now
            self._write(_CLEAR + bar(self.done, self._total, self.failed, now - self._start))

    def clear(self) -> float:
        """Wipe the bar; returns the seconds since the start."""
        if self._shown and self._drawn:
            self._write(_CLEAR)
        return time.monotonic() - self._start

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:  # a terminal that went away stops no work
            self._shown = False


def bar(done: int, total: int, failed: int, seconds: float) -> str:
    """`[######------] 500/1000  2 failed  312/s  ETA 1.6 s`; without a total only what is known."""
    rate = done / seconds if seconds > 0 else 0.0
    tail = f"  {failed} failed  {rate:.0f}/s"
    if not total:
        return f"{done}{tail}"
    filled = min(_WIDTH, _WIDTH * done // total)
    eta = f"  ETA {max(0, total - done) / rate:.1f} s" if rate else ""
    return f"[{'#' * filled}{'-' * (_WIDTH - filled)}] {done}/{total}{tail}{eta}"
