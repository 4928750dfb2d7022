"""Section name -> program type, as libbpf 1.x reads it (`SEC_DEF` in its libbpf.c).

A pattern ends with `+` when the bare name or `name/extra` match, with `/` when `name/` is a prefix, and is exact
otherwise. `{a,b}` expands. A leading `?` of a section means: not loaded unless asked for.
"""

from __future__ import annotations

import re

from attrs import frozen

from elfpatch.uapi import ATTACH_TYPES, PROG_TYPES

_TABLE = """
socket                      socket_filter
sk_reuseport/migrate        sk_reuseport            sk_reuseport_select_or_migrate
sk_reuseport                sk_reuseport            sk_reuseport_select
{k,kret}probe+              kprobe
{u,uret}probe+              kprobe
{u,uret}probe.s+            kprobe                  -                       sleepable
{k,kret}probe.multi+        kprobe                  trace_kprobe_multi
kprobe.session+             kprobe                  trace_kprobe_session
{u,uret}probe.multi+        kprobe                  trace_uprobe_multi
{u,uret}probe.multi.s+      kprobe                  trace_uprobe_multi      sleepable
uprobe.session+             kprobe                  trace_uprobe_session
uprobe.session.s+           kprobe                  trace_uprobe_session    sleepable
{k,kret}syscall+            kprobe
usdt+                       kprobe
usdt.s+                     kprobe                  -                       sleepable
{tc,tcx}/ingress            sched_cls               tcx_ingress
{tc,tcx}/egress             sched_cls               tcx_egress
tc                          sched_cls
classifier                  sched_cls
netkit/primary              sched_cls               netkit_primary
netkit/peer                 sched_cls               netkit_peer
action                      sched_act
{tracepoint,tp}+            tracepoint
{tracepoint,tp}.s+          tracepoint              -                       sleepable
{raw_tracepoint,raw_tp}+    raw_tracepoint
{raw_tracepoint,raw_tp}.s+  raw_tracepoint          -                       sleepable
{raw_tracepoint,raw_tp}.w+  raw_tracepoint_writable
tp_btf+                     tracing                 trace_raw_tp
tp_btf.s+                   tracing                 trace_raw_tp            sleepable
fentry+                     tracing                 trace_fentry
fentry.s+                   tracing                 trace_fentry            sleepable
fexit+                      tracing                 trace_fexit
fexit.s+                    tracing                 trace_fexit             sleepable
fmod_ret+                   tracing                 modify_return
fmod_ret.s+                 tracing                 modify_return           sleepable
iter+                       tracing                 trace_iter
iter.s+                     tracing                 trace_iter              sleepable
freplace+                   ext
lsm+                        lsm                     lsm_mac
lsm.s+                      lsm                     lsm_mac                 sleepable
lsm_cgroup+                 lsm                     lsm_cgroup
syscall                     syscall                 -                       sleepable
xdp.frags/devmap            xdp                     xdp_devmap              frags
xdp/devmap                  xdp                     xdp_devmap
xdp.frags/cpumap            xdp                     xdp_cpumap              frags
xdp/cpumap                  xdp                     xdp_cpumap
xdp.frags                   xdp                     xdp                     frags
xdp                         xdp                     xdp
perf_event                  perf_event
lwt_in                      lwt_in
lwt_out                     lwt_out
lwt_xmit                    lwt_xmit
lwt_seg6local               lwt_seg6local
sockops                     sock_ops                cgroup_sock_ops
sk_skb/stream_parser        sk_skb                  sk_skb_stream_parser
sk_skb/stream_verdict       sk_skb                  sk_skb_stream_verdict
sk_skb/verdict              sk_skb                  sk_skb_verdict
sk_skb                      sk_skb
sk_msg                      sk_msg                  sk_msg_verdict
lirc_mode2                  lirc_mode2              lirc_mode2
flow_dissector              flow_dissector          flow_dissector
cgroup_skb/ingress          cgroup_skb              cgroup_inet_ingress
cgroup_skb/egress           cgroup_skb              cgroup_inet_egress
cgroup/skb                  cgroup_skb
cgroup/sock_create          cgroup_sock             cgroup_inet_sock_create
cgroup/sock_release         cgroup_sock             cgroup_inet_sock_release
cgroup/sock                 cgroup_sock             cgroup_inet_sock_create
cgroup/post_bind4           cgroup_sock             cgroup_inet4_post_bind
cgroup/post_bind6           cgroup_sock             cgroup_inet6_post_bind
cgroup/bind4                cgroup_sock_addr        cgroup_inet4_bind
cgroup/bind6                cgroup_sock_addr        cgroup_inet6_bind
cgroup/connect4             cgroup_sock_addr        cgroup_inet4_connect
cgroup/connect6             cgroup_sock_addr        cgroup_inet6_connect
cgroup/connect_unix         cgroup_sock_addr        cgroup_unix_connect
cgroup/sendmsg4             cgroup_sock_addr        cgroup_udp4_sendmsg
cgroup/sendmsg6             cgroup_sock_addr        cgroup_udp6_sendmsg
cgroup/sendmsg_unix         cgroup_sock_addr        cgroup_unix_sendmsg
cgroup/recvmsg4             cgroup_sock_addr        cgroup_udp4_recvmsg
cgroup/recvmsg6             cgroup_sock_addr        cgroup_udp6_recvmsg
cgroup/recvmsg_unix         cgroup_sock_addr        cgroup_unix_recvmsg
cgroup/getpeername4         cgroup_sock_addr        cgroup_inet4_getpeername
cgroup/getpeername6         cgroup_sock_addr        cgroup_inet6_getpeername
cgroup/getpeername_unix     cgroup_sock_addr        cgroup_unix_getpeername
cgroup/getsockname4         cgroup_sock_addr        cgroup_inet4_getsockname
cgroup/getsockname6         cgroup_sock_addr        cgroup_inet6_getsockname
cgroup/getsockname_unix     cgroup_sock_addr        cgroup_unix_getsockname
cgroup/sysctl               cgroup_sysctl           cgroup_sysctl
cgroup/getsockopt           cgroup_sockopt          cgroup_getsockopt
cgroup/setsockopt           cgroup_sockopt          cgroup_setsockopt
cgroup/dev                  cgroup_device           cgroup_device
struct_ops+                 struct_ops
struct_ops.s+               struct_ops              -                       sleepable
sk_lookup                   sk_lookup               sk_lookup
netfilter                   netfilter               netfilter
"""


@frozen
class SectionType:
    """What a section's name says of its programs. `prog_type` 0: nothing (the user or the target says it)."""

    prog_type: int
    attach_type: int = 0
    sleepable: bool = False
    frags: bool = False


def _patterns() -> list[tuple[re.Pattern[str], SectionType]]:
    rows = []
    for line in _TABLE.split("\n"):
        if not line.strip():
            continue
        pattern, prog_type, *rest = line.split()
        attach = rest[0] if rest and rest[0] != "-" else None
        kind = SectionType(
            PROG_TYPES.index(prog_type),
            ATTACH_TYPES.index(attach) if attach else 0,
            "sleepable" in rest,
            "frags" in rest,
        )
        bare = pattern.removesuffix("+")
        text = re.escape(bare).replace(r"\{", "(?:").replace(r"\}", ")").replace(",", "|")
        rows.append((re.compile(text + ("(?:/.*)?" if pattern.endswith("+") else "") + r"\Z"), kind))
    return rows


_PATTERNS = _patterns()


def section_type(name: str) -> SectionType:
    """The type of the programs in section `name` (without a leading `?`)."""
    for pattern, kind in _PATTERNS:
        if pattern.match(name):
            return kind
    return SectionType(0)
