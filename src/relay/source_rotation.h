// Which of its sources the next connection to a backend comes from: each in
// turn, by backend. One that could not be used is left alone for a moment: the
// kernel looks through its whole range of ports to find that none is free,
// which takes it milliseconds.
//
// One for each worker, in its thread.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "bpf/abi/types.h"
#include "net/address.h"

namespace headgate::relay {

class SourceRotation {
 public:
  // The next of `sources`; unspecified if there are none. One that is paused
  // has its turn, too, so that its share goes to all others alike.
  const IpAddress& Next(uint32_t backend, absl::Span<const IpAddress> sources) {
    static constexpr IpAddress kAny;
    if (sources.empty()) return kAny;
    return sources[next_[backend]++ % sources.size()];
  }

  // Why the source is not to be used for this backend now: the `error` of
  // Pause(); 0: it may.
  int PausedBy(uint32_t backend, const IpAddress& source, int64_t now_ns);
  // The source could not be used, which took from `began_ns` until now: all
  // such attempts together take at most a twentieth of the thread's time.
  void Pause(uint32_t backend, const IpAddress& source, int error,
             int64_t began_ns, int64_t now_ns);
  // The configuration is a new one.
  void Clear() { paused_.clear(); }

 private:
  struct Paused {
    int64_t until_ns;
    int error;
  };

  std::array<uint32_t, HG_MAX_BACKENDS> next_{};
  int64_t no_retry_before_ns_ = 0;
  absl::flat_hash_map<std::pair<uint32_t, IpAddress>, Paused> paused_;
};

}  // namespace headgate::relay
