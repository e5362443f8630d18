#include "health/monitor.h"

#include <algorithm>

namespace headgate::health {
namespace {

// Between the starts of two checks.
constexpr absl::Duration kTurn = absl::Microseconds(200);
// What an interval is multiplied by, at random between the two. The first one
// takes a wave of new targets apart; later ones drift.
constexpr std::pair kFirstStretch(0.0, 1.0);
constexpr std::pair kStretch(0.9, 1.1);

bool Alive(Outcome outcome) {
  return outcome == Outcome::kPassed || outcome == Outcome::kRateLimited;
}

// Whether a result speaks for or against the state. A server that turns checks
// away is alive, which is enough to start with and no more.
bool Counts(Outcome outcome, State state) {
  if (outcome == Outcome::kRateLimited) return state == State::kStarting;
  return outcome != Outcome::kError;
}

absl::Duration Interval(const config::Health& health, const RiseFall& state) {
  if (state.in_transition()) return *health.fast_interval;
  return state.state() == State::kDown ? *health.down_interval
                                       : health.interval;
}

// The same for all targets that may share their checks.
Monitor::Target WithoutCounting(Monitor::Target target) {
  target.health.rise = 0;
  target.health.fall = 0;
  return target;
}

}  // namespace

// The checks that some targets share.
class Monitor::Series final : public LoopOwned {
 public:
  Series(Monitor* monitor, Target target)
      : monitor_(monitor),
        target_(std::move(target)),
        timer_(monitor->loop_, [this] { OnTimer(); }) {}

  const Target& target() const { return target_; }

  // The newcomer has its first result soon, and the others with it.
  void Join(uint32_t id) {
    ids_.push_back(id);
    CheckNow();
  }

  // True: that was the last one, and no check comes any more.
  bool Leave(uint32_t id) {
    ids_.erase(std::find(ids_.begin(), ids_.end(), id));
    if (!ids_.empty()) return false;
    timer_.Cancel();
    check_.reset();
    return true;
  }

  void CheckNow() {
    if (check_ == nullptr && !awaits_turn_) timer_.Set(absl::ZeroDuration());
  }

 private:
  void OnTimer() {
    if (!awaits_turn_) {
      const absl::Duration wait = monitor_->TakeTurn();
      awaits_turn_ = wait > absl::ZeroDuration();
      if (awaits_turn_) {
        timer_.Set(wait);
        return;
      }
    }
    awaits_turn_ = false;
    Check();
  }

  void Check() {
    // The interval runs from start to start, whatever the check takes.
    started_ns_ = MonotonicNs();
    check_ = monitor_->start_(
        {target_.endpoint, target_.health, false, target_.sources},
        [this](const CheckResult& result) { Done(result); });
  }

  void Done(const CheckResult& result) {
    check_.reset();
    const std::vector<uint32_t> ids = ids_;  // It may change meanwhile.
    for (const uint32_t id : ids) monitor_->Count(id, this, result);
    // A newcomer has set the timer already.
    if (!ids_.empty() && !timer_.armed()) timer_.Set(UntilNext());
  }

  absl::Duration UntilNext() {
    absl::Duration interval = absl::InfiniteDuration();
    for (const uint32_t id : ids_) {
      interval = std::min(
          interval, Interval(target_.health, monitor_->targets_.at(id).state));
    }
    std::uniform_real_distribution<double> stretch(stretch_.first,
                                                   stretch_.second);
    stretch_ = kStretch;
    return interval * stretch(monitor_->random_) -
           absl::Nanoseconds(MonotonicNs() - started_ns_);
  }

  Monitor* monitor_;
  const Target target_;
  std::vector<uint32_t> ids_;  // Of the targets.
  std::pair<double, double> stretch_ = kFirstStretch;
  bool awaits_turn_ = false;  // The timer is set to its turn.
  int64_t started_ns_ = 0;
  std::unique_ptr<health::Check> check_;
  Timer timer_;
};

Monitor::Monitor(EventLoop* loop, Start start, OnResult on_result)
    : loop_(loop), start_(std::move(start)), on_result_(std::move(on_result)) {}

Monitor::~Monitor() = default;

void Monitor::Put(uint32_t id, const Target& target, State remembered) {
  const auto found = targets_.find(id);
  const bool known = found != targets_.end();
  if (known && found->second.target == target) return;
  const bool same_server =
      known && found->second.target.endpoint == target.endpoint;
  const auto [rise, fall] = std::pair(target.health.rise, target.health.fall);
  const RiseFall state = same_server
                             ? RiseFall(rise, fall, found->second.state.state())
                             : RiseFall::Remembered(rise, fall, remembered);
  Series* const before = known ? found->second.series : nullptr;
  Series* const series = SeriesFor(target);
  targets_.insert_or_assign(id, Checked{target, state, series});
  if (series == before) return;
  series->Join(id);
  if (before != nullptr) Leave(id, before);
}

void Monitor::Remove(uint32_t id) {
  const auto found = targets_.find(id);
  if (found == targets_.end()) return;
  Series* const series = found->second.series;
  targets_.erase(found);
  Leave(id, series);
}

Monitor::Series* Monitor::SeriesFor(const Target& target) {
  Target shared = WithoutCounting(target);
  auto& alike = series_[target.endpoint];
  for (const auto& series : alike) {
    if (series->target() == shared) return series.get();
  }
  alike.push_back(std::make_unique<Series>(this, std::move(shared)));
  return alike.back().get();
}

void Monitor::Leave(uint32_t id, Series* series) {
  if (!series->Leave(id)) return;
  const auto found = series_.find(series->target().endpoint);
  auto& alike = found->second;
  const auto it =
      std::find_if(alike.begin(), alike.end(),
                   [series](const auto& s) { return s.get() == series; });
  loop_->DestroyLater(std::move(*it));  // It may be telling a result.
  alike.erase(it);
  if (alike.empty()) series_.erase(found);
}

// Does nothing for a target that was removed, or left the series, since the
// check ended.
void Monitor::Count(uint32_t id, const Series* from,
                    const CheckResult& result) {
  const auto found = targets_.find(id);
  if (found == targets_.end() || found->second.series != from) return;
  RiseFall& state = found->second.state;
  const bool changed = Counts(result.outcome, state.state()) &&
                       state.OnResult(Alive(result.outcome));
  on_result_(id, result, state.state(), changed);
}

// How long until a check may start; the moment is the caller's alone.
absl::Duration Monitor::TakeTurn() {
  const int64_t now_ns = MonotonicNs();
  const int64_t turn_ns = std::max(now_ns, next_turn_ns_);
  next_turn_ns_ = turn_ns + absl::ToInt64Nanoseconds(kTurn);
  return absl::Nanoseconds(turn_ns - now_ns);
}

void Monitor::CheckNow(uint32_t id) {
  const auto found = targets_.find(id);
  if (found != targets_.end()) found->second.series->CheckNow();
}

}  // namespace headgate::health
