/* What a segment means to its flow: pure functions of both, without a frame.
 *
 * The client counts its bytes from isn + 1. Towards the backend, all its numbers
 * grow by `shift`, which it does not know; and there, the stream begins with the
 * header, so its bytes are `header` further on. Nobody would retransmit the
 * header: until the backend has acknowledged it, all that the client sends at
 * isn + 1 carries it again. What the backend sends keeps its numbers; what it
 * acknowledges, SACK edges included, moves back.
 *
 * To Linux, a SYN cookie is good for whatever acknowledges as many bytes beyond it
 * as the segment's own number is beyond the SYN's, for the client's number is but
 * added to it (secure_tcp_syn_cookie()). So a backend that answers by cookies, and
 * has not opened this connection or has forgotten it, would open one in the midst
 * of what the client sends, without a header. That is why nobody is to learn what
 * a cookie was made of (`shift`), a flow has one answer to its SYN only
 * (packet_tcp.h, is_another()), and no segment fits that one (keep_off_cookie()).
 */
#ifndef HG_LIB_PACKET_FLOW_H
#define HG_LIB_PACKET_FLOW_H

#include "bpf/abi/packet.h"
#include "bpf/lib/packet_parse.h"

/* After so many bytes that the backend has acknowledged, numbers near isn are the
 * next lap's: no old segment is that late (RFC 9293, 3.4.1: half a lap).
 */
#define FIRST_LAP (1U << 30)

enum {
	FIRST_WINDOW = 65535, /* that of a SYN is not scaled (RFC 7323, 2.2) */
	COOKIE_REACH = 3,     /* a cookie stands for one of four MSS */
	COOKIE_ROOM = 8,
};

/* Whether the client's next connection has taken the flow over since the packet
 * found it: to be asked before the packet changes it.
 */
static __always_inline int is_taken_over(const struct hg_flow *flow,
					 const struct packet *p)
{
	return *(const volatile __u32 *)&flow->state == HG_FLOW_MOVING ||
	       *(const volatile __u32 *)&flow->isn != p->isn;
}

/* Whether a client's segment must bring the header along. */
static __always_inline int header_is_due(const struct hg_flow *flow,
					 const struct packet *p)
{
	return flow->header && !(flow->flags & HG_FLOW_HEADER_ACKED) &&
	       !(p->flags & TCP_RST) && p->seq == flow->isn + 1;
}

/* A client's sequence number as the backend counts. A RST at isn + 1 must be
 * exact (RFC 5961): beyond the header, if that arrived; the backend's challenge
 * to a wrong guess brings a second one, after the first has closed the flow.
 */
static __always_inline __u32 seq_to_backend(const struct hg_flow *flow,
					    const struct packet *p)
{
	__u32 sent = HG_FLOW_HEADER_SENT | HG_FLOW_HEADER_ACKED;
	__u32 seq = p->seq + flow->shift;

	if ((p->flags & TCP_SYN) && p->seq == flow->isn)
		return seq;
	if ((p->flags & TCP_RST) && p->seq == flow->isn + 1 &&
	    !(flow->flags & HG_FLOW_HEADER_ACKED) &&
	    (!(flow->flags & sent) || flow->state == HG_FLOW_CLOSED))
		return seq;
	return seq + flow->header;
}

/* What the backend acknowledges, as the client counts; never below isn + 1. */
static __always_inline __u32 ack_to_client(const struct hg_flow *flow,
					   __u32 ack)
{
	__u32 first = flow->isn + 1;

	ack -= flow->shift;
	if (!(flow->flags & HG_FLOW_LAPPED) &&
	    before(ack, first + flow->header))
		return before(ack, first) ? ack : first;
	return ack - flow->header;
}

/* What the backend answers a SYN with acknowledges that, and no more (RFC 9293,
 * 3.10.7.3): there were no data.
 */
static __always_inline int acks_syn(const struct hg_flow *flow,
				    const struct packet *p)
{
	return (p->flags & TCP_ACK) && p->ack == flow->isn + flow->shift + 1;
}

static __always_inline int answers_syn(const struct hg_flow *flow,
				       const struct packet *p)
{
	return (p->flags & TCP_SYN) && acks_syn(flow, p);
}

/* The client has seen the backend's answer, which is all that it can
 * acknowledge by then. Who acknowledges anything else guesses, and gets a RST
 * (RFC 9293, 3.10.7.4).
 */
static __always_inline int ends_handshake(const struct hg_flow *flow,
					  const struct packet *p)
{
	return flow->state == HG_FLOW_SYN_RECEIVED &&
	       (p->flags & (TCP_ACK | TCP_RST)) == TCP_ACK &&
	       p->ack == flow->next_out;
}

static __always_inline int guesses_answer(const struct hg_flow *flow,
					  const struct packet *p)
{
	return flow->state == HG_FLOW_SYN_RECEIVED && !(p->flags & TCP_RST) &&
	       p->ack != flow->next_out;
}

static __always_inline int acks_header(const struct hg_flow *flow, __u32 ack)
{
	__u32 first = flow->isn + 1;

	ack -= flow->shift;
	return (flow->flags & HG_FLOW_HEADER_SENT) &&
	       ack - (first + flow->header) <= flow->next_in - first;
}

/* Whether the backend acknowledges the header, and nothing else: to the client,
 * which has sent no more than the handshake, that is a duplicate of the SYN-ACK's,
 * with a window that it does without as it would without a header. What asks for
 * an answer goes on: a keepalive probe, which is not at the next number, and the
 * challenge to another connection's SYN (RFC 5961, 4.2).
 */
