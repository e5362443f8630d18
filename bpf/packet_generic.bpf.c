/* packet_generic: the packet path at generic XDP, for interfaces whose driver
 * has none: on an skb, before tc.
 */
#define HG_FOR_XDP
#define HG_FOR_GENERIC_XDP
#include "bpf/lib/packet_handle.h"

char LICENSE[] SEC("license") = "GPL";

SEC("xdp")
int packet_generic(frame_t *frame)
{
	return run(frame);
}
