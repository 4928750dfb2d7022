// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * gate: one program whose settings can be given in five ways, for the benchmark of what each costs per packet.
 *
 * It lets what comes from one network reach the ports of one address, marks it, and sends it on to a gateway. What it
 * writes into a packet does not change what it thinks of it, for a test run sends the same packet again and again.
 *
 *	-DELFPATCH_CONSTANTS	constants that the compiler folds
 *	(nothing)		immediates and static keys
 *	-DCONFIG_RODATA		a variable in .rodata
 *	-DCONFIG_MAP=TYPE	the value of a map of this type, looked up once per packet
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "counters.h"
#include "events.h"
#include "static_key.h"

#define DENIED_MAX 1024
#define EVENTS_BYTES 65536

/* --- configuration --- */

#if defined(CONFIG_RODATA) || defined(CONFIG_MAP)
#define SWITCHES_IN_CONFIG
#endif

struct config {
	__be32 network CONFIG_IPV4;	/* where clients are */
	__be32 netmask CONFIG_IPV4;
	__be32 service CONFIG_IPV4;	/* what they may reach */
	__be32 admin CONFIG_IPV4;	/* who may reach any of its ports */
	__u32 id;			/* the mark of what passes */
	__u16 ports[4] CONFIG_PORT;
	__u16 port_low CONFIG_PORT;	/* a range of ports besides */
	__u16 port_high CONFIG_PORT;
	__u16 vlan;			/* the tag that packets must have; 0: none */
	__u16 max_length;		/* of the IPv4 packet, bytes */
	__u8 min_ttl;
	__u8 dscp;			/* what passes gets this differentiated services code point */
	__u8 mac[ETH_ALEN] CONFIG_MAC;
	__u8 gateway[ETH_ALEN] CONFIG_MAC;
	_Bool pass_other;		/* whether what is no IPv4 is left to other filters */
#ifdef SWITCHES_IN_CONFIG
	_Bool accounting;
	_Bool deny_list;
	_Bool debug;
#endif
};

#ifndef CONFIG_DEFAULT
#define CONFIG_DEFAULT
#endif

#if defined(CONFIG_MAP)

struct {
	__uint(type, CONFIG_MAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} settings SEC(".maps");

#define SETTING(member) (config->member)

#elif defined(CONFIG_RODATA)

CONFIG struct config config = { CONFIG_DEFAULT };
#define SETTING(member) (config.member)

#else

IMMEDIATE struct config config = { CONFIG_DEFAULT };
#define SETTING(member) immediate(config.member)

#endif

#ifdef SWITCHES_IN_CONFIG

#define USUALLY(name) __builtin_expect(SETTING(name), 1)
#define RARELY(name) __builtin_expect(SETTING(name), 0)

#else

#ifndef ACCOUNTING_DEFAULT
#define ACCOUNTING_DEFAULT 0
#endif
#ifndef DENY_LIST_DEFAULT
#define DENY_LIST_DEFAULT 0
#endif
#ifndef DEBUG_DEFAULT
#define DEBUG_DEFAULT 0
#endif
static DEFINE_STATIC_KEY(accounting, ACCOUNTING_DEFAULT);
static DEFINE_STATIC_KEY(deny_list, DENY_LIST_DEFAULT);
static DEFINE_STATIC_KEY(debug, DEBUG_DEFAULT);
#define USUALLY(name) static_branch_likely(&name)
#define RARELY(name) static_branch_unlikely(&name)

#endif

/* How a function takes the settings: in a map they are a pointer to hand on, else they are just there. */
#ifdef CONFIG_MAP
#define SETTINGS const struct config *config,
#define GIVEN config,
#else
#define SETTINGS
#define GIVEN
#endif

/* --- maps --- */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DENIED_MAX);
	__type(key, __be32);
	__type(value, __u64);
} denied SEC(".maps");

COUNTERS(TC_ACT_SHOT - TC_ACT_UNSPEC + 1);
EVENTS(EVENTS_BYTES);

/* --- packets --- */

static __always_inline bool allowed(SETTINGS __u16 port)
{
	return port == SETTING(ports[0]) || port == SETTING(ports[1]) || port == SETTING(ports[2]) ||
	       port == SETTING(ports[3]) || (port >= SETTING(port_low) && port <= SETTING(port_high));
}

