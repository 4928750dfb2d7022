/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
#ifndef ELFPATCH_CONFIG_H
#define ELFPATCH_CONFIG_H

/*
 * Configuration variables of a template.
 *
 * A variable declared CONFIG is a global in .rodata whose bytes elfpatch sets in the compiled object. What follows the
 * declarator says what the value means, as BTF declaration tags, which stay in the object:
 *
 *	CONFIG __u32 foo				// a scalar:	--set foo=42
 *		CONFIG_DESC("the mark that packets get")
 *		CONFIG_MAX(65535) = FOO_DEFAULT;
 *
 *	CONFIG __u16 ports[8]				// an array:	--set ports[2]=443
 *		CONFIG_DESC("ports that are open; 0: unused")
 *		CONFIG_PORT = { PORTS_DEFAULT };
 *
 *	enum mode { MODE_OFF, MODE_ON };
 *	CONFIG enum mode mode				// an enum:	--set mode=MODE_ON
 *		CONFIG_DESC("whether to do anything at all") = MODE_DEFAULT;
 *
 *	struct endpoint {				// a struct: its members are tagged
 *		__be32 ip4	CONFIG_DESC("address") CONFIG_IPV4 CONFIG_REQUIRED;
 *		__u8 mac[6]	CONFIG_DESC("hardware address") CONFIG_MAC;
 *		__u64 timeout	CONFIG_DESC("idle time") CONFIG_DURATION CONFIG_UNIT("ns");
 *	};
 *	CONFIG struct endpoint ep			//		--set ep.ip4=10.0.0.5 --set ep.timeout=250ms
 *		CONFIG_DESC("the endpoint behind this interface") = { .timeout = 1000000000, EP_DEFAULT };
 *
 * A program reads them like any other variable. `const` puts them in .rodata, which a loader freezes, so the verifier
 * knows the values and removes the branches that they rule out. `volatile` keeps the compiler from doing the same too
 * early, with the values that the template happens to have. Every mention of a volatile is a load: copy a scalar that
 * is used often to a local variable.
 *
 * Byte order: addresses (__be32, __u8[16], struct in6_addr, __u8[6] for a MAC) are as on the wire. A port is in the
 * host's order unless its type is __be16.
 *
 * With -DELFPATCH_CONSTANTS all of them are plain constants that the compiler folds: with the initial values below
 * overridden by -D, this is the program to which a patched template must be equal. By convention NAME_DEFAULT holds
 * the initial value of a scalar, and the designators that are appended to the initializer of a struct or array:
 *
 *	-DELFPATCH_CONSTANTS -DFOO_DEFAULT=42 '-DEP_DEFAULT=.ip4 = 0x0500000a, .mac[0] = 2'
 */
#ifdef ELFPATCH_CONSTANTS
#define CONFIG static const __attribute__((unused))
#else
#define CONFIG const volatile
#endif

/* Compilers without the attribute (clang 13, bpf-gcc 12) build the same program; what the tags say is then unknown. */
#ifndef __has_attribute
#define __has_attribute(name) 0
#endif
#if __has_attribute(btf_decl_tag)
#define CONFIG_TAG(text) __attribute__((btf_decl_tag("elfpatch:" text)))
#else
#define CONFIG_TAG(text)
#endif
#define CONFIG_TEXT_(number) #number
#define CONFIG_TEXT(number) CONFIG_TEXT_(number)

/* What it is, in a few words, for a person. */
#define CONFIG_DESC(text) CONFIG_TAG("desc=" text)
/* What a number counts: "ns", "us", "ms", "s", "B", "KiB", "MiB", or free text such as "packets/s". */
#define CONFIG_UNIT(text) CONFIG_TAG("unit=" text)
/* The least and the greatest value, both allowed. Plain decimal numbers: their text goes into the tag. */
#define CONFIG_MIN(number) CONFIG_TAG("min=" CONFIG_TEXT(number))
#define CONFIG_MAX(number) CONFIG_TAG("max=" CONFIG_TEXT(number))
#define CONFIG_RANGE(least, greatest) CONFIG_MIN(least) CONFIG_MAX(greatest)
/* The template's own value is of no use: a load without one given is refused. */
#define CONFIG_REQUIRED CONFIG_TAG("required")

