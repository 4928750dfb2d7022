"""The entry point: find the verb, run it, turn errors into one line each and an exit code."""

from __future__ import annotations

import os
import sys

from elfpatch.errors import ElfpatchError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

# verb: what it does. Each is a module of this package with OPERANDS, OPTIONS, EXAMPLES and run(arguments) -> exit code.
VERBS = {
    "inspect": "show what can be set in an object, its programs and maps",
    "check": "load an object with values and let the verifier judge; nothing is attached or kept",
    "plan": "show what an apply would change",
    "patch": "write a patched object",
    "apply": "load an object with values and put it on its targets, replacing what ran there",
    "detach": "take a deployment off its targets and remove what it made",
    "status": "show deployments, their targets and drift",
    "schema": "print the JSON Schema of an object's values",
    "explain": "show a program's instructions, where values enter, and what specialising removes",
    "build": "append the index to an object, so that it is a template",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if words is None else words
    wants_json = False
    try:
        _open_streams()
        _tolerant(sys.stdout, sys.stderr)
        verb, rest = _verb(words)
        if not verb:
            return 0
        wants_json = any(word in ("-j", "-p", "--json", "--pretty") for word in rest)
        code = _run(verb, rest)
        sys.stdout.flush()
        return code
    except ElfpatchError as error:
        from elfpatch.cli.report import report

        report(error, wants_json, verbose="-v" in words or "--verbose" in words)
        return error.exit_code
    except BrokenPipeError:  # `elfpatch status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        from elfpatch.cli.report import say

        say("elfpatch: interrupted")
        return 130
    except Exception as error:  # no traceback reaches a user who did not ask for it
        if os.environ.get("ELFPATCH_DEBUG"):
            raise
        from elfpatch.cli.report import unexpected

        return unexpected(error)


def _open_streams() -> None:
    """A stream that was closed (`>&-`) is opened on /dev/null, lest a file or program of ours get its number."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        fd = os.open(os.devnull, os.O_RDWR)
        while fd < 3:
            fd = os.dup(fd)
        os.close(fd)
        sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
        sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _tolerant(*streams: object) -> None:
    """Names in objects may be any bytes: print what the terminal cannot show as escapes."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")


def _verb(words: Sequence[str]) -> tuple[str, list[str]]:
    """The verb and the words after it; "" when a help text was all that was wanted."""
    if not words:
        raise UsageError("no verb given", hint=f"one of {', '.join(VERBS)}; see elfpatch --help")
    verb, rest = words[0], list(words[1:])
    if verb in ("-h", "--help", "help"):
        if rest and rest[0] in VERBS:
            return rest[0], ["--help"]
        from elfpatch.cli.help import overview

        print(overview(VERBS))
        return "", []
    if verb in ("-V", "--version", "version"):
        from elfpatch import __version__

        print(f"elfpatch {__version__}")
        return "", []
    if verb not in VERBS:
        from difflib import get_close_matches

        near = get_close_matches(verb, VERBS, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(VERBS)}"
        raise UsageError(f"no verb {verb!r}", hint=hint)
    return verb, rest


def _run(verb: str, rest: list[str]) -> int:
    from elfpatch.cli import options

    module: ModuleType = __import__(f"elfpatch.cli.{verb}", fromlist=["run"])
    arguments = options.read(rest, module.OPTIONS, verb)
    if arguments.flag("help"):
        from elfpatch.cli.help import help_text

        print(help_text(verb, module.OPERANDS, VERBS[verb], module.OPTIONS, module.EXAMPLES))
        return 0
    code: int = module.run(arguments)
    return code
