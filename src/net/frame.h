// What the first bytes of an Ethernet frame say, for people to read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/types/span.h"
#include "net/address.h"

namespace headgate {

struct Frame {
  // Ports are 0 where the protocol has none.
  Endpoint source, destination;
  struct Tcp {
    uint32_t seq = 0, ack = 0;
    std::string flags;     // As tcpdump has them: "S", "S.", "P.", "."
    uint32_t payload = 0;  // Bytes.
  };
  std::optional<Tcp> tcp;
  struct Icmp {
    uint8_t type = 0, code = 0;
  };
  std::optional<Icmp> icmp;  // Or ICMPv6.
};

// `bytes` is the beginning of a frame of `size` bytes. Nothing: it is not IP.
// Headers that are cut off, or behind IPv6 extension headers, are not told of.
std::optional<Frame> ParseFrame(absl::Span<const uint8_t> bytes, uint32_t size);

}  // namespace headgate
