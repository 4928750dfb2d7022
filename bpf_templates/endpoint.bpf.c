// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * endpoint: lets out of an endpoint (a container, a virtual machine) only what it may send.
 *
 * Attach it where the endpoint's packets arrive: at ingress of the host's end of its veth pair, or at egress of its own
 * interface. With TCX or clsact.
 *
 *  1. Spoofing. The Ethernet source, the ARP sender, and the IPv4 and IPv6 source must be the endpoint's own; of neighbour
 *     discovery only what an ordinary host says about its own addresses leaves (no router advertisement, no redirect).
 *     This is always enforced. (A DHCP client's 0.0.0.0 is foreign too: the address is known before the endpoint runs.)
 *  2. Policy. The destination port must be one of `ep.policy.ports`; `ep.policy.mode` says whether that is enforced.
 *  3. What passes gets `ep.id` as its mark, so that hooks behind this one know who sent it.
 *
 * The filter keeps no state: each packet is judged alone. `counters` holds packets and bytes per verdict. By static keys,
 * `events` tells of every packet (`debug`) or of every one that is dropped (`notify_drops`).
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/icmpv6.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "counters.h"
#include "events.h"
#include "static_key.h"

#define PORTS 16
#define EVENTS_BYTES 65536

/* --- configuration --- */

enum policy_mode {
	POLICY_DISABLED,	/* ports are not looked at */
	POLICY_AUDIT,		/* what would be dropped passes and is counted */
	POLICY_ENFORCE,
};

struct policy {
	enum policy_mode mode
		CONFIG_DESC("what happens to packets that the list of ports does not allow");
	_Bool serve
		CONFIG_DESC("the endpoint also serves on the ports: let answers from them out");
	_Bool other
		CONFIG_DESC("let protocols without ports pass (ICMP and ARP always do)");
	__u16 ports[PORTS]
		CONFIG_DESC("destination ports that the endpoint may send to; 0: unused") CONFIG_PORT;
};

struct endpoint {
	__u32 id
		CONFIG_DESC("identity: the mark of what passes; 0: the mark is left alone");
	__be32 ip4
		CONFIG_DESC("IPv4 address; 0.0.0.0: it has none, no IPv4 passes") CONFIG_IPV4 CONFIG_REQUIRED;
	struct in6_addr ip6
		CONFIG_DESC("IPv6 address; unset (::): it has only its link-local one") CONFIG_IPV6;
	struct in6_addr ip6_local
		CONFIG_DESC("IPv6 link-local address; unset (::): the one derived from the MAC address") CONFIG_IPV6;
	__u8 mac[ETH_ALEN]
		CONFIG_DESC("Ethernet address; all zero: not checked") CONFIG_MAC;
	struct policy policy
		CONFIG_DESC("which ports it may send to");
};

#ifndef EP_DEFAULT
#define EP_DEFAULT
#endif

CONFIG struct endpoint ep
	CONFIG_DESC("the endpoint whose packets are judged") = { EP_DEFAULT };

#ifndef ACCOUNTING_DEFAULT
#define ACCOUNTING_DEFAULT 1
#endif
#ifndef DEBUG_DEFAULT
#define DEBUG_DEFAULT 0
#endif
#ifndef NOTIFY_DROPS_DEFAULT
#define NOTIFY_DROPS_DEFAULT 0
#endif

static DEFINE_STATIC_KEY(accounting, ACCOUNTING_DEFAULT,
	CONFIG_DESC("count packets and bytes per verdict"));

static DEFINE_STATIC_KEY(debug, DEBUG_DEFAULT,
	CONFIG_DESC("an event for every packet"));

static DEFINE_STATIC_KEY(notify_drops, NOTIFY_DROPS_DEFAULT,
	CONFIG_DESC("an event for every packet that is dropped"));

/* --- verdicts --- */

enum verdict {
	PASSED,
	AUDITED,		/* passed, but POLICY_ENFORCE would have dropped it */
	SPOOFED_MAC,
	SPOOFED_ARP,
	SPOOFED_IP4,
	SPOOFED_IP6,
	SPOOFED_NDP,		/* neighbour discovery that an ordinary host has no business to send */
	DENIED_PORT,
	DENIED_PROTOCOL,
	MALFORMED,
	VERDICTS,
};

COUNTERS(VERDICTS);
EVENTS(EVENTS_BYTES);

/* --- what the endpoint may call its own --- */

static __always_inline bool has_mac(void)
{
	return ep.mac[0] | ep.mac[1] | ep.mac[2] | ep.mac[3] | ep.mac[4] | ep.mac[5];
}

static __always_inline bool own_mac(const __u8 *mac)
{
	return !has_mac() || (mac[0] == ep.mac[0] && mac[1] == ep.mac[1] && mac[2] == ep.mac[2] && mac[3] == ep.mac[3] &&
			      mac[4] == ep.mac[4] && mac[5] == ep.mac[5]);
}

static __always_inline bool own_ip4(__be32 address)
{
	return address && address == ep.ip4;
}

static __always_inline bool same_ip6(const struct in6_addr *a, const volatile struct in6_addr *b)
{
	return a->s6_addr32[0] == b->s6_addr32[0] && a->s6_addr32[1] == b->s6_addr32[1] &&
	       a->s6_addr32[2] == b->s6_addr32[2] && a->s6_addr32[3] == b->s6_addr32[3];
}

static __always_inline bool unspecified(const volatile struct in6_addr *a)
{
	return !(a->s6_addr32[0] | a->s6_addr32[1] | a->s6_addr32[2] | a->s6_addr32[3]);
}

/* Without a configured link-local address: fe80::/64 and the modified EUI-64 of the MAC address (RFC 4291, appendix A). */
static __always_inline bool own_link_local(const struct in6_addr *a)
{
	const __u8 *id = &a->s6_addr[8];

	if (!unspecified(&ep.ip6_local))
		return same_ip6(a, &ep.ip6_local);
	if (a->s6_addr32[0] != bpf_htonl(0xfe800000) || a->s6_addr32[1])
		return false;
	return !has_mac() || (id[0] == (ep.mac[0] ^ 2) && id[1] == ep.mac[1] && id[2] == ep.mac[2] && id[3] == 0xff &&
			      id[4] == 0xfe && id[5] == ep.mac[3] && id[6] == ep.mac[4] && id[7] == ep.mac[5]);
}

static __always_inline bool own_ip6(const struct in6_addr *a)
{
	return !unspecified(a) && (same_ip6(a, &ep.ip6) || own_link_local(a));
}

static __always_inline bool allowed(__u16 port)
{
	int i;

	for (i = 0; i < PORTS; i++) {
		if (port && ep.policy.ports[i] == port)
			return true;
	}
	return false;
}

/* --- policy: ports --- */

/*
 * Headers are read with bpf_skb_load_bytes rather than through skb->data: at tc they may lie outside the linear part
 * of the packet, and a filter that takes such a packet for a short one either drops or passes it wrongly.
 */
static __always_inline enum verdict judge_ports(struct __sk_buff *skb, __u32 offset, __u8 protocol)
{
	struct {
		__be16 source;
		__be16 dest;
	} ports;

	/* A first fragment without its ports serves nobody but those who want to get around filters (RFC 1858). */
	if (bpf_skb_load_bytes(skb, offset, &ports, sizeof(ports)))
		return MALFORMED;
	if (allowed(bpf_ntohs(ports.dest)))
		return PASSED;
	if (!ep.policy.serve || !allowed(bpf_ntohs(ports.source)))
		return DENIED_PORT;
	if (protocol == IPPROTO_TCP) {
		__u8 flags;

		/* An answer never opens a connection. Without this, a client that binds a service port gets anywhere. */
		if (bpf_skb_load_bytes(skb, offset + 13, &flags, sizeof(flags)))
			return MALFORMED;
		if ((flags & 0x12) == 0x02) /* SYN without ACK */
			return DENIED_PORT;
	}
	return PASSED;
}

/* `fragment` is the offset of the payload in the whole packet, in units of 8 bytes. */
static __always_inline enum verdict judge_transport(struct __sk_buff *skb, __u32 offset, __u8 protocol, __u16 fragment)
{
	/* The second fragment must not be able to rewrite the flags of a TCP header (RFC 1858, 3.2). */
	if (protocol == IPPROTO_TCP && fragment == 1)
		return MALFORMED;
	/* Later fragments carry no ports, and are of no use to a receiver that did not get the first. */
	if (ep.policy.mode == POLICY_DISABLED || fragment)
		return PASSED;
	switch (protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		return judge_ports(skb, offset, protocol);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
	case IPPROTO_IGMP:
	case IPPROTO_NONE:
		return PASSED;
	}
	return ep.policy.other ? PASSED : DENIED_PROTOCOL;
}

/* --- sources --- */

static __always_inline enum verdict judge_arp(struct __sk_buff *skb, __u32 offset)
{
	/* As on the wire; linux/if_arp.h leaves out the addresses and needs a libc. */
	struct {
		__be16 hardware, protocol;
		__u8 hardware_length, protocol_length;
		__be16 operation;
		__u8 sender_mac[ETH_ALEN];
		__u8 sender_ip4[4];
	} arp;
	__be32 sender;

	if (bpf_skb_load_bytes(skb, offset, &arp, sizeof(arp)))
		return MALFORMED;
	if (arp.hardware != bpf_htons(1) || arp.protocol != bpf_htons(ETH_P_IP) ||
	    arp.hardware_length != ETH_ALEN || arp.protocol_length != sizeof(sender))
		return MALFORMED;
	__builtin_memcpy(&sender, arp.sender_ip4, sizeof(sender));
	/* A probe for a duplicate address names no sender (RFC 5227): it enters nobody's table. */
	if (!own_mac(arp.sender_mac) || (sender && !own_ip4(sender)))
		return SPOOFED_ARP;
	return PASSED;
}

static __always_inline enum verdict judge_ip4(struct __sk_buff *skb, __u32 offset)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return MALFORMED;
	if (!own_ip4(ip.saddr))
		return SPOOFED_IP4;
	return judge_transport(skb, offset + ip.ihl * 4, ip.protocol, bpf_ntohs(ip.frag_off) & 0x1fff);
}

