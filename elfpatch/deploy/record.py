"""What is known of a deployment: which template and values run, since when, on which targets.

A text file that grows: each generation adds a whole record, and a swap that is about to begin adds a line with the
programs that it may put in place. What counts is the last whole record and the lines behind it; what a crash cut off is
cut off by the next write. Now and then the file is written anew and renamed into place. Not every time: ext4 makes
the rename over an existing file wait for the new one's blocks, 0.3 ms, more than the rest of a swap.

A line is a word and its fields, separated by tabs; the last line of a record is `end`. It is read on every apply, and
reading JSON would cost more than all the rest.
"""

from __future__ import annotations

import os

from elfpatch.errors import BadConfiguration, NoPermission, of_system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.deploy.paths import Layout

_FIRST = "elfpatch-record"
_VERSION = "1"
_PENDING, _SETTLED = "pending", "settled"
_LOG_MAX = 16 << 10  # bytes to which the file grows, unless one record is longer
_ESCAPES = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"))


class Attached:
    """A target of a deployment: its text, the pin of its link ("" when there is none), the program's name, id and tag,
    and what its adapter wants to remember."""

    __slots__ = ("details", "pin", "prog_id", "program", "tag", "target")

    def __init__(self, target: str, pin: str, program: str, prog_id: int, tag: str, details: dict[str, str]) -> None:
        self.target = target
        self.pin = pin
        self.program = program
        self.prog_id = prog_id
        self.tag = tag
        self.details = details


class Record:
    """A deployment. `settings` are (path, text) pairs that make the image of the template; `sections` the SHA-256 of
    the initial contents of each writable data section; `programs` are (name, id, tag); `pending` holds the ids of
    programs that a swap that did not report back may have put in place. `log`: bytes of its file that count, 0 when it
    has none yet; `torn`: there are more, which a crash left behind."""

    __slots__ = (
        "attached",
        "config_sha256",
        "force",
        "generation",
        "log",
        "name",
        "object",
        "pending",
        "programs",
        "sections",
        "settings",
        "shared_maps",
        "since",
        "specialized",
        "template_sha256",
        "torn",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.log = 0
        self.torn = False
        self.object = ""
        self.template_sha256 = ""
        self.config_sha256 = ""
        self.generation = 0
        self.since = ""
        self.force = False
        self.specialized = False
        self.settings: list[tuple[str, str]] = []
        self.sections: dict[str, str] = {}
        self.programs: list[tuple[str, int, str]] = []
        self.shared_maps: list[str] = []
        self.attached: list[Attached] = []
        self.pending: list[int] = []

    def known_ids(self) -> list[int]:
        """Every program id that may be ours."""
        return [*(number for _, number, _ in self.programs), *(a.prog_id for a in self.attached), *self.pending]


def encode(record: Record) -> str:
    lines: list[tuple[str, ...]] = [
        (_FIRST, _VERSION),
        ("name", record.name),
        ("object", record.object),
        ("template", record.template_sha256),
        ("config", record.config_sha256),
        ("generation", str(record.generation)),
        ("since", record.since),
        ("force", str(int(record.force))),
    ]
    if record.specialized:
        lines.append(("specialized", "1"))
    lines += [("set", path, text) for path, text in record.settings]
    lines += [("section", name, digest) for name, digest in record.sections.items()]
    lines += [("program", name, str(number), tag) for name, number, tag in record.programs]
    lines += [("shared-map", path) for path in record.shared_maps]
    for one in record.attached:
        details = [f"{key}={value}" for key, value in one.details.items()]
        lines.append(("target", one.target, one.pin, one.program, str(one.prog_id), one.tag, *details))
    lines += [(_PENDING, str(number)) for number in record.pending]
    lines.append(("end",))
    plain = "".join(map("".join, lines))
    if "\\" in plain or not plain.isprintable():  # which names and paths seldom are
        lines = [tuple(map(_escape, line)) for line in lines]
    return "".join(["\t".join(line) + "\n" for line in lines])


def decode(text: str, path: str) -> Record:
    """Raises BadConfiguration when the text is not a whole record of this version."""
    lines = [line.split("\t") for line in text.split("\n")[:-1]]
    if "\\" in text:
        lines = [[_unescape(field) for field in line] for line in lines]
    if not lines or lines[0][0] != _FIRST or lines[-1] != ["end"]:
        raise BadConfiguration("it is not a whole record", where=path, hint="restore it, or remove it and its pins")
    if lines[0][1:] != [_VERSION]:
        raise BadConfiguration(f"it has format {lines[0][1:]}, this elfpatch writes {_VERSION}", where=path)
    record = Record("")
    try:
        for line in lines[1:-1]:
            _take(record, line)
    except (ValueError, IndexError, TypeError):
        raise BadConfiguration("a line of it cannot be read", where=path, hint="restore the file") from None
    return record


_TEXTS = {
    "name": "name",
    "object": "object",
    "template": "template_sha256",
    "config": "config_sha256",
    "since": "since",
}


def _take(record: Record, line: list[str]) -> None:
    word = line[0]
    if word in _TEXTS:
        setattr(record, _TEXTS[word], line[1])
    elif word == "target":
        _, target, pin, program, number, tag, *details = line
        pairs = dict([detail.split("=", 1) for detail in details])
        record.attached.append(Attached(target, pin, program, int(number), tag, pairs))
    elif word == "set":
        record.settings.append((line[1], line[2]))
    elif word == "program":
        record.programs.append((line[1], int(line[2]), line[3]))
    elif word == "section":
        record.sections[line[1]] = line[2]
    elif word == "generation":
        record.generation = int(line[1])
    elif word in ("force", "specialized"):
        setattr(record, word, line[1] == "1")
    elif word == "shared-map":
        record.shared_maps.append(line[1])
    elif word == _PENDING:
        record.pending.append(int(line[1]))
    else:
        raise ValueError(word)


def _escape(field: str) -> str:
    for plain, escaped in _ESCAPES:
        field = field.replace(plain, escaped)
    return field


def _unescape(field: str) -> str:
    if "\\" not in field:
        return field
    out = []
    letters = iter(field)
    for letter in letters:
        if letter == "\\":
            follow = next(letters, "\\")
            out.append({"t": "\t", "n": "\n", "r": "\r"}.get(follow, follow))
        else:
            out.append(letter)
    return "".join(out)


# --- the file -----------------------------------------------------------------------------------------------------


def read(layout: Layout, name: str) -> Record | None:
    """The record of a deployment, or None when there is none. Without a lock it may be one that is just superseded."""
    path = layout.record(name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise NoPermission("cannot read the record", where=path, hint="run as root") from None
    except OSError as error:
        raise BadConfiguration(f"cannot read the record: {error.strerror}", where=path) from None
    try:
        data = chunk = os.read(fd, _LOG_MAX)
        while len(chunk) == _LOG_MAX:
            chunk = os.read(fd, _LOG_MAX)
            data += chunk
    finally:
        os.close(fd)
    return last_record(data, path)


def last_record(data: bytes, path: str) -> Record:
    """The record that the bytes of a file come to. Raises BadConfiguration."""
    end = data.rfind(b"\nend\n") + 5
    start = data.rfind(f"\n{_FIRST}\t".encode(), 0, max(end, 0)) + 1
    record = decode(data[start:end].decode("utf-8", "surrogateescape"), path)
    record.log = end
    while (after := data.find(b"\n", record.log) + 1) > 0:
        word, *numbers = data[record.log : after - 1].split(b"\t")
        if word == _PENDING.encode():
            record.pending += map(int, numbers)
        elif word == _SETTLED.encode():
            record.pending = []
        else:
            break  # the beginning of a record that was never finished
        record.log = after
    record.torn = record.log < len(data)
    return record


def write(layout: Layout, record: Record) -> None:
    """Store a record: the old one or the new one is there, whatever happens."""
    block = encode(record).encode("utf-8", "surrogateescape")
    if record.log > 0 and record.log + len(block) <= _LOG_MAX:
        _append(layout, record, block)
    else:
        _renew(layout, record, block)


def announce(layout: Layout, record: Record, numbers: list[int]) -> None:
    """Add to a stored record which programs may come to run."""
    record.pending += numbers
    _append(layout, record, "\t".join([_PENDING, *map(str, numbers)]).encode() + b"\n")


def settle(layout: Layout, record: Record) -> None:
    """Take back what was announced: none of it runs."""
    record.pending = []
    _append(layout, record, f"{_SETTLED}\n".encode())


def _append(layout: Layout, record: Record, data: bytes) -> None:
    path = layout.record(record.name)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if record.torn:
                os.ftruncate(fd, record.log)
            record.torn = True  # until all of it is there
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], record.log + done)
        finally:
            os.close(fd)
    except OSError as error:
        raise of_system(error, "cannot write the record", where=path) from None
    record.log += len(data)
    record.torn = False


