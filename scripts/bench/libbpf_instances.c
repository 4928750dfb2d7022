/*
 * What a loader in C does for one more instance with libbpf: open the object, write a number into .rodata, load,
 * replace the program on the link, close. N instances go over the K interfaces named, in turn.
 *
 *     libbpf_instances OBJECT OFFSET N hold|go tcx|xdp IFACE...
 *
 * Prints the seconds of the N updates after each link's first program, and how many of them were spent in bpf(2).
 * libbpf calls bpf(2) through syscall(), which is defined here and so comes first: time inside is taken around the
 * very instruction, as elfpatch's side takes it around its own call. With `hold` it then prints a line and waits for
 * its input to end, so that the kernel's memory can be looked at. Links are made by hand: libbpf 1.1 knows no TCX.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#define TCX_INGRESS 46 /* BPF_TCX_INGRESS, Linux 6.6 */
#define XDP 37

static double inside;
static long calls;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* Of one with up to five arguments, which is all that libbpf uses. */
long syscall(long number, ...)
{
	long a[5], result;
	double began;
	va_list list;
	int i;

	va_start(list, number);
	for (i = 0; i < 5; i++)
		a[i] = va_arg(list, long);
	va_end(list);
	began = now();
#if defined(__x86_64__)
	register long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4];

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a[0], x1 __asm__("x1") = a[1];
	register long x2 __asm__("x2") = a[2], x3 __asm__("x3") = a[3], x4 __asm__("x4") = a[4];

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	result = x0;
#else
#error "write down how this processor calls the kernel"
#endif
	if (number == SYS_bpf) {
		inside += now() - began;
		calls++;
	}
	if (result < 0 && result > -4096) {
		errno = -result;
		return -1;
	}
	return result;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static struct bpf_object *loaded(const char *path, int offset, int value)
{
	struct bpf_object *object = bpf_object__open(path);
	struct bpf_map *map;

	if (!object)
		fail("open");
	bpf_object__for_each_map(map, object) {
		size_t size;
		char *data = (char *)bpf_map__initial_value(map, &size);
		const char *end = strrchr(bpf_map__name(map), '.');

		if (data && end && !strcmp(end, ".rodata"))
			memcpy(data + offset, &value, sizeof(value));
	}
	if (bpf_object__load(object))
		fail("load");
	return object;
}

static int attach(int prog, int ifindex, int type)
{
	unsigned int attr[8] = { prog, ifindex, type };
	int link = syscall(SYS_bpf, BPF_LINK_CREATE, attr, sizeof(attr));

	if (link < 0)
		fail("link");
	return link;
}

static void update(int link, int prog)
{
	unsigned int attr[4] = { link, prog };

	if (syscall(SYS_bpf, BPF_LINK_UPDATE, attr, sizeof(attr)))
		fail("update");
}

/* The program that goes on the hook: the first of the hook's type. */
static int program(struct bpf_object *object, int xdp)
{
	struct bpf_program *one;

	bpf_object__for_each_program(one, object)
		if (bpf_program__type(one) == (xdp ? BPF_PROG_TYPE_XDP : BPF_PROG_TYPE_SCHED_CLS))
			return bpf_program__fd(one);
	errno = ENOENT;
	fail("program");
	return -1;
}

int main(int argc, char **argv)
{
	int offset, count, hold, xdp, links, i, *link;
	double began;

	if (argc < 7)
		return 2;
	offset = atoi(argv[2]);
	count = atoi(argv[3]);
	hold = !strcmp(argv[4], "hold");
	xdp = !strcmp(argv[5], "xdp");
	links = argc - 6;
	link = calloc(links, sizeof(*link));
	libbpf_set_print(NULL);
	for (i = 0; i < links; i++) {
		struct bpf_object *object = loaded(argv[1], offset, i + 1);

		link[i] = attach(program(object, xdp), if_nametoindex(argv[6 + i]), xdp ? XDP : TCX_INGRESS);
		bpf_object__close(object);
	}
	inside = calls = 0;
	began = now();
	for (i = 0; i < count; i++) {
		struct bpf_object *object = loaded(argv[1], offset, links + i + 1);

		update(link[i % links], program(object, xdp));
		bpf_object__close(object);
	}
	printf("%.9f %.9f %ld\n", now() - began, inside, calls);
	fflush(stdout);
	while (hold && getchar() != EOF)
		;
	return 0;
}
