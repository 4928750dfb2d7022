"""netlink through pyroute2, and that nothing imports it before it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from elfpatch import errors
from elfpatch.kernel import abi, bpf
from elfpatch.kernel.netlink import Rtnl
from tests.support.insns import XDP_PASS, mov_exit
from tests.support.net import NetNs, VethPair

pytestmark = pytest.mark.usefixtures("kernel")

LIGHT = """
import sys
before = set(sys.modules)
from elfpatch.deploy import target
from elfpatch.deploy.attach import adapter_for
for text in ("tcx:eth0:ingress", "xdp:eth0", "cgroup:/a:connect4", "tc:eth0:ingress", "xdp:eth0,via=netlink"):
    adapter_for(target.parse(text))
print(*sorted(name for name in set(sys.modules) - before if not name.startswith("elfpatch")))
"""


def test_adapters_import_next_to_nothing() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", "import sys; sys.path.insert(0, '.')\n" + LIGHT],
                          capture_output=True, text=True, timeout=60, check=True)  # fmt: skip
    allowed = {"ctypes", "ctypes._endian", "_ctypes", "struct", "_struct", "errno", "fcntl", "types", "__future__"}
    assert set(done.stdout.split()) - allowed == set()


def test_xdp_in_each_mode(net: VethPair) -> None:
    index = net.a.ifindex
    progs = [bpf.prog_load(bpf.ProgSpec(abi.PROG_TYPE_XDP, mov_exit(XDP_PASS), "GPL")) for _ in range(2)]
    ids = [bpf.prog_info(prog).prog_id for prog in progs]
    with Rtnl(net.a.ns.name) as rtnl:
        assert rtnl.xdp_query(index) == {}
        for mode, flag in (("drv", abi.XDP_FLAGS_DRV_MODE), ("skb", abi.XDP_FLAGS_SKB_MODE)):
            rtnl.xdp_set(index, progs[0], flag)
            assert rtnl.xdp_query(index) == {mode: ids[0]}
            (shown,) = json.loads(net.a.ns.ip("-j", "-d", "link", "show", "veth0"))
            assert shown["xdp"]["prog"]["id"] == ids[0]
            with pytest.raises(errors.SyscallFailed, match=r"XDP by netlink: .*: File exists") as raised:
                rtnl.xdp_set(index, progs[0], flag, expected_fd=progs[1])
            assert (raised.value.errno, raised.value.operation) == (17, "RTM_SETLINK")
            rtnl.xdp_set(index, progs[1], flag, expected_fd=progs[0])
            assert rtnl.xdp_query(index) == {mode: ids[1]}
            rtnl.xdp_set(index, -1, flag, expected_fd=progs[1])
            assert rtnl.xdp_query(index) == {}


def test_filters_as_the_kernel_lists_them(net: VethPair) -> None:
    index = net.a.ifindex
    prog = bpf.prog_load(bpf.ProgSpec(abi.PROG_TYPE_SCHED_CLS, mov_exit(0), "GPL"))
    with Rtnl(net.a.ns.name) as rtnl:
        assert rtnl.filters(index, "ingress") == []
        assert rtnl.ingress_qdisc(index) == ""
        assert rtnl.add_clsact(index)
        assert not rtnl.add_clsact(index)
        assert rtnl.ingress_qdisc(index) == "clsact"
        for direction in ("ingress", "egress"):
            rtnl.add_filter(index, direction, 5, 0xABC, prog, "a name")
            entries = [entry for entry in rtnl.filters(index, direction) if entry.handle]
            (entry,) = entries
            assert (entry.kind, entry.chain, entry.prio, entry.handle) == ("bpf", 0, 5, 0xABC)
            assert (entry.name, entry.prog_id) == ("a name", bpf.prog_info(prog).prog_id)
        with pytest.raises(errors.SyscallFailed) as raised:
            rtnl.change_filter(index, "ingress", 6, 1, prog, "a name")
        assert raised.value.errno == 2
        rtnl.delete_filter(index, "ingress", 5, 0xABC)
        assert rtnl.filters(index, "ingress") == []
        rtnl.delete_clsact(index)
        rtnl.delete_clsact(index)
        assert rtnl.filters(index, "egress") == []


def test_a_missing_interface_is_enodev(netns: NetNs) -> None:
    with Rtnl(netns.name) as rtnl:
        for call in (lambda: rtnl.xdp_query(4711), lambda: rtnl.add_clsact(4711)):
            with pytest.raises(errors.SyscallFailed) as raised:
                call()
            assert raised.value.errno == 19


def test_without_privilege() -> None:
    code = """
import ctypes
from elfpatch import errors
from elfpatch.kernel.netlink import Rtnl
ctypes.CDLL(None).capset(bytes.fromhex("2205082000000000"), bytes(24))  # root without capabilities
try:
    with Rtnl() as rtnl:
        rtnl.add_clsact(0x7FFFFFF0)
except errors.ElfpatchError as error:
    print(type(error).__name__, error.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["NoPermission", "77"], done.stderr
