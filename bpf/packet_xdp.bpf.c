/* packet_xdp: the packet path where a driver takes a frame in, ahead of tc. */
#define HG_FOR_XDP
#include "bpf/lib/packet_handle.h"

char LICENSE[] SEC("license") = "GPL";

__u64 packet_macs[HG_MAC_PLACES];

SEC("xdp")
int packet_xdp(frame_t *frame)
{
	return run(frame);
}
