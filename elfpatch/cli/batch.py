"""`elfpatch apply --batch FILE`: a JSON object a line in, a JSON object a line out, in order of completion."""

from __future__ import annotations

import json
import os
import signal
import stat

from elfpatch.cli import options, output, request
from elfpatch.cli.apply import as_json as applied
from elfpatch.cli.plan import as_json as planned
from elfpatch.cli.progress import Progress
from elfpatch.cli.report import say
from elfpatch.deploy.batch import Batch, Job
from elfpatch.deploy.paths import check_name
from elfpatch.deploy.plan import Plan, Request, make_plan, refuse_other_object
from elfpatch.deploy.session import Session
from elfpatch.deploy.transaction import DEFAULT_LOCK_TIMEOUT, Outcome, apply
from elfpatch.errors import BadValue, ElfpatchError, Missing, NoPermission, UsageError
from elfpatch.patch.files import parse_json
from elfpatch.patch.names import did_you_mean
from elfpatch.patch.setting import COMMAND_LINE, from_mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from elfpatch.cli.options import Arguments
    from elfpatch.deploy.batch import Result

FLAGS = ("force", "reuse_values", "replace_maps", "specialize")
KEYS = ("deployment", "targets", "set", *FLAGS)
_LINE = COMMAND_LINE + 1  # a line's own values win over -f and --set
_CHUNK = 1 << 16


def run(arguments: Arguments) -> int:
    (path,) = options.operands(arguments, "OBJECT", "apply")
    for key in ("target", "name"):
        if arguments.all(key) or arguments.value(key):
            raise UsageError(f"--{key} does not go with --batch", hint="every line says its own")
    timeout = DEFAULT_LOCK_TIMEOUT
    if arguments.value("lock_timeout"):
        timeout = options.duration(arguments.value("lock_timeout"), "--lock-timeout")
    common = request.request(arguments, path)
    file = arguments.value("batch")
    fd, total = _open(file)
    with Session(request.layout(arguments), path, common.immediates) as session:
        work = _planner(session) if arguments.flag("dry_run") else _applier(session, timeout)
        jobs = (job(number, line, file, common) for number, line in lines(fd) if line.strip())
        return _drive(Batch(jobs, work, _workers(arguments.value("jobs"))), total)


def _workers(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and 0 <= int(text[:6]) <= 1024):
        raise UsageError(f"{text!r} is not a number of threads", where="--jobs", hint="0 (as many as cores) to 1024")
    return int(text)


def _applier(session: Session, timeout: float) -> Callable[[Request], Outcome]:
    return lambda wanted: apply(session.layout, wanted, timeout, session)


def _planner(session: Session) -> Callable[[Request], Plan]:
    def work(wanted: Request) -> Plan:
        plan = make_plan(session.layout, wanted, may_look=False, session=session)
        refuse_other_object(plan)
        return plan

    return work


def _open(path: str) -> tuple[int, int]:
    """A descriptor to read the batch from and how many entries it has (0: only its end will tell)."""
    try:
        fd = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Missing("there is no such file", where=path) from None
    except PermissionError:
        raise NoPermission("the file cannot be read", where=path) from None
    except OSError as error:
        raise Missing(f"the file cannot be read: {error.strerror}", where=path) from None
    if path == "-" or not stat.S_ISREG(os.fstat(fd).st_mode):
        return fd, 0
    total = sum(1 for _, line in lines(fd) if line.strip())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd, total