#define NDP_SOLICIT_ROUTER 133
#define NDP_ADVERTISE_ROUTER 134
#define NDP_SOLICIT 135
#define NDP_ADVERTISE 136
#define NDP_REDIRECT 137
#define MLD_REPORT 131
#define MLD2_REPORT 143

static __always_inline enum verdict judge_icmp6(struct __sk_buff *skb, __u32 offset, bool unspecified_source)
{
	struct in6_addr target;
	__u8 type;

	if (bpf_skb_load_bytes(skb, offset, &type, sizeof(type)))
		return MALFORMED;
	switch (type) {
	case NDP_ADVERTISE_ROUTER:
	case NDP_REDIRECT:
		return SPOOFED_NDP;
	case NDP_SOLICIT:
		if (!unspecified_source)
			return PASSED;
		/* Duplicate address detection says "I am about to take this address": only for its own. */
	case NDP_ADVERTISE:
		if (bpf_skb_load_bytes(skb, offset + 8, &target, sizeof(target)))
			return MALFORMED;
		return own_ip6(&target) ? PASSED : SPOOFED_NDP;
	case NDP_SOLICIT_ROUTER:
	case MLD_REPORT:
	case MLD2_REPORT:
		return PASSED;
	}
	return unspecified_source ? SPOOFED_IP6 : PASSED;
}

