"""Apply and detach: the only code that changes what runs.

Under the deployment's lock: plan; load and verify everything; write down what may come to run; swap each target by
compare-and-swap; pin; record. Before the first swap a failure changes nothing. After it, what was swapped is swapped
back in reverse order. No kernel primitive swaps several hooks at once: between the first and the last swap packets
meet old and new programs side by side.
"""

from __future__ import annotations

import os
import time
from errno import EEXIST

from elfpatch.deploy import record as rec
from elfpatch.deploy.attach.base import prog_id_of
from elfpatch.deploy.load import Loaded, load
from elfpatch.deploy.lock import Lock
from elfpatch.deploy.plan import ATTACH, DETACH, SWAP, Plan, Request, make_plan, refuse_other_object
from elfpatch.deploy.reuse import Carried, carry, is_private_prog_array, is_state, pin_path, section_digest
from elfpatch.deploy.session import Session
from elfpatch.errors import Bug, Drifted, ElfpatchError, Missing, SyscallFailed
from elfpatch.index import SECTION_RODATA, Map, Section
from elfpatch.kernel import bpf, bpffs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.deploy.paths import Layout
    from elfpatch.deploy.plan import Step
    from elfpatch.deploy.prepare import Prepared
    from elfpatch.deploy.record import Attached, Record

DEFAULT_LOCK_TIMEOUT = 5.0
_PIN_RACES = 5  # how often a pin may come and go between our look and our pin


class Outcome:
    """What an apply did. `new_ids` is the program id by target text; `notes` are remarks for the user."""

    __slots__ = ("carried", "left_out", "new_ids", "notes", "plan", "record")

    def __init__(self, plan: Plan, record: Record) -> None:
        self.plan = plan
        self.record = record
        self.new_ids: dict[str, int] = {}
        self.notes: list[str] = []
        self.left_out: list[str] = []  # maps and programs that specialisation found no use for
        self.carried: Carried | None = None


def apply(
    layout: Layout, request: Request, lock_timeout: float = DEFAULT_LOCK_TIMEOUT, session: Session | None = None
) -> Outcome:
    """Make a deployment what was asked for. Raises any ElfpatchError; what ran before then still runs.

    `session`: of `request.object`, where other instances are applied as well; without one it is opened and closed here.
    """
    name = request.deployment
    with Lock(layout, name, lock_timeout):
        if session is not None:
            return _apply(session, name, request)
        with Session(layout, request.object, request.immediates) as own:
            return _apply(own, name, request)


def _apply(session: Session, name: str, request: Request) -> Outcome:
    layout = session.layout
    plan = make_plan(layout, request, session=session)
    refuse_other_object(plan)
    if not plan.changed:
        assert plan.record is not None
        return Outcome(plan, plan.record)
    if plan.live is not None:
        from elfpatch.deploy.live import store_live

        record = store_live(layout, plan, plan.live)
        if record is not None:
            return _stored(plan, record)
        plan.reload()
    prepared = plan.prepared
    for left in reversed(range(_PIN_RACES)):
        try:
            carried = carry(layout, name, plan.image, prepared, plan.record, replace=request.replace_maps)
            with load(plan.image, prepared, carried, session.shared, plan.hooks) as loaded:
                return _commit(layout, plan, prepared, carried, loaded)
        except SyscallFailed as error:
            # Another deployment pinned a map shared by name since we looked; nothing is swapped yet: use that one.
            if not left or (error.operation, error.errno) != ("BPF_OBJ_PIN", EEXIST):
                raise
    raise Bug("no try at loading")


def _stored(plan: Plan, record: Record) -> Outcome:
    """A change that was made in the running programs."""
    outcome = Outcome(plan, record)
    outcome.new_ids = {one.target: one.prog_id for one in record.attached}
    return outcome


def _commit(layout: Layout, plan: Plan, prepared: Prepared, carried: Carried, loaded: Loaded) -> Outcome:
    """Everything is loaded: swap, pin, record."""
    name = plan.name
    record = _next_record(plan, prepared, loaded)
    outcome = Outcome(plan, record)
    outcome.carried = carried
    outcome.left_out = prepared.left_out
    outcome.notes += loaded.notes
    bpffs.ensure(layout.bpffs)
    fresh = not os.path.lexists(layout.pins(name))
    settled = plan.record is not None and not plan.record.pending  # no crash has left pins of unknown names
    pins = Pins()
    done: list[tuple[Step, int]] = []
    try:
        for folder in (layout.root, layout.pins(name), *(f"{layout.pins(name)}/{kind}" for kind in _FOLDERS)):
            bpffs.make_private(folder)
        _stage_pins(layout, plan, prepared, loaded, record, pins)
        _announce(layout, plan, record)
        for step in plan.steps:
            if step.action in (ATTACH, SWAP):
                _swap_one(step, loaded, record, done)
        # A target that is given up stays in the record until it is off: a crash or a failure must not orphan it.
        record.attached += [step.old for step in plan.steps if step.action == DETACH and step.old is not None]
        rec.write(layout, record)
        pins.settle()
    except BaseException as error:
        _undo(done, loaded, error)
        pins.drop()
        _restore(layout, plan, fresh=fresh)
        raise
    for _, old_fd in done:
        if old_fd >= 0:
            os.close(old_fd)
    if not settled or _names(plan.record) != _names(record):
        _remove_old_programs(layout, record)
    _detach_given_up(layout, plan, record, outcome.notes)
    outcome.new_ids = {one.target: one.prog_id for one in record.attached}
    return outcome


