/* Frames at XDP: bytes in one piece, and no word of their checksum. Those that
 * are hardware's to complete are told by what they hold, see packet_send_xdp.h.
 */
#ifndef HG_LIB_PACKET_FRAME_XDP_H
#define HG_LIB_PACKET_FRAME_XDP_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

#include "bpf/abi/packet.h"

typedef struct xdp_md frame_t;

/* Written by the control thread. */
extern __u64 packet_macs[HG_MAC_PLACES];

enum {
	VERDICT_NOT_OURS = -1, /* none of XDP's: that of what was rewritten */
	VERDICT_DROP = XDP_DROP,
	ACTION_PASS = XDP_PASS,

	HOOK = HG_HOOK_XDP,

/* Generic XDP: the frame is an skb's. */
#ifdef HG_FOR_GENERIC_XDP
	IS_GENERIC = 1,
#else
	IS_GENERIC = 0,
#endif
};

static __always_inline __u32 arrived_at(const frame_t *frame)
{
	return frame->ingress_ifindex;
}

/* Whether it is for this interface's MAC: a promiscuous one brings others'. tc
 * knows better, if that has changed a moment ago.
 */
static __always_inline int is_for_us(const frame_t *frame)
{
	const __u8 *to = (void *)(long)frame->data;
	__u32 interface = arrived_at(frame);

	return (void *)(to + ETH_HLEN) <= (void *)(long)frame->data_end &&
	       packet_macs[interface % HG_MAC_PLACES] ==
		   hg_mac_of(to, interface);
}

static __always_inline __u32 frame_length(const frame_t *frame)
{
	__u64 length = (void *)(long)frame->data_end - (void *)(long)frame->data;

	/* The verifier takes it in 64 bits only, and apart from other sums. */
	asm volatile("" : "+r"(length));
	return length;
}

static __always_inline __u32
segment_size(const frame_t *frame __attribute__((unused)))
{
	return 0;
}

/* Of the Ethernet header: a tag's, for a frame that has one. */
static __always_inline __be16 frame_protocol(const frame_t *frame)
{
	struct ethhdr *eth = (void *)(long)frame->data;

	return (void *)(eth + 1) <= (void *)(long)frame->data_end ? eth->h_proto
								  : 0;
}

/* It is still in the frame, which is not ours then. */
static __always_inline long
take_tag_off(frame_t *frame __attribute__((unused)))
{
	return 0;
}

/* All of these: 0, or the kernel has refused. */

static __always_inline long load(frame_t *frame, __u32 at, void *to,
				 __u32 length)
{
	return bpf_xdp_load_bytes(frame, at, to, length);
}

static __always_inline long store(frame_t *frame, __u32 at, const void *from,
				  __u32 length)
{
	return bpf_xdp_store_bytes(frame, at, (void *)from, length);
}

/* There is no more than can be read directly. */
static __always_inline long pull(frame_t *frame __attribute__((unused)),
				 __u32 length __attribute__((unused)))
{
	return -1;
}

/* A frame is one of its own. */
static __always_inline long join_frames(frame_t *frame __attribute__((unused)))
{
	return 0;
}

/* Cuts the frame off, or adds zeros. Not in generic XDP: there, the kernel then
 * has the skb end behind its bytes, by the length of the Ethernet header.
 */
static __always_inline long set_length(frame_t *frame, __u32 length)
{
	if (IS_GENERIC)
		return -1;
	return bpf_xdp_adjust_tail(frame, (int)(length - frame_length(frame)));
}

static __always_inline long start_over(frame_t *frame, __u32 length)
{
	return set_length(frame, length);
}

/* Nothing that is carried here has what would be taken out. */
static __always_inline long take_out(frame_t *frame __attribute__((unused)),
				     __u32 bytes __attribute__((unused)))
{
	return -1;
}

/* To the checksum at `at`, for what it covers has changed by `difference`. */
static __always_inline long add_to_sum(frame_t *frame, __u32 at,
				       __u32 difference)
{
	__u16 *check = (void *)(long)frame->data + at;
	__u64 sum;

	if ((void *)(check + 1) > (void *)(long)frame->data_end)
		return -1;
	sum = (__u16)~*check + (__u64)difference;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*check = ~((sum & 0xffff) + (sum >> 16));
	return 0;
}

static __always_inline long add_addresses_to_sum(frame_t *frame, __u32 at,
						 __u32 difference,
						 __u32 v6 __attribute__((unused)))
{
	return add_to_sum(frame, at, difference);
}

static __always_inline void
add_to_frame_sum(frame_t *frame __attribute__((unused)),
		 __u32 difference __attribute__((unused)))
{
}

/* Those are left to tc. */
static __always_inline int is_partial(frame_t *frame __attribute__((unused)),
				      __u32 at __attribute__((unused)))
{
	return 0;
}

#endif
