"""Printing results: JSON when asked for, text for people otherwise."""

from __future__ import annotations

from elfpatch.patch.setting import Setting, from_mapping, from_set, from_set_hex, from_set_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from elfpatch.cli.options import Arguments
    from elfpatch.deploy.plan import Plan

SCHEMA = "elfpatch/v1"


def wants_json(arguments: Arguments) -> bool:
    return arguments.flag("json") or arguments.flag("pretty")


def print_json(arguments: Arguments, body: dict[str, object]) -> None:
    """One JSON object, with the schema's name first."""
    import json

    print(json.dumps({"schema": SCHEMA, **body}, indent=2 if arguments.flag("pretty") else None))


def print_lines(lines: Iterable[str]) -> None:
    print("\n".join(map(visible, lines)))


def visible(line: str) -> str:
    """A line with control characters as escapes: values and file names must not steer a terminal or start a line."""
    if line.isprintable():
        return line
    return "".join(c.encode("unicode_escape").decode() if _is_control(c) else c for c in line)


def _is_control(c: str) -> bool:
    return (c < " " and c != "\t") or "\x7f" <= c <= "\x9f"


def settings(arguments: Arguments) -> list[Setting]:
    """The values of `-f`, `--set`, `--set-json` and `--set-hex`, files first."""
    found: list[Setting] = []
    for level, path in enumerate(arguments.all("values")):
        from elfpatch.patch.files import load_file

        found += from_mapping(load_file(path), path, level)
    makers = {"set": from_set, "set_json": from_set_json, "set_hex": from_set_hex}
    found += [makers[key](text) for key, text in arguments.order if key in makers]
    return found


def changes_json(plan: Plan) -> list[dict[str, str]]:
    return [
        {"path": change.path, "old": change.old, "new": change.new, "bytes": change.new_bytes.hex()}
        for change in plan.value_changes
    ]


def changes_lines(plan: Plan) -> list[str]:
    """`foo  42 -> 43  (2b000000)`, aligned."""
    changes = plan.value_changes
    width = max((len(change.path) for change in changes), default=0)
    return [f"  {c.path:<{width}}  {c.old} -> {c.new}  ({short(c.new_bytes.hex())})" for c in changes]


def short(digits: str) -> str:
    """Hexadecimal digits, cut when there are many."""
    return digits if len(digits) <= 64 else f"{digits[:60]}... {len(digits) // 2} bytes"


def table(rows: Sequence[tuple[str, ...]], indent: str = "  ") -> list[str]:
    """Rows with columns aligned; trailing blanks cut."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