_FOLDERS = ("links", "progs", "maps")


def _next_record(plan: Plan, prepared: Prepared, loaded: Loaded) -> Record:
    image = plan.image
    index = image.template.index
    record = rec.Record(plan.name)
    record.object = os.path.abspath(plan.request.object)
    record.template_sha256 = index.template_sha256.hex()
    record.config_sha256 = plan.config_sha256
    record.generation = plan.generation
    record.since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    record.force = plan.request.force
    record.specialized = prepared.specialized
    record.settings = image.settings_text
    record.sections = {
        section.name: section_digest(image, row)
        for row, section in enumerate(index.rows(Section))
        if section.kind != SECTION_RODATA and section.map in loaded.maps
    }
    for row, ready in prepared.programs.items():
        info = loaded.info(row)
        record.programs.append((ready.wanted.program.name, info.prog_id, info.tag))
    record.shared_maps = list(plan.record.shared_maps) if plan.record else []
    return record


def _announce(layout: Layout, plan: Plan, record: Record) -> None:
    """Write down, before the first swap, which programs may come to run: a crash after it must not look like drift."""
    pending = [number for _, number, _ in record.programs]
    before = plan.record
    if before is not None:
        rec.announce(layout, before, pending)
    else:  # what a crash may leave attached is listed too, so that it can be found again
        before = rec.Record(plan.name)
        before.object = record.object
        before.pending = pending
        before.attached = [
            rec.Attached(s.target.text, s.pin, "", 0, "", s.place.record() if s.place else {})
            for s in plan.steps
            if s.action == ATTACH
        ]
        rec.write(layout, before)
    record.log = before.log


def _swap_one(step: Step, loaded: Loaded, record: Record, done: list[tuple[Step, int]]) -> None:
    assert step.place is not None
    prog_fd, info = loaded.progs[step.program], loaded.info(step.program)
    if step.action == ATTACH:
        details = step.adapter.attach(step.place, prog_fd, step.pin)
        done.append((step, -1))
    else:
        assert step.old is not None
        details = step.old.details
        old_fd = _old_program(step)
        done.append((step, old_fd))
        try:
            step.adapter.swap(step.place, step.pin, details, old_fd, prog_fd)
        except BaseException:
            done.pop()
            os.close(old_fd)
            raise
    record.attached.append(rec.Attached(step.target.text, step.pin, info.name, info.prog_id, info.tag, dict(details)))


def _old_program(step: Step) -> int:
    """The program that is expected on the target: the compare of compare-and-swap."""
    assert step.old is not None
    expected = step.live.prog_id or step.old.prog_id
    try:
        return bpf.prog_fd_by_id(expected)
    except SyscallFailed:
        raise Drifted(
            f"program {expected}, which ran here, is gone: it was replaced meanwhile", where=step.target.text
        ) from None


def _undo(done: list[tuple[Step, int]], loaded: Loaded, error: BaseException) -> None:
    """Take back the swaps in reverse order. One that fails does not stop the others; it is added to the error."""
    for step, old_fd in reversed(done):
        assert step.place is not None
        new_fd = loaded.progs[step.program]
        try:
            if old_fd < 0:
                step.adapter.detach(step.target, step.pin, step.place.record(), (prog_id_of(new_fd),))
            else:
                assert step.old is not None
                step.adapter.swap(step.place, step.pin, step.old.details, new_fd, old_fd)
        except ElfpatchError as failed:
            error.add_note(f"undoing {step.target.text} failed: {failed}")
            if isinstance(error, ElfpatchError):
                error.hint = f"{error.hint}; undoing {step.target.text} failed: {failed}".lstrip("; ")
        finally:
            if old_fd >= 0:
                os.close(old_fd)


def _restore(layout: Layout, plan: Plan, *, fresh: bool) -> None:
    """Record and pins as before the transaction."""
    if plan.record is not None:
        if plan.record.pending:
            rec.settle(layout, plan.record)
        return
    rec.remove(layout, plan.name)
    if fresh:
        _remove_pins(layout, plan.name)


