"""Every error that elfpatch reports, and the exit code of each.

One hierarchy: whoever catches `ElfpatchError` catches all of them. A message says *what* is wrong, *where* (symbol,
section, instruction, source line, path) and *what to do*; `str(error)` is one line, ready to be shown. Several
problems found in one go are one `Problems`, whose `.errors` lists them.

Exit codes (sysexits.h where it has one): 1 the kernel or the verifier refused and what ran before still runs,
64 usage, 65 bad value or object, 66 something named does not exist, 69 the kernel lacks a feature, 70 a bug of ours,
75 lock busy, 77 permission, 78 configuration.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class ElfpatchError(Exception):
    """An error with an exit code. `where` and `hint` are optional parts of the one-line message."""

    exit_code = 70

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.hint})" if self.hint else text

    def lines(self) -> list[str]:
        """The message as lines to print: one, except for an error that carries more (a verifier log, a list)."""
        return [str(self)]


class UsageError(ElfpatchError):
    """The command line is wrong."""

    exit_code = 64


class BadValue(ElfpatchError):
    """A path or value given by the user does not fit the template."""

    exit_code = 65


class BadObject(ElfpatchError):
    """The object is not what elfpatch can use: no ELF, truncated, other machine, inconsistent, stale index."""

    exit_code = 65


class Missing(ElfpatchError):
    """Something the user named does not exist: a file, an interface, a namespace, a cgroup, a deployment."""

    exit_code = 66


class Unsupported(ElfpatchError):
    """The running kernel lacks a feature that is needed."""

    exit_code = 69


class Bug(ElfpatchError):
    """An invariant of elfpatch is broken."""

    exit_code = 70


class LockBusy(ElfpatchError):
    """Another process works on the same deployment."""

    exit_code = 75


class NoPermission(ElfpatchError):
    """The caller lacks a privilege."""

    exit_code = 77


class BadConfiguration(ElfpatchError):
    """What was asked for contradicts itself, the object, or the recorded deployment."""

    exit_code = 78


class Refused(ElfpatchError):
    """The kernel said no, or the world is not as recorded. What ran before still runs."""

    exit_code = 1


class SyscallFailed(Refused):
    """A system call failed. `errno` is the kernel's number, `operation` names the call, e.g. `BPF_LINK_UPDATE`."""

    def __init__(self, operation: str, errno: int, what: str = "", *, where: str = "", hint: str = "") -> None:
        from os import strerror

        # 524 is the kernel's internal ENOTSUPP; neither libc nor Python has a name for it.
        reason = "ENOTSUPP: not supported by this kernel" if errno == 524 else strerror(errno)
        super().__init__(f"{what or operation}: {reason} (errno {errno})", where=where, hint=hint)
        self.operation = operation
        self.errno = errno


class VerifierRejected(SyscallFailed):
    """BPF_PROG_LOAD failed in the verifier. `log` holds its words, `explanation` the few lines that matter."""

    def __init__(
        self, program: str, errno: int, log: str, explanation: Sequence[str] = (), *, where: str = "", hint: str = ""
    ) -> None:
        super().__init__("BPF_PROG_LOAD", errno, f"the verifier rejected program {program}", where=where, hint=hint)
        self.program = program
        self.log = log
        self.explanation = list(explanation)

    def lines(self) -> list[str]:
        return [str(self), *(f"  {line}" for line in self.explanation)]


class Drifted(Refused):
    """Somebody else replaced or removed what elfpatch attached."""


class Problems(ElfpatchError):
    """Several problems found together. The exit code is the first one's."""

    def __init__(self, errors: Sequence[ElfpatchError]) -> None:
        super().__init__(f"{len(errors)} problems")
        self.errors = list(errors)
        self.exit_code = self.errors[0].exit_code if self.errors else 70

    def lines(self) -> list[str]:
        return [line for error in self.errors for line in error.lines()]

    def __str__(self) -> str:
        return "; ".join(str(error) for error in self.errors)


def of_system(error: OSError, what: str, *, where: str = "", hint: str = "") -> ElfpatchError:
    """An error of the operating system as ours: Missing, NoPermission, or BadConfiguration (a full disk, a folder in
    the way). The system's words follow `what`."""
    from errno import EACCES, ENOENT, ENOTDIR, EPERM, EROFS

    kind: type[ElfpatchError] = BadConfiguration
    if error.errno in (ENOENT, ENOTDIR):
        kind = Missing
    elif error.errno in (EACCES, EPERM, EROFS):
        kind = NoPermission
    return kind(f"{what}: {(error.strerror or str(error)).lower()}", where=where, hint=hint)


def raise_all(errors: Sequence[ElfpatchError]) -> None:
    """Raise nothing for no errors, the error itself for one, `Problems` for more."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise Problems(errors)
