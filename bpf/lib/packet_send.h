/* How a frame leaves from the hook that the program is compiled for. */
#ifndef HG_LIB_PACKET_SEND_H
#define HG_LIB_PACKET_SEND_H

#include "bpf/lib/packet_send_tc.h"

#endif
