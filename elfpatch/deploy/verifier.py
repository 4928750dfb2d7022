"""A rejected program, explained: imported only when a load has failed."""

from __future__ import annotations

import os

from elfpatch.errors import SyscallFailed, VerifierRejected
from elfpatch.kernel import bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.errors import ElfpatchError
    from elfpatch.index import Program
    from elfpatch.patch.image import Image

_SHOWN = 6
_NOISE = ("processed ", "verification time", "stack depth", "max_states", "mark_precise", "-- BEGIN", "-- END")


def rejected(spec: bpf.ProgSpec, image: Image, program: Program, error: SyscallFailed) -> ElfpatchError:
    """Load once more with a log, and say what the verifier said: where in the source, and why."""
    fd, errno, log = bpf.prog_load_log(spec, log_level=1)
    if fd >= 0:  # it went through this time: the first failure stands
        os.close(fd)
        return error
    where = f"{image.template.path}: {program.name}"
    lines = [line for line in log.split("\n") if line.strip()]
    words = [line for line in lines if not line.startswith(_NOISE)]
    if not words:
        error.where = where
        return error
    source = _source(words)
    explanation = words[-_SHOWN:]
    if source and not any(source in line for line in explanation):
        explanation = [source, *explanation]
    if image.values:
        explanation.append("set here: " + ", ".join(f"{change.path}={change.new_text}" for change in image.values[:8]))
    place = source.rpartition("@ ")[2] if "@ " in source else ""
    return VerifierRejected(
        program.name,
        errno,
        log,
        explanation,
        where=where,
        hint=f"{words[-1].strip()}{f', at {place}' if place else ''}; -v shows the whole log",
    )


def _source(words: list[str]) -> str:
    """The last source line before the verifier's last word: `; if (x > 4) @ file.c:12`."""
    for line in reversed(words):
        if line.startswith("; "):
            return line
    return ""
