/* Where a packet is to go. */
#ifndef HG_LIB_PACKET_ROUTE_H
#define HG_LIB_PACKET_ROUTE_H

#include "bpf/abi/hash.h"
#include "bpf/lib/packet_edit.h"
#include "bpf/lib/packet_maps.h"

/* Whether a packet of so many bytes gets to its destination, a
 * BPF_FIB_LKUP_RET_; and how, in p->way.
 */
static __always_inline long ask_way(frame_t *frame, struct packet *p,
				    const struct rewrite *to, __u32 length,
				    __u32 flags)
{
	struct bpf_fib_lookup *way = &p->way;

	__builtin_memset(way, 0, sizeof(*way));
	way->family = p->v6 ? 10 : 2; /* AF_INET6, AF_INET */
	way->l4_protocol = IPPROTO_TCP;
	way->ifindex = arrived_at(frame);
	way->tot_len = length;
	if (p->v6) {
		__builtin_memcpy(way->ipv6_src, to->source->address, 16);
		__builtin_memcpy(way->ipv6_dst, to->destination->address, 16);
	} else {
		way->ipv4_src = ((const __u32 *)to->source->address)[3];
		way->ipv4_dst = ((const __u32 *)to->destination->address)[3];
	}
	return bpf_fib_lookup(frame, way, sizeof(*way), flags);
}

/* Where it is kept how packets of these addresses leave. */
static __always_inline struct known_way *
way_between(const __u64 *source, const __u64 *destination)
{
	__u32 zero_key = 0;
	struct packet_ways *all = bpf_map_lookup_elem(&packet_ways, &zero_key);
	__u64 hash = hg_mix(source[0] ^ source[1] ^ destination[0] * 3 ^
			    destination[1] * 5);

	return all ? &all->ways[hash % KNOWN_WAYS] : NULL;
}

/* As routes and neighbours are now, or were in the same jiffy: each CPU asks the
 * kernel once in that, but for ways that there are not.
 */
static __always_inline long find_way(frame_t *frame, struct packet *p,
				     const struct rewrite *to, __u32 length)
{
	const __u64 *source = (const __u64 *)to->source->address;
	const __u64 *destination = (const __u64 *)to->destination->address;
	struct known_way *way = way_between(source, destination);
	__u64 now = bpf_jiffies64();
	__u32 arrived = arrived_at(frame) | p->v6 << 31;
	long found;

	if (!way)
		return ask_way(frame, p, to, length, 0);
	if (way->when == now && way->arrived == arrived &&
	    length <= way->mtu && way->destination[0] == destination[0] &&
	    way->destination[1] == destination[1] &&
	    way->source[0] == source[0] && way->source[1] == source[1]) {
		p->way.ifindex = way->ifindex;
		p->way.mtu_result = way->mtu;
		__builtin_memcpy(p->way.dmac, way->dmac, ETH_ALEN);
		__builtin_memcpy(p->way.smac, way->smac, ETH_ALEN);
		return BPF_FIB_LKUP_RET_SUCCESS;
	}
	found = ask_way(frame, p, to, length, 0);
	if (found == BPF_FIB_LKUP_RET_SUCCESS) {
		way->when = now;
		way->destination[0] = destination[0];
		way->destination[1] = destination[1];
		way->source[0] = source[0];
		way->source[1] = source[1];
		way->arrived = arrived;
		way->ifindex = p->way.ifindex;
		way->mtu = p->way.mtu_result;
		__builtin_memcpy(way->dmac, p->way.dmac, ETH_ALEN);
		__builtin_memcpy(way->smac, p->way.smac, ETH_ALEN);
	}
	return found;
}

static __always_inline __u32 headers_length(const struct packet *p)
{
	return p->l4 - p->l3 + TCP_BASE + p->options;
}

/* Of the largest IP packet that the frame is on the wire. */
static __always_inline __u32 packet_length(const frame_t *frame,
					   const struct packet *p)
{
	__u32 each = segment_size(frame);

	return each ? headers_length(p) + each : p->end - p->l3;
}

/* The exit for an answer of find_way() that names none. */
static __always_inline int no_way(long found)
{
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return HG_PACKET_TOO_BIG;
	if (found == BPF_FIB_LKUP_RET_FWD_DISABLED)
		return HG_PACKET_NOT_FORWARDING;
	return HG_PACKET_NO_ROUTE;
}

/* The largest segment that fits both ways of a connection through here. The
 * kernel tells the MTU of a way whose next hop it knows, or is not asked for.
 */
static __always_inline __u32 max_mss(frame_t *frame, struct packet *p,
				     const struct rewrite *to, long found)
{
	__u32 headers =
	    (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + TCP_BASE;
	__u32 mtu = 0, way_back = 0;

	bpf_check_mtu(frame, 0, &way_back, 0, 0);
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH)
		found = ask_way(frame, p, to, 1, BPF_FIB_LOOKUP_SKIP_NEIGH);
	if (found == BPF_FIB_LKUP_RET_SUCCESS)
		mtu = p->way.mtu_result;
	if (way_back && (!mtu || way_back < mtu))
		mtu = way_back;
	return mtu > headers + 64 ? mtu - headers : 0xffff;
}

/* All of them are aligned to 2 bytes; else this would be done byte by byte. */
static __always_inline void copy_mac(__u8 *to, const __u8 *from)
{
	__builtin_memcpy(__builtin_assume_aligned(to, 2),
			 __builtin_assume_aligned(from, 2), ETH_ALEN);
}

static __always_inline int write_macs(frame_t *frame, const __u8 *to,
				      const __u8 *from)
{
	struct ethhdr *eth = (void *)(long)frame->data;

	if ((void *)(eth + 1) > (void *)(long)frame->data_end)
		return HG_PACKET_FAILED;
	copy_mac(eth->h_dest, to);
	copy_mac(eth->h_source, from);
	return 0;
}

#endif
