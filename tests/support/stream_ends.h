// What RunStreams() knows of a stream, and of each of its ends.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "support/sha256.h"

namespace headgate::testing {

inline constexpr size_t kNoNode = SIZE_MAX;

// One direction: `size` bytes of the pattern, from `offset` on.
struct Flow {
  uint64_t size = 0;
  size_t offset = 0;
  uint64_t sent = 0;
  uint64_t received = 0;
  Sha256 sent_digest, received_digest;
};

struct End {
  UniqueFd fd;
  Flow* out = nullptr;
  Flow* in = nullptr;
  bool waits_for_peer = false;  // Half-closes only after the peer has.
  bool quiet = false;           // Says nothing before the peer has.
  bool shut = false;
  bool peer_ended = false;
  bool over = false;  // Closed, or reset.
  bool slow = false;
  uint64_t reset_after = UINT64_MAX;  // Bytes, both ways.
  uint32_t watched = 0;
  bool done() const { return shut && peer_ended; }
  bool must_be_silent() const {
    return quiet && in->received == 0 && !peer_ended;
  }
};

struct Stream {
  Flow up, down;
  End client, server;
  size_t node = kNoNode;  // Whose listener accepted it.
  bool doomed = false;    // An end was reset as planned.
  absl::Time last_arrival;
  // What has arrived at both ends, their ends included.
  uint64_t arrived() const {
    return up.received + down.received + (client.peer_ended ? 1U : 0U) +
           (server.peer_ended ? 1U : 0U);
  }
};

}  // namespace headgate::testing
