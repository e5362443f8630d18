// The arithmetic of slow start: a backend that comes back takes a tenth of its
// share at first, and all of it when slow_start has passed. Weights in the map
// are whole numbers of at most 256, so while one backend of a service warms up,
// the weights of all of them are multiplied by a common factor.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace headgate::control {

inline constexpr double kColdShare = 0.1;
inline constexpr uint32_t kMaxWeight = 256;
// Selection deals out rounds by weight, a light backend's all at once: finer
// steps would make longer runs.
inline constexpr uint32_t kMaxScale = 20;

// 0.1 to 1.
inline double WarmShare(absl::Duration since, absl::Duration slow_start) {
  const double passed = absl::FDivDuration(since, slow_start);
  return std::clamp(kColdShare + (1 - kColdShare) * passed, kColdShare, 1.0);
}

// What a service with this highest weight can multiply its weights by.
inline uint32_t WeightScale(uint32_t max_weight) {
  return std::clamp(kMaxWeight / std::max(max_weight, 1U), 1U, kMaxScale);
}

// What stands in the map. A weight that is not 0 never becomes 0.
inline uint32_t ScaledWeight(uint32_t weight, uint32_t scale, double share) {
  if (weight == 0) return 0;
  const double scaled = weight * scale * share;
  return std::max(static_cast<uint32_t>(scaled + 0.5), 1U);
}

// How often the share is raised.
inline absl::Duration WarmStep(absl::Duration slow_start) {
  return std::min(absl::Seconds(1), slow_start / kMaxScale);
}

}  // namespace headgate::control
