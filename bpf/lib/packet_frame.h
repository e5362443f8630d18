/* Frames as the hook has them that the program is compiled for. */
#ifndef HG_LIB_PACKET_FRAME_H
#define HG_LIB_PACKET_FRAME_H

#ifdef HG_FOR_XDP
#include "bpf/lib/packet_frame_xdp.h"
#else
#include "bpf/lib/packet_frame_tc.h"
#endif

#endif
