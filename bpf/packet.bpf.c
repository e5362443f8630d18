/* packet: the packet path at tc ingress, alone or behind XDP. */
#include "bpf/lib/packet_handle.h"

char LICENSE[] SEC("license") = "GPL";

struct hg_trace packet_trace;

/* What XDP has rewritten, whatever GRO has joined it with since. */
static __always_inline int send_rewritten(frame_t *frame, struct packet *p)
{
	struct rewrite to = {
	    .source = &p->source,
	    .destination = &p->destination,
	};

	if (parse_ip(frame, p) ||
	    (p->protocol == IPPROTO_TCP && parse_tcp(frame, p)))
		return HG_PACKET_FAILED;
	return forward(frame, p, &to);
}

SEC("tc")
int packet_ingress(frame_t *frame)
{
	struct packet_scratch *s = scratch();
	__u32 note = take_note(frame);
	int exit;

	if (s && note == HG_PACKET_REWRITTEN) {
		/* XDP has counted it, unless it comes to nothing after all. */
		exit = send_rewritten(frame, &s->packet);
		return exit > 0 ? leave(frame, drop(exit)) : verdict_of(exit);
	}
	if (note >> 8 == HG_PACKET_INCOMPLETE >> 8)
		count_incomplete(frame, note & 0xff);
	return run(frame);
}
