// RST segments that end a flow of the packet path from outside.
#pragma once

#include <array>
#include <cstdint>

namespace headgate::datapath {

struct ResetSegment {
  std::array<uint8_t, 16> source{};  // IPv4 as ::ffff:a.b.c.d.
  std::array<uint8_t, 16> destination{};
  uint16_t source_port = 0;
  uint16_t destination_port = 0;
  uint32_t seq = 0;
  uint32_t ack = 0;
};

// Sends it by a raw socket, best effort: a RST may get lost anyhow, and then
// the next segment of the flow is answered by one.
void SendReset(const ResetSegment& segment);

}  // namespace headgate::datapath
