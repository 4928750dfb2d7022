// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * mark: gives every packet the mark `foo`.
 *
 * Routing rules, nftables and later tc programs read the mark. Attach it with TCX or clsact, in either direction.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "config.h"

#ifndef FOO_DEFAULT
#define FOO_DEFAULT 0
#endif

CONFIG __u32 foo
	CONFIG_DESC("the mark that packets get") = FOO_DEFAULT;

SEC("tc")
int mark(struct __sk_buff *skb)
{
	skb->mark = foo;
	/* No verdict of our own: clsact goes on with the next filter, TCX (where -1 is TCX_NEXT) with the next program. */
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual MIT/GPL";