static __always_inline bool is_denied(__be32 source)
{
	__u64 *hits = bpf_map_lookup_elem(&denied, &source);

	if (!hits)
		return false;
	__sync_fetch_and_add(hits, 1);
	return true;
}

/* The new code point; the header checksum is adjusted for it (RFC 1624). */
static __always_inline void mark(struct iphdr *ip, __u8 dscp)
{
	__u8 tos = dscp << 2 | (ip->tos & 3);
	__u32 sum;

	sum = (__u16)~ip->check + (__u16)~bpf_htons(ip->tos) + bpf_htons(tos);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~(sum + (sum >> 16));
	ip->tos = tos;
}

static __always_inline int judge_ip4(SETTINGS struct ethhdr *eth, struct iphdr *ip, void *end)
{
	__be16 *ports = (void *)(ip + 1);
	__u16 length;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl != 5)
		return TC_ACT_SHOT;
	length = bpf_ntohs(ip->tot_len);
	if (length < sizeof(*ip) || length > SETTING(max_length) || ip->ttl < SETTING(min_ttl))
		return TC_ACT_SHOT;
	if ((ip->saddr & SETTING(netmask)) != SETTING(network) || ip->daddr != SETTING(service))
		return TC_ACT_SHOT;
	if (ip->frag_off & bpf_htons(0x3fff))
		return TC_ACT_SHOT;
	if (RARELY(deny_list) && is_denied(ip->saddr))
		return TC_ACT_SHOT;
	if (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) {
		if ((void *)(ports + 2) > end)
			return TC_ACT_SHOT;
		if (!allowed(GIVEN bpf_ntohs(ports[1])) && ip->saddr != SETTING(admin))
			return TC_ACT_SHOT;
	} else if (ip->protocol != IPPROTO_ICMP) {
		return TC_ACT_SHOT;
	}
	mark(ip, SETTING(dscp));
	eth->h_dest[0] = SETTING(gateway[0]);
	eth->h_dest[1] = SETTING(gateway[1]);
	eth->h_dest[2] = SETTING(gateway[2]);
	eth->h_dest[3] = SETTING(gateway[3]);
	eth->h_dest[4] = SETTING(gateway[4]);
	eth->h_dest[5] = SETTING(gateway[5]);
	eth->h_source[0] = SETTING(mac[0]);
	eth->h_source[1] = SETTING(mac[1]);
	eth->h_source[2] = SETTING(mac[2]);
	eth->h_source[3] = SETTING(mac[3]);
	eth->h_source[4] = SETTING(mac[4]);
	eth->h_source[5] = SETTING(mac[5]);
	return TC_ACT_OK;
}

static __always_inline int judge(SETTINGS void *data, void *end)
{
	struct ethhdr *eth = data;
	void *at = eth + 1;
	__be16 protocol;

	if (at > end)
		return TC_ACT_SHOT;
	if (eth->h_dest[0] & 1) /* broadcast, multicast */
		return SETTING(pass_other) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
	protocol = eth->h_proto;
	if (SETTING(vlan)) {
		__be16 *tag = at;

		at = tag + 2;
		if (at > end || protocol != bpf_htons(ETH_P_8021Q) || (bpf_ntohs(tag[0]) & 0xfff) != SETTING(vlan))
			return TC_ACT_SHOT;
		protocol = tag[1];
	}
	if (protocol != bpf_htons(ETH_P_IP))
		return SETTING(pass_other) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
	return judge_ip4(GIVEN eth, at, end);
}

static __always_inline void report(SETTINGS struct __sk_buff *skb, int verdict)
{
	struct event *event = event_start(&events, SETTING(id), skb->ifindex, skb->len, verdict);

	if (!event)
		return;
	bpf_skb_load_bytes(skb, 0, event->head, sizeof(event->head));
	bpf_ringbuf_submit(event, 0);
}

SEC("tc")
int gate(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	int verdict;
#ifdef CONFIG_MAP
	__u32 key = 0;
	const struct config *config = bpf_map_lookup_elem(&settings, &key);

	if (!config)
		return TC_ACT_SHOT;
#endif
	verdict = judge(GIVEN data, end);
	if (USUALLY(accounting))
		count(&counters, verdict - TC_ACT_UNSPEC, skb->len);
	if (RARELY(debug))
		report(GIVEN skb, verdict);
	if (verdict == TC_ACT_OK)
		skb->mark = SETTING(id);
	return verdict;
}

char _license[] SEC("license") = "Dual MIT/GPL";
