"""Where elfpatch keeps things: a state folder with a record and a lock for every deployment, a bpffs with its pins.

STATE/NAME.deployment   the record            BPFFS/elfpatch/NAME/links/...   links, one for each target
STATE/NAME.lock         its lock              BPFFS/elfpatch/NAME/progs/...   programs of the live generation
STATE/cache/            indexes               BPFFS/elfpatch/NAME/maps/...    maps that carry state
"""

from __future__ import annotations

import os

from elfpatch.errors import UsageError, of_system
from elfpatch.index import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.deploy.target import Target

NAME_MAX = 64
_EXTRA = "_-"


def default_state_dir() -> str:
    """ELFPATCH_STATE_DIR, else /var/lib/elfpatch for root and a folder of the user's own otherwise."""
    given = os.environ.get("ELFPATCH_STATE_DIR")
    if given:
        return given
    if os.geteuid() == 0:
        return "/var/lib/elfpatch"
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return f"{home}/elfpatch"


def default_bpffs() -> str:
    """ELFPATCH_BPFFS, else /sys/fs/bpf."""
    return os.environ.get("ELFPATCH_BPFFS") or "/sys/fs/bpf"


def plain(text: str) -> str:
    """A name for a file or pin: letters, digits, `_` and `-`; anything else becomes `_`."""
    if text.isidentifier() and text.isascii():  # which names of programs and maps are
        return text
    return "".join(c if c.isascii() and (c.isalnum() or c in _EXTRA) else "_" for c in text) or "_"


def check_name(name: str) -> str:
    """A deployment's name, or UsageError."""
    if not name or len(name) > NAME_MAX or plain(name) != name:
        raise UsageError(
            f"{name!r} cannot name a deployment", hint=f"1 to {NAME_MAX} letters, digits, `_` and `-`; see --name"
        )
    return name


class Layout:
    """The folders of one user of elfpatch."""

    __slots__ = ("bpffs", "state")

    def __init__(self, state: str = "", bpffs: str = "") -> None:
        self.state = state or default_state_dir()
        self.bpffs = bpffs or default_bpffs()

    @property
    def cache(self) -> str:
        return f"{self.state}/cache"

    def record(self, name: str) -> str:
        return f"{self.state}/{name}.deployment"

    def lock(self, name: str) -> str:
        return f"{self.state}/{name}.lock"

    @property
    def root(self) -> str:
        """The folder of all pins that are ours."""
        return f"{self.bpffs}/elfpatch"

    def pins(self, name: str) -> str:
        return f"{self.root}/{name}"

    def link(self, name: str, target: Target) -> str:
        """The pin of a target's link: readable, and distinct for distinct hooks."""
        digest = sha256()
        digest.update(target.hook.encode("utf-8", "surrogateescape"))
        return f"{self.pins(name)}/links/{plain(target.hook)[:80]}-{digest.hexdigest()[:8]}"

    def prog(self, name: str, program: str) -> str:
        return f"{self.pins(name)}/progs/{plain(program)}"

    def map(self, name: str, map_name: str) -> str:
        return f"{self.pins(name)}/maps/{plain(map_name)}"

    def shared_map(self, map_name: str) -> str:
        """Where libbpf pins a map that asks for it by name."""
        return f"{self.bpffs}/{plain(map_name)}"

    def make_state(self) -> bool:
        """Make the state folder, private; returns whether it was not there."""
        try:
            if os.path.isdir(self.state):
                return False
            os.makedirs(self.state, 0o700, exist_ok=True)
            return True
        except OSError as error:
            raise of_system(
                error, f"cannot make the state folder {self.state}", hint="run as root, or give --state-dir"
            ) from None
