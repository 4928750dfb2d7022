"""The words that `apply`, `plan` and `check` share -> a Request and a Layout."""

from __future__ import annotations

from elfpatch.cli import output
from elfpatch.deploy.paths import Layout
from elfpatch.deploy.plan import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.cli.options import Arguments


def layout(arguments: Arguments) -> Layout:
    return Layout(arguments.value("state_dir"), arguments.value("bpffs"))


def immediates(arguments: Arguments) -> tuple[str, ...]:
    """The variables of --immediate."""
    return tuple(dict.fromkeys(arguments.all("immediate")))


def request(arguments: Arguments, path: str) -> Request:
    return Request(
        path,
        output.settings(arguments),
        arguments.all("target"),
        name=arguments.value("name"),
        force=arguments.flag("force"),
        reuse_values=arguments.flag("reuse_values"),
        replace_maps=arguments.flag("replace_maps"),
        specialize=arguments.flag("specialize"),
        immediates=immediates(arguments),
    )
