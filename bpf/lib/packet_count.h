/* What becomes of packets, and its counting. */
#ifndef HG_LIB_PACKET_COUNT_H
#define HG_LIB_PACKET_COUNT_H

#include "bpf/lib/packet_maps.h"

/* What becomes of a packet of ours: the verdict, and the exit that it counts
 * as, for leave(). VERDICT_NOT_OURS stands for itself.
 */
static __always_inline int outcome(__u32 verdict, __u32 exit)
{
	return exit << 8 | verdict;
}

static __always_inline int drop(__u32 exit)
{
	return outcome(VERDICT_DROP, exit);
}

static __always_inline void count_exit(__u32 exit)
{
	__u32 key = HOOK * HG_PACKET_EXIT_COUNT + exit;
	struct hg_counter *counter = bpf_map_lookup_elem(&packet_exits, &key);

	if (counter)
		counter->count++;
}

#endif