class Pins:
    """Pins that a transaction makes: staged before the first swap, moved into place after the last."""

    __slots__ = ("_kept", "_made", "_staged")

    def __init__(self) -> None:
        self._staged: list[tuple[str, str]] = []
        self._made: list[str] = []
        self._kept: list[str] = []

    def stage(self, fd: int, path: str, *, keep_old: bool = False) -> None:
        """`keep_old`: what was pinned there moves to `path`-old, for packets that are still on their way through it."""
        self._staged.append((bpffs.stage(fd, path), path))
        if keep_old:
            self._kept.append(path)

    def make(self, fd: int, path: str) -> None:
        """Pin at once, where nothing may be: others may wait for this name."""
        bpf.obj_pin(fd, path)
        self._made.append(path)

    def settle(self) -> None:
        for fresh, path in self._staged:
            if path in self._kept and os.path.lexists(path):
                bpffs.settle(path, f"{path}-old")
            bpffs.settle(fresh, path)

    def drop(self) -> None:
        for path in (*(fresh for fresh, _ in self._staged), *self._made):
            bpffs.unpin(path)


def _stage_pins(layout: Layout, plan: Plan, prepared: Prepared, loaded: Loaded, record: Record, pins: Pins) -> None:
    """Pin what is new: state maps, and the generation's programs, which take the place of the old ones."""
    index = plan.image.template.index
    for row, fd in loaded.maps.items():
        definition = index.row(Map, row)
        if row not in loaded.reused and is_private_prog_array(definition):
            pins.stage(fd, pin_path(layout, plan.name, definition), keep_old=True)
        if row in loaded.reused or not is_state(definition):
            continue
        section = index.row(Section, definition.section).name if definition.section >= 0 else ""
        path = pin_path(layout, plan.name, definition, section)
        if definition.pinning:
            pins.make(fd, path)
            record.shared_maps.append(path)
        else:
            pins.stage(fd, path)
    for row, ready in prepared.programs.items():
        pins.stage(loaded.progs[row], layout.prog(plan.name, ready.wanted.program.name))


def _names(record: Record | None) -> list[str]:
    return [name for name, _, _ in record.programs] if record else []


def _remove_old_programs(layout: Layout, record: Record) -> None:
    """Unpin programs that the object no longer has."""
    kept = {os.path.basename(layout.prog(record.name, name)) for name, _, _ in record.programs}
    folder = os.path.dirname(layout.prog(record.name, "x"))
    for entry in os.listdir(folder):
        if entry not in kept:
            bpffs.unpin(f"{folder}/{entry}")


def _detach_given_up(layout: Layout, plan: Plan, record: Record, notes: list[str]) -> None:
    """Take the program off the targets that are no longer wanted. One that fails is told, and stays in the record."""
    given_up = [step for step in plan.steps if step.action == DETACH]
    known = plan.record.known_ids() if plan.record else []
    for step in given_up:
        assert step.old is not None
        try:
            step.adapter.detach(step.target, step.pin, step.old.details, known)
            record.attached.remove(step.old)
        except ElfpatchError as error:
            notes.append(f"{step.target.text} was not detached: {error}; the next apply tries again")
    if given_up:
        rec.write(layout, record)


def detach(layout: Layout, name: str, lock_timeout: float = DEFAULT_LOCK_TIMEOUT) -> Record:
    """Take a deployment off its targets and remove what it made; its record comes back. Raises Missing when there is
    no such deployment. One target that fails does not keep the others; then the record and its pins stay."""
    from elfpatch.deploy.attach import adapter_for
    from elfpatch.deploy.target import parse
    from elfpatch.errors import raise_all

    with Lock(layout, name, lock_timeout):
        record = rec.read(layout, name)
        if record is None:
            known = rec.names(layout)
            raise Missing(
                f"no deployment named {name}", hint=f"there are {', '.join(known)}" if known else "there are none"
            )
        failed: list[ElfpatchError] = []
        left: list[Attached] = []
        for one in record.attached:
            target = parse(one.target)
            try:
                adapter_for(target).detach(target, one.pin, one.details, record.known_ids())
            except ElfpatchError as error:
                failed.append(error)
                left.append(one)
        if failed:
            record.attached = left
            rec.write(layout, record)
        raise_all(failed)
        _remove_pins(layout, name)
        rec.remove(layout, name)
        return record


def _remove_pins(layout: Layout, name: str) -> None:
    """Remove a deployment's pins, and the folder of all deployments when it was the last."""
    if bpffs.is_mounted(layout.bpffs):
        bpffs.remove_tree(layout.pins(name))
        try:
            os.rmdir(layout.root)
        except OSError:
            pass  # others are there
