#include "health/monitor.h"

#include <algorithm>

namespace headgate::health {
namespace {

// First checks of many targets at once are spread over this.
constexpr absl::Duration kFirstSpread = absl::Milliseconds(100);
// Later ones drift apart: each interval is 10 % longer or shorter.
constexpr double kJitter = 0.1;

bool Alive(Outcome outcome) {
  return outcome == Outcome::kPassed || outcome == Outcome::kRateLimited;
}

// Whether a result speaks for or against the state. A server that turns checks
// away is alive, which is enough to start with and no more.
bool Counts(Outcome outcome, State state) {
  if (outcome == Outcome::kRateLimited) return state == State::kStarting;
  return outcome != Outcome::kError;
}

}  // namespace

class Monitor::Checked {
 public:
  Checked(Monitor* monitor, uint32_t id, const Target& target, RiseFall state)
      : monitor_(monitor),
        id_(id),
        target_(target),
        state_(state),
        timer_(monitor->loop_, [this] { Check(); }) {
    const absl::Duration spread =
        std::min(kFirstSpread, target.health.interval);
    timer_.Set(spread * Random(0, 1));
  }

  const Target& target() const { return target_; }
  State state() const { return state_.state(); }

 private:
  double Random(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(monitor_->random_);
  }

  void Check() {
    // The interval runs from start to start, whatever the check takes.
    started_ns_ = MonotonicNs();
    check_ =
        StartCheck(monitor_->loop_, monitor_->farewells_,
                   {target_.endpoint, target_.health, false, target_.sources},
                   [this](const CheckResult& result) { Done(result); });
  }

  void Done(const CheckResult& result) {
    check_.reset();
    const absl::Duration spent = absl::Nanoseconds(MonotonicNs() - started_ns_);
    timer_.Set(target_.health.interval * Random(1 - kJitter, 1 + kJitter) -
               spent);
    const bool changed = Counts(result.outcome, state_.state()) &&
                         state_.OnResult(Alive(result.outcome));
    monitor_->on_result_(id_, result, state_.state(), changed);
  }

  Monitor* monitor_;
  const uint32_t id_;
  const Target target_;
  RiseFall state_;
  int64_t started_ns_ = 0;
  std::unique_ptr<health::Check> check_;
  Timer timer_;
};

Monitor::Monitor(EventLoop* loop, Farewells* farewells, OnResult on_result)
    : loop_(loop), farewells_(farewells), on_result_(std::move(on_result)) {}

Monitor::~Monitor() = default;

void Monitor::Put(uint32_t id, const Target& target, State remembered) {
  std::unique_ptr<Checked>& checked = targets_[id];
  if (checked != nullptr && checked->target() == target) return;
  const bool same_server =
      checked != nullptr && checked->target().endpoint == target.endpoint;
  const auto [rise, fall] = std::pair(target.health.rise, target.health.fall);
  const RiseFall state = same_server
                             ? RiseFall(rise, fall, checked->state())
                             : RiseFall::Remembered(rise, fall, remembered);
  checked = std::make_unique<Checked>(this, id, target, state);
}

void Monitor::Remove(uint32_t id) { targets_.erase(id); }

}  // namespace headgate::health
