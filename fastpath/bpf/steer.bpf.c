// SPDX-License-Identifier: Apache-2.0
//
// The program on an uplink: what is ours goes to the AF_XDP socket of its queue, everything else to the kernel.
//
// Ours is:
//  - VXLAN to our VTEP from a known node with our VNI, and IPIP from a known node;
//  - what is for a pod or a service address (by destination alone, so all fragments too);
//  - TCP, UDP and SCTP to an address of the node, at a port of the SNAT range, a NodePort or a hostPort;
//  - ICMP echo replies to an address of the node with an id of the SNAT range;
//  - ICMP errors about a packet that is ours by the same rules, seen from its other end;
//  - later fragments of a packet whose first fragment was ours.
// ARP, neighbour discovery, VLAN-tagged frames, what is malformed and all the rest is the kernel's: SSH, kubelet and routing
// daemons never depend on us. While the worker of the queue does not beat, what is ours is dropped, never passed: the kernel
// would reset connections that a restart is about to resume, and packets would go past policy.
//
// Built by `make` beside this file; the object is committed, so that a build needs no clang.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Kinds of our addresses, flags. As in fastpath/src/io/bpf/steer.rs.
#define KIND_POD 1
#define KIND_SERVICE 2
#define KIND_VTEP 4
#define KIND_NODE 8

enum counter {
	COUNTER_PASSED,
	COUNTER_REDIRECTED,
	COUNTER_DROPPED_NO_WORKER,
	COUNTER_DROPPED_NO_SOCKET,
	COUNTERS,
};

#define WORKERS_MAX 64
#define QUEUES_MAX 256

#ifndef IPPROTO_ICMPV6
#define IPPROTO_ICMPV6 58
#endif
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

struct config {
	__u64 fuse_ns;
	__u32 vni;
	__u32 workers;
	// In host order.
	__u16 vxlan_port;
	__u16 snat_first;
	__u16 snat_last;
	__u16 padding;
};

struct lpm4 {
	__u32 prefix_len;
	__u8 address[4];
};

struct lpm6 {
	__u32 prefix_len;
	__u8 address[16];
};

struct address6 {
	__u32 words[4];
};

struct port {
	__be16 port;
	__u8 protocol;
	__u8 padding;
};

struct fragment {
	__u32 source[4];
	__u32 destination[4];
	__u32 id;
	__u32 protocol;
};

// A cache line for each worker: they write it, and map it, without a system call.
struct heartbeat {
	__u64 ns;
	__u64 padding[7];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lpm4);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} addresses4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lpm6);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} addresses6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} nodes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address6);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} nodes6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct port);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} node_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WORKERS_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct heartbeat);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} heartbeats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES_MAX);
	__uint(key_size, 4);
	__uint(value_size, 4);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct fragment);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 len;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};

struct ipv6 {
	__be32 version_class_flow;
	__be16 payload_len;
	__u8 next;
	__u8 hop_limit;
	__u32 source[4];
	__u32 destination[4];
};

struct ipv6_fragment {
	__u8 next;
	__u8 reserved;
	__be16 offset; // in units of 8 bytes, shifted by 3; bit 0: more
	__be32 id;
};

struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id;
	__be16 sequence;
};

struct vxlan {
	__be16 source;
	__be16 destination;
	__be16 len;
	__be16 checksum;
	__be32 flags;
	__be32 vni;
};

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += 1;
}

static __always_inline __u32 kind4(__be32 address)
{
	struct lpm4 key = { .prefix_len = 32 };

	__builtin_memcpy(key.address, &address, 4);
	__u32 *kind = bpf_map_lookup_elem(&addresses4, &key);
	return kind ? *kind : 0;
}

static __always_inline __u32 kind6(const __u32 *address)
{
	struct lpm6 key = { .prefix_len = 128 };

	__builtin_memcpy(key.address, address, 16);
	__u32 *kind = bpf_map_lookup_elem(&addresses6, &key);
	return kind ? *kind : 0;
}

// A port or an ICMP id, in network order, that flows translated to the node's address use.
static __always_inline int is_snat(const struct config *conf, __be16 port)
{
	__u16 value = bpf_ntohs(port);

	return value >= conf->snat_first && value <= conf->snat_last;
}

