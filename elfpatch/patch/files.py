"""Values files: JSON or TOML, by extension or else by trying. Also the JSON of `--set-json`."""

from __future__ import annotations

from elfpatch.errors import BadValue, Missing, NoPermission

TYPE_CHECKING = False
if TYPE_CHECKING:
    from json import JSONDecodeError


def load_file(path: str) -> dict[str, object]:
    """The mapping a values file holds. Raises Missing, NoPermission, or BadValue naming file and line."""
    text = _read(path)
    lower = path.lower()
    if lower.endswith((".yaml", ".yml")):
        raise BadValue("YAML is not read", where=path, hint="write the values as JSON or TOML")
    json = lower.endswith(".json") or (not lower.endswith(".toml") and text.lstrip()[:1] == "{")
    data = parse_json(text, path) if json else parse_toml(text, path)
    if not isinstance(data, dict):
        raise BadValue("the file does not hold an object at its top", where=f"{path}:1", hint="map paths to values")
    return data


def parse_json(text: str, path: str = "") -> object:
    """JSON data; a key that occurs twice in one object is an error. `path` is for messages."""
    import json

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise _duplicate(text, path)
        return found

    def constant(name: str) -> object:
        raise BadValue(f"{name} is not a value", where=path)

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise BadValue(f"not JSON: {error.msg}", where=_at(path, error)) from None
    except RecursionError:
        raise BadValue("not JSON that can be read: nested too deep", where=path) from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadValue(f"not JSON that can be read: {error}", where=path) from None


def parse_toml(text: str, path: str) -> dict[str, object]:
    """TOML data. `path` is for messages."""
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).rpartition(" (at ")
        number = place.removeprefix("line ").partition(",")[0]
        where = f"{path}:{number}" if number.isdecimal() else path
        raise BadValue(f"not TOML: {what or error}", where=where) from None
    except (RecursionError, ValueError) as error:
        raise BadValue(f"not TOML that can be read: {error}", where=path) from None


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise Missing("there is no such file", where=path) from None
    except PermissionError:
        raise NoPermission("the file cannot be read", where=path) from None
    except OSError as error:
        raise Missing(f"the file cannot be read: {error.strerror}", where=path) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadValue("the file is not UTF-8", where=f"{path}:{line}") from None


def _at(path: str, error: JSONDecodeError) -> str:
    return f"{path}:{error.lineno}" if path else f"column {error.colno}"


def _duplicate(text: str, path: str) -> BadValue:
    """The error for valid JSON `text` that has a key twice in one object: walk its strings to find the second one."""
    from json.decoder import scanstring  # type: ignore[attr-defined]

    open_objects: list[set[str] | None] = []
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char in "{[":
            open_objects.append(set() if char == "{" else None)
        elif char in "}]":
            open_objects.pop()
        elif char == '"':
            start = position
            key, position = scanstring(text, position)
            keys = open_objects[-1] if open_objects else None
            if keys is not None and text[position:].lstrip()[:1] == ":":
                if key in keys:
                    line = text.count("\n", 0, start) + 1
                    return BadValue(f"the key `{key}` occurs twice", where=f"{path}:{line}" if path else "")
                keys.add(key)
    return BadValue("a key occurs twice", where=path)
