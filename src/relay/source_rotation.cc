#include "relay/source_rotation.h"

#include <algorithm>

namespace headgate::relay {
namespace {

constexpr int64_t kPauseNs = 250'000'000;
constexpr int64_t kPauseFactor = 20;  // Of what the attempt took.
constexpr int64_t kPauseMostNs = 2'000'000'000;

}  // namespace

int SourceRotation::PausedBy(uint32_t backend, const IpAddress& source,
                             int64_t now_ns) {
  if (paused_.empty()) return 0;
  const auto found = paused_.find({backend, source});
  if (found == paused_.end()) return 0;
  if (now_ns < std::max(found->second.until_ns, no_retry_before_ns_)) {
    return found->second.error;
  }
  paused_.erase(found);
  return 0;
}

void SourceRotation::Pause(uint32_t backend, const IpAddress& source, int error,
                           int64_t began_ns, int64_t now_ns) {
  paused_[{backend, source}] = {now_ns + kPauseNs, error};
  no_retry_before_ns_ =
      now_ns + std::min((now_ns - began_ns) * kPauseFactor, kPauseMostNs);
}

}  // namespace headgate::relay
