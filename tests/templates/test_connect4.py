"""connect4: chosen connections of a cgroup go to a proxy.

BPF_PROG_TEST_RUN does not know this program type (errno 524), so each case is a real connect(2) of a process in a
cgroup of its own, in a network namespace.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import pytest

from tests.support.net import NetNs

PROXY, PROXY_PORT = "127.0.0.1", 15001
SO_COOKIE = 57
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM

TO_PROXY = {"proxy.ip4": PROXY, "proxy.port": str(PROXY_PORT)}
WEB = TO_PROXY | {"rules[0].net": "192.0.2.0/24", "rules[0].port": "80"}


@pytest.fixture
def node():
    """A namespace in which every address is local and the proxy listens."""
    with NetNs() as ns:
        ns.ip("route", "add", "local", "0.0.0.0/0", "dev", "lo")
        yield ns


class Connector:
    """Makes connections from inside the cgroup."""

    def __init__(self, node: NetNs, cgroup) -> None:
        self.node = node
        self.cgroup = cgroup

    def connect(self, ip4: str, port: int, kind: int = TCP, *, uid: int = 0) -> tuple[str, int, int]:
        """The address and port that a connection to `ip4`:`port` is really made to, and its socket's cookie."""

        def child() -> bytes:
            with open(self.node.path) as namespace:
                os_setns(namespace.fileno())
            os.setuid(uid)
            with socket.socket(socket.AF_INET, kind) as client:
                client.settimeout(5)
                with contextlib.suppress(ConnectionRefusedError):
                    client.connect((ip4, port))
                    address, to = client.getpeername()
                    return client.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8) + f"{address}:{to}".encode()
            return b""

        answer = self.cgroup.run(child)
        assert answer, f"nobody listens where the connection to {ip4}:{port} went"
        address, to = answer[8:].decode().split(":")
        return address, int(to), struct.unpack("Q", answer[:8])[0]

    def went(self, *args, **more) -> tuple[str, int]:
        return self.connect(*args, **more)[:2]