def _renew(layout: Layout, record: Record, data: bytes) -> None:
    path = layout.record(record.name)
    fresh = f"{path}.{os.getpid()}"
    length = len(data)
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while data:
                data = data[os.write(fd, data) :]
        finally:
            os.close(fd)
        os.rename(fresh, path)
    except OSError as error:
        try:
            os.unlink(fresh)
        except OSError:
            pass
        raise of_system(error, "cannot write the record", where=path) from None
    record.log = length
    record.torn = False


def unpinned(layout: Layout, record: Record) -> list[str]:
    """The recorded programs whose pins are gone: after a restart of the host, when somebody removed them, or when
    --bpffs is another one. Where the caller may not look, none."""
    gone = []
    for name, _, _ in record.programs:
        try:
            os.lstat(layout.prog(record.name, name))
        except (FileNotFoundError, NotADirectoryError):
            gone.append(name)
        except OSError:
            continue
    return gone


def remove(layout: Layout, name: str) -> None:
    try:
        os.unlink(layout.record(name))
    except FileNotFoundError:
        return


def names(layout: Layout) -> list[str]:
    """The deployments that have a record, sorted."""
    try:
        entries = os.listdir(layout.state)
    except FileNotFoundError:
        return []
    except PermissionError:
        raise NoPermission(f"cannot read {layout.state}", hint="run as root, or give --state-dir") from None
    return sorted(entry.removesuffix(".deployment") for entry in entries if entry.endswith(".deployment"))
