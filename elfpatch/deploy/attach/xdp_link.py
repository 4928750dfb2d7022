"""XDP by a link: it survives the process, and nobody else can replace the program on it. Linux 5.9+."""

from __future__ import annotations

import os
from errno import EINVAL

from elfpatch import errors
from elfpatch.deploy.attach import xdp
from elfpatch.deploy.attach.base import ABSENT, DEFUNCT, FOREIGN, Live, Place, locate_interface
from elfpatch.deploy.attach.link import LinkAdapter
from elfpatch.kernel import bpf, netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from elfpatch.deploy.attach.base import Record
    from elfpatch.deploy.target import Target


class XdpLink(LinkAdapter):
    """One XDP program runs on an interface, so a hook that somebody else holds is refused."""

    name = "xdp-link"
    link_kind = "xdp"

    def locate(self, target: Target) -> Place:
        return locate_interface(target)

    def create(self, place: Place, prog_fd: int) -> int:
        target = place.target
        with netns.Inside(target.netns):
            return bpf.link_create(prog_fd, place.ifindex, target.attach_type, flags=xdp.FLAGS[target.mode])

    def occupants(self, place: Place) -> list[int]:
        return list(xdp.occupants(place).values())

    def observe(self, place: Place, pin: str, record: Record, known: Iterable[int] = ()) -> Live:
        live = super().observe(place, pin, record, known)
        if record and live.state in (ABSENT, DEFUNCT):  # the interface has room for one: who took ours off may be there
            others = [there for there in self.occupants(place) if there not in known]
            if others:
                return Live(FOREIGN, others[0], "our link is gone, and somebody else attached a program")
        return live

    def is_on_hook(self, place: Place, info: bpf.LinkInfo) -> bool:
        return True  # nothing can stand beside an XDP link or push it aside

    def extra_record(self, place: Place) -> Record:
        return xdp.record(place, "link")

    def check_swap(self, place: Place, record: Record) -> None:
        xdp.check_swap(place, record, "link")

    def explain(self, place: Place, prog_fd: int, error: errors.SyscallFailed) -> errors.ElfpatchError:
        if error.errno == EINVAL and _release() < (5, 9):
            return errors.Unsupported(
                "this kernel has no XDP links (Linux 5.9 and later have them)",
                where=place.target.text,
                hint="add ,via=netlink to the target",
            )
        if error.errno == EINVAL:  # which is also what an XDP link answers for an interface that is gone
            with netns.Inside(place.target.netns):
                if not netns.ifname(place.ifindex):
                    return errors.Missing("the interface is gone", where=place.target.text)
        return xdp.explain(place, prog_fd, error)


def _release() -> tuple[int, int]:
    """The first two numbers of the kernel's release; (0, 0) when it has another form."""
    try:
        major, minor = os.uname().release.split(".")[:2]
        return int(major), int("".join(char for char in minor if char.isdigit()) or 0)
    except ValueError:
        return 0, 0
