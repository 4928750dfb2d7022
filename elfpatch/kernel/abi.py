"""Numbers of bpf(2) and its neighbours, read from the BTF of Linux 6.18 (`#define`s from its uapi headers).

Only what this floor uses. The full lists of program, attach and map types are in `elfpatch.uapi`;
`tests/kernel/test_abi.py` holds both against the running kernel's own BTF. The layouts of `union bpf_attr` stand
beside the calls in `bpf.py`.
"""

from __future__ import annotations

# enum bpf_cmd
MAP_CREATE = 0
MAP_LOOKUP_ELEM = 1
MAP_UPDATE_ELEM = 2
MAP_DELETE_ELEM = 3
MAP_GET_NEXT_KEY = 4
PROG_LOAD = 5
OBJ_PIN = 6
OBJ_GET = 7
PROG_ATTACH = 8
PROG_DETACH = 9
PROG_TEST_RUN = 10
PROG_GET_NEXT_ID = 11
MAP_GET_NEXT_ID = 12
PROG_GET_FD_BY_ID = 13
MAP_GET_FD_BY_ID = 14
OBJ_GET_INFO_BY_FD = 15
PROG_QUERY = 16
BTF_LOAD = 18
BTF_GET_FD_BY_ID = 19
MAP_FREEZE = 22
LINK_CREATE = 28
LINK_UPDATE = 29
LINK_GET_FD_BY_ID = 30
LINK_GET_NEXT_ID = 31
LINK_DETACH = 34

# enum bpf_link_type, in order from 0
LINK_TYPES = (
    "unspec", "raw_tracepoint", "tracing", "cgroup", "iter", "netns", "xdp", "perf_event", "kprobe_multi",
    "struct_ops", "netfilter", "tcx", "uprobe_multi", "netkit", "sockmap",
)  # fmt: skip

# enum bpf_prog_type and enum bpf_attach_type: the ones that targets name
PROG_TYPE_SCHED_CLS = 3
PROG_TYPE_XDP = 6
PROG_TYPE_CGROUP_SKB = 8
PROG_TYPE_CGROUP_SOCK = 9
PROG_TYPE_SOCK_OPS = 13
PROG_TYPE_CGROUP_DEVICE = 15
PROG_TYPE_CGROUP_SOCK_ADDR = 18
PROG_TYPE_CGROUP_SYSCTL = 23
PROG_TYPE_CGROUP_SOCKOPT = 25

ATTACH_XDP = 37
ATTACH_TCX_INGRESS = 46
ATTACH_TCX_EGRESS = 47

# flags of BPF_MAP_UPDATE_ELEM
ANY = 0
NOEXIST = 1
EXIST = 2
F_LOCK = 4

# flags of BPF_MAP_CREATE
F_NUMA_NODE = 4
F_RDONLY_PROG = 128
F_MMAPABLE = 1024

# flags of BPF_PROG_LOAD
F_SLEEPABLE = 16
F_XDP_HAS_FRAGS = 32

# flags of BPF_PROG_ATTACH, BPF_LINK_CREATE, BPF_LINK_UPDATE
F_ALLOW_OVERRIDE = 1
F_ALLOW_MULTI = 2
F_REPLACE = 4
F_BEFORE = 8
F_AFTER = 16
F_ID = 32
F_LINK = 8192

# flags of BPF_PROG_QUERY
F_QUERY_EFFECTIVE = 1

# IFLA_XDP_FLAGS, and the flags of an XDP link
XDP_FLAGS_UPDATE_IF_NOEXIST = 1
XDP_FLAGS_SKB_MODE = 2
XDP_FLAGS_DRV_MODE = 4
XDP_FLAGS_HW_MODE = 8
XDP_FLAGS_REPLACE = 16

# BPF_PROG_LOAD's log_level
LOG_STATS = 4

# linux/magic.h, as statfs(2) reports it
BPF_FS_MAGIC = 0xCAFE4A11
CGROUP2_SUPER_MAGIC = 0x63677270

# linux/capability.h
CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21
CAP_BPF = 39

CLONE_NEWNET = 0x40000000
OBJ_NAME_LEN = 16  # bytes of a program's or map's name, the NUL included

ENOTSUPP = 524  # the kernel's own; `errno` does not name it
