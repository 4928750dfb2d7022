// Types that the kernel finds in BTF by their names, or only because a tag says so. They are nowhere else whole.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define __kptr __attribute__((btf_type_tag("kptr")))
#define __contains(type, member) __attribute__((btf_decl_tag("contains:" #type ":" #member)))

struct bpf_list_head {
	__u64 : 64;
	__u64 : 64;
} __attribute__((aligned(8)));

struct bpf_list_node {
	__u64 : 64;
	__u64 : 64;
	__u64 : 64;
} __attribute__((aligned(8)));

struct item {
	struct bpf_list_node node;
	int weight;
};

struct owned {
	int first;
	struct bpf_list_node node;
};

struct pair {
	__u64 first, second;
	struct other *unused;
};

struct value {
	struct bpf_spin_lock lock;
	struct bpf_list_head items __contains(item, node);
	struct owned __kptr *owned;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct value);
} values SEC(".maps");

// The verifier takes the size of what a global function gets from its prototype.
__attribute__((noinline)) int sum(struct pair *pair)
{
	return pair ? pair->first + pair->second : 0;
}

// Nobody calls it: it makes the compiler describe the types.
int weigh(struct item *item, struct owned *owned)
{
	return item->weight + owned->first;
}

SEC("tc")
int entry(struct __sk_buff *skb)
{
	struct pair pair = {skb->len, skb->mark};
	__u32 zero = 0;

	if (!bpf_map_lookup_elem(&values, &zero))
		return -1;
	return sum(&pair);
}

char _license[] SEC("license") = "GPL";