static __always_inline int is_node_port(const struct config *conf, __u8 protocol, __be16 value)
{
	struct port key = { .port = value, .protocol = protocol };

	return is_snat(conf, value) || bpf_map_lookup_elem(&node_ports, &key);
}

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

// Whether the packet that an ICMP error quotes is one that we sent. `source` is the kind of its source address.
static __always_inline int quoted_is_ours(const struct config *conf, __u32 source, __u8 protocol, void *l4, void *end,
					  __u8 echo_request)
{
	if (source & (KIND_POD | KIND_SERVICE))
		return 1;
	if (!(source & (KIND_NODE | KIND_VTEP)))
		return 0;
	if (protocol == IPPROTO_IPIP)
		return 1;
	if (l4 + 8 > end)
		return 0;
	__be16 *ports = l4;
	if (protocol == IPPROTO_UDP && source & KIND_VTEP && bpf_ntohs(ports[1]) == conf->vxlan_port)
		return 1;
	if (has_ports(protocol) && source & KIND_NODE)
		return is_node_port(conf, protocol, ports[0]);
	struct icmp *icmp = l4;
	if ((protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6) && source & KIND_NODE)
		return icmp->type == echo_request && is_snat(conf, icmp->id);
	return 0;
}

// What a packet (or its first fragment) to an address of the node carries. `known` says whether its source is a known node.
static __always_inline int node_is_target(const struct config *conf, __u32 kind, int known, __u8 protocol, void *l4,
					  void *end)
{
	if (protocol == IPPROTO_IPIP)
		return known;
	if (!has_ports(protocol) || l4 + 4 > end)
		return 0;
	__be16 *ports = l4;
	if (protocol == IPPROTO_UDP && bpf_ntohs(ports[1]) == conf->vxlan_port) {
		struct vxlan *vxlan = l4;
		// Other people's tunnels stay the kernel's.
		return kind & KIND_VTEP && known && (void *)(vxlan + 1) <= end &&
		       vxlan->flags & bpf_htonl(0x08000000) && bpf_ntohl(vxlan->vni) >> 8 == conf->vni;
	}
	return kind & KIND_NODE && is_node_port(conf, protocol, ports[1]);
}

static __always_inline int icmp4_is_ours(const struct config *conf, void *l4, void *end)
{
	struct icmp *icmp = l4;

	if ((void *)(icmp + 1) > end)
		return 0;
	if (icmp->type == 0) // echo reply
		return is_snat(conf, icmp->id);
	// Unreachable, source quench, time exceeded, parameter problem: they quote a packet. Redirects are the kernel's.
	if (icmp->type != 3 && icmp->type != 4 && icmp->type != 11 && icmp->type != 12)
		return 0;
	struct ipv4 *quoted = (void *)(icmp + 1);
	if ((void *)(quoted + 1) > end)
		return 0;
	__u32 len = (quoted->version_ihl & 0xf) * 4;
	if (len < sizeof(*quoted))
		return 0;
	return quoted_is_ours(conf, kind4(quoted->source), quoted->protocol, (void *)quoted + len, end, 8);
}

static __always_inline int icmp6_is_ours(const struct config *conf, void *l4, void *end)
{
	struct icmp *icmp = l4;

	if ((void *)(icmp + 1) > end)
		return 0;
	if (icmp->type == 129) // echo reply
		return is_snat(conf, icmp->id);
	if (icmp->type < 1 || icmp->type > 4)
		return 0;
	struct ipv6 *quoted = (void *)(icmp + 1);
	if ((void *)(quoted + 1) > end)
		return 0;
	return quoted_is_ours(conf, kind6(quoted->source), quoted->next, quoted + 1, end, 128);
}

static __always_inline int ipv4_is_ours(const struct config *conf, void *l3, void *end)
{
	struct ipv4 *ip = l3;

	if ((void *)(ip + 1) > end || ip->version_ihl >> 4 != 4)
		return 0;
	__u32 len = (ip->version_ihl & 0xf) * 4;
	if (len < sizeof(*ip))
		return 0;
	__u32 kind = kind4(ip->destination);
	if (!kind)
		return 0;
	if (kind & (KIND_POD | KIND_SERVICE))
		return 1;

	__u16 fragment = bpf_ntohs(ip->fragment);
	struct fragment key = {
		.source = { ip->source },
		.destination = { ip->destination },
		.id = ip->id,
		.protocol = ip->protocol,
	};
	if (fragment & IP_OFFSET)
		return bpf_map_lookup_elem(&fragments, &key) != 0;
	void *l4 = l3 + len;
	int ours;
	if (ip->protocol == IPPROTO_ICMP) {
		ours = kind & KIND_NODE && icmp4_is_ours(conf, l4, end);
	} else {
		__be32 source = ip->source;
		int known = bpf_map_lookup_elem(&nodes4, &source) != 0;
		ours = node_is_target(conf, kind, known, ip->protocol, l4, end);
	}
	if (ours && fragment & IP_MF) {
		__u32 one = 1;
		bpf_map_update_elem(&fragments, &key, &one, BPF_ANY);
	}
	return ours;
}