def lines(fd: int) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line), each as soon as it has come. Not through sys.stdin: a thread that waits in there holds its
    lock, and the interpreter dies over that lock when it ends before the thread does."""
    number = 0
    rest = b""
    while chunk := os.read(fd, _CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            number += 1
            yield number, line
    if rest:
        yield number + 1, rest


def job(number: int, line: bytes, file: str, common: Request) -> Job:
    """The job of a line; a line that makes no sense becomes one that fails."""
    where = f"{'standard input' if file == '-' else file}:{number}"
    entry: dict[str, object] = {}
    try:
        entry = _entry(line, where)
        return Job(number, _name(entry, where), _request(entry, where, common))
    except ElfpatchError as error:
        name = entry.get("deployment")
        return Job(number, name if isinstance(name, str) else "", error=error)


def _entry(line: bytes, where: str) -> dict[str, object]:
    try:
        found = parse_json(line.decode())
    except UnicodeDecodeError:
        raise BadValue("the line is not UTF-8", where=where) from None
    except BadValue as error:
        raise BadValue(str(error), where=where) from None
    if not isinstance(found, dict):
        raise BadValue("the line is not a JSON object", where=where, hint='write {"deployment": ..., "set": {...}}')
    return found


def _name(entry: dict[str, object], where: str) -> str:
    name = entry.get("deployment")
    if name is None:
        raise BadValue("the line names no deployment", where=where, hint='add "deployment": "NAME"')
    if not isinstance(name, str):
        raise BadValue("`deployment` is not a string", where=where)
    return check_name(name)


def _request(entry: dict[str, object], where: str, common: Request) -> Request:
    for key in entry:
        if key not in KEYS:
            raise BadValue(f"no key `{key}`", where=where, hint=did_you_mean(key, KEYS, "keys"))
    targets = entry.get("targets", [])
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise BadValue("`targets` is not a list of strings", where=where)
    values = entry.get("set", {})
    if not isinstance(values, dict):
        raise BadValue("`set` is not an object", where=where, hint="map paths to values")
    flags: dict[str, bool] = {}
    for key in FLAGS:
        flag = entry.get(key, getattr(common, key))
        if not isinstance(flag, bool):
            raise BadValue(f"`{key}` is neither true nor false", where=where)
        flags[key] = flag
    settings = [*common.settings, *from_mapping(values, where, _LINE)]
    name = entry["deployment"]
    return Request(common.object, settings, targets, name=str(name), immediates=common.immediates, **flags)


def _drive(batch: Batch, total: int) -> int:
    """Print results as they come; returns the exit code. The first Ctrl-C begins nothing more, a second one is as
    usual; what is being swapped is finished in either case."""
    progress = Progress(total)
    counts = {"changed": 0, "changes": 0, "unchanged": 0}
    codes: set[int] = set()
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        batch.stop()

    before = signal.signal(signal.SIGINT, interrupt)
    write = _Lines()
    try:
        for result in batch:
            body = as_json(result)
            write(body)
            if result.error is not None:
                codes.add(result.error.exit_code)
            else:
                counts[str(body["result"])] += 1
            progress.add(failed=result.error is not None)
    finally:
        batch.close()
        signal.signal(signal.SIGINT, before)
        seconds = progress.clear()
    say(summary(progress.done, counts, progress.failed, seconds))
    if interrupted:
        left = total - progress.done if total else batch.not_begun
        say(f"elfpatch: interrupted: {left} not begun" + ("" if total else " of those read"))
        return 130
    if codes:
        return codes.pop() if len(codes) == 1 else 1
    return 0


class _Lines:
    """Writes JSON lines to stdout. A reader that went away (`| head -1`) does not stop the work: what runs must not
    depend on who looks."""

    def __init__(self) -> None:
        self._read = True

    def __call__(self, body: dict[str, object]) -> None:
        if not self._read:
            return
        try:
            print(json.dumps({"schema": output.SCHEMA, **body}), flush=True)
        except BrokenPipeError:
            self._read = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def as_json(result: Result) -> dict[str, object]:
    """`line` and `deployment`, then what `apply -j` (or `plan -j`) says, or the errors."""
    body: dict[str, object] = {"line": result.number, "deployment": result.name}
    if isinstance(result.outcome, Outcome):
        body.update(applied(result.outcome))
    elif isinstance(result.outcome, Plan):
        body.update(planned(result.outcome))
    elif result.error is not None:
        errors = getattr(result.error, "errors", [result.error])
        body.update(result="error", exit_code=result.error.exit_code, errors=[str(one) for one in errors])
    body["seconds"] = round(result.seconds, 6)
    return body


def summary(done: int, counts: dict[str, int], failed: int, seconds: float) -> str:
    """`1000 instances: 990 changed, 8 unchanged, 2 failed in 3.2 s (312/s)`."""
    changed = f"{counts['changes']} to change" if counts["changes"] else f"{counts['changed']} changed"
    rate = done / seconds if seconds > 0 else 0.0
    return (
        f"{done} instance{'' if done == 1 else 's'}: {changed}, {counts['unchanged']} unchanged, {failed} failed "
        f"in {seconds:.1f} s ({rate:.0f}/s)"
    )