def os_setns(fd: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


@pytest.fixture
def made(attach, node, cgroup):
    """Applies connect4 to a fresh cgroup: the program and the means to connect. Every port used is listened on."""
    with contextlib.ExitStack() as stack:
        for port in (PROXY_PORT, 80, 443):
            listener = stack.enter_context(node.socket(socket.AF_INET, TCP))
            listener.bind(("0.0.0.0", port))
            listener.listen(64)
        yield lambda settings: (attach("connect4", settings, f"cgroup:{cgroup.path}:connect4"), Connector(node, cgroup))


def counts(program) -> dict[str, int]:
    return {name: count for name, (count, _) in program.counters().items()}


def origin(program, cookie: int) -> tuple[str, int, int]:
    address, port, protocol = struct.unpack("=4s2sH", program.map("origins").get(struct.pack("Q", cookie)))
    return socket.inet_ntoa(address), int.from_bytes(port, "big"), protocol


def test_chosen_destinations_go_to_the_proxy(made):
    program, connector = made(WEB)
    address, port, cookie = connector.connect("192.0.2.7", 80)
    assert (address, port) == (PROXY, PROXY_PORT)
    assert origin(program, cookie) == ("192.0.2.7", 80, socket.IPPROTO_TCP)
    assert counts(program) == {"PROXIED": 1}


@pytest.mark.parametrize("ip4, port", [("192.0.2.7", 443), ("192.0.3.7", 80), ("193.0.2.7", 80), ("127.0.0.1", 80)])
def test_others_go_where_they_want(made, ip4, port):
    program, connector = made(WEB)
    assert connector.went(ip4, port) == (ip4, port)
    assert counts(program) == {"UNTOUCHED": 1}
    assert program.map("origins").keys() == []


@pytest.mark.parametrize(
    "net, inside, outside",
    [
        ("192.0.2.128/25", "192.0.2.129", "192.0.2.127"),
        ("192.0.2.7/32", "192.0.2.7", "192.0.2.6"),
        ("128.0.0.0/1", "192.0.2.7", "10.0.0.1"),
        ("10.64.0.0/10", "10.127.255.255", "10.128.0.0"),
    ],
)
def test_every_length_of_prefix(made, net, inside, outside):
    _, connector = made(TO_PROXY | {"rules[7].net": net})
    assert connector.went(inside, 80) == (PROXY, PROXY_PORT)
    assert connector.went(outside, 80) == (outside, 80)


def test_a_rule_may_name_only_a_port(made):
    _, connector = made(TO_PROXY | {"rules[3].port": "443"})
    assert connector.went("192.0.2.7", 443) == (PROXY, PROXY_PORT)
    assert connector.went("192.0.2.7", 80) == ("192.0.2.7", 80)


def test_without_rules_nothing_is_proxied(made):
    program, connector = made(TO_PROXY)
    assert connector.went("192.0.2.7", 80) == ("192.0.2.7", 80)
    assert counts(program) == {"UNTOUCHED": 1}


def test_any_rule_that_fits_will_do(made):
    rules = {"rules[0].net": "10.0.0.0/8", "rules[0].port": "443", "rules[1].net": "10.0.0.0/8", "rules[1].port": "80"}
    _, connector = made(TO_PROXY | rules)
    assert connector.went("10.1.2.3", 80) == (PROXY, PROXY_PORT)


def test_the_proxy_itself_gets_through(made):
    program, connector = made(TO_PROXY | {"rules[0].net": "128.0.0.0/1", "proxy.uid": "1337"})
    assert connector.went("192.0.2.7", 80, uid=1337) == ("192.0.2.7", 80)
    assert connector.went("192.0.2.7", 80, uid=1338) == (PROXY, PROXY_PORT)
    assert counts(program) == {"EXEMPT": 1, "PROXIED": 1}


def test_a_connection_to_the_proxy_is_left_alone(made):
    program, connector = made(TO_PROXY | {"rules[0].net": "0.0.0.0/1"})
    assert connector.went(PROXY, PROXY_PORT) == (PROXY, PROXY_PORT)
    assert counts(program) == {"EXEMPT": 1}
    assert program.map("origins").keys() == []


def test_the_proxy_is_an_address_and_a_port(made):
    _, connector = made(TO_PROXY | {"rules[0].net": "0.0.0.0/1"})
    assert connector.went(PROXY, 80) == (PROXY, PROXY_PORT)


def test_a_socket_that_is_connected_anew_loses_its_old_origin(made, node, cgroup):
    program, _ = made(WEB | {"proxy.udp": "true"})

    def child() -> bytes:
        with open(node.path) as namespace:
            os_setns(namespace.fileno())
        with socket.socket(socket.AF_INET, UDP) as client:
            client.connect(("192.0.2.7", 80))
            client.connect(("192.0.2.7", 443))
            return repr(client.getpeername()).encode()

    assert cgroup.run(child) == b"('192.0.2.7', 443)"
    assert counts(program) == {"PROXIED": 1, "UNTOUCHED": 1}
    assert program.map("origins").keys() == []


def test_udp_only_when_asked_for(made):
    program, connector = made(WEB)
    assert connector.went("192.0.2.7", 80, UDP) == ("192.0.2.7", 80)
    assert counts(program) == {"UNTOUCHED": 1}


def test_udp_when_asked_for(made):
    program, connector = made(WEB | {"proxy.udp": "true"})
    address, port, cookie = connector.connect("192.0.2.7", 80, UDP)
    assert (address, port) == (PROXY, PROXY_PORT)
    assert origin(program, cookie) == ("192.0.2.7", 80, socket.IPPROTO_UDP)


def test_who_is_not_in_the_cgroup_is_not_concerned(made, node):
    program, _ = made(WEB)
    with node.socket(socket.AF_INET, TCP) as client:
        client.connect(("192.0.2.7", 80))
        assert client.getpeername() == ("192.0.2.7", 80)
    assert counts(program) == {}


def test_the_proxy_may_be_on_another_host(attach, cgroup, net):
    """Over a veth pair: the connection leaves through it to the proxy, and not to where it was meant for."""
    settings = {"proxy.ip4": net.b.ip4, "proxy.port": str(PROXY_PORT), "rules[0].net": "192.0.2.0/24"}
    program = attach("connect4", settings, f"cgroup:{cgroup.path}:connect4")
    with net.b.ns.socket(socket.AF_INET, TCP) as proxy:
        proxy.bind((net.b.ip4, PROXY_PORT))
        proxy.listen()
        proxy.settimeout(5)
        net.a.ns.ip("route", "add", "192.0.2.0/24", "via", net.b.ip4)
        address, port, cookie = Connector(net.a.ns, cgroup).connect("192.0.2.7", 8080)
        connection, (client, _) = proxy.accept()
        connection.close()
    assert (address, port, client) == (net.b.ip4, PROXY_PORT, net.a.ip4)
    assert origin(program, cookie) == ("192.0.2.7", 8080, socket.IPPROTO_TCP)
