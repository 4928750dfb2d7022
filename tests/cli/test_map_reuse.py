"""Maps whose kernel form differs from their definition go on in the next generation all the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from elfpatch.deploy import transaction
from elfpatch.kernel import bpf
from tests.support.cli import Cli

DEFINED = """
#define MAP(name, kind, key, value, entries, flags) struct { __uint(type, kind); __uint(key_size, key); \\
	__uint(value_size, value); __uint(max_entries, entries); __uint(map_flags, flags); } name SEC(".maps");
MAP(devices, BPF_MAP_TYPE_DEVMAP, 4, 8, 7, 0) /* the kernel adds BPF_F_RDONLY_PROG */
MAP(devices_by_key, BPF_MAP_TYPE_DEVMAP_HASH, 4, 4, 7, 0)
MAP(lists, BPF_MAP_TYPE_LRU_HASH, 4, 4, 7, BPF_F_NO_COMMON_LRU) /* rounded up to a multiple of the CPUs */
MAP(lists_of_cpu, BPF_MAP_TYPE_LRU_PERCPU_HASH, 4, 4, 7, BPF_F_NO_COMMON_LRU)
MAP(ring, BPF_MAP_TYPE_RINGBUF, 0, 0, 5000, 0) /* rounded up to pages */
MAP(trie, BPF_MAP_TYPE_LPM_TRIE, 8, 4, 7, BPF_F_NO_PREALLOC)
MAP(shared_out, BPF_MAP_TYPE_CPUMAP, 4, 8, 2, 0)
CONFIG __u32 foo = 1;
SEC("tc") int p(struct __sk_buff *skb) { return foo; }
"""

MIXED_TAIL_CALLS = """
CONFIG __u32 foo = 1;
int callee(struct __sk_buff *skb);
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 2); __uint(key_size, 4);
	__array(values, int(void *)); } calls SEC(".maps") = { .values = { [1] = (void *)&callee } };
SEC("xdp") int caller(struct xdp_md *context) { bpf_tail_call(context, &calls, 1); return foo; }
SEC("tc") int callee(struct __sk_buff *skb) { return foo; }
"""


def test_every_map_goes_on(cli: Cli, compiled: Callable[..., str]) -> None:
    template = compiled(DEFINED, name="defined")
    cli.ok("apply", template)
    done = cli.ok("apply", "-j", "--set", "foo=2", template)
    assert done.json["result"] == "changed"
    assert done.json["maps"] == {"copied": [], "replaced": []}
    cli.ok("detach", "defined")


def test_a_slot_that_the_kernel_refuses_is_named(cli: Cli, compiled: Callable[..., str]) -> None:
    done = cli("apply", compiled(MIXED_TAIL_CALLS, name="mixed"))
    assert done.code == 1
    assert "map calls, slot 1" in done.err
    assert "one type" in done.err
    assert cli.left() == []


SHARED = """
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME); } shared SEC(".maps");
CONFIG __u32 foo = 1;
SEC("tc") int p(struct __sk_buff *skb) { __u32 zero = 0; return bpf_map_lookup_elem(&shared, &zero) ? foo : 0; }
"""


def test_a_shared_map_that_another_pins_first_is_used(
    cli: Cli, compiled: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two first applies at once: the other one's pin appears between our look and our own pin."""
    template = compiled(SHARED, name="shares")
    real = transaction.load

    def load_late(*arguments: Any) -> Any:
        loaded = real(*arguments)
        monkeypatch.setattr(transaction, "load", real)
        cli.ok("apply", "--name", "other", template)
        return loaded

    monkeypatch.setattr(transaction, "load", load_late)
    assert cli.ok("apply", "-j", "--name", "late", template).json["result"] == "changed"
    used = []
    for name in ("other", "late"):
        fd = bpf.obj_get(cli.layout.prog(name, "p"))
        used.append(set(bpf.prog_info(fd).map_ids))
        os.close(fd)
        cli.ok("detach", name)
    assert len(used[0] & used[1]) == 1
    assert len(used[0] | used[1]) == 3  # the shared map, and each one's own .rodata
    os.unlink(cli.layout.shared_map("shared"))
