// The clock of the packet program's times in seconds.
#pragma once

#include <time.h>

#include <cstdint>

namespace headgate::datapath {

// As bpf_ktime_get_coarse_ns() has it.
inline uint32_t NowSeconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<uint32_t>(now.tv_sec);
}

}  // namespace headgate::datapath
