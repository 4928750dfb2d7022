"""rtnetlink through pyroute2: XDP programs attached by netlink, the clsact qdisc, and its BPF filters.

pyroute2 takes a tenth of a second to import, so it is imported only when a `Rtnl` is opened.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENOENT, EPERM

from elfpatch import errors
from elfpatch.kernel import abi
from elfpatch.kernel.bpf import failure
from elfpatch.kernel.netns import Inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

# TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS / TC_H_MIN_EGRESS): where the filters of each direction hang
_PARENT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_ETH_P_ALL = 0x0003
_TCA_BPF_FLAG_ACT_DIRECT = 1

# struct ifinfomsg's IFLA_XDP_ATTACHED, as pyroute2 names the modes
_XDP_IDS = {"drv": "IFLA_XDP_DRV_PROG_ID", "skb": "IFLA_XDP_SKB_PROG_ID", "hw": "IFLA_XDP_HW_PROG_ID"}
_XDP_SINGLE = {"xdp": "drv", "xdpgeneric": "skb", "xdpoffload": "hw"}


class Filter:
    """One tc filter: `kind` ("bpf" or another), chain, priority, handle, and of a BPF one name and program id.

    A dump begins each priority with an entry of handle 0 for its classifier as a whole.
    """

    __slots__ = ("chain", "handle", "kind", "name", "prio", "prog_id")

    def __init__(self, kind: str, chain: int, prio: int, handle: int, name: str, prog_id: int) -> None:
        self.kind = kind
        self.chain = chain
        self.prio = prio
        self.handle = handle
        self.name = name
        self.prog_id = prog_id


class Rtnl:
    """A netlink socket in one namespace ("" = the caller's); a context manager. The caller need not stay in there.

    Failures are SyscallFailed with the kernel's errno and its own words, or NoPermission.
    """

    __slots__ = ("_netns", "_socket")

    def __init__(self, netns: str = "") -> None:
        self._netns = netns
        self._socket: Any = None

    def __enter__(self) -> Rtnl:
        from pyroute2 import IPRoute
        from pyroute2.netlink.rtnl import RTM_NEWTFILTER

        with Inside(self._netns):
            self._socket = IPRoute(ext_ack=True)
        self._socket.register_policy(RTM_NEWTFILTER, _filter_message())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _ask(self, operation: str, what: str, call: Callable[[], Any]) -> list[Any]:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            return list(call())
        except NetlinkError as error:
            words = error.args[1] if len(error.args) > 1 else ""
            number = int(error.code)
            if number == EPERM:
                raise failure(operation, number, what) from None
            raise errors.SyscallFailed(operation, number, f"{what}: {words}" if words else what) from None

    # --- XDP

    def xdp_set(self, ifindex: int, prog_fd: int, flags: int, expected_fd: int | None = None) -> None:
        """Attach program `prog_fd` (-1: detach) with XDP_FLAGS_*; with `expected_fd` only in place of that program.

        Lost compare: EEXIST. A link holds the hook: EBUSY.
        """
        attrs = [("IFLA_XDP_FD", prog_fd)]
        if expected_fd is not None:
            attrs.append(("IFLA_XDP_EXPECTED_FD", expected_fd))
            flags |= abi.XDP_FLAGS_REPLACE
        attrs.append(("IFLA_XDP_FLAGS", flags))
        link = self._socket.link
        self._ask("RTM_SETLINK", "XDP by netlink", lambda: link("set", index=ifindex, xdp={"attrs": attrs}))

    def xdp_query(self, ifindex: int) -> dict[str, int]:
        """The XDP programs on an interface: mode (drv, skb, hw) to program id. ENODEV without interface."""
        (message,) = self._ask("RTM_GETLINK", "XDP query", lambda: self._socket.link("get", index=ifindex))
        xdp = message.get_attr("IFLA_XDP")
        if xdp is None:
            return {}
        single = _XDP_SINGLE.get(xdp.get_attr("IFLA_XDP_ATTACHED"))
        if single is not None:
            return {single: int(xdp.get_attr("IFLA_XDP_PROG_ID"))}
        found = {mode: xdp.get_attr(name) for mode, name in _XDP_IDS.items()}
        return {mode: int(prog_id) for mode, prog_id in found.items() if prog_id}

    # --- clsact

    def ingress_qdisc(self, ifindex: int) -> str:
        """What hangs on the interface's ingress: "clsact", "ingress" (which has no egress), or "" for nothing."""
        found = self._ask("RTM_GETQDISC", "qdisc query", lambda: self._socket.get_qdiscs(index=ifindex))
        kinds = {message.get_attr("TCA_KIND") for message in found if message["index"] == ifindex}
        return "clsact" if "clsact" in kinds else "ingress" if "ingress" in kinds else ""

    def add_clsact(self, ifindex: int) -> bool:
        """Give the interface a clsact qdisc; False when something hangs there already (EEXIST)."""
        try:
            self._ask("RTM_NEWQDISC", "adding clsact", lambda: self._socket.tc("add", "clsact", ifindex))
        except errors.SyscallFailed as error:
            if error.errno == EEXIST:
                return False
            raise
        return True

    def delete_clsact(self, ifindex: int) -> None:
        """Remove the clsact qdisc with all filters on it; none there is no error."""
        try:
            self._ask("RTM_DELQDISC", "deleting clsact", lambda: self._socket.tc("del", "clsact", ifindex))
        except errors.SyscallFailed as error:
            if error.errno not in {ENOENT, EINVAL}:
                raise

    def filters(self, ifindex: int, direction: str) -> list[Filter]:
        """The filters of one direction in the order in which they run; [] without a qdisc."""
        parent = _PARENT[direction]
        try:
            found = self._ask(
                "RTM_GETTFILTER", "filter query", lambda: self._socket.get_filters(index=ifindex, parent=parent)
            )
        except errors.SyscallFailed as error:
            if error.errno in {EINVAL, ENOENT}:  # some kernels say so when there is no qdisc
                return []
            raise
        return [_filter(message) for message in found if message["parent"] == parent and message["index"] == ifindex]

    def add_filter(self, ifindex: int, direction: str, prio: int, handle: int, prog_fd: int, name: str) -> None:
        """Add a direct-action BPF filter where none is. EEXIST: this priority and handle are taken."""
        self._filter("add-filter", ifindex, direction, prio, handle, {"fd": prog_fd, "name": name})

    def change_filter(self, ifindex: int, direction: str, prio: int, handle: int, prog_fd: int, name: str) -> None:
        """Give the filter of this priority and handle another program, atomically. ENOENT when there is none."""
        self._filter("change-filter", ifindex, direction, prio, handle, {"fd": prog_fd, "name": name})

    def delete_filter(self, ifindex: int, direction: str, prio: int, handle: int) -> None:
        """Delete the filter of this priority and handle. ENOENT or EINVAL when there is none."""
        self._filter("del-filter", ifindex, direction, prio, handle, {})

    def _filter(
        self, command: str, ifindex: int, direction: str, prio: int, handle: int, options: dict[str, object]
    ) -> None:
        if options:
            options["flags"] = _TCA_BPF_FLAG_ACT_DIRECT
        arguments = {"parent": _PARENT[direction], "prio": prio, "protocol": _ETH_P_ALL, **options}
        operation = "RTM_DELTFILTER" if command == "del-filter" else "RTM_NEWTFILTER"
        call = self._socket.tc
        self._ask(operation, "tc filter", lambda: call(command, "bpf", ifindex, handle, **arguments))


def _filter(message: Any) -> Filter:
    kind = message.get_attr("TCA_KIND") or ""
    name, prog_id = "", 0
    options = message.get_attr("TCA_OPTIONS")
    if kind == "bpf" and options is not None:
        name = options.get_attr("TCA_BPF_NAME") or ""
        prog_id = options.get_attr("TCA_BPF_ID") or 0
    chain = message.get_attr("TCA_CHAIN") or 0
    return Filter(kind, chain, message["info"] >> 16, message["handle"], name, prog_id)


def _filter_message() -> type[Any]:
    """A message of a filter dump for pyroute2, whose own (0.9.7) knows neither TCA_CHAIN nor TCA_BPF_ID.

    Numbers and order are those of linux/rtnetlink.h and linux/pkt_cls.h; "hex" is what we do not look into.
    """
    from pyroute2.netlink import nla, nlmsg
    from pyroute2.netlink.rtnl.tcmsg import tcmsg

    class BpfOptions(nla):  # type: ignore[misc]
        nla_map = (
            ("TCA_BPF_UNSPEC", "none"),
            ("TCA_BPF_ACT", "hex"),
            ("TCA_BPF_POLICE", "hex"),
            ("TCA_BPF_CLASSID", "uint32"),
            ("TCA_BPF_OPS_LEN", "hex"),
            ("TCA_BPF_OPS", "hex"),
            ("TCA_BPF_FD", "uint32"),
            ("TCA_BPF_NAME", "asciiz"),
            ("TCA_BPF_FLAGS", "uint32"),
            ("TCA_BPF_FLAGS_GEN", "uint32"),
            ("TCA_BPF_TAG", "hex"),
            ("TCA_BPF_ID", "uint32"),
        )

    class FilterMessage(nlmsg):  # type: ignore[misc]
        prefix = "TCA_"
        fields = tcmsg.fields
        nla_map = (
            ("TCA_UNSPEC", "none"),
            ("TCA_KIND", "asciiz"),
            ("TCA_OPTIONS", "get_options"),
            ("TCA_STATS", "hex"),
            ("TCA_XSTATS", "hex"),
            ("TCA_RATE", "hex"),
            ("TCA_FCNT", "hex"),
            ("TCA_STATS2", "hex"),
            ("TCA_STAB", "hex"),
            ("TCA_PAD", "hex"),
            ("TCA_DUMP_INVISIBLE", "hex"),
            ("TCA_CHAIN", "uint32"),
        )

        @staticmethod
        def get_options(message: Any, *argv: Any, **kwarg: Any) -> Any:
            return BpfOptions if message.get_attr("TCA_KIND") == "bpf" else FilterMessage.hex

    return FilterMessage
