"""The command line's grammar: options as data, and one reader for all verbs.

argparse costs as much as half an apply (6 to 17 ms to import), and would guess abbreviations. Here an option is spelled
out, its value follows as `--opt VALUE` or `--opt=VALUE`, options and operands mix, and `--` ends options.
"""

from __future__ import annotations

from elfpatch.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Option:
    """`names`: spellings, the long one first. `metavar` "": a flag. `many`: may be repeated, values are collected."""

    __slots__ = ("help", "many", "metavar", "names")

    def __init__(self, names: str, metavar: str, help: str, *, many: bool = False) -> None:
        self.names = names.split()
        self.metavar = metavar
        self.help = help
        self.many = many

    @property
    def key(self) -> str:
        return self.names[0].lstrip("-").replace("-", "_")


JSON = (
    Option("--json -j", "", "print JSON"),
    Option("--pretty -p", "", "print JSON, indented"),
)
FOLDERS = (
    Option("--state-dir", "DIR", "folder of records, locks and cache (ELFPATCH_STATE_DIR, /var/lib/elfpatch)"),
    Option("--bpffs", "DIR", "BPF file system for pins (ELFPATCH_BPFFS, /sys/fs/bpf)"),
)
IMMEDIATE = Option("--immediate", "NAME", "write this variable's value into the instructions that name it", many=True)
VALUES = (
    Option("--set", "PATH=VALUE", "set a variable, member or element; its type comes from BTF", many=True),
    Option("--set-json", "PATH=JSON", "set a struct or array from JSON", many=True),
    Option("--set-hex", "PATH=HEX", "set raw bytes, exactly as many as the type has", many=True),
    Option("--values -f", "FILE", "read values from a JSON or TOML file; later files and --set win", many=True),
    Option("--force", "", "also write variables that are not settable"),
    IMMEDIATE,
)
SPECIALIZE = Option("--specialize", "", "fold constants and remove dead code, maps and programs before the load")
DEPLOYMENT = (
    Option("--target", "TARGET", "where to run: xdp:IFACE, tcx:IFACE:ingress, tc:..., cgroup:PATH:HOOK", many=True),
    Option("--name", "NAME", "the deployment's name (the object's stem)"),
    Option("--reuse-values", "", "start from the live values instead of the template's defaults"),
    SPECIALIZE,
    Option("--replace-maps", "", "give up live maps that do not fit the object, with their contents"),
)
LOCK = (Option("--lock-timeout", "TIME", "how long to wait for the deployment's lock (5s)"),)
VERBOSE = (Option("--verbose -v", "", "print the verifier's whole log when it rejects"),)
HELP = Option("--help -h", "", "print this help")


class Arguments:
    """What was given: operands in order, flags and single values by key, collected values by key. `order` lists the
    collected options as they came, for those where the order counts across options."""

    __slots__ = ("lists", "operands", "order", "values")

    def __init__(self) -> None:
        self.operands: list[str] = []
        self.values: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {}
        self.order: list[tuple[str, str]] = []

    def flag(self, key: str) -> bool:
        return key in self.values

    def value(self, key: str, default: str = "") -> str:
        return self.values.get(key, default)

    def all(self, key: str) -> list[str]:
        return self.lists.get(key, [])


def read(words: Sequence[str], options: Sequence[Option], verb: str) -> Arguments:
    """Sort words into an Arguments. Raises UsageError."""
    known = {name: option for option in (*options, HELP) for name in option.names}
    arguments = Arguments()
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if word == "--":
            arguments.operands.extend(reversed(rest))
            break
        if not word.startswith("-") or word == "-":
            arguments.operands.append(word)
            continue
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        option = known.get(name)
        if option is None:
            _unknown(name, known, verb)
            continue
        if not option.metavar:
            if equals:
                raise UsageError(f"{name} takes no value", hint=f"see elfpatch {verb} --help")
            arguments.values[option.key] = "1"
            continue
        if not equals:
            if not rest:
                raise UsageError(f"{name} needs {option.metavar}", hint=f"see elfpatch {verb} --help")
            value = rest.pop()
        if not value and not option.many:  # an unset variable of a script; the default is not what was meant
            raise UsageError(f"{name} needs {option.metavar}, not an empty word", hint=f"see elfpatch {verb} --help")
        if option.many:
            arguments.lists.setdefault(option.key, []).append(value)
            arguments.order.append((option.key, value))
        elif option.key in arguments.values:
            raise UsageError(f"{name} is given twice", hint=f"see elfpatch {verb} --help")
        else:
            arguments.values[option.key] = value
    return arguments


def _unknown(name: str, known: dict[str, Option], verb: str) -> None:
    from difflib import get_close_matches

    near = get_close_matches(name, known, 1, 0.6)
    hint = f"did you mean {near[0]}?" if near else f"see elfpatch {verb} --help"
    raise UsageError(f"elfpatch {verb} has no option {name}", hint=hint)


def operands(arguments: Arguments, names: str, verb: str) -> list[str]:
    """The operands, as many as `names` says (`OBJECT`, `[NAME...]`). Raises UsageError."""
    given = arguments.operands
    if names.endswith("...]"):
        return given
    wanted = len(names.split())
    if len(given) != wanted:
        what = f"{verb} needs {names}" if len(given) < wanted else f"too much: {' '.join(given[wanted:])!r}"
        raise UsageError(what, hint=f"usage: elfpatch {verb} [options] {names}")
    return given


def duration(text: str, what: str) -> float:
    """Seconds of `5s`, `500ms`, `2m` or a plain number of seconds. Raises UsageError."""
    for unit, scale in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 1.0)):
        if text.endswith(unit):
            number = text[: len(text) - len(unit)] if unit else text
            try:
                seconds = float(number) * scale
            except ValueError:
                break
            if 0 <= seconds < 1e9:
                return seconds
            break
    raise UsageError(f"{text!r} is not a time", where=what, hint="write 5s, 500ms or 2m")
