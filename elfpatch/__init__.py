"""elfpatch: eBPF objects as templates, reconfigured without a compiler."""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.api import Template as Template


def __getattr__(name: str) -> object:
    """`elfpatch.Template`, imported when it is asked for: the command line does not use it."""
    if name == "Template":
        from elfpatch.api import Template

        return Template
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
