"""elfpatch from Python.

    import elfpatch

    with elfpatch.Template.open("endpoint.o") as template:
        template.apply({"ep.id": 7}, targets=["tcx:veth7:ingress"], name="ep7")

Errors are those of `elfpatch.errors`.
"""

from __future__ import annotations

from elfpatch.deploy.batch import Batch, Job
from elfpatch.deploy.paths import Layout
from elfpatch.deploy.plan import Plan, Request, make_plan, refuse_other_object
from elfpatch.deploy.session import Session
from elfpatch.deploy.transaction import DEFAULT_LOCK_TIMEOUT, Outcome, apply
from elfpatch.deploy.transaction import detach as detach_deployment
from elfpatch.errors import ElfpatchError
from elfpatch.patch.setting import from_mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from elfpatch.deploy.plan import ValueChange


class Instance:
    """One deployment for `apply_all`: `values` maps paths to values as a values file does, `targets` are written as
    for `--target`; none: those that the deployment has."""

    __slots__ = ("force", "name", "replace_maps", "reuse_values", "specialize", "targets", "values")

    def __init__(
        self,
        name: str,
        values: Mapping[str, object],
        targets: Sequence[str] = (),
        *,
        force: bool = False,
        reuse_values: bool = False,
        replace_maps: bool = False,
        specialize: bool = False,
    ) -> None:
        self.name = name
        self.values = values
        self.targets = targets
        self.force = force
        self.reuse_values = reuse_values
        self.replace_maps = replace_maps
        self.specialize = specialize


class Applied:
    """What an apply did. `changed` False: this configuration already ran. `programs`: the program's id by target text.
    `changes`: the values that differ from what ran before."""

    __slots__ = ("changed", "changes", "generation", "name", "notes", "programs")

    def __init__(self, outcome: Outcome) -> None:
        self.name: str = outcome.plan.name
        self.generation: int = outcome.record.generation
        self.changed: bool = outcome.plan.changed
        self.programs: dict[str, int] = {one.target: one.prog_id for one in outcome.record.attached}
        self.changes: list[ValueChange] = outcome.plan.value_changes if outcome.plan.changed else []
        self.notes: list[str] = outcome.notes


class InstanceResult:
    """What became of instance `number` (from 1) of `apply_all`: `applied` or `error`, the other is None."""

    __slots__ = ("applied", "error", "name", "number", "seconds")

    def __init__(
        self, number: int, name: str, applied: Applied | None, error: ElfpatchError | None, seconds: float
    ) -> None:
        self.number = number
        self.name = name
        self.applied = applied
        self.error = error
        self.seconds = seconds


class Template:
    """An opened template; `Template.open` makes one. `with` or `close` lets go of it, what was applied runs on."""

    __slots__ = ("_immediates", "_session", "path")

    def __init__(self, path: str, session: Session, immediates: tuple[str, ...]) -> None:
        self.path = path
        self._session = session
        self._immediates = immediates

    @classmethod
    def open(cls, path: str, *, state_dir: str = "", bpffs: str = "", immediates: Sequence[str] = ()) -> Template:
        """Open a template, or an object (which is indexed first). Raises BadObject, Missing, NoPermission."""
        names = tuple(dict.fromkeys(immediates))
        return cls(path, Session(Layout(state_dir, bpffs), path, names), names)

    def __enter__(self) -> Template:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._session.close()

    def apply(
        self,
        values: Mapping[str, object],
        *,
        targets: Sequence[str] = (),
        name: str = "",
        force: bool = False,
        reuse_values: bool = False,
        replace_maps: bool = False,
        specialize: bool = False,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    ) -> Applied:
        """As `elfpatch apply`: `name` "" is the object's stem. Raises any ElfpatchError; what ran before then still
        runs."""
        instance = Instance(
            name,
            values,
            targets,
            force=force,
            reuse_values=reuse_values,
            replace_maps=replace_maps,
            specialize=specialize,
        )
        return Applied(self._apply(self._request(instance), lock_timeout))

    def apply_all(
        self, instances: Iterable[Instance], *, jobs: int = 0, lock_timeout: float = DEFAULT_LOCK_TIMEOUT
    ) -> Iterator[InstanceResult]:
        """Apply many, `jobs` at once (0: as many as cores); yields results in order of completion. `instances` is read
        a little ahead, in another thread. Leaving the iterator early finishes what is being swapped, then stops."""
        batch = Batch(self._jobs(instances), lambda request: self._apply(request, lock_timeout), jobs)
        try:
            for result in batch:
                applied = Applied(result.outcome) if isinstance(result.outcome, Outcome) else None
                yield InstanceResult(result.number, result.name, applied, result.error, result.seconds)
        finally:
            batch.close()

    def plan(self, values: Mapping[str, object], *, targets: Sequence[str] = (), name: str = "") -> Plan:
        """What `apply` with the same words would do; nothing is changed."""
        request = self._request(Instance(name, values, targets))
        plan = make_plan(self._session.layout, request, may_look=False, session=self._session)
        refuse_other_object(plan)
        return plan

    def detach(self, name: str, *, lock_timeout: float = DEFAULT_LOCK_TIMEOUT) -> None:
        """Take a deployment off its targets and remove what it made. Raises Missing when there is none."""
        detach_deployment(self._session.layout, name, lock_timeout)

    def _jobs(self, instances: Iterable[Instance]) -> Iterator[Job]:
        for number, instance in enumerate(instances, 1):
            try:
                request = self._request(instance)
                yield Job(number, request.deployment, request)
            except ElfpatchError as error:
                yield Job(number, instance.name, error=error)

    def _request(self, instance: Instance) -> Request:
        return Request(
            self.path,
            from_mapping(instance.values, "values", 0),
            instance.targets,
            name=instance.name,
            force=instance.force,
            reuse_values=instance.reuse_values,
            replace_maps=instance.replace_maps,
            specialize=instance.specialize,
            immediates=self._immediates,
        )

    def _apply(self, request: Request, lock_timeout: float) -> Outcome:
        return apply(self._session.layout, request, lock_timeout, self._session)
