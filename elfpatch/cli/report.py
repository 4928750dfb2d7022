"""Telling what went wrong: one line an error on stderr, JSON on stdout when that was asked for."""

from __future__ import annotations

import sys

from elfpatch.cli.output import visible
from elfpatch.errors import ElfpatchError, VerifierRejected

EXIT_BUG = 70


def say(line: str) -> None:
    """To stderr; one that takes nothing changes neither what is done nor the exit code."""
    try:
        print(line, file=sys.stderr)
    except OSError:
        return


def report(error: ElfpatchError, wants_json: bool, *, verbose: bool) -> None:
    """`verbose`: with the verifier's whole log."""
    for line in error.lines():
        say(visible(f"elfpatch: error: {line}" if not line.startswith(" ") else line))
    if verbose and isinstance(error, VerifierRejected):
        say(error.log)
    if wants_json:
        import json

        errors = getattr(error, "errors", [error])
        body = {
            "schema": "elfpatch/v1",
            "result": "error",
            "exit_code": error.exit_code,
            "errors": [str(one) for one in errors],
        }
        try:
            print(json.dumps(body))
            sys.stdout.flush()
        except OSError:  # nobody reads it; the exit code says it all the same
            return


def unexpected(error: Exception) -> int:
    """Tell an exception that nobody turned into an ElfpatchError: the system's (a full disk) or a bug of ours. Returns
    the exit code."""
    if isinstance(error, PermissionError):
        say(f"elfpatch: error: {error.filename or 'operation'}: permission denied")
        return 77
    if isinstance(error, OSError):  # without a name it is a stream: `elfpatch status >/dev/full`
        say(f"elfpatch: error: {error.filename or 'writing the output'}: {error.strerror}")
        return 66 if isinstance(error, FileNotFoundError) else 78
    say(
        f"elfpatch: error: bug: {type(error).__name__}: {' '.join(str(error).split())} "
        "(ELFPATCH_DEBUG=1 shows the traceback; please report it)"
    )
    return EXIT_BUG
