// Full-duplex transfers, both ends driven by the calling thread: sizes, write
// sizes and the order of the half-closes are drawn from a seed, and SHA-256 of
// what one end sent must be that of what the other received.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "net/address.h"
#include "support/header.h"

namespace headgate::testing {

struct StreamPlan {
  uint64_t seed = 1;
  std::vector<Endpoint> listen = {};  // In the backend namespace.
  Endpoint target = {};               // Where the client connects to.
  // A version 2 header, or none, comes first and tells the streams apart.
  HeaderKind header = HeaderKind::kV2;
  size_t count = 400;
  size_t large = 2;              // The first ones have max_size both ways.
  uint64_t max_size = 50 << 20;  // Sizes are 0 to this, log-uniform.
  size_t concurrency = 32;
  // Gives up when no stream has moved a byte for so long.
  absl::Duration patience = absl::Seconds(10);
};

struct StreamReport {
  size_t equal = 0;         // Streams whose digests agree, both ways.
  uint64_t bytes = 0;       // Received, both ways.
  std::string first_error;  // Empty when all is well.
};

StreamReport RunStreams(const StreamPlan& plan);

}  // namespace headgate::testing
