// SPDX-License-Identifier: MIT
/*
 * Numbered packets: sends them at a steady rate, and notes what the receiver sees of each.
 *
 *	traffic send IFACE FILE RATE		traffic recv IFACE FILE
 *
 * Frames are those of fixtures/objects/src/stamp.bpf.c: EtherType 0x88b5, a sequence number, two stamps that are sent
 * as UNSTAMPED. A packet socket bound to an EtherType gets frames *after* TC ingress (one for all protocols before it).
 * FILE is shared memory: `struct shared`, then for each sequence number the stamp that came, 0 for none.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define ETHERTYPE 0x88b5
#define UNSTAMPED 0xffffffffu
#define NUMBERS (1u << 22)
#define BATCH_NS 200000

struct shared {
	volatile uint32_t stop;		/* written by the test */
	volatile uint32_t sent;
	volatile uint32_t received;
	volatile uint32_t latest;	/* stamp of the packet that came last */
	volatile uint32_t latest_second;
	volatile uint32_t overflowed;	/* packets that the receiving socket had no room for */
	volatile uint32_t ready;	/* 1: sender, 2: receiver */
	volatile uint32_t sender_done;
	volatile uint32_t stamps[NUMBERS];
};

struct frame {
	uint8_t to[6], from[6];
	uint16_t ethertype;
	uint32_t sequence, stamp, second;
	uint8_t padding[34];
} __attribute__((packed));

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int open_socket(const char *iface, int protocol)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(protocol) };
	int fd = socket(AF_PACKET, SOCK_RAW, htons(protocol));

	if (fd < 0)
		fail("socket");
	address.sll_ifindex = if_nametoindex(iface);
	if (!address.sll_ifindex || bind(fd, (struct sockaddr *)&address, sizeof(address)))
		fail("bind");
	return fd;
}

static void send_all(const char *iface, struct shared *shared, unsigned int rate)
{
	struct frame frame = { .to = { 2, 0, 0, 0, 0, 0xb }, .from = { 2, 0, 0, 0, 0, 0xa } };
	unsigned int batch = rate / (1000000000 / BATCH_NS), n;
	int fd = open_socket(iface, 0);
	struct timespec next;

	frame.ethertype = htons(ETHERTYPE);
	frame.stamp = frame.second = UNSTAMPED;
	clock_gettime(CLOCK_MONOTONIC, &next);
	__sync_fetch_and_or(&shared->ready, 1);
	while (!shared->stop && shared->sent + batch < NUMBERS) {
		for (n = 0; n < batch; n++) {
			frame.sequence = shared->sent;
			if (send(fd, &frame, sizeof(frame), 0) == sizeof(frame))
				shared->sent++;
		}
		next.tv_nsec += BATCH_NS;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
	shared->sender_done = 1;
}

static void receive_all(const char *iface, struct shared *shared)
{
	struct timeval patience = { .tv_usec = 200000 };
	int fd = open_socket(iface, ETHERTYPE), room = 64 << 20;
	struct tpacket_stats stats;
	socklen_t size = sizeof(stats);
	struct frame frame;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	__sync_fetch_and_or(&shared->ready, 2);
	for (;;) {
		ssize_t length = recv(fd, &frame, sizeof(frame), 0);

		if (length < 0) {
			if (shared->sender_done)
				break;
			continue;
		}
		if (length < (ssize_t)sizeof(frame) - (ssize_t)sizeof(frame.padding) || frame.sequence >= NUMBERS)
			continue;
		shared->stamps[frame.sequence] = frame.stamp;
		shared->latest_second = frame.second;
		shared->latest = frame.stamp;
		shared->received++;
	}
	getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size);
	shared->overflowed = stats.tp_drops;
}

int main(int argc, char **argv)
{
	struct shared *shared;
	int fd;

	if (argc < 4)
		return 64;
	fd = open(argv[3], O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, sizeof(*shared)))
		fail(argv[3]);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (shared == MAP_FAILED)
		fail("mmap");
	if (!strcmp(argv[1], "send"))
		send_all(argv[2], shared, argc > 4 ? atoi(argv[4]) : 10000);
	else
		receive_all(argv[2], shared);
	return 0;
}
