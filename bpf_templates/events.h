/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
#ifndef ELFPATCH_EVENTS_H
#define ELFPATCH_EVENTS_H

/*
 * What became of single packets, for a reader of the ring buffer `events`. Nothing waits for the reader: an event that
 * finds the buffer full is lost. Ring buffers are there since Linux 5.8.
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define EVENT_HEAD 64

struct event {
	__u64 time;		/* ns since boot, not counting suspend */
	__u32 id;		/* who the program judges for, if it knows */
	__u32 ifindex;
	__u32 length;		/* of the packet */
	__u32 verdict;		/* a row of `counters` */
	__u8 head[EVENT_HEAD];	/* the first bytes of the packet; 0 where it has no more */
};

#define EVENTS(bytes)					\
	struct {					\
		__uint(type, BPF_MAP_TYPE_RINGBUF);	\
		__uint(max_entries, bytes);		\
	} events SEC(".maps")

/* An event that the caller gives its head, and submits; NULL when there is no room. */
static __always_inline struct event *event_start(void *map, __u32 id, __u32 ifindex, __u32 length, __u32 verdict)
{
	struct event *event = bpf_ringbuf_reserve(map, sizeof(*event), 0);

	if (!event)
		return 0;
	event->time = bpf_ktime_get_ns();
	event->id = id;
	event->ifindex = ifindex;
	event->length = length;
	event->verdict = verdict;
	__builtin_memset(event->head, 0, sizeof(event->head));
	return event;
}

#endif
