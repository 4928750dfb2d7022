"""TCX: a link on an interface's ingress or egress, beside those of others. Linux 6.6+."""

from __future__ import annotations

from errno import EINVAL

from elfpatch import errors
from elfpatch.deploy.attach.base import Place, locate_interface
from elfpatch.deploy.attach.link import LinkAdapter
from elfpatch.kernel import bpf, netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.deploy.target import Target


class TcxLink(LinkAdapter):
    """Several programs share a TCX hook; ours is appended, and is not disturbed by nor disturbs the others."""

    name = "tcx-link"
    link_kind = "tcx"

    def locate(self, target: Target) -> Place:
        return locate_interface(target)

    def create(self, place: Place, prog_fd: int) -> int:
        with netns.Inside(place.target.netns):
            return bpf.link_create(prog_fd, place.ifindex, place.target.attach_type)

    def occupants(self, place: Place) -> list[int]:
        with netns.Inside(place.target.netns):
            return bpf.prog_query(place.ifindex, place.target.attach_type).prog_ids

    def is_on_hook(self, place: Place, info: bpf.LinkInfo) -> bool:
        with netns.Inside(place.target.netns):
            return info.link_id in bpf.prog_query(place.ifindex, place.target.attach_type, links=True).link_ids

    def explain(self, place: Place, prog_fd: int, error: errors.SyscallFailed) -> errors.ElfpatchError:
        target = place.target
        if error.errno == EINVAL and not self._is_known(place):
            return errors.Unsupported(
                "this kernel has no TCX (Linux 6.6 and later have it)",
                where=target.text,
                hint=f"use tc:{target.iface}:{target.where}",
            )
        hint = ""
        if error.errno == EINVAL:
            hint = "is the program one for tc?"
        return errors.SyscallFailed(error.operation, error.errno, "cannot attach", where=target.text, hint=hint)

    def _is_known(self, place: Place) -> bool:
        """Whether the kernel knows TCX: one that does not answers the query with EINVAL, too."""
        try:
            self.occupants(place)
        except errors.SyscallFailed as error:
            return error.errno != EINVAL
        return True
