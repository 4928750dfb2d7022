"""The target grammar, as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfpatch import uapi
from elfpatch.deploy.target import CGROUP_HOOKS, GRAMMAR, Target, parse, parse_all
from elfpatch.errors import Problems, UsageError


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("xdp:eth0", {"kind": "xdp", "iface": "eth0", "mode": "", "via": "link", "netns": ""}),
        ("xdp:eth0:drv", {"mode": "drv", "where": "drv"}),
        ("xdp:eth0:skb,netns=blue", {"mode": "skb", "netns": "blue"}),
        ("xdp:eth0,via=netlink", {"via": "netlink"}),
        ("tcx:veth0:ingress", {"kind": "tcx", "iface": "veth0", "direction": "ingress", "prio": 0, "handle": 0}),
        ("tcx:eth0.100:egress,prog=main", {"iface": "eth0.100", "prog": "main"}),
        ("tc:eth0:egress", {"kind": "tc", "direction": "egress", "prio": 1, "handle": 1}),
        ("tc:eth0:egress,prio=7,handle=0xff", {"prio": 7, "handle": 255}),
        ("tc:eth0:ingress,netns=/proc/7/ns/net", {"netns": "/proc/7/ns/net"}),
        ("tc:eth0:ingress,netns=/run/netns/blue", {"netns": "blue"}),
        ("tc:eth0:ingress,netns=/var/run/netns/blue", {"netns": "blue"}),
        ("cgroup:/sys/fs/cgroup/a:connect4", {"kind": "cgroup", "path": "/sys/fs/cgroup/a", "where": "connect4"}),
        ("cgroup:/a:b,c:d:sendmsg6", {"path": "/a:b,c:d", "where": "sendmsg6"}),
        ("cgroup:/a,b=c:egress,prog=x", {"path": "/a,b=c", "where": "egress", "prog": "x"}),
        ("cgroup:/a:device", {"where": "dev"}),
        ("cgroup:/a:sock_ops", {"where": "sockops"}),
        ("cgroup:/a:sock", {"where": "sock_create"}),
    ],
)
def test_reads(text: str, fields: dict[str, object]) -> None:
    target = parse(text)
    assert {name: getattr(target, name) for name in fields} == fields
    assert parse(target.text) == target
    assert parse(target.text).text == target.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no known kind"),
        ("eth0", "no known kind"),
        ("xpd:eth0", "no known kind"),
        ("xdp", "no known kind"),
        ("xdp:", "an interface is needed"),
        ("xdp:eth0:", "no XDP mode ''"),
        ("xdp:eth0:hw", "no XDP mode 'hw'"),
        ("xdp:eth0:drv:skb", "too many parts"),
        ("xdp:a/b", "no interface's name"),
        ("xdp:a b", "no interface's name"),
        ("xdp:..", "no interface's name"),
        ("xdp:sixteen-letters-", "15 bytes at most"),
        ("xdp:ééééééééé", "15 bytes at most"),
        ("xdp:eth0,prio=1", "xdp has no option 'prio'"),
        ("xdp:eth0,via=tc", "no way to attach 'tc'"),
        ("xdp:eth0,netns=", "option 'netns' needs a value"),
        ("xdp:eth0,netns", "option 'netns' needs a value"),
        ("xdp:eth0,", "no option ''"),
        ("xdp:eth0,prog=a,prog=b", "given twice"),
        ("tcx:eth0", "a direction is needed"),
        ("tcx:eth0:", "a direction is needed"),
        ("tcx:eth0:in", "no direction 'in'"),
        ("tcx:eth0:ingress:egress", "too many parts"),
        ("tcx:eth0:ingress,via=link", "tcx has no option 'via'"),
        ("tcx:eth0:ingress,netns=a/b", "a name, or an absolute path"),
        ("tcx:eth0:ingress,netns=..", "a name, or an absolute path"),
        ("tc:eth0:ingress,prio=0", "prio=0 is no number from 1 to 65535"),
        ("tc:eth0:ingress,prio=65536", "no number from 1 to 65535"),
        ("tc:eth0:ingress,prio=-1", "no number"),
        ("tc:eth0:ingress,prio=+1", "no number"),
        ("tc:eth0:ingress,prio=1_0", "no number"),
        ("tc:eth0:ingress,prio=x", "no number"),
        ("tc:eth0:ingress,handle=0x100000000", "no number from 1 to 4294967295"),
        ("cgroup:", "a cgroup and a hook are needed"),
        ("cgroup:/a", "a cgroup and a hook are needed"),
        ("cgroup::connect4", "a cgroup and a hook are needed"),
        ("cgroup:/a:connect5", "no cgroup hook 'connect5'"),
        ("cgroup:/a:connect4,netns=blue", "cgroup has no option 'netns'"),
    ],
)
def test_mistakes_name_the_grammar(text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(text)
    assert said in str(raised.value)
    assert raised.value.exit_code == 64
    kind = text.partition(":")[0]
    assert GRAMMAR.get(kind, GRAMMAR["tcx"]) in str(raised.value) or "no known kind" in said


NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-@", min_size=1, max_size=15).filter(lambda s: s.strip("."))
PATHS = st.text("abc/,:=. x", min_size=1, max_size=30)
NETNS = st.one_of(st.just(""), NAMES, NAMES.map(lambda name: f"/proc/{name}/ns"))
OPTIONS = st.one_of(st.just(""), NAMES)


@st.composite
def targets(draw: st.DrawFn) -> Target:
    kind = draw(st.sampled_from(sorted(GRAMMAR)))
    prog = draw(OPTIONS)
    if kind == "cgroup":
        return Target("cgroup", "", draw(PATHS), draw(st.sampled_from(sorted(CGROUP_HOOKS))), prog=prog)
    where = draw(st.sampled_from(("", "drv", "skb") if kind == "xdp" else ("ingress", "egress")))
    return Target(
        kind,
        draw(NAMES),
        "",
        where,
        netns=draw(NETNS),
        prog=prog,
        prio=draw(st.integers(1, 65535)) if kind == "tc" else 0,
        handle=draw(st.integers(1, 2**32 - 1)) if kind == "tc" else 0,
        via=draw(st.sampled_from(("link", "netlink"))) if kind == "xdp" else "",
    )


@given(targets())
def test_every_target_reads_back(target: Target) -> None:
    again = parse(target.text)
    assert [getattr(again, name) for name in Target.__slots__] == [getattr(target, name) for name in Target.__slots__]


@given(st.text(max_size=60) | st.from_regex(r"(xdp|tcx|tc|cgroup):[a-z:,=/.0-9]*", fullmatch=True))
def test_any_text_is_a_target_or_a_usage_error(text: str) -> None:
    try:
        target = parse(text)
    except UsageError as error:
        assert str(error).count("\n") == 0
    else:
        assert parse(target.text) == target


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tcx:eth0:ingress", "tcx:eth0:ingress"),
        ("tcx:eth0:ingress,prog=a", "tcx:eth0:ingress,prog=b"),
        ("xdp:eth0:drv", "xdp:eth0:skb"),
        ("xdp:eth0", "xdp:eth0,via=netlink"),
        ("tcx:eth0:ingress,netns=blue", "tcx:eth0:ingress,netns=/run/netns/blue"),
        ("tc:eth0:ingress", "tc:eth0:ingress,prio=1,handle=1"),
        ("cgroup:/a:dev", "cgroup:/a:device"),
    ],
)
def test_two_targets_for_one_place_are_refused(one: str, other: str) -> None:
    with pytest.raises(UsageError, match="the same place"):
        parse_all([one, other])


def test_targets_beside_each_other() -> None:
    texts = ["tcx:eth0:ingress", "tcx:eth0:egress", "tcx:eth0:ingress,netns=blue", "tc:eth0:ingress,prio=2", "xdp:eth0"]
    texts += ["tc:eth0:ingress,prio=2,handle=2", "cgroup:/a:connect4", "cgroup:/a:connect6", "cgroup:/b:connect4"]
    assert [target.hook for target in parse_all(texts)] == [parse(text).hook for text in texts]
    assert len({target.hook for target in parse_all(texts)}) == len(texts)


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(Problems) as raised:
        parse_all(["xdp:eth0:hw", "tcx:eth0", "tc:eth0:ingress", "tc:eth0:ingress"])
    assert len(raised.value.lines()) == 3
    assert raised.value.exit_code == 64


@pytest.mark.parametrize(
    ("text", "prog_type", "attach_type", "section"),
    [
        ("xdp:eth0", "xdp", "xdp", "xdp"),
        ("tcx:eth0:ingress", "sched_cls", "tcx_ingress", "tcx/ingress"),
        ("tcx:eth0:egress", "sched_cls", "tcx_egress", "tcx/egress"),
        ("cgroup:/a:egress", "cgroup_skb", "cgroup_inet_egress", "cgroup_skb/egress"),
        ("cgroup:/a:connect4", "cgroup_sock_addr", "cgroup_inet4_connect", "cgroup/connect4"),
        ("cgroup:/a:recvmsg6", "cgroup_sock_addr", "cgroup_udp6_recvmsg", "cgroup/recvmsg6"),
        ("cgroup:/a:post_bind6", "cgroup_sock", "cgroup_inet6_post_bind", "cgroup/post_bind6"),
        ("cgroup:/a:sock_release", "cgroup_sock", "cgroup_inet_sock_release", "cgroup/sock_release"),
        ("cgroup:/a:setsockopt", "cgroup_sockopt", "cgroup_setsockopt", "cgroup/setsockopt"),
        ("cgroup:/a:sysctl", "cgroup_sysctl", "cgroup_sysctl", "cgroup/sysctl"),
        ("cgroup:/a:dev", "cgroup_device", "cgroup_device", "cgroup/dev"),
        ("cgroup:/a:sockops", "sock_ops", "cgroup_sock_ops", "sockops"),
    ],
)
def test_kernel_types(text: str, prog_type: str, attach_type: str, section: str) -> None:
    target = parse(text)
    assert uapi.PROG_TYPES[target.prog_type] == prog_type
    assert uapi.ATTACH_TYPES[target.attach_type] == attach_type
    assert target.sections[0] == section


def test_a_clsact_filter_has_no_attach_type() -> None:
    target = parse("tc:eth0:ingress")
    assert (uapi.PROG_TYPES[target.prog_type], target.attach_type) == ("sched_cls", 0)
