// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * connect4: sends the connections of a cgroup to a local proxy.
 *
 * connect(2) on an IPv4 socket of a process in the cgroup is rewritten when its destination is in `rules`. No packet is
 * touched: the connection is made to the proxy from the start. The map `origins` holds the destination that was asked
 * for, by the cookie of the connecting socket (SO_COOKIE); entries that are long unused give way to new ones.
 * `counters` holds connections per verdict (and no bytes: nothing was sent yet).
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "counters.h"

#define RULES 8
#define ORIGINS_MAX 65536
#define SOCK_STREAM 1 /* <sys/socket.h> needs a libc */
#define SOCK_DGRAM 2

/* --- configuration --- */

struct proxy {
	__be32 ip4
		CONFIG_DESC("address of the proxy") CONFIG_IPV4 CONFIG_REQUIRED;
	__u16 port
		CONFIG_DESC("port of the proxy") CONFIG_PORT CONFIG_MIN(1) CONFIG_REQUIRED;
	_Bool udp
		CONFIG_DESC("connected UDP sockets as well as TCP");
	__u32 uid
		CONFIG_DESC("user whose connections are left alone: the proxy's own; 4294967295: nobody");
};

struct net4 {
	__u32 prefixlen
		CONFIG_DESC("leading bits of the address that count") CONFIG_UNIT("bits") CONFIG_MAX(32);
	__be32 address
		CONFIG_DESC("address of the network") CONFIG_IPV4;
};

/* All zero is an unused rule. So 0.0.0.0/0 on every port is not one rule but two: 0.0.0.0/1 and 128.0.0.0/1. */
struct rule {
	struct net4 net
		CONFIG_DESC("destinations that go to the proxy") CONFIG_CIDR;
	__u16 port
		CONFIG_DESC("only this port of them; 0: every port") CONFIG_PORT;
};

#ifndef PROXY_DEFAULT
#define PROXY_DEFAULT
#endif
#ifndef RULES_DEFAULT
#define RULES_DEFAULT
#endif

CONFIG struct proxy proxy
	CONFIG_DESC("where connections go instead") = { .uid = 4294967295, PROXY_DEFAULT };

CONFIG struct rule rules[RULES]
	CONFIG_DESC("which connections go there") = { RULES_DEFAULT };

/* --- maps --- */

struct origin {
	__be32 ip4;
	__be16 port;
	__u16 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, ORIGINS_MAX);
	__type(key, __u64);
	__type(value, struct origin);
} origins SEC(".maps");

enum verdict {
	UNTOUCHED,	/* no rule names the destination */
	PROXIED,
	EXEMPT,		/* a rule names it, but the proxy itself asks for it, or it is the proxy already */
	REFUSED,	/* no room to record the origin */
	VERDICTS,
};

COUNTERS(VERDICTS);

static __always_inline bool wanted(__be32 address, __u16 port)
{
	int i;

	for (i = 0; i < RULES; i++) {
		__u32 length = rules[i].net.prefixlen;
		__u16 only = rules[i].port;
		/* A shift by 32 is undefined, and on BPF a shift by 0. */
		__be32 mask = length ? bpf_htonl(0xffffffffU << ((32 - length) & 31)) : 0;

		if (!length && !only)
			continue;
		if ((!only || only == port) && !((address ^ rules[i].net.address) & mask))
			return true;
	}
	return false;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct origin origin = { .ip4 = ctx->user_ip4, .port = ctx->user_port, .protocol = ctx->protocol };
	enum verdict verdict = UNTOUCHED;
	__be16 port = bpf_htons(proxy.port);
	__be32 ip4 = proxy.ip4;
	__u64 cookie;

	/* A socket that is connected anew must not keep the origin of its last connection. */
	cookie = bpf_get_socket_cookie(ctx);
	bpf_map_delete_elem(&origins, &cookie);
	if (ctx->type != SOCK_STREAM && !(ctx->type == SOCK_DGRAM && proxy.udp))
		goto out;
	if (!wanted(origin.ip4, bpf_ntohs(origin.port)))
		goto out;
	verdict = EXEMPT;
	if ((__u32)bpf_get_current_uid_gid() == proxy.uid || (origin.ip4 == ip4 && origin.port == port))
		goto out;
	/* The proxy may be there to enforce something: what cannot be recorded is refused (EPERM), not let around it. */
	verdict = bpf_map_update_elem(&origins, &cookie, &origin, BPF_ANY) ? REFUSED : PROXIED;
	if (verdict == REFUSED)
		goto out;
	ctx->user_ip4 = ip4;
	ctx->user_port = port;
out:
	count(&counters, verdict, 0);
	return verdict != REFUSED;
}

char _license[] SEC("license") = "Dual MIT/GPL";
