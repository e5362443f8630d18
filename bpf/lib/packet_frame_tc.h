/* Frames at tc ingress. What the checksum of one is, the kernel knows: already
 * right, hardware's to complete (CHECKSUM_PARTIAL), or known beside the frame
 * (CHECKSUM_COMPLETE). So sums are only touched through helpers.
 */
#ifndef HG_LIB_PACKET_FRAME_TC_H
#define HG_LIB_PACKET_FRAME_TC_H

#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "bpf/abi/packet.h"
#include "bpf/lib/kernel.h"

extern int LINUX_KERNEL_VERSION __kconfig;

typedef struct __sk_buff frame_t;

enum {
	VERDICT_NOT_OURS = TC_ACT_UNSPEC,
	VERDICT_DROP = TC_ACT_SHOT,

	ACTION_PASS = TC_ACT_UNSPEC,

	HOOK = HG_HOOK_TC,
};

static __always_inline __u32 arrived_at(const frame_t *frame)
{
	return frame->ifindex;
}

/* Whether it is for this interface's MAC: a promiscuous one brings others'. */
static __always_inline int is_for_us(const frame_t *frame)
{
	return frame->pkt_type == PACKET_HOST;
}

static __always_inline __u32 frame_length(const frame_t *frame)
{
	return frame->len;
}

/* Of the payload, in each of the segments that the frame is; 0: it is one. */
static __always_inline __u32 segment_size(const frame_t *frame)
{
	return frame->gso_size;
}

/* Of the Ethernet header. 0: the frame is a VLAN's, by a tag which the kernel has
 * put into skb->vlan_tci: the VLAN device's own hook gets it. VLAN 0 is none.
 */
static __always_inline __be16 frame_protocol(const frame_t *frame)
{
	return frame->vlan_present && (frame->vlan_tci & 0xfff)
		   ? 0
		   : frame->protocol;
}

/* That of VLAN 0, which holds a priority: it is not to leave with the frame. 0,
 * or the kernel has refused.
 */
static __always_inline long take_tag_off(frame_t *frame)
{
	return frame->vlan_present ? bpf_skb_vlan_pop(frame) : 0;
}

/* All of these: 0, or the kernel has refused. */

static __always_inline long load(frame_t *frame, __u32 at, void *to,
				 __u32 length)
{
	return bpf_skb_load_bytes(frame, at, to, length);
}

/* Leaves checksums as they are. */
static __always_inline long store(frame_t *frame, __u32 at, const void *from,
				  __u32 length)
{
	return bpf_skb_store_bytes(frame, at, from, length, 0);
}

/* `length` bytes can be read directly from now on, if there are so many. */
static __always_inline long pull(frame_t *frame, __u32 length)
{
	return bpf_skb_pull_data(frame, length);
}

/* Whether GRO has kept the segments as the frames that they were, in a list
 * behind the first (rx-gro-list, for TCP since Linux 6.10).
 */
static __always_inline int keeps_frames(frame_t *frame)
{
	enum { SKB_GSO_FRAGLIST = 1 << 18 };
	struct skb_shared_info *info;
	struct sk_buff *skb;

	if (LINUX_KERNEL_VERSION < KERNEL_VERSION(6, 10, 0) ||
	    !segment_size(frame))
		return 0;
	skb = bpf_cast_to_kern_ctx(frame);
	info = bpf_rdonly_cast(skb->head + skb->end,
			       bpf_core_type_id_kernel(struct skb_shared_info));
	return (info->gso_type & SKB_GSO_FRAGLIST) != 0;
}

/* Of those, the kernel changes addresses and ports as the first one's were, and
 * nothing else: the data would arrive at the numbers that they came with. In one
 * piece, they are cut anew, each with the first one's header. Linux 6.10 and
 * 6.11 may fall over such a frame.
 */
static __always_inline long join_frames(frame_t *frame)
{
	if (!keeps_frames(frame))
		return 0;
	return LINUX_KERNEL_VERSION < KERNEL_VERSION(6, 12, 0)
		   ? -1
		   : pull(frame, frame_length(frame));
}

/* Cuts the frame off, or adds zeros. One of many segments becomes one. */
static __always_inline long set_length(frame_t *frame, __u32 length)
{
	return bpf_skb_change_tail(frame, length, 0);
}

/* The frame becomes one of `length` bytes that nobody else has sums of: its
 * Ethernet header, and what is to be written behind it. That hardware should
 * complete a checksum is forgotten with the bytes at which it would begin, so
 * many are taken out; what grows has no CHECKSUM_COMPLETE left.
 */
static __always_inline long start_over(frame_t *frame, __u32 length)
{
	enum { TAKEN_OUT = 128 };

	return set_length(frame, length + TAKEN_OUT - 2) ||
	       set_length(frame, length + TAKEN_OUT) ||
	       bpf_skb_adjust_room(frame, -TAKEN_OUT, BPF_ADJ_ROOM_MAC, 0);
}

/* Takes so many bytes out, from behind the IP header (IPv6: its first 40 bytes). */
static __always_inline long take_out(frame_t *frame, __u32 bytes)
{
	return bpf_skb_adjust_room(frame, -(int)bytes, BPF_ADJ_ROOM_NET, 0);
}

/* To the checksum at `at`, for what it covers has changed by `difference`. */
static __always_inline long add_to_sum(frame_t *frame, __u32 at,
				       __u32 difference)
{
	return bpf_l4_csum_replace(frame, at, 0, difference, 0);
}

/* Likewise for addresses. A kernel that does not know BPF_F_IPV6 has not its
 * fault, either.
 */
static __always_inline long add_addresses_to_sum(frame_t *frame, __u32 at,
						 __u32 difference, __u32 v6)
{
	return (!v6 || bpf_l4_csum_replace(frame, at, 0, difference,
					   BPF_F_PSEUDO_HDR | 1ULL << 7)) &&
	       bpf_l4_csum_replace(frame, at, 0, difference, BPF_F_PSEUDO_HDR);
}

/* What no checksum in the frame covers has changed: CHECKSUM_COMPLETE has to
 * learn of it.
 */
static __always_inline void add_to_frame_sum(frame_t *frame, __u32 difference)
{
	bpf_csum_update(frame, difference);
}

/* Whether the checksum at `at` is left to hardware: then a change that is no
 * pseudo-header's changes nothing. Spoils the checksum otherwise. Negative:
 * the kernel has refused.
 */
static __always_inline int is_partial(frame_t *frame, __u32 at)
{
	__u16 was, is;

	if (load(frame, at, &was, 2) || add_to_sum(frame, at, 1) ||
	    load(frame, at, &is, 2))
		return -1;
	return was == is;
}

#endif
