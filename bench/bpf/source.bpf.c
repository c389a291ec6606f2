// SPDX-License-Identifier: Apache-2.0
//
// The source of packets of `bench live`: run by BPF_PROG_TEST_RUN with live frames, it writes each frame's head, with the source
// port of its flow, in turns, and sends it out of an interface. It is run over and over; a frame that is not due yet is dropped,
// which costs next to nothing.
//
// The whole head each time: the kernel gives the same pages again and again without writing what was in them at first, and who
// forwards without a copy, as the kernel does, leaves its own addresses and its own TTL in them.
//
// Built by `make` beside this file; the object is committed, so that a build needs no clang.

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Ethernet, IPv4 without options, UDP; its source port. As in bench/src/live/source.rs.
#define HEAD_LEN 42
#define SOURCE_PORT_AT 34
#define FIRST_PORT 20000
// A source that was kept from running does not make up for more than so much.
#define BEHIND_MAX_NS 1000000

const volatile __u32 interface = 0;
const volatile __u32 flows = 1;
// The head of every frame, but for the source port.
const volatile __u16 head[HEAD_LEN / 2] = {};

// Written before a run and read after it. As in bench/src/live/source.rs.
struct run {
	// Nanoseconds between frames, 0 for none.
	__u64 interval;
	// How many to send at most.
	__u64 quota;
	__u64 sent;
	__u64 due;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct run);
} runs SEC(".maps");

SEC("xdp")
int source(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	struct run *run = bpf_map_lookup_elem(&runs, &zero);

	if (!run || data + HEAD_LEN > end)
		return XDP_ABORTED;
	if (run->sent >= run->quota)
		return XDP_DROP;
	if (run->interval) {
		__u64 now = bpf_ktime_get_ns();

		if (now < run->due)
			return XDP_DROP;
		if (now - run->due > BEHIND_MAX_NS)
			run->due = now;
		run->due += run->interval;
	}
#pragma unroll
	for (int at = 0; at < HEAD_LEN / 2; at++)
		((__u16 *)data)[at] = head[at];
	*(__be16 *)(data + SOURCE_PORT_AT) = bpf_htons(FIRST_PORT + run->sent % flows);
	run->sent++;
	return bpf_redirect(interface, 0);
}

char _license[] SEC("license") = "Apache-2.0";
