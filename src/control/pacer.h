// When a drain closes what: connections end at an even pace, the last one when
// the time is up. Those that end by themselves slow the others down, so that
// there is never a rush. Times are of any steady clock, nanoseconds.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace headgate::control {

class Pacer {
 public:
  Pacer(int64_t start_ns, int64_t over_ns)
      : last_ns_(start_ns), end_ns_(start_ns + over_ns) {}

  // How many of the `left` connections to close now.
  size_t Due(int64_t now_ns, size_t left) {
    if (now_ns >= end_ns_) return left;
    size_t due = 0;
    while (due < left && NextNs(left - due) <= now_ns) {
      last_ns_ = NextNs(left - due);
      ++due;
    }
    return due;
  }

  // When one of `left` is to be closed next.
  int64_t NextNs(size_t left) const {
    const auto gaps = static_cast<int64_t>(std::max<size_t>(left, 1));
    return last_ns_ + (end_ns_ - last_ns_) / gaps;
  }

  int64_t end_ns() const { return end_ns_; }

 private:
  int64_t last_ns_;  // When one was last due.
  int64_t end_ns_;
};

}  // namespace headgate::control
