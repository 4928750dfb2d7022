/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
#ifndef ELFPATCH_STATIC_KEY_H
#define ELFPATCH_STATIC_KEY_H

/*
 * Static keys: switches in the instructions themselves, so that code which is off costs nothing.
 *
 *	#ifndef DEBUG_DEFAULT
 *	#define DEBUG_DEFAULT 0
 *	#endif
 *	static DEFINE_STATIC_KEY(debug, DEBUG_DEFAULT,		//	--set debug=on
 *		CONFIG_DESC("events for every packet"));
 *
 *	static DEFINE_STATIC_KEY_FALSE(trace);			// always off to begin with
 *	DEFINE_STATIC_KEY_TRUE(accounting, CONFIG_DESC("..."));	// always on; not static: other units may use it,
 *	DECLARE_STATIC_KEY_TRUE(accounting);			// with this
 *
 *	if (static_branch_unlikely(&debug))	// expected to be off: the body is moved out of the way
 *		report(skb);
 *	if (static_branch_likely(&accounting))	// expected to be on: the body is what control falls into
 *		count(skb);
 *
 * The value of DEFINE_STATIC_KEY must be spelt 0, 1, false or true once macros are expanded. Tags (see config.h) are
 * separated by spaces. A key may be local to a function (`static`), and is branched on as often as wanted, also in code
 * that is inlined or unrolled. (clang 14 does not unroll a loop that branches on a key.) A key is no variable: nothing
 * may read or write `enabled`.
 *
 * With -DELFPATCH_CONSTANTS keys are constants that the compiler folds: the program with the keys set as their
 * NAME_DEFAULT say (-DELFPATCH_CONSTANTS -DDEBUG_DEFAULT=1), to which a patched template must be equal.
 *
 * What becomes of a branch. The verifier wants an edge to every instruction, so a jump that is replaced by nothing will
 * not load: one side has lost its only edge. Hence a site is a conditional jump whose outcome is constant:
 *
 *	if rZ <  0 goto +N	opcode 0xa5, unsigned: never jumps
 *	if rZ >= 0 goto +N	opcode 0x35, unsigned: always jumps
 *
 * Setting a key rewrites that byte, and the verifier, which knows the outcome, removes the jump and the dead side. The
 * jump is found by a local label on it, `__sk.<u|l>.<key>.<number>`; u: it jumps when the key is on, l: when it is off.
 * `llvm-strip -g` keeps the labels, `--strip-unneeded` does not.
 */

struct static_key_true {
	unsigned int enabled;
};

struct static_key_false {
	unsigned int enabled;
};

#define DEFINE_STATIC_KEY_TRUE(name, ...) SK_DEFINE_1(name, __VA_ARGS__)
#define DEFINE_STATIC_KEY_FALSE(name, ...) SK_DEFINE_0(name, __VA_ARGS__)
#define DEFINE_STATIC_KEY(name, value, ...) SK_DEFINE(name, value, __VA_ARGS__)
#define DECLARE_STATIC_KEY_TRUE(name) extern SK_CONST struct static_key_true name
#define DECLARE_STATIC_KEY_FALSE(name) extern SK_CONST struct static_key_false name

#define SK_DEFINE(name, value, ...) SK_DEFINE_##value(name, __VA_ARGS__)
#define SK_DEFINE_1(name, ...) SK_CONST struct static_key_true name SK_PLACE __VA_ARGS__ = { 1 }
#define SK_DEFINE_0(name, ...) SK_CONST struct static_key_false name SK_PLACE __VA_ARGS__ = { 0 }
#define SK_DEFINE_true SK_DEFINE_1
#define SK_DEFINE_false SK_DEFINE_0

#ifdef ELFPATCH_CONSTANTS

#define SK_CONST const
#define SK_PLACE __attribute__((unused))
#define static_branch_unlikely(key) __builtin_expect(!!(key)->enabled, 0)
#define static_branch_likely(key) __builtin_expect(!!(key)->enabled, 1)

#else

#define SK_CONST
/* Only instructions name a key, and libbpf passes over a section that it does not know. */
#define SK_PLACE __attribute__((section(".elfpatch.keys"), used))

#ifdef __clang__
#define SK_NEVER "if %[zero] < 0 goto %l[jump]\n\t"
#define SK_ALWAYS "if %[zero] >= 0 goto %l[jump]\n\t"
#define SK_NOTHING "goto +0\n\t"
#else /* what GNU as understands before 2.41 */
#define SK_NEVER "jlt %[zero], 0, %l[jump]\n\t"
#define SK_ALWAYS "jge %[zero], 0, %l[jump]\n\t"
#define SK_NOTHING "ja 0\n\t"
#endif

/*
 * Whether the site jumps. The verifier removes a jump only if nothing ever reaches one of the two instructions that may
 * follow it (opt_hard_wire_dead_code_branches), and LLVM shares blocks between branches where it can. So either way
 * begins with an instruction of its own, which does nothing and is removed as well. The operands of the one at the
 * target keep LLVM from merging those of two keys for being alike. Without them a third of the jumps stayed.
 */
#define SK_SITE(insn, kind, kind_number, key) ({				\
	__label__ jump;								\
	_Bool jumped_ = 0;							\
	asm volatile goto("__sk." kind ".%c[key_].%=:\n\t" insn SK_NOTHING	\
			  : : [key_] "i"(key), [zero] "r"(0ULL) : : jump);	\
	if (0) {								\
jump:										\
		asm volatile(SK_NOTHING : : "i"(key), "i"(kind_number));	\
		jumped_ = 1;							\
	}									\
	jumped_; })

/*
 * The state that a key was defined with is in its type, so the choice of the jump needs no optimizer: with `?:` a build
 * with -O0 would have both jumps. What is no key ends in a value of type void, an error.
 */
#define SK_IS(key, type) __builtin_types_compatible_p(__typeof__(*(key)), struct type)
#define SK_CHOOSE(key, on, off)							\
	__builtin_choose_expr(SK_IS(key, static_key_true), on,			\
		__builtin_choose_expr(SK_IS(key, static_key_false), off, (void)0))

#define static_branch_unlikely(key)						\
	__builtin_expect(SK_CHOOSE(key, SK_SITE(SK_ALWAYS, "u", 1, key), SK_SITE(SK_NEVER, "u", 1, key)), 0)
#define static_branch_likely(key)						\
	__builtin_expect(!SK_CHOOSE(key, SK_SITE(SK_NEVER, "l", 2, key), SK_SITE(SK_ALWAYS, "l", 2, key)), 1)

#endif

#endif