#define EXTENSIONS 8 /* one more than a packet may have */

static __always_inline enum verdict judge_ip6(struct __sk_buff *skb, __u32 offset)
{
	struct {
		__u8 next;
		__u8 length;
		__be16 fragment;
	} extension;
	bool unspecified_source;
	struct ipv6hdr ip6;
	__u16 fragment = 0;
	__u8 next;
	int i;

	if (bpf_skb_load_bytes(skb, offset, &ip6, sizeof(ip6)) || ip6.version != 6)
		return MALFORMED;
	/* A host that has no address yet sends from ::, but nothing except what ICMPv6 needs to get one. */
	unspecified_source = unspecified(&ip6.saddr);
	if (!unspecified_source && !own_ip6(&ip6.saddr))
		return SPOOFED_IP6;
	next = ip6.nexthdr;
	offset += sizeof(ip6);
	for (i = 0; i < EXTENSIONS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_AH)
			break;
		/* What follows the header of a later fragment is payload, whatever it looks like. */
		if (fragment)
			break;
		if (bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			return MALFORMED;
		if (next == IPPROTO_FRAGMENT) {
			fragment = bpf_ntohs(extension.fragment) >> 3;
			offset += 8;
		} else if (next == IPPROTO_AH) {
			offset += (extension.length + 2) * 4;
		} else {
			offset += (extension.length + 1) * 8;
		}
		next = extension.next;
	}
	if (i == EXTENSIONS)
		return MALFORMED;
	if (next == IPPROTO_ICMPV6 && !fragment)
		return judge_icmp6(skb, offset, unspecified_source);
	if (unspecified_source)
		return SPOOFED_IP6;
	return judge_transport(skb, offset, next, fragment);
}

