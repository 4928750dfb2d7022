// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * xdp_lb: a layer-4 load balancer that keeps no table of connections.
 *
 * Packets to `service.vip` are given to one of `backends`, as they arrive, by a hash of the flow alone: every balancer
 * with the same configuration chooses the same backend, and none has anything to remember or to lose.
 *
 * The choice is weighted rendezvous hashing. Each backend draws an exponentially distributed number from the flow and
 * its own address, divided by its weight, and the least one wins. So a backend gets flows in proportion to its weight,
 * and when one is added, removed or weighted anew, only flows that it gains or loses move.
 *
 * LB_ENCAPSULATE wraps the packet into IPv4 (protocol 4) to the backend, which may be anywhere; LB_REDIRECT changes only
 * the Ethernet addresses, for a backend in the same segment. Both leave the packet to the VIP as it is: the backend
 * has the VIP on a loopback (for LB_ENCAPSULATE also a tunnel of kind ipip), and answers the client directly. With the
 * static key `encap` off, nothing is wrapped, whatever `service.forward` says, and no code for it is left.
 *
 * ICMP errors about a flow (path MTU discovery lives on them) go to the backend of that flow. All else passes.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "counters.h"
#include "static_key.h"

#define BACKENDS 16
#define AF_INET 2 /* <sys/socket.h> needs a libc */

/* --- configuration --- */

enum lb_protocol {
	LB_TCP = IPPROTO_TCP,
	LB_UDP = IPPROTO_UDP,
};

enum lb_forward {
	LB_ENCAPSULATE,
	LB_REDIRECT,
};

enum lb_hash {
	LB_HASH_PORTS,		/* each connection on its own */
	LB_HASH_SOURCE,		/* all connections of a client to the same backend */
};

struct service {
	__be32 vip
		CONFIG_DESC("address that clients use") CONFIG_IPV4 CONFIG_REQUIRED;
	__u16 port
		CONFIG_DESC("port that clients use; 0: every port") CONFIG_PORT;
	__u16 mtu
		CONFIG_DESC("longest IP packet that is sent to a backend; longer ones are dropped; 0: not checked")
		CONFIG_UNIT("B") CONFIG_SIZE;
	enum lb_protocol protocol
		CONFIG_DESC("protocol of the service");
	enum lb_forward forward
		CONFIG_DESC("how packets get to a backend");
	enum lb_hash hash
		CONFIG_DESC("what makes up a flow");
	__be32 source
		CONFIG_DESC("source address of encapsulating packets; 0.0.0.0: the VIP") CONFIG_IPV4;
	__u32 seed
		CONFIG_DESC("the same on all balancers of a service, and secret, so that nobody can aim at one backend");
};

struct backend {
	__be32 address
		CONFIG_DESC("address of the backend") CONFIG_IPV4;
	__u32 weight
		CONFIG_DESC("share of the flows, relative to the other backends; 0: unused") CONFIG_MAX(65535);
	__u32 ifindex
		CONFIG_DESC("interface that leads to it; 0: the one that the packet came from");
	__u8 mac[ETH_ALEN]
		CONFIG_DESC("Ethernet address of it, or of the gateway to it; all zero: ask the kernel's routes and neighbours")
		CONFIG_MAC;
};

#ifndef SERVICE_DEFAULT
#define SERVICE_DEFAULT
#endif
#ifndef BACKENDS_DEFAULT
#define BACKENDS_DEFAULT
#endif

CONFIG struct service service
	CONFIG_DESC("what is balanced, and how") = { .protocol = LB_TCP, SERVICE_DEFAULT };

CONFIG struct backend backends[BACKENDS]
	CONFIG_DESC("where it goes") = { BACKENDS_DEFAULT };

#ifndef ENCAP_DEFAULT
#define ENCAP_DEFAULT 1
#endif

