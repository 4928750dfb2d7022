"""Kernel objects that the instances of a template have in common: loaded for the first, handed to the others.

That is the object's BTF, frozen maps with the same contents, and programs with the same instructions over the same
maps. None of them can tell whose it is: a frozen map does not change, and a program keeps nothing outside of its maps.
"""

from __future__ import annotations

import os
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable

    from elfpatch.kernel.bpf import ProgInfo

HELD = 256  # kernel objects that are kept for the instances to come, at most


class Held:
    """A kernel object that instances share: its fd, -1 until somebody has loaded it. `users` have it right now; only
    without one may it be closed. `hooks`: the places where a program was meant to go, for a hook takes a program once
    (TCX: EEXIST). `info`: what the kernel says of a program, once somebody has asked."""

    __slots__ = ("fd", "hooks", "info", "key", "loading", "users")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.fd = -1
        self.info: ProgInfo | None = None
        self.hooks: set[str] = set()
        self.users = 0
        self.loading = allocate_lock()


class Shared:
    """The objects, by key. May be used by several threads: the second who wants an object waits for the first."""

    __slots__ = ("_guard", "_held")

    def __init__(self) -> None:
        self._held: dict[Hashable, Held] = {}
        self._guard = allocate_lock()

    def take(self, key: Hashable, load: Callable[[], int], hooks: Collection[str] = ()) -> Held | None:
        """The object of `key`, loaded when it is not there; None when it is a program that may be on one of `hooks`
        already. Give it back after use. Raises what `load` does."""
        with self._guard:
            one = self._held.pop(key, None) or Held(key)
            self._held[key] = one  # at the end: what was not asked for the longest goes first
            if hooks:
                if not one.hooks.isdisjoint(hooks):
                    return None
                one.hooks.update(hooks)
            one.users += 1
        try:
            with one.loading:
                if one.fd < 0:
                    one.fd = load()
        except BaseException:
            self.give_back(one)
            raise
        return one

    def give_back(self, one: Held) -> None:
        with self._guard:
            one.users -= 1
            if one.fd < 0 and not one.users:
                self._held.pop(one.key, None)
            while len(self._held) > HELD:
                oldest = next((other for other in self._held.values() if not other.users), None)
                if oldest is None:
                    return
                del self._held[oldest.key]
                os.close(oldest.fd)

    def close(self) -> None:
        """Close what is held, whoever uses it; programs on targets, and what they use, run on."""
        held, self._held = self._held, {}
        for one in held.values():
            if one.fd >= 0:
                os.close(one.fd)
