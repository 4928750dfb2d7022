/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
#ifndef ELFPATCH_COUNTERS_H
#define ELFPATCH_COUNTERS_H

/*
 * Packets and bytes per verdict, in a per-CPU array named `counters`: counting needs no atomic operation. What
 * segmentation offload has yet to cut into packets counts as one.
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct counter {
	__u64 packets;
	__u64 bytes;
};

#define COUNTERS(number)				\
	struct {					\
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); \
		__uint(max_entries, number);		\
		__type(key, __u32);			\
		__type(value, struct counter);		\
	} counters SEC(".maps")

static __always_inline void count(void *map, __u32 key, __u64 bytes)
{
	struct counter *counter = bpf_map_lookup_elem(map, &key);

	if (!counter)
		return;
	counter->packets++;
	counter->bytes += bytes;
}

#endif
