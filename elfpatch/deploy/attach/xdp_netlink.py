"""XDP by netlink, where a link is not possible or not wanted. The compare is IFLA_XDP_EXPECTED_FD (Linux 5.7+).

Without a link there is no owner: anybody may replace or remove the program, and ours is told by its id alone.
"""

from __future__ import annotations

import os
from errno import EBUSY, EEXIST, EINVAL, ENODEV

from elfpatch import errors
from elfpatch.deploy.attach import xdp
from elfpatch.deploy.attach.base import (
    ABSENT,
    DEFUNCT,
    FOREIGN,
    OURS,
    Adapter,
    Live,
    Place,
    drifted,
    locate_interface,
    prog_id_of,
)
from elfpatch.kernel import abi, bpf
from elfpatch.kernel.netlink import Rtnl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from elfpatch.deploy.attach.base import Record
    from elfpatch.deploy.target import Target


class XdpNetlink(Adapter):
    """A program attached without a link; it stays until somebody takes it off or the interface goes."""

    name = "xdp-netlink"

    def locate(self, target: Target) -> Place:
        return locate_interface(target)

    def occupants(self, place: Place) -> list[int]:
        return list(xdp.occupants(place).values())

    def observe(self, place: Place, pin: str, record: Record, known: Iterable[int] = ()) -> Live:
        there = self.occupants(place)
        programs = tuple(known)
        if not there:
            if place.is_recorded(record):
                return Live(ABSENT, note="not attached")
            return Live(DEFUNCT, note="the interface it was attached to is gone")
        for prog_id in there:
            if prog_id in programs:
                return Live(OURS, prog_id)
        return Live(FOREIGN, there[0], "an XDP program of somebody else is attached")

    def attach(self, place: Place, prog_fd: int, pin: str) -> Record:
        flags = xdp.FLAGS[place.target.mode] | abi.XDP_FLAGS_UPDATE_IF_NOEXIST
        try:
            with Rtnl(place.target.netns) as rtnl:
                rtnl.xdp_set(place.ifindex, prog_fd, flags)
        except errors.SyscallFailed as error:
            if error.errno == ENODEV:
                raise errors.Missing("the interface is gone", where=place.target.text) from None
            raise xdp.explain(place, prog_fd, error) from None
        return place.record() | xdp.record(place, "netlink")

    def check_swap(self, place: Place, record: Record) -> None:
        xdp.check_swap(place, record, "netlink")

    def swap(self, place: Place, pin: str, record: Record, old_prog_fd: int, new_prog_fd: int) -> None:
        self.check_swap(place, record)
        flags = xdp.FLAGS[record.get("mode", "auto")]
        where = place.target.text
        try:
            with Rtnl(place.target.netns) as rtnl:
                rtnl.xdp_set(place.ifindex, new_prog_fd, flags, expected_fd=old_prog_fd)
        except errors.SyscallFailed as error:
            if error.errno == ENODEV:
                raise errors.Drifted("the interface was removed meanwhile", where=where) from None
            if error.errno in {EEXIST, EBUSY}:
                there = self.occupants(place)
                if prog_id_of(old_prog_fd) not in there:
                    raise drifted(place, there[0] if there else 0) from None
            hint = "does this kernel know IFLA_XDP_EXPECTED_FD (Linux 5.7)?" if error.errno == EINVAL else ""
            raise errors.SyscallFailed(
                error.operation, error.errno, "cannot swap the program", where=where, hint=hint
            ) from None

    def detach(self, target: Target, pin: str, record: Record, known: Iterable[int] = ()) -> None:
        try:
            place = self.locate(target)
            live = self.observe(place, pin, record, known)
        except errors.Missing:
            return
        except errors.SyscallFailed as error:
            if error.errno == ENODEV:
                return
            raise
        if live.state != OURS:
            return
        ours = bpf.prog_fd_by_id(live.prog_id)
        try:
            with Rtnl(target.netns) as rtnl:
                rtnl.xdp_set(place.ifindex, -1, xdp.FLAGS[record.get("mode", "auto")], expected_fd=ours)
        except errors.SyscallFailed as error:
            if error.errno not in {ENODEV, EEXIST}:  # gone, or somebody else's by now
                raise
        finally:
            os.close(ours)