/* --- the frame --- */

static __always_inline enum verdict judge(struct __sk_buff *skb)
{
	__u32 offset = sizeof(struct ethhdr);
	struct ethhdr eth;
	__be16 protocol;
	int i;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return MALFORMED;
	if (!own_mac(eth.h_source))
		return SPOOFED_MAC;
	protocol = eth.h_proto;
	/* The kernel takes one tag out of the frame before tc sees it; two more are looked through, then no more. */
	for (i = 0; i < 2; i++) {
		struct {
			__be16 tci;
			__be16 protocol;
		} tag;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		if (bpf_skb_load_bytes(skb, offset, &tag, sizeof(tag)))
			return MALFORMED;
		protocol = tag.protocol;
		offset += sizeof(tag);
	}
	switch (protocol) {
	case bpf_htons(ETH_P_IP):
		return judge_ip4(skb, offset);
	case bpf_htons(ETH_P_IPV6):
		return judge_ip6(skb, offset);
	case bpf_htons(ETH_P_ARP):
		return judge_arp(skb, offset);
	case bpf_htons(ETH_P_8021Q):
	case bpf_htons(ETH_P_8021AD):
		return MALFORMED;
	}
	return ep.policy.mode == POLICY_DISABLED || ep.policy.other ? PASSED : DENIED_PROTOCOL;
}

static __always_inline void report(struct __sk_buff *skb, enum verdict verdict)
{
	struct event *event = event_start(&events, ep.id, skb->ifindex, skb->len, verdict);
	__u32 length = skb->len;

	if (!event)
		return;
	if (length > sizeof(event->head))
		length = sizeof(event->head);
	/* The helper takes no length of 0, and the verifier wants to see that it never gets one. */
	if (length)
		bpf_skb_load_bytes(skb, 0, event->head, length);
	bpf_ringbuf_submit(event, 0);
}

SEC("tc")
int endpoint(struct __sk_buff *skb)
{
	enum verdict verdict = judge(skb);
	bool dropped;

	if ((verdict == DENIED_PORT || verdict == DENIED_PROTOCOL) && ep.policy.mode == POLICY_AUDIT)
		verdict = AUDITED;
	dropped = verdict != PASSED && verdict != AUDITED;
	if (static_branch_likely(&accounting))
		count(&counters, verdict, skb->len);
	/* Never two events for one packet. */
	if (static_branch_unlikely(&debug))
		report(skb, verdict);
	else if (dropped && static_branch_unlikely(&notify_drops))
		report(skb, verdict);
	if (dropped)
		return TC_ACT_SHOT;
	if (ep.id)
		skb->mark = ep.id;
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual MIT/GPL";
