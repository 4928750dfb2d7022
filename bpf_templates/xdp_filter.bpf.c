// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * xdp_filter: drops denied sources, and sources that send too fast, before the kernel spends anything on them.
 *
 *  1. Sources in the maps `deny4` and `deny6` (longest prefix match; the value counts hits) are dropped.
 *  2. Each source (an IPv4 address, an IPv6 /64: see `limits`) has a token bucket: `limits.pps` packets a second on
 *     average, `limits.burst` at once. What exceeds it is dropped.
 *
 * Looks through up to two VLAN tags. `counters` holds packets and bytes per verdict; with `dry_run` they are the only
 * effect. The maps carry state: they outlive a change of configuration.
 *
 * Static keys take out what is not wanted: `rate_limit` the buckets, `ipv6` all that is about IPv6, which then passes
 * unjudged. `sampling` puts in what usually is not: one packet in `sample_one_in` is shown to the reader of `events`.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "counters.h"
#include "events.h"
#include "static_key.h"

#define DENIED_MAX 65536
#define SOURCES_MAX 65536
#define EVENTS_BYTES 262144
#define SECOND 1000000000ULL

/* --- configuration --- */

struct limits {
	__u64 penalty
		CONFIG_DESC("how long a source that exceeds the rate is shut out; 0: only until it has a token again")
		CONFIG_UNIT("ns") CONFIG_DURATION CONFIG_MAX(3600000000000);
	__u32 pps
		CONFIG_DESC("packets that a source may send a second; 0: no limit")
		CONFIG_UNIT("packets/s") CONFIG_MAX(10000000);
	__u32 burst
		CONFIG_DESC("packets that a source may send at once after a pause")
		CONFIG_UNIT("packets") CONFIG_RANGE(1, 1000000);
	__u8 prefix4
		CONFIG_DESC("IPv4 addresses that share this many leading bits are one source")
		CONFIG_UNIT("bits") CONFIG_RANGE(1, 32);
	__u8 prefix6
		CONFIG_DESC("IPv6 addresses that share this many leading bits are one source")
		CONFIG_UNIT("bits") CONFIG_RANGE(1, 128);
};

#ifndef LIMITS_DEFAULT
#define LIMITS_DEFAULT
#endif
#ifndef DRY_RUN_DEFAULT
#define DRY_RUN_DEFAULT 0
#endif

/* A /64 is what one IPv6 host has to itself: counted by address, it would have 2^64 buckets. */
CONFIG struct limits limits
	CONFIG_DESC("token bucket of each source") = { .burst = 100, .prefix4 = 32, .prefix6 = 64, LIMITS_DEFAULT };

CONFIG _Bool dry_run
	CONFIG_DESC("count what would be dropped, but drop nothing") = DRY_RUN_DEFAULT;

#ifndef SAMPLE_ONE_IN_DEFAULT
#define SAMPLE_ONE_IN_DEFAULT 1000
#endif
#ifndef SAMPLING_DEFAULT
#define SAMPLING_DEFAULT 0
#endif
#ifndef RATE_LIMIT_DEFAULT
#define RATE_LIMIT_DEFAULT 1
#endif
#ifndef IPV6_DEFAULT
#define IPV6_DEFAULT 1
#endif

CONFIG __u32 sample_one_in
	CONFIG_DESC("with the key sampling: one packet in so many, chosen at random, gives an event")
	CONFIG_UNIT("packets") CONFIG_MIN(1) = SAMPLE_ONE_IN_DEFAULT;

static DEFINE_STATIC_KEY(sampling, SAMPLING_DEFAULT,
	CONFIG_DESC("events for some of the packets"));

static DEFINE_STATIC_KEY(rate_limit, RATE_LIMIT_DEFAULT,
	CONFIG_DESC("a token bucket for each source; off: `limits` has no effect"));

static DEFINE_STATIC_KEY(ipv6, IPV6_DEFAULT,
	CONFIG_DESC("IPv6 is judged; off: it passes like what is no IP"));

/* --- maps --- */

struct prefix4 {
	__u32 length;
	__be32 address;
};

struct prefix6 {
	__u32 length;
	struct in6_addr address;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, DENIED_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix4);
	__type(value, __u64);
} deny4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, DENIED_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix6);
	__type(value, __u64);
} deny6 SEC(".maps");

/* IPv4 sources are v4-mapped (::ffff:a.b.c.d). */
struct source {
	__be32 address[4];
};

/*
 * A bucket is one number: the time at which it will be full again (the "theoretical arrival time" of the generic cell
 * rate algorithm). One number is exchanged atomically, so no CPU waits for a lock that another one holds. Its lowest bit
 * says that the source is serving a penalty, which more packets do not prolong.
 */
#define PENALTY 1ULL

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SOURCES_MAX);
	__type(key, struct source);
	__type(value, __u64);
} sources SEC(".maps");

enum verdict {
	PASSED,
	NOT_IP,			/* passed: neither IPv4 nor IPv6, or IPv6 with its key off */
	DENIED,
	LIMITED,
	MALFORMED,
	VERDICTS,
};

COUNTERS(VERDICTS);
EVENTS(EVENTS_BYTES);