static DEFINE_STATIC_KEY(encap, ENCAP_DEFAULT,
	CONFIG_DESC("LB_ENCAPSULATE is obeyed; off: all packets are forwarded as by LB_REDIRECT"));

enum verdict {
	PASSED,			/* not for the service */
	FORWARDED,
	NO_BACKEND,		/* dropped: no backend has a weight */
	NO_NEIGHBOUR,		/* dropped: no MAC address is configured, and the kernel knows none */
	TOO_LONG,
	MALFORMED,
	VERDICTS,
};

COUNTERS(VERDICTS);

/* --- the choice --- */

/* The finaliser of MurmurHash3: every bit of the result depends on every bit of the word. */
static __always_inline __u32 mix(__u32 word)
{
	word = (word ^ word >> 16) * 0x85ebca6b;
	word = (word ^ word >> 13) * 0xc2b2ae35;
	return word ^ word >> 16;
}

/* -log2 of 0.5, ..., 1 in 64 steps, times 2^24: round(-log2((64 + i) / 128) * 2^24). */
static const __u32 minus_log2[65] = {
	16777216, 16401946, 16032406, 15668423, 15309833, 14956478, 14608207, 14264876,
	13926348, 13592488, 13263172, 12938275, 12617683, 12301281, 11988961, 11680621,
	11376159, 11075479, 10778489, 10485098, 10195222, 9908776, 9625680, 9345857,
	9069232, 8795733, 8525290, 8257836, 7993304, 7731632, 7472759, 7216625,
	6963174, 6712349, 6464096, 6218364, 5975102, 5734260, 5495791, 5259648,
	5025788, 4794165, 4564737, 4337464, 4112305, 3889222, 3668175, 3449129,
	3232048, 3016896, 2803640, 2592247, 2382684, 2174919, 1968923, 1764665,
	1562117, 1361249, 1162035, 964447, 768458, 574044, 381180, 189839,
	0,
};

/* -log2((word + 0.5) / 2^32) times 2^24, interpolated: exponentially distributed when `word` is uniform. */
static __always_inline __u32 exponential(__u32 word)
{
	__u32 zeros = 0, i, rest;
	int shift;

	word |= 1;
	for (shift = 16; shift; shift /= 2) {
		/* `by` is `shift` if that many leading bits are 0. A comparison would double what is verified, at each step. */
		__u32 by = (word >> (32 - shift)) - 1;

		barrier_var(by); /* or clang finds the comparison in it */
		by = (by >> 31) * shift;
		word <<= by;
		zeros += by;
	}
	i = word >> 25 & 63;
	rest = word & ((1U << 25) - 1);
	return (zeros << 24) + minus_log2[i] - (__u32)((__u64)(minus_log2[i] - minus_log2[i + 1]) * rest >> 25);
}

/*
 * The index of the backend of a flow; BACKENDS when there is none. Every `if` on a draw would be one more state for the
 * verifier to follow through the rest of the program, for every backend: so there is none, and masks do the choosing.
 */
static __always_inline __u32 choose(__u32 flow)
{
	__u32 best = BACKENDS, best_draw = 1, best_weight = 0, i;

	for (i = 0; i < BACKENDS; i++) {
		__u32 weight = backends[i].weight;
		__u64 less;
		__u32 draw;

		if (!weight)
			continue;
		/* Keyed by address, not by place: the order of the backends means nothing. */
		draw = exponential(mix(flow ^ mix(backends[i].address ^ service.seed)));
		/* All ones if draw / weight < best_draw / best_weight: the products have 45 bits, their difference a sign. */
		less = (__u64)draw * best_weight - (__u64)best_draw * weight;
		barrier_var(less);
		less = -(less >> 63);
		best ^= (best ^ i) & less;
		best_draw ^= (best_draw ^ draw) & less;
		best_weight ^= (best_weight ^ weight) & less;
	}
	return best;
}

/* --- the flow --- */

struct ports {
	__be16 source;
	__be16 dest;
};

