/* How a frame leaves from the hook that the program is compiled for. What sends
 * answers the exit to take, if it could not, or else 0 or less, which
 * verdict_of() understands.
 */
#ifndef HG_LIB_PACKET_SEND_H
#define HG_LIB_PACKET_SEND_H

#ifdef HG_FOR_XDP
#include "bpf/lib/packet_send_xdp.h"
#else
#include "bpf/lib/packet_send_tc.h"
#endif

/* Sends the packet where its destination is. */
static __noinline int forward(frame_t *frame, struct packet *p,
			      const struct rewrite *to)
{
	return take_way(frame, p,
			find_way(frame, p, to, packet_length(frame, p)));
}

#endif