static __always_inline int ipv6_is_ours(const struct config *conf, void *l3, void *end)
{
	struct ipv6 *ip = l3;

	if ((void *)(ip + 1) > end)
		return 0;
	__u8 next = ip->next;
	void *l4 = ip + 1;
	struct fragment key = {};
	int first_of_many = 0, later = 0;

	// Hop-by-hop options, routing, destination options and the fragment header, in whichever order, three at most.
#pragma unroll
	for (int i = 0; i < 3; i++) {
		if (next == 44) {
			struct ipv6_fragment *header = l4;
			if ((void *)(header + 1) > end)
				return 0;
			next = header->next;
			key.id = header->id;
			first_of_many = (header->offset & bpf_htons(1)) != 0;
			later = (header->offset & bpf_htons(0xfff8)) != 0;
			l4 = header + 1;
			// Later fragments begin in the middle of something.
			if (later)
				break;
		} else if (next == 0 || next == 43 || next == 60) {
			__u8 *header = l4;
			if ((void *)(header + 8) > end)
				return 0;
			next = header[0];
			l4 += (header[1] + 1) * 8;
		}
	}
	// Neighbour discovery is the kernel's, whatever address it is about.
	__u8 *icmp_type = l4;
	if (!later && next == IPPROTO_ICMPV6 &&
	    ((void *)(icmp_type + 1) > end || (*icmp_type >= 133 && *icmp_type <= 137)))
		return 0;

	__u32 kind = kind6(ip->destination);
	if (!kind)
		return 0;
	if (kind & (KIND_POD | KIND_SERVICE))
		return 1;

	__builtin_memcpy(key.source, ip->source, 16);
	__builtin_memcpy(key.destination, ip->destination, 16);
	key.protocol = next;
	if (later)
		return bpf_map_lookup_elem(&fragments, &key) != 0;
	int ours;
	if (next == IPPROTO_ICMPV6) {
		ours = kind & KIND_NODE && icmp6_is_ours(conf, l4, end);
	} else {
		int known = bpf_map_lookup_elem(&nodes6, key.source) != 0;
		ours = node_is_target(conf, kind, known, next, l4, end);
	}
	if (ours && first_of_many) {
		__u32 one = 1;
		bpf_map_update_elem(&fragments, &key, &one, BPF_ANY);
	}
	return ours;
}

SEC("xdp.frags")
int steer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	__u32 zero = 0;
	struct config *conf = bpf_map_lookup_elem(&config, &zero);
	int ours = 0;

	if ((void *)(ethernet + 1) > end || !conf)
		return XDP_PASS;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		ours = ipv4_is_ours(conf, ethernet + 1, end);
	else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
		ours = ipv6_is_ours(conf, ethernet + 1, end);
	if (!ours) {
		count(COUNTER_PASSED);
		return XDP_PASS;
	}

	__u32 queue = ctx->rx_queue_index;
	__u32 worker = conf->workers ? queue % conf->workers : WORKERS_MAX;
	struct heartbeat *beat = bpf_map_lookup_elem(&heartbeats, &worker);
	// Signed: a worker may have beaten after the clock was read here.
	if (!beat || (__s64)(bpf_ktime_get_ns() - beat->ns) > (__s64)conf->fuse_ns) {
		count(COUNTER_DROPPED_NO_WORKER);
		return XDP_DROP;
	}
	long action = bpf_redirect_map(&sockets, queue, XDP_DROP);
	count(action == XDP_REDIRECT ? COUNTER_REDIRECTED : COUNTER_DROPPED_NO_SOCKET);
	return action;
}

char _license[] SEC("license") = "Apache-2.0";
