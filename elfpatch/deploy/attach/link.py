"""What the adapters that use BPF links share: a link is created, pinned, updated by compare-and-swap, detached.

A pinned link outlives the process. When its interface or cgroup goes, the link stays, attached to nothing.
"""

from __future__ import annotations

import os
from errno import EEXIST, EINVAL, ENODEV, ENOLINK, ENOTSUP, EPERM

from elfpatch import errors
from elfpatch.deploy.attach.base import ABSENT, DEFUNCT, FOREIGN, OURS, Adapter, Live, Place, drifted, prog_id_of
from elfpatch.kernel import bpf, bpffs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from elfpatch.deploy.attach.base import Record
    from elfpatch.deploy.target import Target


class LinkAdapter(Adapter):
    """`link_kind` is the kind in the kernel's link information; subclasses create links and explain refusals."""

    pinned = True
    link_kind = ""

    def create(self, place: Place, prog_fd: int) -> int:
        """Attach the program by a new link; returns its fd. Raises SyscallFailed with the kernel's errno."""
        raise NotImplementedError

    def explain(self, place: Place, prog_fd: int, error: errors.SyscallFailed) -> errors.ElfpatchError:
        """What a failed `create` means here; `error` itself when it means nothing particular."""
        raise NotImplementedError

    def is_on_hook(self, place: Place, info: bpf.LinkInfo) -> bool:
        """Whether the link, attached by its own account, really sits on the hook of `place`."""
        raise NotImplementedError

    def extra_record(self, place: Place) -> Record:
        """What the record needs besides the place."""
        return {}

    def observe(self, place: Place, pin: str, record: Record, known: Iterable[int] = ()) -> Live:
        fd = bpffs.open_pin(pin)
        if fd is None:
            return Live(ABSENT, note="not attached")
        try:
            info = bpf.link_info(fd)
        finally:
            os.close(fd)
        if info.kind != self.link_kind or (info.attach_type and info.attach_type != place.target.attach_type):
            return Live(FOREIGN, info.prog_id, f"the pin {pin} holds another link")
        at = info.cgroup_id or info.ifindex
        if not at:
            return Live(DEFUNCT, note="what it was attached to is gone, or somebody detached it")
        if at != (place.cgroup_id or place.ifindex) or not place.is_recorded(record):
            return Live(DEFUNCT, note="it is attached to what was there before under this name")
        if not self.is_on_hook(place, info):
            return Live(DEFUNCT, note="it is attached, but not on this hook")
        programs = tuple(known)
        if programs and info.prog_id not in programs:
            return Live(FOREIGN, info.prog_id, "somebody else replaced the program")
        return Live(OURS, info.prog_id)

    def attach(self, place: Place, prog_fd: int, pin: str) -> Record:
        try:
            fd = self.create(place, prog_fd)
        except errors.SyscallFailed as error:
            if error.errno == ENODEV:
                raise errors.Missing("the interface is gone", where=place.target.text) from None
            raise self.explain(place, prog_fd, error) from None
        try:
            bpffs.pin(fd, pin)
        except errors.ElfpatchError:
            _detach(fd)  # the last reference going does so too, but not at once
            raise
        finally:
            os.close(fd)
        return place.record() | self.extra_record(place)

    def swap(self, place: Place, pin: str, record: Record, old_prog_fd: int, new_prog_fd: int) -> None:
        self.check_swap(place, record)
        fd = bpffs.open_pin(pin)
        if fd is None:
            raise errors.Drifted(
                "the link's pin was removed meanwhile", where=place.target.text, hint="apply again to attach anew"
            )
        try:
            bpf.link_update(fd, new_prog_fd, old_prog_fd)
        except errors.SyscallFailed as error:
            raise self._explain_update(place, fd, old_prog_fd, error) from None
        finally:
            os.close(fd)

    def _explain_update(
        self, place: Place, fd: int, old_prog_fd: int, error: errors.SyscallFailed
    ) -> errors.ElfpatchError:
        where = place.target.text
        if error.errno == ENOLINK:
            return errors.Drifted("the interface or cgroup was removed, or the link detached, meanwhile", where=where)
        if error.errno == EPERM:
            there = bpf.link_info(fd).prog_id
            if there != prog_id_of(old_prog_fd):
                return drifted(place, there)
            return bpf.failure(error.operation, EPERM, where=where)
        hint = ""
        if error.errno == EINVAL:
            hint = "a link keeps its program type and attach type; detach first to change them"
        elif error.errno == EEXIST:
            hint = "the new program is on this hook already"
        return errors.SyscallFailed(error.operation, error.errno, "cannot swap the program", where=where, hint=hint)

    def detach(self, target: Target, pin: str, record: Record, known: Iterable[int] = ()) -> None:
        fd = bpffs.open_pin(pin)
        if fd is None:
            return
        try:
            # Removing the pin alone would leave the program on for as long as somebody else holds the link.
            _detach(fd)
        finally:
            os.close(fd)
        bpffs.unpin(pin)


def _detach(link_fd: int) -> None:
    """Take a link's program off now, if it still is on."""
    try:
        bpf.link_detach(link_fd)
    except errors.SyscallFailed as error:
        if error.errno not in {ENOLINK, EINVAL, ENOTSUP}:  # already off, or kernels before 5.9
            raise
