// Checks targets at their intervals and keeps their state. On the control
// thread's loop.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "config/types.h"
#include "health/check.h"
#include "health/rise_fall.h"
#include "net/event_loop.h"

namespace headgate::health {

class Monitor {
 public:
  struct Target {
    Endpoint endpoint;               // What is checked.
    config::Health health;           // Resolved: neither auto nor none.
    std::vector<IpAddress> sources;  // As in CheckRequest.
    bool operator==(const Target&) const = default;
  };
  // `changed`: the state is new since this result.
  using OnResult = absl::AnyInvocable<void(uint32_t id, const CheckResult&,
                                           State state, bool changed)>;

  // `farewells` outlives the monitor.
  Monitor(EventLoop* loop, Farewells* farewells, OnResult on_result);
  ~Monitor();

  // Starts checking, the first time almost at once. Replaces an earlier target
  // of this id; what is known of it stays if the endpoint is the same. A new
  // one starts with what is `remembered` from before a restart.
  void Put(uint32_t id, const Target& target,
           State remembered = State::kStarting);
  void Remove(uint32_t id);

 private:
  class Checked;

  EventLoop* loop_;
  Farewells* farewells_;
  OnResult on_result_;
  std::mt19937_64 random_{std::random_device{}()};
  absl::flat_hash_map<uint32_t, std::unique_ptr<Checked>> targets_;
};

}  // namespace headgate::health
