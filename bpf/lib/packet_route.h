/* Where a packet is to go, as routes are now. */
#ifndef HG_LIB_PACKET_ROUTE_H
#define HG_LIB_PACKET_ROUTE_H

#include "bpf/lib/packet_edit.h"

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

static __always_inline long find_way(frame_t *frame, struct packet *p,
				     const struct rewrite *to, __u32 length)
{
	return ask_way(frame, p, to, length, 0);
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

static __always_inline int write_macs(frame_t *frame, const __u8 *to,
				      const __u8 *from)
{
	struct ethhdr *eth = (void *)(long)frame->data;

	if ((void *)(eth + 1) > (void *)(long)frame->data_end)
		return HG_PACKET_FAILED;
	__builtin_memcpy(eth->h_dest, to, ETH_ALEN);
	__builtin_memcpy(eth->h_source, from, ETH_ALEN);
	return 0;
}

#endif
