"""What both ways to attach an XDP program share: modes, refusals, and who holds the hook.

An interface runs one XDP program in one mode. A mode is chosen when a program is attached and cannot change while one
is; so an attachment keeps its mode, and another one is refused.
"""

from __future__ import annotations

from errno import EBUSY, EEXIST, EINVAL, EOPNOTSUPP, ERANGE

from elfpatch import errors
from elfpatch.deploy.attach.base import Place, prog_id_of, prog_text
from elfpatch.kernel import abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.deploy.attach.base import Record

FLAGS = {"": 0, "auto": 0, "drv": abi.XDP_FLAGS_DRV_MODE, "skb": abi.XDP_FLAGS_SKB_MODE}
_MODE_NAMES = {"drv": "driver mode", "skb": "generic (skb) mode", "hw": "offload mode"}


def record(place: Place, via: str) -> Record:
    """How it was attached."""
    return {"mode": place.target.mode or "auto", "via": via}


def check_swap(place: Place, recorded: Record, via: str) -> None:
    """Refuse a swap into another mode or mechanism. A target that names no mode keeps the recorded one."""
    target = place.target
    had = recorded.get("mode", "auto")
    if recorded.get("via", via) != via:
        raise errors.BadConfiguration(
            f"it is attached by {recorded['via']}, and {via} cannot take over while it is", where=target.text,
            hint="detach first",
        )  # fmt: skip
    if target.mode and target.mode != had:
        raise errors.BadConfiguration(
            f"it is attached in mode {had}; the kernel cannot change the mode of a running XDP program",
            where=target.text,
            hint="detach first, or leave the mode out",
        )


def occupants(place: Place) -> dict[str, int]:
    """Mode to program id of the XDP programs on the interface."""
    from elfpatch.kernel.netlink import Rtnl  # not on the way of a link that attaches

    with Rtnl(place.target.netns) as rtnl:
        return rtnl.xdp_query(place.ifindex)


def explain(place: Place, prog_fd: int, error: errors.SyscallFailed) -> errors.ElfpatchError:
    """What it means that an XDP program could not be attached."""
    where = place.target.text
    if error.errno in {EBUSY, EEXIST}:
        there = occupants(place)
        mine = prog_id_of(prog_fd)
        who = [f"{prog_text(found)} in {_MODE_NAMES[mode]}" for mode, found in there.items() if found != mine]
        return errors.Refused(
            f"the interface runs {' and '.join(who) or 'an XDP program'} already",
            where=where,
            hint="an interface runs one XDP program: detach that one first (`bpftool net`, `bpftool link`)",
        )
    if error.errno == EOPNOTSUPP:
        what = f"{place.target.iface} has no native XDP, or not with its present settings"
        return errors.Refused(what, where=where, hint=f"use xdp:{place.target.iface}:skb")
    hint = ""
    if error.errno == EINVAL:
        hint = "is the program one for XDP, not for a devmap or cpumap?"
    elif error.errno == ERANGE:
        hint = "the interface's MTU is too large for its XDP mode"
    return errors.SyscallFailed(error.operation, error.errno, "cannot attach", where=where, hint=hint)
