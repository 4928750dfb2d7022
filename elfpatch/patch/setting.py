"""What a user set: a path and a value, as text, JSON, raw bytes or data from a file, and where it was said."""

from __future__ import annotations

from elfpatch.errors import BadValue, UsageError
from elfpatch.patch.number import short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT, JSON, HEX, DATA = range(4)
COMMAND_LINE = 1 << 30  # the level above every file


class Setting:
    """`path` takes `value`. `kind` says what the value is: TEXT in the `--set` grammar, JSON text, HEX digits, or DATA:
    an object as a JSON or TOML file holds it.

    `origin` is for messages (`--set foo=42`, `values.toml: foo`). `level` orders: a higher level wins over a lower
    one, and inside one level nothing may be set twice.
    """

    __slots__ = ("kind", "path", "value", "origin", "level")

    def __init__(self, kind: int, path: str, value: object, origin: str, level: int = COMMAND_LINE) -> None:
        self.kind = kind
        self.path = path
        self.value = value
        self.origin = origin
        self.level = level

    def __repr__(self) -> str:
        return f"Setting({('TEXT', 'JSON', 'HEX', 'DATA')[self.kind]}, {self.path!r}, {self.value!r}, {self.origin!r})"


def from_set(text: str, level: int = COMMAND_LINE) -> Setting:
    """The Setting of `--set PATH=VALUE`."""
    return _split(TEXT, "--set", text, level)


def from_set_json(text: str, level: int = COMMAND_LINE) -> Setting:
    """The Setting of `--set-json PATH=JSON`."""
    return _split(JSON, "--set-json", text, level)


def from_set_hex(text: str, level: int = COMMAND_LINE) -> Setting:
    """The Setting of `--set-hex PATH=DIGITS`."""
    return _split(HEX, "--set-hex", text, level)


def from_mapping(mapping: Mapping[str, object], origin: str, level: int) -> list[Setting]:
    """The Settings of a values file: a mapping from paths (a name, or longer as in `--set`) to values, which may be
    nested mappings. `origin` is the file's name; `level` counts the files in their order."""
    settings = []
    for path, value in mapping.items():
        if not isinstance(path, str) or not path:
            raise BadValue(f"`{short(str(path))}` is not a path", where=origin)
        settings.append(Setting(DATA, path, value, f"{origin}: {short(path)}", level))
    return settings


def _split(kind: int, option: str, text: str, level: int) -> Setting:
    path, equals, value = text.partition("=")
    if not equals or not path:
        missing = "has no `=`" if not equals else "names no variable"
        raise UsageError(f"`{short(text)}` {missing}", where=option, hint=f"write {option} PATH=VALUE")
    return Setting(kind, path, value, f"{option} {short(text, 60)}", level)
