"""One template, opened once, for many instances. An apply from the command line is a session of one."""

from __future__ import annotations

from elfpatch.deploy.select import Selection, select
from elfpatch.deploy.shared import Shared
from elfpatch.deploy.source import open_template
from elfpatch.deploy.target import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from types import TracebackType

    from elfpatch.deploy.paths import Layout
    from elfpatch.deploy.target import Target
    from elfpatch.patch.image import Template


class Session:
    """An opened template, and what its instances share. May be used by several threads. `with` closes it."""

    __slots__ = ("_selections", "_targets", "layout", "shared", "template")

    def __init__(self, layout: Layout, path: str, immediates: tuple[str, ...] = ()) -> None:
        """Open the template. Raises what `open_template` does."""
        self.layout = layout
        self.template: Template = open_template(path, layout.cache, immediates)
        self.shared = Shared()
        self._targets: dict[str, Target] = {}
        self._selections: dict[Hashable, Selection] = {}

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what is shared; what was put on targets runs on."""
        self.shared.close()

    def target(self, text: str) -> Target:
        """`parse`, remembered. Raises UsageError."""
        found = self._targets.get(text)
        if found is None:
            found = self._targets[text] = parse(text)
        return found

    def selection(self, targets: list[Target]) -> Selection:
        """`select`, remembered: interfaces and cgroups do not matter. Raises what it does."""
        key = tuple([(target.kind, target.where, target.prog) for target in targets])
        found = self._selections.get(key)
        if found is None:
            found = self._selections[key] = select(self.template.index, targets)
        return found
