#include "health/monitor.h"

#include <algorithm>

#include "health/group.h"

namespace headgate::health {
namespace {

// Those that are due within so long start together: the loop wakes up once for
// them. No more than kBatchSize have their turn at once.
constexpr absl::Duration kBatch = absl::Milliseconds(4);
constexpr int kBatchSize = 20;
// Between the starts of two checks, on average; with a batch besides it is less
// than 5,000 in any second.
constexpr absl::Duration kTurn = absl::Microseconds(201);
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

// When the next batch starts; sooner than kBatch for short intervals.
int64_t BatchAfter(int64_t due_ns, absl::Duration interval) {
  const int64_t batch_ns = std::max<int64_t>(
      absl::ToInt64Nanoseconds(std::min(kBatch, interval / 50)), 1);
  return (due_ns / batch_ns + 1) * batch_ns;
}

// The same for all targets that may share their checks.
Monitor::Target WithoutCounting(Monitor::Target target) {
  target.health.rise = 0;
  target.health.fall = 0;
  return target;
}

// What a target of a group is checked by, itself and its group.
Monitor::Target LightOf(Monitor::Target target) {
  target.health = LightCheck(target.health);
  target.group.clear();
  return target;
}
Monitor::Target DeepOf(Monitor::Target target) {
  target.endpoint.address = {};  // Any of its members'.
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
  const std::vector<uint32_t>& ids() const { return ids_; }

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
    if (check_ != nullptr) monitor_->leave_(std::move(check_));
    return true;
  }

  void CheckNow() {
    if (check_ == nullptr && !awaits_turn_) timer_.Set(absl::ZeroDuration());
  }

 private:
  bool deep() const { return !target_.group.empty(); }

  absl::Duration TakeTurn() {
    return deep() ? pace_.Take(MonotonicNs()) : monitor_->TakeTurn();
  }

