"""What an apply would do: read everything, change nothing.

A `Plan` holds the image, what runs now on each target and the step for each. `apply` makes one under the lock and
carries it out; `elfpatch plan` prints one.
"""

from __future__ import annotations

import os

from elfpatch.deploy import record as rec
from elfpatch.deploy.attach import adapter_for
from elfpatch.deploy.attach.base import ABSENT, DEFUNCT, FOREIGN, OURS, Live
from elfpatch.deploy.paths import check_name, plain
from elfpatch.deploy.prepare import Prepared, prepare
from elfpatch.deploy.session import Session
from elfpatch.deploy.source import stem_of
from elfpatch.deploy.target import parse_all
from elfpatch.errors import BadConfiguration, BadValue, Drifted, NoPermission, raise_all
from elfpatch.patch.image import digest, image_to_load
from elfpatch.patch.setting import from_set

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from elfpatch.deploy.attach.base import Adapter, Place
    from elfpatch.deploy.live import Store
    from elfpatch.deploy.paths import Layout
    from elfpatch.deploy.record import Attached, Record
    from elfpatch.deploy.select import Selection
    from elfpatch.deploy.target import Target
    from elfpatch.patch.image import Image, Template
    from elfpatch.patch.setting import Setting

KEEP, ATTACH, SWAP, DETACH = "keep", "attach", "swap", "detach"
UNKNOWN = "unknown"  # the caller may not look


class Request:
    """What the user asked for. `name` "" and no `targets`: derived from the object and the deployment's record."""

    __slots__ = (
        "force",
        "immediates",
        "name",
        "object",
        "replace_maps",
        "reuse_values",
        "settings",
        "specialize",
        "targets",
    )

    def __init__(
        self,
        path: str,
        settings: Sequence[Setting] = (),
        targets: Sequence[str] = (),
        *,
        name: str = "",
        force: bool = False,
        reuse_values: bool = False,
        replace_maps: bool = False,
        specialize: bool = False,
        immediates: tuple[str, ...] = (),
    ) -> None:
        self.object = path
        self.settings = settings
        self.targets = targets
        self.name = name
        self.force = force
        self.reuse_values = reuse_values
        self.replace_maps = replace_maps
        self.specialize = specialize
        self.immediates = immediates

    @property
    def deployment(self) -> str:
        """The deployment's name. Raises UsageError."""
        return check_name(self.name or plain(stem_of(self.object)))


class Step:
    """What happens to one target. `program` is the row of its program, -1 for DETACH; `old` the record of what we
    have there, `live` what was seen."""

    __slots__ = ("action", "adapter", "live", "old", "pin", "place", "program", "target")

    def __init__(
        self,
        action: str,
        target: Target,
        adapter: Adapter,
        pin: str,
        program: int,
        place: Place | None,
        live: Live,
        old: Attached | None,
    ) -> None:
        self.action = action
        self.target = target
        self.adapter = adapter
        self.pin = pin
        self.program = program
        self.place = place
        self.live = live
        self.old = old


class ValueChange:
    """A path whose value differs from what runs (or, at first, from the template's default). Texts; `new_bytes` is the
    place's bytes."""

    __slots__ = ("new", "new_bytes", "old", "path")

    def __init__(self, path: str, old: str, new: str, new_bytes: bytes) -> None:
        self.path = path
        self.old = old
        self.new = new
        self.new_bytes = new_bytes


class Plan:
    """`changed` is False when the deployment already is what was asked for. `unpinned`: pins of its programs are gone,
    so they are to be loaded again. `live`: the store that makes the change in what runs, None for a reload."""

    __slots__ = (
        "_prepared",
        "changed",
        "config_sha256",
        "image",
        "live",
        "name",
        "record",
        "request",
        "selection",
        "steps",
        "unpinned",
    )

    def __init__(
        self,
        request: Request,
        name: str,
        image: Image,
        record: Record | None,
        selection: Selection,
        steps: list[Step],
        *,
        unpinned: bool = False,
    ) -> None:
        self.request = request
        self.name = name
        self.image = image
        self.record = record
        self.selection = selection
        self.steps = steps
        self.unpinned = unpinned
        self.live: Store | None = None
        self._prepared: Prepared | None = None
        self.config_sha256 = digest(image)
        template = image.template.index.template_sha256.hex()
        self.changed = (
            record is None
            or not record.generation
            or record.config_sha256 != self.config_sha256
            or record.template_sha256 != template
            or record.pending != []
            or record.specialized != request.specialize
            or unpinned
            or any(step.action != KEEP for step in steps)
        )

    @property
    def generation(self) -> int:
        """The number of the generation that this plan leads to."""
        now = self.record.generation if self.record else 0
        return now + 1 if self.changed else now

    def reload(self) -> None:
        """Every program changes with its generation."""
        self.live = None
        for step in self.steps:
            if step.action == KEEP:
                step.action = SWAP

    @property
    def hooks(self) -> dict[int, list[str]]:
        """By row of PROGRAMS, the places where a program is going to run."""
        hooks: dict[int, list[str]] = {}
        for step in self.steps:
            if step.place is not None and step.program >= 0:
                hooks.setdefault(step.program, []).append(step.place.key)
        return hooks

    @property
    def prepared(self) -> Prepared:
        """What is loaded. Raises BadObject."""
        if self._prepared is None:
            self._prepared = prepare(self.image, self.selection, specialize=self.request.specialize)
        return self._prepared

    @property
    def value_changes(self) -> list[ValueChange]:
        return value_changes(self.image, self.record)


