// Ends the connections of a drained backend one by one, evenly over a given
// time, so that thousands of clients do not come back at once. Each is ended as
// by `conn kill`, with RST on both sides: nothing else ends a mail session in
// the middle of its protocol. On the control thread's loop.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "control/pacer.h"
#include "control/packet_services.h"
#include "control/state.h"
#include "datapath/datapath.h"
#include "net/event_loop.h"
#include "relay/worker.h"

namespace headgate::control {

struct Pace {
  enum class Order { kOldest, kIdle };  // Who goes first.
  absl::Duration over;
  Order order = Order::kOldest;
};

class PacedDrain {
 public:
  using Workers = std::vector<std::unique_ptr<relay::Worker>>;

  // Starts at once. `workers`, `packet` and `datapath` must outlive it.
  PacedDrain(EventLoop* loop, const Workers* workers, PacketServices* packet,
             const datapath::Datapath* datapath, uint32_t backend,
             const Pace& pace);

  // Nothing once it is over.
  std::optional<DrainProgress> progress() const;

 private:
  uint64_t Left() const;
  void Tick();
  bool Close(size_t count);
  void FindVictims();
  bool Kill(uint64_t connection);

  const Workers* workers_;
  PacketServices* packet_;
  const datapath::Datapath* datapath_;
  const uint32_t backend_;
  const Pace::Order order_;
  Pacer pacer_;
  std::vector<uint64_t> victims_;  // The next one last.
  int64_t found_ns_ = 0;           // When they were.
  bool over_ = false;
  Timer timer_;
};

}  // namespace headgate::control