struct flow {
	__be32 client;
	__be16 client_port;
	__be16 port;		/* of the service; 0 in a fragment */
};

/*
 * Whether a packet that passes between client and service is the service's, and of which flow. `transport` begins with
 * the ports. Fragments after the first carry none, so no fragment's flow may depend on them, or a packet would be torn.
 */
static __always_inline bool of_service(struct flow *flow, __u8 protocol, bool later_fragment)
{
	if (protocol != service.protocol)
		return false;
	return later_fragment || !service.port || flow->port == bpf_htons(service.port);
}

static __always_inline __u32 hash_flow(const struct flow *flow, bool fragment)
{
	__u32 hash = mix(flow->client ^ service.seed);

	if (service.hash == LB_HASH_SOURCE || fragment)
		return hash;
	return mix(hash ^ ((__u32)flow->client_port << 16 | flow->port));
}

/* <linux/icmp.h> needs a libc. */
#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_BAD_PARAMETER 12

/* An ICMP error to the VIP quotes what a backend sent to a client: the flow seen from its other end. */
static __always_inline enum verdict error_flow(void *at, void *end, __u32 *hash)
{
	__u8 *type = at;
	struct iphdr *quoted = at + 8;
	struct ports *ports = (void *)(quoted + 1);
	struct flow flow;

	if ((void *)(type + 1) > end)
		return MALFORMED;
	if (*type != ICMP_UNREACHABLE && *type != ICMP_TIME_EXCEEDED && *type != ICMP_BAD_PARAMETER)
		return PASSED;
	if ((void *)(ports + 1) > end)
		return MALFORMED;
	/* Options and fragments in what servers send are too rare to be looked through. */
	if (quoted->version != 4 || quoted->ihl != 5 || quoted->saddr != service.vip ||
	    quoted->frag_off & bpf_htons(0x3fff))
		return PASSED;
	flow.client = quoted->daddr;
	flow.client_port = ports->dest;
	flow.port = ports->source;
	if (!of_service(&flow, quoted->protocol, false))
		return PASSED;
	*hash = hash_flow(&flow, false);
	return FORWARDED;
}

/* Whether the packet is to be forwarded, and the hash of its flow. */
static __always_inline enum verdict find_flow(struct iphdr *ip, void *end, __u32 *hash)
{
	__u16 fragment = bpf_ntohs(ip->frag_off) & 0x3fff;
	bool later = fragment & 0x1fff;
	struct flow flow = { .client = ip->saddr };
	struct ports *ports;
	void *transport;

	if (ip->ihl < 5)
		return MALFORMED;
	transport = (void *)ip + ip->ihl * 4;
	if (ip->protocol == IPPROTO_ICMP)
		return fragment ? PASSED : error_flow(transport, end, hash);
	if (!later) {
		ports = transport;
		if ((void *)(ports + 1) > end)
			return ip->protocol == service.protocol ? MALFORMED : PASSED;
		flow.client_port = ports->source;
		flow.port = ports->dest;
	}
	if (!of_service(&flow, ip->protocol, later))
		return PASSED;
	*hash = hash_flow(&flow, fragment);
	return FORWARDED;
}

/* --- the way --- */

struct way {
	__u8 source[ETH_ALEN];
	__u8 dest[ETH_ALEN];
	__u32 ifindex;		/* 0: out where it came in */
};

