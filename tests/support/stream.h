// Full-duplex transfers, both ends driven by the calling thread: sizes, write
// sizes and the order of the half-closes are drawn from a seed, and SHA-256 of
// what one end sent must be that of what the other received. A stream may end
// early only by a reset.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "net/address.h"
#include "support/header.h"

namespace headgate::testing {

// What goes wrong on purpose. Shares are 0 to 1.
struct StreamChaos {
  double pauses = 0;  // Of the turns of an end, after which it rests.
  double slow = 0;    // Of the ends, which read little and rest each time.
  double resets = 0;  // Of the streams, which one end resets somewhere.
  // After so many streams (0: never) one listener, in turn, dies with all its
  // connections and is back soon. Not by time: a slow machine would lose more.
  size_t kill_every = 0;
};

struct StreamPlan {
  uint64_t seed = 1;
  std::vector<Endpoint> listen = {};  // In the backend namespace.
  Endpoint target = {};               // Where the client connects to.
  // A version 2 header, or none, comes first and tells the streams apart.
  HeaderKind header = HeaderKind::kV2;
  size_t count = 400;
  size_t large = 2;              // The first ones have max_size both ways.
  uint64_t max_size = 50 << 20;  // Sizes are 0 to this, log-uniform.
  size_t quiet = 0;  // The first ones' clients let their servers speak first.
  size_t concurrency = 32;
  uint16_t first_port = 0;  // Of the first client, others follow; 0: any.
  // While true, the last byte and the end of each direction are kept back.
  const std::atomic<bool>* hold = nullptr;
  StreamChaos chaos = {};
  // Gives up when no stream has moved a byte for so long.
  absl::Duration patience = absl::Seconds(10);
};

struct StreamReport {
  size_t equal = 0;    // Streams whose digests agree, both ways.
  size_t lost = 0;     // Reset or killed as planned, at both ends.
  uint64_t bytes = 0;  // Received, both ways.
  // Of each stream the longest time in which nothing arrived at either end.
  std::vector<absl::Duration> pauses;
  std::string first_error;  // Empty when all is well.
};

StreamReport RunStreams(const StreamPlan& plan);

}  // namespace headgate::testing
