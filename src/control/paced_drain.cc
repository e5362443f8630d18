#include "control/paced_drain.h"

#include <algorithm>

namespace headgate::control {
namespace {

// Several connections at once from here on: no more than a hundred rounds a
// second.
constexpr absl::Duration kShortest = absl::Milliseconds(10);
// Connections may end, or finish connecting, meanwhile.
constexpr absl::Duration kLongest = absl::Seconds(1);
// Who has been idle the longest changes.
constexpr int64_t kIdleOrderHoldsNs = 5'000'000'000;

}  // namespace

PacedDrain::PacedDrain(EventLoop* loop, const Workers* workers,
                       const datapath::Datapath* datapath, uint32_t backend,
                       const Pace& pace)
    : workers_(workers),
      datapath_(datapath),
      backend_(backend),
      order_(pace.order),
      pacer_(MonotonicNs(), absl::ToInt64Nanoseconds(pace.over)),
      timer_(loop, [this] { Tick(); }) {
  timer_.Set(kShortest);
}

std::optional<DrainProgress> PacedDrain::progress() const {
  if (over_) return std::nullopt;
  return DrainProgress{Left(), pacer_.end_ns()};
}

uint64_t PacedDrain::Left() const {
  return datapath::Read(datapath_->backend_stats(backend_).connections_active);
}

void PacedDrain::Tick() {
  Close(pacer_.Due(MonotonicNs(), Left()));
  const int64_t now = MonotonicNs();
  const uint64_t left = Left();
  over_ = left == 0 && now >= pacer_.end_ns();
  if (over_) return;
  timer_.Set(std::clamp(absl::Nanoseconds(pacer_.NextNs(left) - now), kShortest,
                        kLongest));
}

void PacedDrain::Close(size_t count) {
  if (count == 0) return;
  const bool outdated = order_ == Pace::Order::kIdle &&
                        MonotonicNs() - found_ns_ > kIdleOrderHoldsNs;
  if (victims_.empty() || outdated) FindVictims();
  while (count > 0 && !victims_.empty()) {
    const uint64_t id = victims_.back();
    victims_.pop_back();
    // It may be gone, or have failed to connect and be with another backend.
    const auto& worker = (*workers_)[relay::Worker::IndexOf(id)];
    if (worker->Kill(id, backend_)) --count;
  }
}

void PacedDrain::FindVictims() {
  std::vector<std::pair<int64_t, uint64_t>> found;
  for (const auto& worker : *workers_) {
    for (const relay::ConnectionInfo& info : worker->Connections()) {
      if (info.backend != backend_) continue;
      found.emplace_back(
          order_ == Pace::Order::kOldest ? info.started_ns : info.active_ns,
          info.id);
    }
  }
  // The next victim is the last one.
  std::sort(found.rbegin(), found.rend());
  victims_.clear();
  for (const auto& [time, id] : found) victims_.push_back(id);
  found_ns_ = MonotonicNs();
}

}  // namespace headgate::control
