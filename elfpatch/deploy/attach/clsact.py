"""tc: a direct-action BPF filter on a clsact qdisc, told by its priority and handle. Any kernel since 4.5.

tc has no compare-and-swap. Replacing the filter of one priority and handle is atomic for packets, and a filter that
vanished is noticed by the kernel (ENOENT); but that the program there is still the old one is read *before*, in a call
of its own. Two elfpatch processes are kept apart by the deployment's lock; somebody else with tc in those microseconds
is not.

A clsact qdisc that we added is removed with the last filter. Every filter of ours on such a qdisc carries that fact in
its name (`MADE`), so that the last one to leave removes it, whichever deployment added it.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENODEV, ENOENT

from elfpatch import errors
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
    prog_text,
)
from elfpatch.kernel.netlink import Rtnl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from elfpatch.deploy.attach.base import Record
    from elfpatch.deploy.target import Target
    from elfpatch.kernel.netlink import Filter

FOUND = "elfpatch"  # the name of a filter on a qdisc that somebody else added
MADE = "elfpatch+clsact"  # and on one that elfpatch added


class ClsactFilter(Adapter):
    """Filters run in the order of their priorities, beside those of others."""

    name = "clsact-filter"

    def locate(self, target: Target) -> Place:
        return locate_interface(target)

    def occupants(self, place: Place) -> list[int]:
        with Rtnl(place.target.netns) as rtnl:
            return [found.prog_id for found in rtnl.filters(place.ifindex, place.target.where) if found.prog_id]

    def observe(self, place: Place, pin: str, record: Record, known: Iterable[int] = ()) -> Live:
        with Rtnl(place.target.netns) as rtnl:
            there = _ours(rtnl, place)
        if there is None:
            if place.is_recorded(record):
                return Live(ABSENT, note="not attached")
            return Live(DEFUNCT, note="the interface it was attached to is gone")
        if there.prog_id and there.prog_id in tuple(known):
            return Live(OURS, there.prog_id)
        return Live(FOREIGN, there.prog_id, f"a {there.kind} filter of somebody else has this priority and handle")

    def attach(self, place: Place, prog_fd: int, pin: str) -> Record:
        target = place.target
        with Rtnl(target.netns) as rtnl:
            made = self._need_qdisc(rtnl, place)
            inherits = any(found.name == MADE for found in _all_filters(rtnl, place.ifindex))
            name = MADE if made or inherits else FOUND
            try:
                rtnl.add_filter(place.ifindex, target.where, target.prio, target.handle, prog_fd, name)
            except errors.SyscallFailed as error:
                explained = _explain(rtnl, place, error)
                if made:
                    _remove_empty_qdisc(rtnl, place.ifindex)
                raise explained from None
        return place.record()

    def _need_qdisc(self, rtnl: Rtnl, place: Place) -> bool:
        """See that the interface has a qdisc for the filter; returns whether we added it."""
        where = place.target.text
        try:
            kind = rtnl.ingress_qdisc(place.ifindex)
            if not kind and rtnl.add_clsact(place.ifindex):
                return True
            kind = kind or rtnl.ingress_qdisc(place.ifindex)
        except errors.SyscallFailed as error:
            if error.errno == ENODEV:
                raise errors.Missing("the interface is gone", where=where) from None
            raise errors.SyscallFailed(error.operation, error.errno, "cannot add clsact", where=where) from None
        if kind == "ingress" and place.target.where == "egress":
            raise errors.Refused(
                "the interface has an ingress qdisc, which has no egress and leaves no room for clsact",
                where=where,
                hint="replace it by clsact (`tc qdisc replace dev IFACE clsact`), or use tcx:",
            )
        return False

    def swap(self, place: Place, pin: str, record: Record, old_prog_fd: int, new_prog_fd: int) -> None:
        target = place.target
        with Rtnl(target.netns) as rtnl:
            there = _ours(rtnl, place)
            if there is None or there.prog_id != prog_id_of(old_prog_fd):
                raise drifted(place, there.prog_id if there else 0)
            try:
                rtnl.change_filter(
                    place.ifindex, target.where, target.prio, target.handle, new_prog_fd, there.name or FOUND
                )
            except errors.SyscallFailed as error:
                if error.errno in {ENOENT, ENODEV} or _ours(rtnl, place) is None:
                    raise drifted(place, 0) from None
                raise errors.SyscallFailed(
                    error.operation, error.errno, "cannot swap the program", where=target.text
                ) from None

    def detach(self, target: Target, pin: str, record: Record, known: Iterable[int] = ()) -> None:
        try:
            place = self.locate(target)
        except errors.Missing:
            return
        programs = tuple(known)
        with Rtnl(target.netns) as rtnl:
            there = _ours(rtnl, place)
            if there is None or there.prog_id not in programs:
                return
            try:
                rtnl.delete_filter(place.ifindex, target.where, target.prio, target.handle)
                # That our filter was there proves the qdisc to be the one that its name speaks of.
                if there.name == MADE:
                    _remove_empty_qdisc(rtnl, place.ifindex)
            except errors.SyscallFailed as error:
                if error.errno not in {ENOENT, EINVAL, ENODEV}:  # removed meanwhile, interface and all
                    raise


def _ours(rtnl: Rtnl, place: Place) -> Filter | None:
    """The filter with our priority and handle, whoever's it is."""
    target = place.target
    for found in rtnl.filters(place.ifindex, target.where):
        if (found.chain, found.prio, found.handle) == (0, target.prio, target.handle):
            return found
    return None


def _all_filters(rtnl: Rtnl, ifindex: int) -> list[Filter]:
    return [*rtnl.filters(ifindex, "ingress"), *rtnl.filters(ifindex, "egress")]


def _remove_empty_qdisc(rtnl: Rtnl, ifindex: int) -> None:
    """Remove clsact when no filter is left on either side. The kernel has no call for "if empty"."""
    if rtnl.ingress_qdisc(ifindex) == "clsact" and not _all_filters(rtnl, ifindex):
        rtnl.delete_clsact(ifindex)


def _explain(rtnl: Rtnl, place: Place, error: errors.SyscallFailed) -> errors.ElfpatchError:
    target = place.target
    same = [
        found for found in rtnl.filters(place.ifindex, target.where) if (found.chain, found.prio) == (0, target.prio)
    ]
    taken = [found for found in same if found.handle == target.handle]
    if error.errno == EEXIST and taken:
        who = prog_text(taken[0].prog_id) if taken[0].prog_id else f"a {taken[0].kind} filter"
        return errors.Refused(
            f"{who} has priority {target.prio} and handle {target.handle} already",
            where=target.text,
            hint="choose others with ,prio=N,handle=N, or delete that filter",
        )
    if same:  # one priority holds one classifier, for one protocol
        return errors.Refused(
            f"priority {target.prio} belongs to a {same[0].kind} filter that ours cannot share it with",
            where=target.text,
            hint="choose another with ,prio=N",
        )
    if error.errno == ENODEV:
        return errors.Missing("the interface is gone", where=target.text)
    hint = "is the program one for tc?" if error.errno == EINVAL else ""
    return errors.SyscallFailed(error.operation, error.errno, "cannot attach", where=target.text, hint=hint)