/* How the value is written. On an array: how each element is. */
#define CONFIG_IPV4 CONFIG_TAG("format=ipv4")
#define CONFIG_IPV6 CONFIG_TAG("format=ipv6")
#define CONFIG_MAC CONFIG_TAG("format=mac")
#define CONFIG_CIDR CONFIG_TAG("format=cidr")
#define CONFIG_DURATION CONFIG_TAG("format=duration")
#define CONFIG_SIZE CONFIG_TAG("format=size")
#define CONFIG_PORT CONFIG_TAG("format=port")
#define CONFIG_FLAGS CONFIG_TAG("format=flags")

/*
 * Immediates: variables whose value is in the instructions that read it, with no map behind it.
 *
 *	IMMEDIATE __u32 identity			// a scalar:	--set identity=7
 *		CONFIG_DESC("who sent it") = IDENTITY_DEFAULT;
 *	IMMEDIATE struct endpoint ep			// a struct:	--set ep.ip4=10.0.0.5
 *		CONFIG_DESC("the endpoint behind this interface") = { EP_DEFAULT };
 *
 *	skb->mark = immediate(identity);		// whatever is a scalar, in a place that is a constant
 *	if (port == immediate(ports[2]) || sender == immediate(ep.ip4))
 *		low = immediate_at(__u64, ep.ip6, 0);	// eight bytes at once, from the first on
 *
 * A read is one LD_IMM64 with a relocation against the variable, as if it loaded its address. elfpatch writes the value
 * into both imm fields, zero-extended, and removes the relocation. Until then the program computes with the address, so
 * an object with immediates is of use only to elfpatch, or once `elfpatch patch` has written it. The instruction bears
 * a local label, `__imm.<bytes>.<number>`. A read is not volatile: what is not needed costs no instruction.
 *
 * (An address that C computes with would do for simple cases, but not for all: the compiler knows of an address that it
 * is aligned and never 0, and decides comparisons by that.)
 *
 * No variable may have a name that means something in LLVM's assembly: r0 to r10, w0 to w10, s.
 */
#ifdef ELFPATCH_CONSTANTS

#define IMMEDIATE CONFIG
#define immediate(place) (place)
#define immediate_at(type, variable, offset) ({					\
	type value_;								\
	__builtin_memcpy(&value_, (const char *)&(variable) + (offset), sizeof(value_)); \
	value_; })

#else

#define IMMEDIATE const volatile CONFIG_TAG("immediate")
#define immediate(place) IMMEDIATE_LOAD(__typeof__(place), &(place))
#define immediate_at(type, variable, offset) IMMEDIATE_LOAD(type, (const volatile char *)&(variable) + (offset))

/* The modifier c matters: without it LLVM prints the symbol but not the offset, and every member would be the first. */
#ifdef __clang__
#define IMMEDIATE_INSN "%[read_] = %c[address_] ll"
#define IMMEDIATE_KNOWN(truth) __builtin_assume(truth)
#else
#define IMMEDIATE_INSN "lddw %[read_], %c[address_]"
#define IMMEDIATE_KNOWN(truth) ({ if (!(truth)) __builtin_unreachable(); })
#endif

/* Told that the value has no more bits than its type, the compiler does not mask it. */
#define IMMEDIATE_LOAD(type, address) ({					\
	unsigned long long read_;						\
	asm("__imm.%c[bytes_].%=:\n\t" IMMEDIATE_INSN				\
	    : [read_] "=r"(read_) : [address_] "i"(address), [bytes_] "i"(sizeof(type))); \
	IMMEDIATE_KNOWN(!(read_ >> (8 * sizeof(type) - 1) >> 1));		\
	(type)read_; })

#endif

/* NAME_DEFAULT may override a designator of the template's own initializer: that is what it is for. */
#ifdef __clang__
#pragma clang diagnostic ignored "-Winitializer-overrides"
#endif

#endif
