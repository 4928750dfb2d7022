"""A large object: the types of the running kernel's own BTF, and a straight line of several thousand instructions.

vmlinux.h (bpftool makes it of /sys/kernel/btf/vmlinux) is what CO-RE programs include, and most of what clang spends
on them. The value of one map is a union of big kernel structs, so their types end up in the object's BTF.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

STEPS = 500
# Big ones that any kernel with networking has; those that this kernel lacks are left out.
STRUCTS = (
    "task_struct net_device sk_buff sock inode super_block mm_struct net tcp_sock rq device bpf_prog_aux "
    "bpf_verifier_env zone request_queue"
).split()

_HEAD = """\
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "config.h"

#ifndef SEED_DEFAULT
#define SEED_DEFAULT 1
#endif

CONFIG u32 seed
	CONFIG_DESC("where the sum starts") = SEED_DEFAULT;

union bench_state {
%(members)s
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, union bench_state);
} states SEC(".maps");

#define STEP(n) h = (h ^ (n)) * 0x01000193u + data[(n) %% 16]; h = h << 5 | h >> 27;

SEC("tc")
int large(struct __sk_buff *skb)
{
	u32 h = skb->len ^ seed, zero = 0;
	volatile u32 *data = bpf_map_lookup_elem(&states, &zero);

	if (!data)
		return -1;
"""
_TAIL = """\
	data[0] = h;
	skb->mark = h;
	return -1;
}

char _license[] SEC("license") = "Dual MIT/GPL";
"""


def write_source(folder: Path) -> Path:
    """Write vmlinux.h and large.bpf.c into `folder`; returns the latter."""
    header = subprocess.run(
        ["bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "c"], check=True, capture_output=True
    ).stdout
    (folder / "vmlinux.h").write_bytes(header)
    defined = set(re.findall(rb"^struct (\w+) \{", header, re.M))
    members = [f"\tstruct {name} {name};" for name in STRUCTS if name.encode() in defined]
    steps = "".join(f"\tSTEP({number})\n" for number in range(STEPS))
    source = folder / "large.bpf.c"
    source.write_text(_HEAD % {"members": "\n".join(members)} + steps + _TAIL, encoding="utf-8")
    return source
