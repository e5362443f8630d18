// Checks targets at their intervals and keeps their state. On the control
// thread's loop.
//
// Targets that are to be checked alike, in all but rise and fall, share each
// check; every one counts the results for itself. Those of a group share deep
// checks and have light ones besides, see health/group.h.
//
// No more than 5,000 checks start in a second: new ones, and those that a stall
// of the loop has made late, one after the other. The first interval is
// shortened at random, so that what started as a wave is none after it. Those
// that are due within 4 ms start together, which halves what they cost.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
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
    // Targets of one group that are checked alike, at the same port, are one
    // process; empty: none.
    std::string group = "";
    bool operator==(const Target&) const = default;
  };
  // Starts one check, as health::StartCheck.
  using Start = absl::AnyInvocable<std::unique_ptr<Check>(const CheckRequest&,
                                                          Check::Done)>;
  // Takes a check whose result nobody waits for any more.
  using Leave = absl::AnyInvocable<void(std::unique_ptr<Check>)>;
  // `changed`: the state is new since this result. May put and remove targets.
  using OnResult = absl::AnyInvocable<void(uint32_t id, const CheckResult&,
                                           State state, bool changed)>;

  Monitor(EventLoop* loop, Start start, Leave leave, OnResult on_result);
  ~Monitor();

  // Starts checking, the first time almost at once. Replaces an earlier target
  // of this id; what is known of it stays if the endpoint is the same. A new
  // one starts with what is `remembered` from before a restart.
  void Put(uint32_t id, const Target& target,
           State remembered = State::kStarting);
  // A check of it that is under way goes to `leave`.
  void Remove(uint32_t id);
  void RemoveAll();
  // Does not wait for the interval; a check that is under way will do. Nothing
  // for an id that is not checked.
  void CheckNow(uint32_t id);

 private:
  class Series;
  // One of the two checks of a target in a group, or the only one.
  struct Track {
    Series* series = nullptr;
    RiseFall count;
  };
  struct Checked {
    Target target;
    State state = State::kStarting;
    Track own;  // In a group: the light one.
    std::optional<Track> deep;
  };

  Checked Know(const Target& target, State remembered);
  Checked Keep(const Target& target, const Checked& known);
  Series* SeriesFor(const Target& target);
  void Move(uint32_t id, Series* from, Series* to);
  void Quit(uint32_t id, Series* series);
  // Null: the target does not take part in the series (any more).
  static Track* TrackOf(Checked& checked, const Series* series);
  static State StateOf(const Checked& checked);
  void CheckOwn(uint32_t id);
  void Count(uint32_t id, const Series* from, const CheckResult& result);
  absl::Duration TakeTurn();

  EventLoop* loop_;
  Start start_;
  Leave leave_;
  OnResult on_result_;
  std::mt19937_64 random_{std::random_device{}()};
  int64_t next_turn_ns_ = MonotonicNs();
  absl::flat_hash_map<uint32_t, Checked> targets_;
  // Those of one endpoint differ in how they check it.
  absl::flat_hash_map<Endpoint, std::vector<std::unique_ptr<Series>>> series_;
};

}  // namespace headgate::health
