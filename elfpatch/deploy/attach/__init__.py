"""Attaching: one adapter per mechanism, all with the operations of `base.Adapter`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.deploy.attach.base import Adapter
    from elfpatch.deploy.target import Target


def adapter_for(target: Target) -> Adapter:
    """The adapter for a target. Each is imported only when it is asked for: two of them bring pyroute2 along."""
    if target.kind == "tcx":
        from elfpatch.deploy.attach.tcx import TcxLink

        return TcxLink()
    if target.kind == "cgroup":
        from elfpatch.deploy.attach.cgroup import CgroupLink

        return CgroupLink()
    if target.kind == "tc":
        from elfpatch.deploy.attach.clsact import ClsactFilter

        return ClsactFilter()
    if target.via == "netlink":
        from elfpatch.deploy.attach.xdp_netlink import XdpNetlink

        return XdpNetlink()
    from elfpatch.deploy.attach.xdp_link import XdpLink

    return XdpLink()