def make_plan(layout: Layout, request: Request, *, may_look: bool = True, session: Session | None = None) -> Plan:
    """Compare what was asked for with what is there.

    `session`: of `request.object`, when there is one already.
    `may_look` False: without privilege, what runs on the targets is taken from the record. Raises BadValue, BadObject,
    Missing, UsageError, BadConfiguration; Drifted when somebody else's program is where ours was.
    """
    name = request.deployment
    record = rec.read(layout, name)
    session = session or Session(layout, request.object, request.immediates)
    template = session.template
    image = image_to_load(template, _settings(request, record), force=request.force)
    targets = parse_all(request.targets)
    if not targets and record is not None:
        targets = [session.target(one.target) for one in record.attached]
    selection = session.selection(targets)
    steps = _steps(session, name, record, targets, selection, may_look=may_look)
    unpinned = record is not None and bool(rec.unpinned(layout, record))
    plan = Plan(request, name, image, record, selection, steps, unpinned=unpinned)
    if plan.changed and record is not None and record.sections:  # there are values that programs can be given live
        from elfpatch.deploy.live import live_store

        plan.live = live_store(plan)
    if plan.changed and plan.live is None:
        plan.reload()
    return plan


def _settings(request: Request, record: Record | None) -> list[Setting]:
    before: list[Setting] = []
    if request.reuse_values and record is not None:
        before = [from_set(f"{path}={text}", level=-1) for path, text in record.settings]
    return [*before, *request.settings]


def _steps(
    session: Session,
    name: str,
    record: Record | None,
    targets: list[Target],
    selection: Selection,
    *,
    may_look: bool,
) -> list[Step]:
    attached = {session.target(one.target).hook: one for one in record.attached} if record else {}
    known = record.known_ids() if record else []
    steps: list[Step] = []
    problems = []
    for target, row in zip(targets, selection.for_target, strict=True):
        old = attached.pop(target.hook, None)
        adapter = adapter_for(target)
        place = adapter.locate(target)
        pin = (old.pin if old else "") or (session.layout.link(name, target) if adapter.pinned else "")
        live = _look(adapter, place, pin, old, known, may_look=may_look)
        if live.state == FOREIGN and old is not None:
            problems.append(
                Drifted(
                    f"program {live.prog_id} of somebody else runs where ours was, program {old.prog_id}",
                    where=target.text,
                    hint=f"`elfpatch detach {name}` gives the place up",
                )
            )
        action = KEEP if live.state in (OURS, UNKNOWN) and old is not None else ATTACH
        if action == KEEP and old is not None:
            adapter.check_swap(place, old.details)
            if live.prog_id and live.prog_id != old.prog_id:
                action = SWAP  # an interrupted apply put another of our programs there
        steps.append(Step(action, target, adapter, pin, row, place, live, old))
    for old in attached.values():
        target = session.target(old.target)
        steps.append(Step(DETACH, target, adapter_for(target), old.pin, -1, None, Live(OURS, old.prog_id), old))
    raise_all(problems)
    return steps


def _look(adapter: Adapter, place: Place, pin: str, old: Attached | None, known: list[int], *, may_look: bool) -> Live:
    try:
        return adapter.observe(place, pin, old.details if old else {}, known)
    except NoPermission:
        if may_look:
            raise
        return Live(UNKNOWN if old else ABSENT, old.prog_id if old else 0)


def value_changes(image: Image, record: Record | None) -> list[ValueChange]:
    """What differs between the recorded values and the image's; without a record, between it and the template's."""
    if record is None or not record.generation:
        return [ValueChange(change.path, change.old_text, change.new_text, change.new) for change in image.values]
    template = image.template
    before = dict(record.settings)
    after = dict(image.settings_text)
    found = []
    for path in (*after, *(path for path in before if path not in after)):
        try:
            place = template.place(path)
        except BadValue:  # the variable is gone from the template
            continue
        new = after[path] if path in after else _shown(template, path)
        old = before[path] if path in before else _shown(template, path)
        if old != new:
            section = image.section_bytes(place.section)
            found.append(ValueChange(path, old, new, section[place.offset : place.offset + place.size]))
    return found


def _shown(template: Template, path: str) -> str:
    from elfpatch.patch.value import show

    place = template.place(path)
    return show(template.index, place, template.raw(place))


def refuse_other_object(plan: Plan) -> None:
    """Two objects of one file name would take turns in one deployment: refuse, unless a name was given."""
    record = plan.record
    if record is None or not record.object or plan.request.name or not record.generation:
        return
    if os.path.basename(record.object) != os.path.basename(plan.request.object):
        raise BadConfiguration(
            f"deployment {plan.name} runs {record.object}, not {plan.request.object}",
            hint=f"give --name {plan.name} to go on with it, or another name",
        )


__all__ = ["ABSENT", "ATTACH", "DEFUNCT", "DETACH", "KEEP", "SWAP", "Plan", "Request", "Step", "make_plan"]
