"""Numbers of bpf(2) and its neighbours, read from the BTF of Linux 6.18 (`#define`s from its uapi headers).

Only what is computed with. The full lists of program, attach and map types, for their names, are in `elfpatch.uapi`;
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

# those that bpf(2) wants the BTF id of a kernel function or another program for
PROG_TYPE_TRACING = 26
PROG_TYPE_STRUCT_OPS = 27
PROG_TYPE_EXT = 28
PROG_TYPE_LSM = 29

# enum bpf_map_type: the ones that are treated in a way of their own
MAP_TYPE_PROG_ARRAY = 3
MAP_TYPE_PERF_EVENT_ARRAY = 4
MAP_TYPE_STACK_TRACE = 7
MAP_TYPE_CGROUP_ARRAY = 8
MAP_TYPE_LRU_HASH = 9
MAP_TYPE_LRU_PERCPU_HASH = 10
MAP_TYPE_ARRAY_OF_MAPS = 12
MAP_TYPE_HASH_OF_MAPS = 13
MAP_TYPE_DEVMAP = 14
MAP_TYPE_SOCKMAP = 15
MAP_TYPE_CPUMAP = 16
MAP_TYPE_XSKMAP = 17
MAP_TYPE_SOCKHASH = 18
MAP_TYPE_QUEUE = 22
MAP_TYPE_STACK = 23
MAP_TYPE_DEVMAP_HASH = 25
MAP_TYPE_RINGBUF = 27
MAP_TYPE_BLOOM_FILTER = 30
MAP_TYPE_USER_RINGBUF = 31

ATTACH_XDP = 37
ATTACH_TCX_INGRESS = 46
ATTACH_TCX_EGRESS = 47

# flags of BPF_MAP_UPDATE_ELEM
ANY = 0
NOEXIST = 1
EXIST = 2
F_LOCK = 4

# flags of BPF_MAP_CREATE
F_NO_COMMON_LRU = 2
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
