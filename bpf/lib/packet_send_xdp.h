/* How a frame leaves from XDP. What that cannot do it leaves to the program at
 * tc, which the frame meets next: that has the same maps, and flows do not know
 * which of the two their packets take.
 */
#ifndef HG_LIB_PACKET_SEND_XDP_H
#define HG_LIB_PACKET_SEND_XDP_H

#include "bpf/lib/packet_count.h"
#include "bpf/lib/packet_route.h"

enum {
	SENT_TO_TC = -1,
};

static __always_inline int verdict_of(int exit)
{
	return exit == SENT_TO_TC ? XDP_PASS : XDP_REDIRECT;
}

static __always_inline int leave_to_tc(frame_t *frame, __u32 reason)
{
	struct hg_packet_left_key key = {arrived_at(frame), reason};
	struct hg_counter *counter = bpf_map_lookup_elem(&packet_left, &key);

	if (counter)
		__sync_fetch_and_add(&counter->count, 1);
	return VERDICT_NOT_OURS;
}

/* Whether the frame is left to tc because its driver has no room ahead of it for
 * what tc would have to be told, if it could not be sent from here. To be asked
 * before anything has changed.
 */
static __always_inline int left_for_metadata(frame_t *frame)
{
	if ((void *)(long)frame->data_meta <= (void *)(long)frame->data)
		return 0;
	leave_to_tc(frame, HG_LEFT_NO_METADATA);
	return 1;
}

/* Ahead of the frame. 0, or there is no room for it. */
static __always_inline int write_note(frame_t *frame, __u32 note)
{
	__u32 *ahead;

	if (bpf_xdp_adjust_meta(frame, -(int)sizeof(*ahead)))
		return -1;
	ahead = (void *)(long)frame->data_meta;
	if ((void *)(ahead + 1) > (void *)(long)frame->data)
		return -1;
	*ahead = note;
	return 0;
}

/* The frame must not be taken for one that came in. */
static __always_inline int leave_rewritten(frame_t *frame, __u32 reason)
{
	if (write_note(frame, HG_PACKET_REWRITTEN))
		return HG_PACKET_FAILED;
	leave_to_tc(frame, reason);
	return SENT_TO_TC;
}

/* Back out where it came in as well: after XDP_TX, a veth whose peer has GRO but
 * no program of XDP lets the frame lie.
 */
static __always_inline int transmit(frame_t *frame, __u32 interface)
{
	long sent = IS_GENERIC
			? bpf_redirect_map(&packet_interfaces, interface, 0)
			: bpf_redirect_map(&packet_devices, interface, 0);

	return sent == XDP_REDIRECT
		   ? 0
		   : leave_rewritten(frame, HG_LEFT_NO_TRANSMIT);
}

/* Sends the frame, with its MACs, out where it came in. */
static __always_inline int send_back(frame_t *frame)
{
	return transmit(frame, arrived_at(frame));
}

/* Sends the packet the way that find_way() has found. */
static __always_inline int take_way(frame_t *frame, const struct packet *p,
				    long found)
{
	const struct bpf_fib_lookup *way = &p->way;

	if (found == BPF_FIB_LKUP_RET_NO_NEIGH)
		return leave_rewritten(frame, HG_LEFT_NO_NEIGHBOUR);
	if (found != BPF_FIB_LKUP_RET_SUCCESS)
		return no_way(found);
	if (write_macs(frame, way->dmac, way->smac))
		return HG_PACKET_FAILED;
	return transmit(frame, way->ifindex);
}

static __always_inline __u32
mark_of(const frame_t *frame __attribute__((unused)))
{
	return 0;
}

static __always_inline __u32
take_mark(frame_t *frame __attribute__((unused)))
{
	return 0;
}

/* 0, or the verdict: it takes a clone. */
static __always_inline int split(frame_t *frame, __u32 mark)
{
	return leave_to_tc(frame, mark == HG_PACKET_MARK_BEHIND
				      ? HG_LEFT_EARLY_DATA
			      : mark == HG_PACKET_MARK_ACK ? HG_LEFT_COOKIE
							   : HG_LEFT_RESET);
}

/* Whether the frame is left to tc because its length would change, see
 * set_length(). To be asked before anything else has changed.
 */
static __always_inline int left_for_length(frame_t *frame)
{
	if (IS_GENERIC)
		leave_to_tc(frame, HG_LEFT_LENGTH);
	return IS_GENERIC;
}

/* Likewise, where it would grow: a driver need not leave room behind a frame, and
 * a veth leaves what alignment does.
 */
static __always_inline int left_for_room(frame_t *frame, __u32 bytes)
{
	__u32 length = frame_length(frame);

	if (!set_length(frame, length + bytes) && !set_length(frame, length))
		return 0;
	leave_to_tc(frame, HG_LEFT_LENGTH);
	return 1;
}

/* Whether the frame is left to tc because it is of many segments, which generic
 * XDP sends to nobody.
 */
static __always_inline int left_joined(frame_t *frame)
{
	__u32 mtu = 0;

	if (!IS_GENERIC)
		return 0;
	bpf_check_mtu(frame, 0, &mtu, 0, 0);
	if (frame_length(frame) <= mtu + ETH_HLEN)
		return 0;
	leave_to_tc(frame, HG_LEFT_JOINED);
	return 1;
}

/* Whether the frame is left to tc because its checksum is the bare
 * pseudo-header's, for hardware to complete: senders on this machine leave it
 * so. One of 65,535 others looks the same, and whatever somebody has made so: tc
 * knows which it is.
 */
static __always_inline int left_incomplete(frame_t *frame, const struct packet *p)
{
	struct tcphdr *tcp = (void *)(long)frame->data + (p->l4 & 0xff);
	__u64 pseudo = sum_pseudo(&p->source, &p->destination, p->v6,
				  p->end - p->l4);

	if ((void *)(tcp + 1) > (void *)(long)frame->data_end ||
	    fold(pseudo + (__u16)~tcp->check) != 0xffff)
		return 0;
	write_note(frame, HG_PACKET_INCOMPLETE + (p->l4 & 0xff));
	leave_to_tc(frame, HG_LEFT_INCOMPLETE);
	return 1;
}

/* Whether the frame is left to tc for what it is. */
static __always_inline int left_as_it_came(frame_t *frame,
					   const struct packet *p)
{
	if (left_joined(frame) || left_incomplete(frame, p))
		return 1;
	/* Its data do not go on, see forward_syn(). */
	return (p->flags & TCP_SYN) && p->payload && left_for_length(frame);
}

#endif
