// What objects.py measures with.
//   objects cost COMMAND...   runs a command and prints, of it: wall, user and system time in microseconds, peak memory
//                             in KB, exit status. The command is forked from here and not from the benchmark, for what a
//                             process had resident before exec counts into its peak.
//   objects load FILE         opens and loads an object with libbpf, as `elfpatch check` does
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long us(struct timeval t)
{
	return t.tv_sec * 1000000LL + t.tv_usec;
}

static int cost(char **command)
{
	struct timespec began, ended;
	struct rusage used;
	int status, quiet = open("/dev/null", O_WRONLY);
	pid_t child;

	clock_gettime(CLOCK_MONOTONIC, &began);
	child = fork();
	if (child < 0)
		return 1;
	if (!child) {
		dup2(quiet, 1);
		dup2(quiet, 2);
		execvp(command[0], command);
		_exit(127);
	}
	if (wait4(child, &status, 0, &used) != child)
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%lld %lld %lld %ld %d\n",
	       (ended.tv_sec - began.tv_sec) * 1000000LL + (ended.tv_nsec - began.tv_nsec) / 1000,
	       us(used.ru_utime), us(used.ru_stime), used.ru_maxrss, WIFEXITED(status) ? WEXITSTATUS(status) : 255);
	return 0;
}

static int load(const char *path)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	int error = object ? bpf_object__load(object) : -1;

	bpf_object__close(object);
	return error ? 1 : 0;
}

int main(int argc, char **argv)
{
	if (argc >= 3 && !strcmp(argv[1], "cost"))
		return cost(argv + 2);
	if (argc == 3 && !strcmp(argv[1], "load"))
		return load(argv[2]);
	return 2;
}