static __always_inline bool find_way(struct xdp_md *ctx, __u32 chosen, __u16 length, struct way *way)
{
	struct bpf_fib_lookup route = {};
	__u8 any = 0;
	int i;

	way->ifindex = backends[chosen].ifindex;
	for (i = 0; i < ETH_ALEN; i++)
		any |= way->dest[i] = backends[chosen].mac[i];
	if (any)
		return true;
	route.family = AF_INET;
	route.ipv4_dst = backends[chosen].address;
	route.ipv4_src = service.source ? service.source : service.vip;
	route.tot_len = length;
	route.ifindex = ctx->ingress_ifindex;
	if (bpf_fib_lookup(ctx, &route, sizeof(route), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return false;
	__builtin_memcpy(way->source, route.smac, ETH_ALEN);
	__builtin_memcpy(way->dest, route.dmac, ETH_ALEN);
	way->ifindex = route.ifindex;
	return true;
}

/* Puts an IPv4 header in front of a packet of `length` bytes. The Ethernet header is left to the caller. */
static __always_inline bool encapsulate(struct xdp_md *ctx, __u32 chosen, __u16 length, __u8 tos, __be16 fragment)
{
	void *data, *end;
	struct iphdr *outer;
	__u16 *words;
	__u32 sum = 0;
	int i;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*outer)))
		return false;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	outer = data + sizeof(struct ethhdr);
	if ((void *)(outer + 1) > end)
		return false;
	outer->version = 4;
	outer->ihl = 5;
	outer->tos = tos;
	outer->tot_len = bpf_htons(length);
	outer->id = 0;
	/* Not to be fragmented where the inner packet is not: else path MTU discovery would find nothing out. */
	outer->frag_off = fragment & bpf_htons(0x4000);
	outer->ttl = 64;
	outer->protocol = IPPROTO_IPIP;
	outer->check = 0;
	outer->saddr = service.source ? service.source : service.vip;
	outer->daddr = backends[chosen].address;
	words = (__u16 *)outer;
	for (i = 0; i < (int)(sizeof(*outer) / 2); i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	outer->check = ~((sum & 0xffff) + (sum >> 16));
	return true;
}

static __always_inline enum verdict forward(struct xdp_md *ctx, struct iphdr *ip, __u32 hash, struct way *way)
{
	__u32 chosen = choose(hash);
	__u32 length = bpf_ntohs(ip->tot_len);
	bool wrap = static_branch_likely(&encap) && service.forward == LB_ENCAPSULATE;

	if (chosen >= BACKENDS)
		return NO_BACKEND;
	if (wrap)
		length += sizeof(*ip);
	if (length > 0xffff || (service.mtu && length > service.mtu))
		return TOO_LONG;
	if (!find_way(ctx, chosen, length, way))
		return NO_NEIGHBOUR;
	if (wrap && !encapsulate(ctx, chosen, length, ip->tos, ip->frag_off))
		return TOO_LONG;
	return FORWARDED;
}

static __always_inline enum verdict balance(struct xdp_md *ctx, struct way *way)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + sizeof(*eth);
	enum verdict verdict;
	__u32 hash = 0;

	if ((void *)(eth + 1) > end)
		return MALFORMED;
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return PASSED;
	if ((void *)(ip + 1) > end || ip->version != 4)
		return MALFORMED;
	if (!service.vip || ip->daddr != service.vip)
		return PASSED;
	verdict = find_flow(ip, end, &hash);
	if (verdict != FORWARDED)
		return verdict;
	/* The next frame comes from the interface that this one was sent to, unless the routes say otherwise. */
	__builtin_memcpy(way->source, eth->h_dest, ETH_ALEN);
	return forward(ctx, ip, hash, way);
}

SEC("xdp")
int xdp_lb(struct xdp_md *ctx)
{
	__u64 length = ctx->data_end - ctx->data;
	struct way way = {};
	enum verdict verdict = balance(ctx, &way);
	struct ethhdr *eth;

	count(&counters, verdict, length);
	if (verdict == PASSED)
		return XDP_PASS;
	eth = (void *)(long)ctx->data;
	if (verdict != FORWARDED || (void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	__builtin_memcpy(eth->h_source, way.source, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, way.dest, ETH_ALEN);
	eth->h_proto = bpf_htons(ETH_P_IP);
	return way.ifindex ? bpf_redirect(way.ifindex, 0) : XDP_TX;
}

char _license[] SEC("license") = "Dual MIT/GPL";
