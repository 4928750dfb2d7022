"""Integers as users write them: decimal, 0x, 0o, 0b, `_` between digits; nothing else. And rows of hex digits."""

from __future__ import annotations

from elfpatch.errors import BadValue

_BASES = {"0x": 16, "0X": 16, "0o": 8, "0O": 8, "0b": 2, "0B": 2}
LONGEST = 160  # characters: 128 bits in binary with a `_` here and there


def parse_integer(text: str) -> int:
    """The integer that `text` writes. Raises BadValue for anything else; never guesses, never strips."""
    if text.isdecimal() and text.isascii() and text[0] != "0" and len(text) < LONGEST:
        return int(text)
    digits = text[1:] if text[:1] == "-" else text
    base = _BASES.get(digits[:2], 10)
    if base != 10:
        digits = digits[2:]
    elif len(digits) > 1 and digits[0] == "0" and digits.replace("_", "").isdecimal():
        bare = digits.lstrip("0_") or "0"
        raise BadValue(f"`{short(text)}` has a leading zero", hint=f"decimal is {bare}, octal is 0o{bare}")
    # int() would accept blanks around the digits, a sign after the prefix and digits of other scripts
    if digits.isascii() and digits[:1].isalnum() and digits[-1:].isalnum() and len(digits) < LONGEST:
        try:
            number = int(digits, base)
        except ValueError:
            pass
        else:
            return -number if text[0] == "-" else number
    raise BadValue(f"`{short(text)}` is not an integer", hint=_hint(text))


def _hint(text: str) -> str:
    if text.strip() != text and text.strip():
        return "there is a blank in it"
    if text[:1] == "+":
        return "write it without `+`"
    if len(text) >= LONGEST:
        return "it is too long for any type"
    return "decimal, 0x, 0o and 0b are accepted, with `_` between digits"


def short(text: str, limit: int = 40) -> str:
    """`text`, printable on one line and not longer than `limit` characters."""
    shown = text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def check_range(number: int, low: int, high: int, what: str) -> None:
    """Raise BadValue unless `low <= number <= high`. `what` says whose range that is, e.g. `u8`."""
    if not low <= number <= high:
        sign = "; it is unsigned" if number < 0 <= low else ""
        raise BadValue(f"{number} is outside {low}..{high} ({what}{sign})")


def is_hex(text: str) -> bool:
    """Whether every character is a hexadecimal digit (and there is one)."""
    return bool(text) and not text.strip("0123456789abcdefABCDEF")


def hex_bytes(digits: str, size: int, what: str) -> bytes:
    """Exactly `size` bytes of hexadecimal digits. `what` they are for, for the message."""
    if digits and not is_hex(digits):
        prefixed = digits[:2].lower() == "0x" or digits.startswith("hex:")
        hint = "leave out the prefix" if prefixed else "two digits a byte, nothing between them"
        raise BadValue(f"`{short(digits)}` is not a row of hexadecimal digits", hint=hint)
    if len(digits) % 2:
        raise BadValue(f"{len(digits)} hexadecimal digits are not whole bytes", hint="two digits a byte")
    if len(digits) != 2 * size:
        raise BadValue(f"{len(digits) // 2} bytes given, {what} has exactly {size}")
    return bytes.fromhex(digits)
