"""Durations and sizes: `250ms`, `1h30m`, `64Ki`, `1.5M`, converted exactly to the unit that a tag names."""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.patch.number import LONGEST, parse_integer, short

_US, _MS, _S = 1_000, 1_000_000, 1_000_000_000
# In nanoseconds; shown from the longest on.
DURATIONS = {"d": 86_400 * _S, "h": 3_600 * _S, "m": 60 * _S, "s": _S, "ms": _MS, "us": _US, "ns": 1}
_DURATION_NAMES = {
    "": 1,
    **DURATIONS,
    "µs": _US,
    "μs": _US,
    "min": 60 * _S,
    "sec": _S,
    **dict.fromkeys(("nanosecond", "nanoseconds", "nsec"), 1),
    **dict.fromkeys(("microsecond", "microseconds", "usec"), _US),
    **dict.fromkeys(("millisecond", "milliseconds", "msec"), _MS),
    **dict.fromkeys(("second", "seconds"), _S),
    **dict.fromkeys(("minute", "minutes"), 60 * _S),
    **dict.fromkeys(("hour", "hours"), 3_600 * _S),
    **dict.fromkeys(("day", "days"), 86_400 * _S),
}
_PREFIXES = "KMGTPE"
BINARY = {f"{prefix}i": 1024**power for power, prefix in enumerate(_PREFIXES, 1)}
DECIMAL = {prefix: 1000**power for power, prefix in enumerate(_PREFIXES, 1)}
_SIZE_NAMES = {
    "": 1,
    "B": 1,
    "byte": 1,
    "bytes": 1,
    **BINARY,
    **DECIMAL,
    "k": 1000,
    "kB": 1000,
    **{f"{name}B": size for name, size in (*BINARY.items(), *DECIMAL.items())},
}


def duration_number(text: str, unit: str) -> int:
    """A duration as a number of `unit`s (default ns). A bare integer is that number already.

    Raises BadValue when it is no duration, or no whole number of units.
    """
    return _number(text, unit, _DURATION_NAMES, "duration", "like 250ms, 10s or 1h30m")


def size_number(text: str, unit: str) -> int:
    """A size as a number of `unit`s (default bytes). A bare integer is that number already. `Ki` is 1024, `K` 1000."""
    return _number(text, unit, _SIZE_NAMES, "size", "like 64Ki, 1M or 1500B")


def duration_text(number: int, unit: str) -> str:
    """The text of a duration in the largest unit that divides it."""
    scale = _DURATION_NAMES.get(unit)
    if not number or scale is None:
        return str(number)
    for name, size in DURATIONS.items():
        if number * scale % size == 0:
            return f"{number * scale // size}{name}"
    return str(number)


def size_text(number: int, unit: str) -> str:
    """The text of a size: the largest binary prefix that divides it, else the largest decimal one."""
    scale = _SIZE_NAMES.get(unit)
    if not number or scale is None:
        return str(number)
    for table in (BINARY, DECIMAL):
        for name, size in reversed(table.items()):
            if number * scale % size == 0:
                return f"{number * scale // size}{name}"
    return str(number)


def _number(text: str, unit: str, names: dict[str, int], what: str, example: str) -> int:
    if not text[-1:].isalpha() or text[:2].lower() in ("0x", "0b", "0o"):
        return parse_integer(text)
    scale = names.get(unit)
    if scale is None:
        raise BadValue(f"`{short(text)}` cannot be converted to {unit}", hint=f"give a plain number of {unit}")
    total, divisor = _total(text, names, what, example)
    whole, rest = divmod(total, divisor * scale)
    if rest:
        raise BadValue(f"`{short(text)}` is not a whole number of {unit or ('ns' if what == 'duration' else 'bytes')}")
    return whole


def _total(text: str, names: dict[str, int], what: str, example: str) -> tuple[int, int]:
    """The sum of all `NUMBER UNIT` parts as numerator and denominator, in the smallest unit."""
    wrong = BadValue(f"`{short(text)}` is not a {what}", hint=example)
    rest = text[1:] if text[:1] == "-" else text
    total, divisor = 0, 1
    if len(text) >= LONGEST:
        raise wrong
    while rest:
        digits = _leading(rest, lambda char: char in "0123456789.")
        name = _leading(rest[len(digits) :], str.isalpha)
        whole, dot, fraction = digits.partition(".")
        if not whole or name not in names or not name or "." in fraction or (dot and not fraction):
            raise wrong
        part_divisor = 10 ** len(fraction)
        total = total * part_divisor + int(whole + fraction) * names[name] * divisor
        divisor *= part_divisor
        rest = rest[len(digits) + len(name) :]
    return (-total if text[0] == "-" else total), divisor


def _leading(text: str, accepts: Callable[[str], bool]) -> str:
    end = 0
    while end < len(text) and accepts(text[end]):
        end += 1
    return text[:end]


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