  void OnTimer() {
    if (!awaits_turn_) {
      const absl::Duration wait = TakeTurn();
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
    CheckRequest request{target_.endpoint, target_.health, false,
                         target_.sources};
    if (deep() && !TakeNextMember(request.target)) {
      timer_.Set(UntilNext());
      return;
    }
    check_ = monitor_->start_(
        request, [this](const CheckResult& result) { Done(result); });
  }

  // False: no member can be reached.
  bool TakeNextMember(Endpoint& endpoint) {
    for (size_t i = 0; i < ids_.size(); ++i) {
      turn_ = (turn_ + 1) % ids_.size();
      const Checked& member = monitor_->targets_.at(ids_[turn_]);
      if (member.own.count.state() == State::kDown) continue;
      asked_ = ids_[turn_];
      endpoint = member.target.endpoint;
      return true;
    }
    return false;
  }

  void Done(const CheckResult& result) {
    check_.reset();
    if (deep() && !MetProcess(result)) {
      monitor_->CheckOwn(asked_);
    } else {
      const std::vector<uint32_t> ids = ids_;  // It may change meanwhile.
      for (const uint32_t id : ids) monitor_->Count(id, this, result);
    }
    // A newcomer has set the timer already.
    if (!ids_.empty() && !timer_.armed()) timer_.Set(UntilNext());
  }

  absl::Duration UntilNext() {
    absl::Duration interval = absl::InfiniteDuration();
    for (const uint32_t id : ids_) {
      const Track* track = TrackOf(monitor_->targets_.at(id), this);
      interval = std::min(interval, Interval(target_.health, track->count));
    }
    std::uniform_real_distribution<double> stretch(stretch_.first,
                                                   stretch_.second);
    stretch_ = kStretch;
    const int64_t due_ns =
        started_ns_ +
        absl::ToInt64Nanoseconds(interval * stretch(monitor_->random_));
    return absl::Nanoseconds(BatchAfter(due_ns, interval) - MonotonicNs());
  }

  Monitor* monitor_;
  const Target target_;
  std::vector<uint32_t> ids_;  // Of the targets.
  std::pair<double, double> stretch_ = kFirstStretch;
  bool awaits_turn_ = false;  // The timer is set to its turn.
  int64_t started_ns_ = 0;
  // Deep checks only.
  DeepPace pace_;
  size_t turn_ = 0;     // Of ids_, the last to be checked.
  uint32_t asked_ = 0;  // The id of that one.
  std::unique_ptr<health::Check> check_;
  Timer timer_;
};

Monitor::Monitor(EventLoop* loop, Start start, Leave leave, OnResult on_result)
    : loop_(loop),
      start_(std::move(start)),
      leave_(std::move(leave)),
      on_result_(std::move(on_result)) {}

Monitor::~Monitor() = default;

void Monitor::Put(uint32_t id, const Target& target, State remembered) {
  const auto found = targets_.find(id);
  const bool known = found != targets_.end();
  if (known && found->second.target == target) return;
  const bool same_server =
      known && found->second.target.endpoint == target.endpoint;
  const Checked before = known ? found->second : Checked{};
  const Checked after =
      same_server ? Keep(target, before) : Know(target, remembered);
  targets_.insert_or_assign(id, after);
  Move(id, before.own.series, after.own.series);
  Move(id, before.deep ? before.deep->series : nullptr,
       after.deep ? after.deep->series : nullptr);
}

// What is known of a new server. Its group may know more of it.
Monitor::Checked Monitor::Know(const Target& target, State remembered) {
  const RiseFall count =
      RiseFall::Remembered(target.health.rise, target.health.fall, remembered);
  if (target.group.empty()) {
    return {target, remembered, {SeriesFor(target), count}, std::nullopt};
  }
  Track deep{SeriesFor(DeepOf(target)), count};
  State state = remembered;
  if (!deep.series->ids().empty()) {
    const uint32_t peer = deep.series->ids().front();
    const State process = targets_.at(peer).deep->count.state();
    deep.count = RiseFall(target.health.rise, target.health.fall, process);
    if (process == State::kDown) state = State::kDown;
  }
  return {target, state, {SeriesFor(LightOf(target)), count}, deep};
}

// Another way to check a server that is known.
Monitor::Checked Monitor::Keep(const Target& target, const Checked& known) {
  const auto count = [&](State state) {
    return RiseFall(target.health.rise, target.health.fall, state);
  };
  if (target.group.empty()) {
    return {target,
            known.state,
            {SeriesFor(target), count(known.state)},
            std::nullopt};
  }
  const bool was_member = known.deep.has_value();
  const State own = was_member ? known.own.count.state() : known.state;
  const State process = was_member ? known.deep->count.state() : known.state;
  return {target,
          known.state,
          {SeriesFor(LightOf(target)), count(own)},
          Track{SeriesFor(DeepOf(target)), count(process)}};
}

void Monitor::Move(uint32_t id, Series* from, Series* to) {
  if (from == to) return;
  if (to != nullptr) to->Join(id);
  if (from != nullptr) Quit(id, from);
}

void Monitor::Remove(uint32_t id) {
  const auto found = targets_.find(id);
  if (found == targets_.end()) return;
  const Checked checked = found->second;
  targets_.erase(found);
  Quit(id, checked.own.series);
  if (checked.deep.has_value()) Quit(id, checked.deep->series);
}

void Monitor::RemoveAll() {
  while (!targets_.empty()) Remove(targets_.begin()->first);
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

void Monitor::Quit(uint32_t id, Series* series) {
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

Monitor::Track* Monitor::TrackOf(Checked& checked, const Series* series) {
  if (checked.own.series == series) return &checked.own;
  const bool deep = checked.deep.has_value() && checked.deep->series == series;
  return deep ? &*checked.deep : nullptr;
}

State Monitor::StateOf(const Checked& checked) {
  const State own = checked.own.count.state();
  if (!checked.deep.has_value()) return own;
  return MemberState(checked.state, own, checked.deep->count.state());
}

// Does nothing for a target that was removed, or left the series, since the
// check ended.
void Monitor::Count(uint32_t id, const Series* from,
                    const CheckResult& result) {
  const auto found = targets_.find(id);
  if (found == targets_.end()) return;
  Checked& checked = found->second;
  Track* const track = TrackOf(checked, from);
  if (track == nullptr) return;
  RiseFall& count = track->count;
  const bool alive = Alive(result.outcome);
  const bool doubted = count.in_transition();
  const bool turned =
      Counts(result.outcome, count.state()) && count.OnResult(alive);
  const State before = checked.state;
  checked.state = StateOf(checked);
  if (checked.deep.has_value() && track == &checked.own) {
    if (turned && alive) checked.deep->series->CheckNow();
    // The deep check's result says more, and stays.
    if (alive && !doubted && !turned) return;
  }
  on_result_(id, result, checked.state, checked.state != before);
}

// How long until a check may start; turns that nobody took are left for a
// batch.
absl::Duration Monitor::TakeTurn() {
  const int64_t now_ns = MonotonicNs();
  const int64_t turn_ns =
      std::max(now_ns - absl::ToInt64Nanoseconds((kBatchSize - 1) * kTurn),
               next_turn_ns_);
  next_turn_ns_ = turn_ns + absl::ToInt64Nanoseconds(kTurn);
  return std::max(absl::ZeroDuration(), absl::Nanoseconds(turn_ns - now_ns));
}

void Monitor::CheckNow(uint32_t id) {
  CheckOwn(id);
  const auto found = targets_.find(id);
  if (found == targets_.end() || !found->second.deep.has_value()) return;
  found->second.deep->series->CheckNow();
}

void Monitor::CheckOwn(uint32_t id) {
  const auto found = targets_.find(id);
  if (found != targets_.end()) found->second.own.series->CheckNow();
}

}  // namespace headgate::health
