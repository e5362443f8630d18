/* How a packet leaves, and what the packet path says of its own: RST segments,
 * and the PROXY header.
 */
#ifndef HG_LIB_PACKET_ANSWER_H
#define HG_LIB_PACKET_ANSWER_H

#include "bpf/lib/packet_count.h"
#include "bpf/lib/packet_edit.h"
#include "bpf/lib/packet_send.h"

enum {
	TTL_OF_OURS = 64,
};

/* `exit`: of what sends, or an earlier one. */
static __always_inline int sent(int exit, __u32 as)
{
	return exit > 0 ? drop(exit) : outcome(verdict_of(exit), as);
}

static __always_inline struct packet_scratch *scratch(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&packet_scratch, &key);
}

static __always_inline const struct hg_packet_local *local_address(__u32 id)
{
	return bpf_map_lookup_elem(&packet_local, &id);
}

/* ---- our own answers ----------------------------------------------------- */

static __always_inline int swap_macs(frame_t *frame)
{
	struct ethhdr *eth = (void *)(long)frame->data;
	__u8 mac[ETH_ALEN];

	if ((void *)(eth + 1) > (void *)(long)frame->data_end)
		return HG_PACKET_FAILED;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	return 0;
}

/* Doff and flags, and no more: window and urgent pointer are 0. */
static __always_inline int write_flags(frame_t *frame, const struct packet *p,
				       __u32 flags)
{
	__u8 tail[8] = {TCP_BASE / 4 << 4, flags};

	return store(frame, (p->l4 & 0xff) + 12, tail, 8) ? HG_PACKET_FAILED
							  : 0;
}

/* Leaves the TCP header alone, with these flags; its checksum is to be sealed.
 * Longer again at the end: what grows has no CHECKSUM_COMPLETE left.
 */
static __always_inline int strip(frame_t *frame, struct packet *p, __u32 flags)
{
	return cut_behind(frame, p, TCP_BASE) || set_length(frame, p->end - 2) ||
	       set_length(frame, p->end) || write_flags(frame, p, flags);
}

/* Turns the segment into the RST that answers it (RFC 9293, 3.10.7.1) and
 * sends it back to where it came from.
 */
static __noinline int reset_sender(frame_t *frame, struct packet *p,
				   __u8 *buffer)
{
	struct rewrite to = {};
	int acked = (p->flags & TCP_ACK) != 0;

	to.source = &p->destination;
	to.destination = &p->source;
	to.source_port = p->destination_port;
	to.destination_port = p->source_port;
	to.ttl = TTL_OF_OURS;
	to.seq = acked ? p->ack : 0;
	to.ack = acked ? 0 : segment_end(p) + ((p->flags & TCP_SYN) != 0);
	if (strip(frame, p, TCP_RST | (acked ? 0 : TCP_ACK)) ||
	    rewrite(frame, p, &to) || seal(frame, p, &to, buffer) ||
	    swap_macs(frame))
		return HG_PACKET_FAILED;
	return send_back(frame);
}

static __noinline int refuse(frame_t *frame, struct packet *p,
			     struct packet_scratch *s, __u32 exit)
{
	if (p->flags & TCP_RST)
		return drop(HG_PACKET_STRAY_RST);
	if (left_for_length(frame))
		return VERDICT_NOT_OURS;
	if (!is_intact(frame, p, s))
		return drop(HG_PACKET_MALFORMED);
	return sent(reset_sender(frame, p, (__u8 *)&s->request), exit);
}

/* ---- in the client's name ------------------------------------------------ */

/* Its checksum, as if it had come so. */
static __always_inline int seal_as_it_came(frame_t *frame,
					   const struct packet *p,
					   __u8 *buffer)
{
	struct rewrite as = {.source = &p->source,
			     .destination = &p->destination};

	return seal(frame, p, &as, buffer);
}

/* A RST that ends the flow becomes our own, without what a host may discard it
 * for, at the number up to which the backend has acknowledged: the client's own
 * may be far beyond what the backend expects. If the backend has received more
 * by now, the second one is exact, and so is what answers its challenge.
 */
static __noinline int own_reset(frame_t *frame, struct packet *p,
				const struct hg_flow *flow, struct rewrite *to,
				__u8 *buffer)
{
	p->seq = p->mark == HG_PACKET_MARK_RESET ? flow->next_in
						 : acked_in(flow);
	to->seq = seq_to_backend(flow, p);
	to->ttl = TTL_OF_OURS;
	if (strip(frame, p, p->flags & (TCP_RST | TCP_ACK)))
		return HG_PACKET_FAILED;
	return seal_as_it_came(frame, p, buffer);
}

/* Data become an acknowledgment that follows them. Longer for once, see
 * strip().
 */
static __noinline int become_ack(frame_t *frame, struct packet *p,
				 const struct hg_flow *flow, __u8 *buffer)
{
	__u8 flags = (p->flags & (TCP_ECE | TCP_CWR)) | TCP_ACK;

	if (cut_behind(frame, p, TCP_BASE + (p->options & 63)) ||
	    set_length(frame, p->end + 2) || set_length(frame, p->end) ||
	    store(frame, (p->l4 & 0xff) + 13, &flags, 1))
		return HG_PACKET_FAILED;
	p->seq = flow->next_in;
	p->flags = flags;
	p->payload = 0;
	return seal_as_it_came(frame, p, buffer);
}

/* ---- the header ---------------------------------------------------------- */

static __always_inline void build_header(const struct hg_flow *flow,
					 const struct hg_packet_local *listen,
					 __u8 *out)
{
	static const __u8 signature[12] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d,
					   0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};
	int v6 = flow->header == 52;
	__u32 at = v6 ? 48 : 24;

	__builtin_memcpy(out, signature, 12);
	out[12] = 0x21; /* v2, PROXY */
	out[13] = v6 ? 0x21 : 0x11;
	out[14] = 0;
	out[15] = flow->header - 16;
	if (v6) {
		__builtin_memcpy(out + 16, flow->client, 16);
		__builtin_memcpy(out + 32, listen->address, 16);
	} else {
		__builtin_memcpy(out + 16, flow->client + 12, 4);
		__builtin_memcpy(out + 20, listen->address + 12, 4);
	}
	out[at] = flow->client_port >> 8;
	out[at + 1] = flow->client_port;
	out[at + 2] = flow->listen_port >> 8;
	out[at + 3] = flow->listen_port;
}

/* Makes the segment, rewritten already, one that carries the header and
 * nothing else.
 */
static __noinline int carry_header(frame_t *frame, struct packet *p,
				   const struct hg_flow *flow,
				   const struct rewrite *to,
				   struct packet_scratch *s)
{
	const struct hg_packet_local *listen = local_address(flow->listen);
	__u32 header = flow->header & 63;
	__u8 flags = (p->flags & (TCP_ECE | TCP_CWR)) | TCP_ACK | TCP_PSH;

	/* The verifier must see the bounds of this very register. */
	asm volatile("" : "+r"(header));
	if (!listen || header < 28 ||
	    cut_behind(frame, p, TCP_BASE + (p->options & 63)))
		return HG_PACKET_FAILED;
	p->end += header;
	build_header(flow, listen, s->header);
	if (set_length(frame, p->end) ||
	    store(frame, p->end - header, s->header, header) ||
	    store(frame, (p->l4 & 0xff) + 13, &flags, 1))
		return HG_PACKET_FAILED;
	return seal(frame, p, to, (__u8 *)&s->request);
}

#endif
