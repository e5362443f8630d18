/* How a frame leaves from tc ingress. */
#ifndef HG_LIB_PACKET_SEND_TC_H
#define HG_LIB_PACKET_SEND_TC_H

#include "bpf/lib/packet_count.h"
#include "bpf/lib/packet_route.h"

static __always_inline int verdict_of(int exit __attribute__((unused)))
{
	return TC_ACT_REDIRECT;
}

static __always_inline int redirect_to(__u32 interface)
{
	return bpf_redirect(interface, 0) == TC_ACT_REDIRECT ? 0
							     : HG_PACKET_FAILED;
}

/* Sends the frame, with its MACs, out where it came in. */
static __always_inline int send_back(frame_t *frame)
{
	return redirect_to(arrived_at(frame));
}

/* Sends the packet the way that find_way() has found. By bpf_redirect_neigh()
 * alone it would be as fast; by the stack's own forwarding slower, and only where
 * accept_local is set, for the sources are ours.
 */
static __always_inline int take_way(frame_t *frame, const struct packet *p,
				    long found)
{
	const struct bpf_fib_lookup *way = &p->way;

	if (found == BPF_FIB_LKUP_RET_SUCCESS) {
		if (write_macs(frame, way->dmac, way->smac))
			return HG_PACKET_FAILED;
		return redirect_to(way->ifindex);
	}
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH) {
		struct bpf_redir_neigh next = {};

		next.nh_family = way->family;
		__builtin_memcpy(next.ipv6_nh, way->ipv6_dst, 16);
		return bpf_redirect_neigh(way->ifindex, &next, sizeof(next),
					  0) == TC_ACT_REDIRECT
			   ? 0
			   : HG_PACKET_FAILED;
	}
	return no_way(found);
}

/* Of the second of those that split() made of one; otherwise 0. */
static __always_inline __u32 mark_of(const frame_t *frame)
{
	__u32 mark = frame->mark;

	return mark >= HG_PACKET_MARK_BEHIND && mark < HG_PACKET_MARK_END
		   ? mark
		   : 0;
}

/* It stays within the hook. */
static __always_inline __u32 take_mark(frame_t *frame)
{
	__u32 mark = mark_of(frame);

	if (mark)
		frame->mark = 0;
	return mark;
}

/* The frame comes again behind this one, with the mark: one of GSO cannot grow,
 * nor one that is full. 0, or the verdict.
 */
static __always_inline int split(frame_t *frame, __u32 mark)
{
	__u32 was = frame->mark;

	frame->mark = mark;
	if (bpf_clone_redirect(frame, frame->ifindex, BPF_F_INGRESS))
		return drop(HG_PACKET_FAILED);
	frame->mark = was;
	return 0;
}

static __always_inline int
left_for_metadata(frame_t *frame __attribute__((unused)))
{
	return 0;
}

static __always_inline int
left_for_length(frame_t *frame __attribute__((unused)))
{
	return 0;
}

static __always_inline int
left_for_room(frame_t *frame __attribute__((unused)),
	      __u32 bytes __attribute__((unused)))
{
	return 0;
}

static __always_inline int
left_as_it_came(frame_t *frame __attribute__((unused)),
		const struct packet *p __attribute__((unused)))
{
	return 0;
}

/* What XDP has written ahead of the frame; 0: nothing. */
static __always_inline __u32 take_note(frame_t *frame)
{
	__u32 *ahead = (void *)(long)frame->data_meta;
	__u32 note;

	if ((void *)(ahead + 1) > (void *)(long)frame->data)
		return 0;
	note = *ahead;
	if (note >> 16 != HG_PACKET_REWRITTEN >> 16)
		return 0; /* Somebody else's. */
	*ahead = 0; /* It may meet another such program on its way. */
	return note;
}

/* Whether the checksum of TCP at `l4`, which looks incomplete, is. It is of
 * whatever GRO has joined since, so there is nothing to tell.
 */
static __noinline int count_incomplete(frame_t *frame, __u32 l4)
{
	__u32 interface = arrived_at(frame);
	__u32 check = l4 + offsetof(struct tcphdr, check);
	struct hg_packet_sums *sums =
	    bpf_map_lookup_elem(&packet_sums, &interface);
	int partial;
	__u16 was;

	if (!sums || segment_size(frame) || load(frame, check, &was, 2))
		return 0;
	partial = is_partial(frame, check);
	if (partial < 0 || store(frame, check, &was, 2))
		return 0;
	__sync_fetch_and_add(&sums->told, 1);
	__sync_fetch_and_add(&sums->incomplete, partial);
	return 0;
}

#endif
