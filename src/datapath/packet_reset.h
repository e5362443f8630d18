// RST segments that end a flow of the packet path from outside.
#pragma once

#include <cstdint>

#include "base/unique_fd.h"
#include "datapath/packet_address.h"

namespace headgate::datapath {

struct ResetSegment {
  PacketAddress source{};
  PacketAddress destination{};
  uint16_t source_port = 0;
  uint16_t destination_port = 0;
  uint32_t seq = 0;
  uint32_t ack = 0;
};

// Sends them by raw sockets, which it opens when it first needs them, best
// effort: a RST may get lost anyhow, and then the next segment of the flow is
// answered by one.
class ResetSender {
 public:
  void Send(const ResetSegment& segment);

 private:
  UniqueFd v4_;
  UniqueFd v6_;
};

}  // namespace headgate::datapath
