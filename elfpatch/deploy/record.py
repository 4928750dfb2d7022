"""What is known of a deployment: which template and values run, since when, on which targets.

A text file, written whole and renamed into place. A line is a word and its fields, separated by tabs; the last line is
`end`, so that a cut file is noticed. It is read on every apply, and reading JSON would cost more than all the rest.
"""

from __future__ import annotations

import os

from elfpatch.errors import BadConfiguration, NoPermission, of_system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.deploy.paths import Layout

_FIRST = "elfpatch-record"
_VERSION = "1"
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
    programs that a swap that did not report back may have put in place."""

    __slots__ = (
        "attached",
        "config_sha256",
        "force",
        "generation",
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
    )

    def __init__(self, name: str) -> None:
        self.name = name
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
    lines += [("pending", str(number)) for number in record.pending]
    lines.append(("end",))
    return "".join("\t".join(_escape(field) for field in line) + "\n" for line in lines)


def decode(text: str, path: str) -> Record:
    """Raises BadConfiguration when the text is not a whole record of this version."""
    lines = [[_unescape(field) for field in line.split("\t")] for line in text.split("\n")[:-1]]
    if not lines or lines[0][0] != _FIRST or lines[-1] != ["end"]:
        raise BadConfiguration("it is not a whole record", where=path, hint="restore it, or remove it and its pins")
    if lines[0][1:] != [_VERSION]:
        raise BadConfiguration(f"it has format {lines[0][1:]}, this elfpatch writes {_VERSION}", where=path)
    record = Record("")
    try:
        for word, *fields in lines[1:-1]:
            _take(record, word, fields)
    except (ValueError, IndexError, TypeError):
        raise BadConfiguration("a line of it cannot be read", where=path, hint="restore the file") from None
    return record


def _take(record: Record, word: str, fields: list[str]) -> None:
    texts = {"name": "name", "object": "object", "template": "template_sha256", "config": "config_sha256"}
    if word in texts:
        setattr(record, texts[word], fields[0])
    elif word == "since":
        record.since = fields[0]
    elif word == "generation":
        record.generation = int(fields[0])
    elif word in ("force", "specialized"):
        setattr(record, word, fields[0] == "1")
    elif word == "set":
        record.settings.append((fields[0], fields[1]))
    elif word == "section":
        record.sections[fields[0]] = fields[1]
    elif word == "program":
        record.programs.append((fields[0], int(fields[1]), fields[2]))
    elif word == "shared-map":
        record.shared_maps.append(fields[0])
    elif word == "target":
        target, pin, program, number, tag, *details = fields
        pairs = dict(detail.split("=", 1) for detail in details)
        record.attached.append(Attached(target, pin, program, int(number), tag, pairs))
    elif word == "pending":
        record.pending.append(int(fields[0]))
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


def read(layout: Layout, name: str) -> Record | None:
    """The record of a deployment, or None when there is none."""
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
        data = bytearray()
        while chunk := os.read(fd, 1 << 16):
            data += chunk
    finally:
        os.close(fd)
    return decode(data.decode("utf-8", "surrogateescape"), path)


def write(layout: Layout, record: Record) -> None:
    """Store a record: the old one or the new one is there, whatever happens."""
    path = layout.record(record.name)
    fresh = f"{path}.{os.getpid()}"
    data = encode(record).encode("utf-8", "surrogateescape")
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
