// What one run of the load does: `connections` from the client's network
// namespace to `target`, which lead to the server at `listen` in the server's.
// Both ends are threads of one process, one thread each, so that a byte or a
// connection is counted where it arrives.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "net/address.h"

namespace headgate::bench {

enum class Mode {
  kDownload,  // The server sends, as much as it can.
  kUpload,    // The client does.
  kEcho,      // `size` bytes there and back, then the next; closed loop.
  kConnect,   // Connect, wait for the server's greeting, close; closed loop.
  kIdle,      // Connect, wait for the greeting, stay.
};

struct Plan {
  Mode mode = Mode::kEcho;
  Endpoint target;
  Endpoint listen;
  std::string client_netns;  // Paths; empty: where the program was started.
  std::string server_netns;
  bool header = true;  // The server gets a PROXY header, version 2, first.
  size_t connections = 1;
  size_t size = 64;
  // Bytes a second that the receivers of a download or an upload take, all
  // together; 0: as fast as they come.
  uint64_t receive_rate = 0;
  absl::Duration warmup;
  absl::Duration window;  // What is measured; begins when the warm-up ends.
};

// Bytes that arrived in a download or an upload. Any thread.
using ByteCounter = std::atomic<uint64_t>;

inline constexpr size_t kChunkBytes = 128 * 1024;

}  // namespace headgate::bench
