/* The packet path: NAT of whole connections, from the SYN on, with the PROXY
 * header on the handshake's ACK. Runs on what arrives at an interface; nobody on
 * this machine has a socket for it.
 */
#ifndef HG_LIB_PACKET_HANDLE_H
#define HG_LIB_PACKET_HANDLE_H

#include "bpf/lib/packet_answer.h"
#include "bpf/lib/packet_error.h"
#include "bpf/lib/packet_icmp.h"
#include "bpf/lib/packet_maps.h"
#include "bpf/lib/packet_parse.h"
#include "bpf/lib/packet_table.h"
#include "bpf/lib/packet_tcp.h"
#include "bpf/lib/packet_trace.h"

static __always_inline int handle(frame_t *frame)
{
	struct packet_scratch *s = scratch();
	struct hg_packet_address *local;
	struct packet *p;

	if (!s)
		return VERDICT_NOT_OURS;
	p = &s->packet;
	p->flow = 0;
	p->service = 0;
	p->way.ifindex = 0;
	if (parse_ip(frame, p))
		return VERDICT_NOT_OURS;
	local = find_address(&p->destination);
	if (!local)
		return VERDICT_NOT_OURS;
	/* Behind the first fragment, nothing says which port it is for: it may
	 * be the host's, to whom it goes. One of ours comes to nothing there,
	 * for its first, which had the ports, was dropped and counted.
	 */
	if (p->later)
		return VERDICT_NOT_OURS;
	if (left_for_metadata(frame))
		return VERDICT_NOT_OURS;
	p->mark = take_mark(frame);
	if (take_tag_off(frame))
		return drop(HG_PACKET_FAILED);
	if (p->protocol == IPPROTO_TCP)
		return explain(frame, p, handle_tcp(frame, p, local, s), s);
	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6)
		return handle_icmp(frame, p, local, s);
	return VERDICT_NOT_OURS;
}

/* The one way out: every packet of ours is counted here. */
static __always_inline int leave(frame_t *frame, int outcome)
{
	__u32 verdict = outcome & 0xff, exit = outcome >> 8;

	if (outcome == VERDICT_NOT_OURS)
		return ACTION_PASS;
	count_exit(exit);
	if (packet_trace.until)
		trace_departure(frame, verdict, exit);
	return verdict;
}

static __always_inline int run(frame_t *frame)
{
	if (!is_for_us(frame))
		return ACTION_PASS;
	if (packet_trace.until)
		trace_arrival(frame);
	return leave(frame, handle(frame));
}

#endif
