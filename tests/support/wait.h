// Waiting for a condition with a deadline: the only way tests wait.
#pragma once

#include <poll.h>

#include "absl/functional/function_ref.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace headgate::testing {

// True as soon as `condition` holds; false when `timeout` has passed.
inline bool WaitUntil(absl::Duration timeout,
                      absl::FunctionRef<bool()> condition) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    ::poll(nullptr, 0, 5);
  }
  return true;
}

}  // namespace headgate::testing
