"""Who sets which bits: nothing is set twice at one level, and what one place contains is not listed beside it."""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.patch.place import Place, position
from elfpatch.patch.setting import Setting


class Claim:
    """A setting means all bits of a place."""

    __slots__ = ("place", "setting", "key")

    def __init__(self, place: Place, setting: Setting) -> None:
        self.place = place
        self.setting = setting
        self.key = (setting.level, *position(place))


def check_claims(claims: list[Claim], errors: list[BadValue]) -> None:
    """Add an error for every two claims of one level that share a bit."""
    widest: Claim | None = None  # the one that reaches furthest so far
    for claim in sorted(claims, key=_key):
        if widest is not None and widest.key[:2] == claim.key[:2] and claim.key[2] < _end(widest):
            errors.append(_conflict(widest, claim))
        if widest is None or widest.key[:2] != claim.key[:2] or _end(claim) > _end(widest):
            widest = claim


def outermost(places: list[Place]) -> list[Place]:
    """The places in the order of sections and offsets, once each and without those that lie inside another one."""
    found: list[Place] = []
    section, reach = -1, 0
    for place in sorted(places, key=position):
        start = place.start
        if place.section != section:
            section, reach = place.section, 0
        elif start + place.bit_size <= reach:
            continue
        found.append(place)
        reach = max(reach, start + place.bit_size)
    return found


def _key(claim: Claim) -> tuple[int, int, int, int]:
    return claim.key


def _end(claim: Claim) -> int:
    return claim.key[2] + claim.place.bit_size


def _conflict(first: Claim, second: Claim) -> BadValue:
    one, other = first.place.path, second.place.path
    where = second.setting.origin
    if first.setting is second.setting:
        return BadValue(f"{one} and {other} overlap", where=where, hint="give one of them")
    if one == other:
        return BadValue(f"{one} is set twice", where=where, hint=f"also by {first.setting.origin}")
    return BadValue(f"{other} overlaps {one}", where=where, hint=f"set by {first.setting.origin}")
