/* The packet path's own maps, with who writes them. */
#ifndef HG_LIB_PACKET_MAPS_H
#define HG_LIB_PACKET_MAPS_H

#include <linux/icmpv6.h>

#include "bpf/abi/packet.h"
#include "bpf/lib/maps.h"
#include "bpf/lib/packet_parse.h"

/* Written by the control thread. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HG_ADDRESS_PLACES);
	__type(key, __u32);
	__type(value, struct hg_packet_address);
} packet_addresses SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HG_MAX_PACKET_ADDRESSES);
	__type(key, __u32);
	__type(value, struct hg_packet_local);
} packet_local SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HG_MAX_PACKET_LISTENERS);
	__type(key, struct hg_packet_listener_key);
	__type(value, struct hg_packet_listener);
} packet_listeners SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hg_packet_config);
} packet_config SEC(".maps") __weak;

/* The loader sizes those that have an element for each flow. */

/* Two entries for each flow. Written by the program; the control thread erases.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hg_key_bucket);
} packet_keys SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hg_flow);
} packet_flows SEC(".maps") __weak;

/* Flow numbers that nobody uses. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, __u32);
} packet_free SEC(".maps") __weak;

/* Flow numbers in the order in which they were closed. Once each, for flows that
 * have begun anew since stay where they are (HG_FLOW_QUEUED, HG_FLOW_AGAIN).
 */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, __u32);
} packet_closed SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HG_MAX_SERVICES);
	__type(key, __u32);
	__type(value, struct hg_packet_bytes);
} packet_bytes SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HG_HOOK_COUNT *HG_PACKET_EXIT_COUNT);
	__type(key, __u32);
	__type(value, struct hg_counter);
} packet_exits SEC(".maps") __weak;

/* Written by XDP. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 64 * HG_LEFT_COUNT);
	__type(key, struct hg_packet_left_key);
	__type(value, struct hg_counter);
} packet_left SEC(".maps") __weak;

/* Written by tc. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct hg_packet_sums);
} packet_sums SEC(".maps") __weak;

/* Interfaces that take frames from native XDP: from any other they would vanish.
 * Written by the control thread.
 */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} packet_devices SEC(".maps") __weak;

/* Those that the packet path is attached to. From generic XDP, all Ethernet
 * devices take frames. Written by the control thread.
 */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} packet_interfaces SEC(".maps") __weak;

enum {
	SUM_CHUNK = 256,
};

/* An IP packet with an ICMP error, whose head is alike in both families. IPv4
 * begins behind what only IPv6 needs.
 */
struct icmp_error {
	union {
		struct ipv6hdr v6;
		struct {
			__u8 _none[sizeof(struct ipv6hdr) -
				   sizeof(struct iphdr)];
			struct iphdr v4;
		};
	};
	struct icmp6hdr icmp;
	__u8 quoted[60 + 8]; /* IP with options, ports and sequence number */
};

/* What is too large for the stack. A hook is never entered twice on a CPU. */
struct packet_scratch {
	struct packet packet;
	struct packet quoted; /* by an ICMP error */
	__u8 options[64];     /* 40 are the most; the rest spares checks */
	struct hg_select request;
	__u64 tried[HG_MAX_SERVICE_BACKENDS / 64];
	struct hg_flow flow;
	__u8 header[64];
	__u8 chunk[SUM_CHUNK + 4]; /* spares a check */
	struct icmp_error error;
	__u64 next_error; /* ns: when the allowance for the next one is full */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet_scratch);
} packet_scratch SEC(".maps") __weak;

enum {
	KNOWN_WAYS = 128,
};

/* How a packet from one address to another has left. */
struct known_way {
	__u64 when; /* jiffies */
	__u64 destination[2];
	__u64 source[2];
	__u32 arrived; /* interface, and 1 << 31 for IPv6 */
	__u32 ifindex;
	__u32 mtu;
	__u8 dmac[ETH_ALEN];
	__u8 smac[ETH_ALEN];
};

struct packet_ways {
	struct known_way ways[KNOWN_WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet_ways);
} packet_ways SEC(".maps") __weak;

#endif
