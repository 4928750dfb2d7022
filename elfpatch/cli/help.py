"""What `--help` prints."""

from __future__ import annotations

from elfpatch.cli.options import HELP, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEAD = """\
usage: elfpatch VERB [options]

Reconfigure eBPF programs without a compiler: an object is a template, values are written into it, and
the running program is replaced atomically.
"""
_TAIL = """
elfpatch VERB --help tells more. Exit codes: 0 done, 1 refused by the kernel, 64 usage, 65 bad value or
object, 66 not found, 69 not supported by the kernel, 70 bug, 75 lock busy, 77 permission, 78 configuration."""


def overview(verbs: Mapping[str, str]) -> str:
    """The help of the command as a whole; `verbs` with what each does."""
    return "\n".join([_HEAD, *(f"  {verb:<9} {text}" for verb, text in verbs.items()), _TAIL])


def help_text(verb: str, operand: str, summary: str, options: Sequence[Option], examples: Sequence[str]) -> str:
    """The help of one verb."""
    shown = [(" ".join((", ".join(option.names), option.metavar)).strip(), option.help) for option in (*options, HELP)]
    width = min(max(len(left) for left, _ in shown), 28)
    lines = [f"usage: elfpatch {verb} [options] {operand}".rstrip(), "", summary, "", "options:"]
    for left, text in shown:
        lines.append(f"  {left:<{width}}  {text}" if len(left) <= width else f"  {left}\n  {'':<{width}}  {text}")
    if examples:
        lines += ["", "examples:", *(f"  {example}" for example in examples)]
    return "\n".join(lines)
