// Receivers that are slower than their senders: each connection is read at its
// share of a common rate, whatever has arrived. One thread.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/plan.h"
#include "net/event_loop.h"

namespace headgate::bench {

class PacedSink {
 public:
  PacedSink(EventLoop* loop, const Plan& plan, ByteCounter* received);

  bool enabled() const { return bytes_per_ns_ > 0; }
  // Reads `fd` from now on, and forgets it at its end; it stays the caller's,
  // who must keep it open meanwhile and not watch it.
  void Add(int fd) { readers_.push_back({fd, 0}); }

 private:
  struct Reader {
    int fd;
    double allowance;  // Bytes.
  };

  void Tick();
  bool Read(Reader* reader);

  double bytes_per_ns_;  // Of one connection.
  ByteCounter* received_;
  std::vector<Reader> readers_;
  std::vector<char> scratch_;
  int64_t last_tick_ns_;
  Timer timer_;
};

}  // namespace headgate::bench
