"""BPF objects that other people ship, out of Debian packages (scripts/corpus.py)."""

from __future__ import annotations

import functools
from pathlib import Path

from scripts.corpus import Unavailable, ensure
from tests.support.require import unmet


@functools.cache
def _fetched() -> tuple[list[Path], str]:
    """(the objects, why there are none): one attempt a run."""
    try:
        return ensure(), ""
    except Unavailable as error:
        return [], str(error)


def objects() -> list[Path]:
    """All of them, fetched at the first use (6.5 MB). Without them the running test fails or, where prerequisites may
    be missing, is skipped."""
    found, reason = _fetched()
    if not found:
        unmet(f"needs the corpus: {reason}")
    return found
