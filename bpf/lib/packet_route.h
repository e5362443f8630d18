/* Where a packet is to go, as routes are now. */
#ifndef HG_LIB_PACKET_ROUTE_H
#define HG_LIB_PACKET_ROUTE_H

#include "bpf/lib/packet_edit.h"

static __always_inline void ask_route(const frame_t *frame,
				      const struct packet *p,
				      const struct rewrite *to,
				      struct bpf_fib_lookup *fib)
{
	fib->family = p->v6 ? 10 : 2; /* AF_INET6, AF_INET */
	fib->l4_protocol = IPPROTO_TCP;
	fib->ifindex = arrived_at(frame);
	if (p->v6) {
		__builtin_memcpy(fib->ipv6_src, to->source->address, 16);
		__builtin_memcpy(fib->ipv6_dst, to->destination->address, 16);
	} else {
		fib->ipv4_src = ((const __u32 *)to->source->address)[3];
		fib->ipv4_dst = ((const __u32 *)to->destination->address)[3];
	}
}

/* Of the largest IP packet that the frame is on the wire. */
static __always_inline __u32 packet_length(const frame_t *frame,
					   const struct packet *p)
{
	__u32 each = segment_size(frame);

	return each ? p->l4 - p->l3 + TCP_BASE + p->options + each
		    : p->end - p->l3;
}

/* Where the packet's destination is, if one of its length gets there. */
static __always_inline long find_way(frame_t *frame, const struct packet *p,
				     const struct rewrite *to,
				     struct bpf_fib_lookup *fib)
{
	ask_route(frame, p, to, fib);
	fib->tot_len = packet_length(frame, p);
	return bpf_fib_lookup(frame, fib, sizeof(*fib), 0);
}

/* The exit for an answer of find_way() that names none. */
static __always_inline int no_way(struct packet *p,
				  const struct bpf_fib_lookup *fib, long found)
{
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		p->mtu = fib->mtu_result;
		return HG_PACKET_TOO_BIG;
	}
	if (found == BPF_FIB_LKUP_RET_FWD_DISABLED)
		return HG_PACKET_NOT_FORWARDING;
	return HG_PACKET_NO_ROUTE;
}

/* The largest segment that fits both ways of a connection through here. */
static __always_inline __u32 max_mss(frame_t *frame, const struct packet *p,
				     const struct rewrite *to)
{
	__u32 headers =
	    (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + TCP_BASE;
	struct bpf_fib_lookup fib = {};
	__u32 mtu = 0, way_back = 0;

	bpf_check_mtu(frame, 0, &way_back, 0, 0);
	ask_route(frame, p, to, &fib);
	fib.tot_len = 1; /* asks for the route's MTU */
	if (bpf_fib_lookup(frame, &fib, sizeof(fib),
			   BPF_FIB_LOOKUP_SKIP_NEIGH) ==
	    BPF_FIB_LKUP_RET_SUCCESS)
		mtu = fib.mtu_result;
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
