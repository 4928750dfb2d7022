"""Entering a network namespace and coming back, whatever happens."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from elfpatch import errors
from elfpatch.kernel import libc
from elfpatch.kernel import netns as under_test
from tests.support.net import NetNs, VethPair

pytestmark = pytest.mark.usefixtures("kernel")


def here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_enters_by_name_and_by_path_and_returns(netns: NetNs) -> None:
    home, there = here(), os.stat(netns.path).st_ino
    assert home != there
    for way in (netns.name, netns.path):
        with under_test.Inside(way):
            assert here() == there
        assert here() == home
    with under_test.Inside(""):
        assert here() == home


def test_returns_after_an_error(netns: NetNs) -> None:
    home = here()
    with pytest.raises(ZeroDivisionError), under_test.Inside(netns.name):
        _ = 1 // 0
    assert here() == home


def test_nests(netns: NetNs) -> None:
    home = here()
    with NetNs() as other, under_test.Inside(netns.name):
        with under_test.Inside(other.name):
            assert here() == os.stat(other.path).st_ino
        assert here() == os.stat(netns.path).st_ino
    assert here() == home


def test_leaves_other_threads_where_they_are(netns: NetNs) -> None:
    seen: list[int] = []
    with under_test.Inside(netns.name):
        # A thread made now is born here; the main one's /proc entry tells where the process is otherwise.
        thread = threading.Thread(target=lambda: seen.append(here()))
        thread.start()
        thread.join()
    assert seen == [os.stat(netns.path).st_ino]


def test_leaks_no_descriptor(netns: NetNs) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with under_test.Inside(netns.name):
            under_test.identity(netns.name)
        with pytest.raises(errors.Missing), under_test.Inside("/etc/passwd"):
            pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_missing_namespace_names_near_ones(netns: NetNs) -> None:
    wrong = netns.name[:-1] + "_"
    with pytest.raises(errors.Missing, match=f"no network namespace named {wrong}.*{netns.name}") as raised:
        under_test.Inside(wrong).__enter__()
    assert raised.value.exit_code == 66
    with pytest.raises(errors.Missing, match="/run/nowhere"):
        under_test.identity("/run/nowhere")
    with pytest.raises(errors.Missing, match="is not a network namespace"):
        under_test.Inside("/etc/passwd").__enter__()
    with pytest.raises(errors.Missing, match="is not a network namespace"):
        under_test.Inside("/proc/self/ns/mnt").__enter__()


def test_identity_is_the_namespaces_own(netns: NetNs) -> None:
    assert under_test.identity(netns.name) == under_test.identity(netns.path)
    assert under_test.identity() == under_test.identity("/proc/self/ns/net")
    assert under_test.identity() != under_test.identity(netns.name)
    status = os.stat(netns.path)
    assert under_test.identity(netns.name) == (status.st_dev, status.st_ino)


def test_interfaces_are_the_namespaces(net: VethPair) -> None:
    with under_test.Inside(net.a.ns.name):
        index = under_test.ifindex("veth0")
        assert index == net.a.ifindex
        assert under_test.ifname(index) == "veth0"
        assert under_test.ifname(9999) == ""
        with pytest.raises(errors.Missing, match=r"namespace blue: no interface named veth9 \(did you mean veth0\?\)"):
            under_test.ifindex("veth9", "blue")
    with pytest.raises(errors.Missing):
        under_test.ifindex("veth0")
    assert under_test.ifindex("lo") == socket.if_nametoindex("lo")


def test_libc_reports_errors_as_os_does(netns: NetNs) -> None:
    with pytest.raises(OSError, match="No such device") as raised:
        libc.if_nametoindex("epnone")
    assert raised.value.errno == 19
    with pytest.raises(FileNotFoundError):
        libc.filesystem_magic("/nowhere")
    assert libc.filesystem_magic("/proc") == 0x9FA0
