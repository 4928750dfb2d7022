"""What every adapter offers, and the values it speaks in: `Place`, `Live`, the record.

A *place* is a target found on this host now: the namespace and interface index, or the cgroup. A *record* is what an
attachment must remember to find itself again: a flat `dict[str, str]`, made by `attach`, stored by the caller, handed
back unchanged. `known` are the ids of programs that this deployment may have put there (recorded and journalled ones);
where it is empty, whatever runs on our attachment counts as ours.

Every operation is one hook. It either happened or did not; nothing is left half done. None of them retries a compare.
"""

from __future__ import annotations

from elfpatch import errors
from elfpatch.kernel import bpf, netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from elfpatch.deploy.target import Target

    Record = dict[str, str]

OURS = "ours"  # our attachment runs `prog_id`
ABSENT = "absent"  # we have nothing there: never attached, or removed by somebody
DEFUNCT = "defunct"  # our attachment exists, but its interface or cgroup is gone, or somebody detached it
FOREIGN = "foreign"  # `prog_id` of somebody else runs in our place


class Place:
    """A target found: `ns` is (st_dev, st_ino) of its namespace and `ifindex` its interface, or `cgroup_id` not 0."""

    __slots__ = ("cgroup_id", "directory", "ifindex", "ns", "target")

    def __init__(
        self, target: Target, *, ns: tuple[int, int] = (0, 0), ifindex: int = 0, cgroup_id: int = 0, directory: str = ""
    ) -> None:
        self.target = target
        self.ns = ns
        self.ifindex = ifindex
        self.cgroup_id = cgroup_id
        self.directory = directory

    @property
    def key(self) -> str:
        """Names the hook on this host: equal for two targets exactly when they are the same hook."""
        target = self.target
        if target.kind == "cgroup":
            return f"cgroup/{self.cgroup_id}/{target.where}"
        extra = f"/{target.direction}" if target.direction else ""
        if target.kind == "tc":
            extra += f"/{target.prio}/{target.handle}"
        return f"{target.kind}/{self.ns[0]}:{self.ns[1]}/{self.ifindex}{extra}"

    def record(self) -> Record:
        """The part of the record that every adapter needs."""
        if self.target.kind == "cgroup":
            return {"cgroup": str(self.cgroup_id)}
        return {"ns": f"{self.ns[0]}:{self.ns[1]}", "ifindex": str(self.ifindex)}

    def is_recorded(self, record: Record) -> bool:
        """Whether an attachment recorded there is at this place still. True when the record does not tell."""
        return all(record.get(key, value) == value for key, value in self.record().items())


class Live:
    """What runs on a target now: one of the four states, the program's id (0: none), and a note for people."""

    __slots__ = ("note", "prog_id", "state")

    def __init__(self, state: str, prog_id: int = 0, note: str = "") -> None:
        self.state = state
        self.prog_id = prog_id
        self.note = note

    def __repr__(self) -> str:
        return f"Live({self.state!r}, {self.prog_id}, {self.note!r})"


class Adapter:
    """The operations on one kind of attachment. `pinned`: it is a link, pinned at the `pin` path that is passed in."""

    name = ""
    pinned = False

    def locate(self, target: Target) -> Place:
        """Find the target on this host. Raises Missing (66) with near names."""
        raise NotImplementedError

    def observe(self, place: Place, pin: str, record: Record, known: Iterable[int] = ()) -> Live:
        """What runs there now. Changes nothing."""
        raise NotImplementedError

    def attach(self, place: Place, prog_fd: int, pin: str) -> Record:
        """Attach where nothing of ours is (a dead attachment at `pin` is replaced); returns the record.

        Raises Refused when somebody else occupies the hook, Unsupported, Missing, NoPermission; nothing has changed
        then.
        """
        raise NotImplementedError

    def occupants(self, place: Place) -> list[int]:
        """The ids of all programs on the hook, ours and others', in the order in which they run."""
        raise NotImplementedError

    def check_swap(self, place: Place, record: Record) -> None:
        """Raise BadConfiguration when the recorded attachment cannot become what `place.target` asks for by a swap."""

    def swap(self, place: Place, pin: str, record: Record, old_prog_fd: int, new_prog_fd: int) -> None:
        """Replace the old program by the new one, if and only if the old one is there.

        Raises Drifted when it is not, or when the attachment is gone; nothing has changed then.
        """
        raise NotImplementedError

    def detach(self, target: Target, pin: str, record: Record, known: Iterable[int] = ()) -> None:
        """Remove what we attached, and only that. What is gone already, interface included, is no error."""
        raise NotImplementedError


def locate_interface(target: Target) -> Place:
    """The place of a target on an interface."""
    ns = netns.identity(target.netns)
    with netns.Inside(target.netns):
        return Place(target, ns=ns, ifindex=netns.ifindex(target.iface, target.netns))


def prog_text(prog_id: int) -> str:
    """A program for people: its id, and its name when it has one."""
    import os

    if not prog_id:
        return "a program"
    try:
        fd = bpf.prog_fd_by_id(prog_id)
    except errors.ElfpatchError:
        return f"program {prog_id}"
    try:
        name = bpf.prog_info(fd).name
    except errors.ElfpatchError:
        name = ""
    finally:
        os.close(fd)
    return f"program {prog_id} ({name})" if name else f"program {prog_id}"


def prog_id_of(prog_fd: int) -> int:
    """The id of a loaded program."""
    return int(bpf.prog_info(prog_fd).prog_id)


def drifted(place: Place, prog_id: int) -> errors.Drifted:
    """The error of a lost compare."""
    if prog_id:
        what = f"the program was replaced meanwhile: {prog_text(prog_id)} runs there now"
    else:
        what = "the program was removed meanwhile"
    return errors.Drifted(what, where=place.target.text, hint="nothing was changed; look at `elfpatch status`")