/* --- token bucket --- */

/* The leading `bits` (0 to 32) of a word as a mask, in network order. */
static __always_inline __be32 mask(int bits)
{
	return bits <= 0 ? 0 : bpf_htonl(bits >= 32 ? 0xffffffff : ~(0xffffffffU >> bits));
}

/* Packets that race for one bucket all take from it: each retries until its exchange succeeds, within reason. */
#define RETRIES 4

static __always_inline bool within_limits(const struct source *source)
{
	__u64 now, full, taken, interval, depth;
	__u64 *bucket;
	int i;

	if (!static_branch_likely(&rate_limit) || !limits.pps)
		return true;
	interval = SECOND / limits.pps;
	depth = interval * (limits.burst - 1);
	now = bpf_ktime_get_ns();
	for (i = 0; i < RETRIES; i++) {
		bucket = bpf_map_lookup_elem(&sources, source);
		if (!bucket) {
			full = (now + interval) & ~PENALTY;
			if (!bpf_map_update_elem(&sources, source, &full, BPF_NOEXIST))
				return true;
			continue;
		}
		full = *(volatile __u64 *)bucket;
		if (full > now + depth) {
			/* Full so late that the next token is there when the penalty is over. */
			taken = (now + depth + limits.penalty) | PENALTY;
			if (limits.penalty && !(full & PENALTY))
				__sync_val_compare_and_swap(bucket, full, taken);
			return false;
		}
		taken = ((full > now ? full : now) + interval) & ~PENALTY;
		if (__sync_val_compare_and_swap(bucket, full, taken) == full)
			return true;
	}
	return false;
}

/* --- packets --- */

static __always_inline enum verdict judge_ip4(void *at, void *end)
{
	struct prefix4 key = { .length = 32 };
	struct source source = {};
	struct iphdr *ip = at;
	__u64 *hits;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return MALFORMED;
	key.address = ip->saddr;
	hits = bpf_map_lookup_elem(&deny4, &key);
	if (hits) {
		__sync_fetch_and_add(hits, 1);
		return DENIED;
	}
	source.address[2] = bpf_htonl(0xffff);
	source.address[3] = ip->saddr & mask(limits.prefix4);
	return within_limits(&source) ? PASSED : LIMITED;
}

static __always_inline enum verdict judge_ip6(void *at, void *end)
{
	struct prefix6 key = { .length = 128 };
	struct ipv6hdr *ip6 = at;
	struct source source;
	__u64 *hits;
	int i;

	if ((void *)(ip6 + 1) > end || ip6->version != 6)
		return MALFORMED;
	key.address = ip6->saddr;
	hits = bpf_map_lookup_elem(&deny6, &key);
	if (hits) {
		__sync_fetch_and_add(hits, 1);
		return DENIED;
	}
	for (i = 0; i < 4; i++)
		source.address[i] = key.address.s6_addr32[i] & mask(limits.prefix6 - 32 * i);
	return within_limits(&source) ? PASSED : LIMITED;
}

static __always_inline enum verdict judge(void *at, void *end)
{
	struct ethhdr *eth = at;
	__be16 protocol;
	int i;

	if ((void *)(eth + 1) > end)
		return MALFORMED;
	protocol = eth->h_proto;
	at = eth + 1;
	for (i = 0; i < 2; i++) {
		struct {
			__be16 tci;
			__be16 protocol;
		} *tag = at;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 1) > end)
			return MALFORMED;
		protocol = tag->protocol;
		at = tag + 1;
	}
	if (protocol == bpf_htons(ETH_P_IP))
		return judge_ip4(at, end);
	if (protocol == bpf_htons(ETH_P_IPV6) && static_branch_likely(&ipv6))
		return judge_ip6(at, end);
	/* A third tag is no protocol of its own but a way around the first two: it is not let through as one. */
	if (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD))
		return MALFORMED;
	return NOT_IP;
}

/* --- samples --- */

static __always_inline void sample(struct xdp_md *ctx, __u64 length, enum verdict verdict)
{
	struct event *event;

	/* A random number of 0 to sample_one_in - 1. */
	if ((__u64)bpf_get_prandom_u32() * sample_one_in >> 32)
		return;
	event = event_start(&events, 0, ctx->ingress_ifindex, length, verdict);
	if (!event)
		return;
	/*
	 * What the verifier has learnt of the length must be of the register that the helper gets: without the barrier, and
	 * with 32 bits, compilers of old instruction sets check one copy and pass another.
	 */
	barrier_var(length);
	if (length > sizeof(event->head))
		length = sizeof(event->head);
	/* Since Linux 5.18; an older kernel takes the program as long as the key is off. */
	if (length)
		bpf_xdp_load_bytes(ctx, 0, event->head, length);
	bpf_ringbuf_submit(event, 0);
}

SEC("xdp")
int xdp_filter(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	enum verdict verdict = judge(data, end);
	__u64 length = end - data;

	count(&counters, verdict, length);
	if (static_branch_unlikely(&sampling))
		sample(ctx, length, verdict);
	return verdict == PASSED || verdict == NOT_IP || dry_run ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