static __always_inline int acks_header_only(const struct hg_flow *flow,
					    const struct packet *p)
{
	__u32 first = flow->isn + 1;

	return p->flags == TCP_ACK && !p->payload &&
	       !(flow->flags & (HG_FLOW_HEADER_ACKED | HG_FLOW_ANOTHER)) &&
	       flow->state == HG_FLOW_ESTABLISHED && flow->next_in == first &&
	       p->seq == flow->next_out && acks_header(flow, p->ack);
}

static __always_inline __u32 segment_end(const struct packet *p)
{
	return p->seq + p->payload + ((p->flags & TCP_FIN) != 0);
}

/* Whether a client's segment is from before its first byte, where the backend
 * expects the header: data would be taken for it, and an ACK would open a
 * connection there that has none, if the backend has forgotten this one but for
 * a SYN cookie. All but a keepalive probe to who has the header: its byte stands
 * for the SYN. Nor is one from beyond what the client may have sent before it has
 * heard from who has the header.
 */
static __always_inline int forges_header(const struct hg_flow *flow,
					 const struct packet *p)
{
	__u32 first = flow->flags & HG_FLOW_LAPPED ? flow->acked_in - FIRST_LAP
						   : flow->isn + 1;
	__u32 acked = flow->flags & HG_FLOW_HEADER_ACKED;

	return flow->header && !(p->flags & TCP_RST) &&
	       p->seq - first > (acked ? (1U << 31) - 1 : FIRST_WINDOW) &&
	       !(acked && p->seq == flow->isn &&
		 segment_end(p) - p->seq <= 1);
}

/* Of the backend's first byte, once it has answered. */
static __always_inline __u32 first_out(const struct hg_flow *flow)
{
	return flow->next_out - (__u32)flow->bytes_out;
}

/* Whether a client's segment, at `seq` for the backend, fits the handshake's SYN
 * cookie. Of joined segments of `each` bytes, 0 if there are none, any one could
 * fit alone.
 */
static __always_inline int fits_cookie(const struct hg_flow *flow,
				       const struct packet *p, __u32 each,
				       __u32 seq)
{
	__u32 joined = each ? p->payload : 0;
	__u32 in = seq - flow->shift - (flow->isn + 1);
	__u32 ahead = p->ack - first_out(flow) - in + COOKIE_REACH;

	return flow->header && !(p->flags & TCP_RST) && in >= COOKIE_ROOM &&
	       ahead <= joined + 2 * COOKIE_REACH &&
	       (!each || ahead % each <= 2 * COOKIE_REACH);
}

/* Whether a backend that has the header begins another connection, to which
 * nobody would send one. Or its SYN was late: then the RST that answers it is too
 * old to do harm (RFC 9293, 3.10.7.4).
 */
static __always_inline int lacks_header(const struct hg_flow *flow,
					const struct packet *p)
{
	return flow->header && (flow->flags & HG_FLOW_HEADER_ACKED) &&
	       (p->flags & TCP_SYN);
}

/* Whether a segment's end is news to who has acknowledged so much. */
static __always_inline int is_ahead(__u32 end, __u32 acked)
{
	return end - acked - 1 < 1U << 30;
}

/* Only forward, and not beyond what was sent. */
static __always_inline void note_ack(__u32 *acked, __u32 sent, __u32 ack)
{
	if (ack - *acked - 1 < sent - *acked)
		*acked = ack;
}

/* Up to where the backend has acknowledged, as far as is known. */
static __always_inline __u32 acked_in(const struct hg_flow *flow)
{
	return flow->state > HG_FLOW_SYN_RECEIVED ? flow->acked_in
						  : flow->isn + 1;
}

/* The numbers that its receiver may expect next: the edge knows of what was lost
 * behind it, and may have counted what that receiver took for junk.
 */
static __always_inline int is_next_in(const struct hg_flow *flow, __u32 seq)
{
	return seq == flow->next_in || seq == acked_in(flow);
}

static __always_inline int is_next_out(const struct hg_flow *flow, __u32 seq)
{
	return seq == flow->next_out || seq == flow->acked_out;
}

/* How far a segment gets beyond `next`: new bytes, the FIN aside. A jump of
 * more than a window is no progress but junk.
 */
static __always_inline __u32 progress(const struct packet *p, __u32 next)
{
	__u32 ahead = segment_end(p) - next;

	return ahead <= 1U << 30 ? ahead : 0;
}

static __always_inline int both_sides_closed(__u32 flags)
{
	__u32 both = HG_FLOW_FIN_IN_ACKED | HG_FLOW_FIN_OUT_ACKED;

	return (flags & both) == both;
}

/* Whether a client would go on with a connection that nobody counts any more:
 * the backend need not believe what has closed it. If both ends have, the last
 * of it may come again.
 */
static __always_inline int is_over(const struct hg_flow *flow,
				   const struct packet *p)
{
	return flow->state == HG_FLOW_CLOSED && !(p->flags & TCP_RST) &&
	       (!both_sides_closed(flow->flags) ||
		is_ahead(segment_end(p), flow->acked_in));
}

/* Its receiver may discard it for its IP header (RFC 7126). */
static __always_inline int is_dubious_reset(const struct packet *p)
{
	return (p->flags & TCP_RST) && has_ip_options(p);
}

/* Whether a client's RST ends the flow: it is at the very number that comes next
 * (RFC 5961, 3.2); any other passes, for its receiver to challenge or to ignore.
 */
static __always_inline int ends_flow(const struct hg_flow *flow,
				     const struct packet *p)
{
	return (p->flags & TCP_RST) && flow->state != HG_FLOW_CLOSED &&
	       is_next_in(flow, p->seq);
}

#endif
