"""What runs: every deployment with its targets, and where the world has drifted from the record."""

from __future__ import annotations

from elfpatch.deploy import record as rec
from elfpatch.deploy.attach import adapter_for
from elfpatch.deploy.attach.base import ABSENT, DEFUNCT, FOREIGN, OURS, Live
from elfpatch.deploy.target import parse
from elfpatch.errors import ElfpatchError, Missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.deploy.paths import Layout
    from elfpatch.deploy.record import Attached, Record

_WORDS = {
    ABSENT: "removed: our program is no longer attached",
    DEFUNCT: "gone: the interface or cgroup it was attached to",
    FOREIGN: "replaced: program {} of somebody else runs there",
}


class TargetStatus:
    """A target, what was recorded of it, and what was seen. `drift` is "" when both agree."""

    __slots__ = ("attached", "drift", "live")

    def __init__(self, attached: Attached, live: Live, drift: str) -> None:
        self.attached = attached
        self.live = live
        self.drift = drift


class DeploymentStatus:
    """A deployment's record and its targets. `problem` says why the record cannot be used, "" when it can."""

    __slots__ = ("name", "problem", "record", "targets")

    def __init__(self, name: str, record: Record | None, targets: list[TargetStatus], problem: str = "") -> None:
        self.name = name
        self.record = record
        self.targets = targets
        self.problem = problem

    @property
    def drifted(self) -> bool:
        return bool(self.problem) or any(target.drift for target in self.targets)


def status(layout: Layout, names: list[str]) -> list[DeploymentStatus]:
    """The status of the named deployments, or of all. Raises Missing for a name without a record."""
    known = rec.names(layout)
    for name in names:
        if name not in known:
            raise Missing(
                f"no deployment named {name}", hint=f"there are {', '.join(known)}" if known else "there are none"
            )
    return [_one(layout, name) for name in names or known]


def _one(layout: Layout, name: str) -> DeploymentStatus:
    try:
        record = rec.read(layout, name)
    except ElfpatchError as error:
        return DeploymentStatus(name, None, [], str(error))
    if record is None:
        return DeploymentStatus(name, None, [], "its record was removed meanwhile")
    problem = ""
    if record.pending:
        problem = "an apply was interrupted; the next one finishes it"
    elif gone := rec.unpinned(layout, record):
        problem = f"DRIFT: pins are gone of {', '.join(gone)}; the next apply loads again"
    return DeploymentStatus(name, record, [_target(record, one) for one in record.attached], problem)


def _target(record: Record, attached: Attached) -> TargetStatus:
    target = parse(attached.target)
    adapter = adapter_for(target)
    try:
        place = adapter.locate(target)
        live = adapter.observe(place, attached.pin, attached.details, record.known_ids())
    except Missing as error:
        return TargetStatus(attached, Live(DEFUNCT), f"gone: {error}")
    except ElfpatchError as error:
        return TargetStatus(attached, Live("unknown"), f"unknown: {error}")
    if live.state == OURS:
        wrong = live.prog_id != attached.prog_id
        return TargetStatus(attached, live, f"program {live.prog_id} of an interrupted apply" if wrong else "")
    drift = _WORDS[live.state].format(live.prog_id)
    return TargetStatus(attached, live, f"{drift} ({live.note})" if live.note else drift)
