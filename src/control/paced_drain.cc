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
                       PacketServices* packet,
                       const datapath::Datapath* datapath, uint32_t backend,
                       const Pace& pace)
    : workers_(workers),
      packet_(packet),
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
  const bool nobody = !Close(pacer_.Due(MonotonicNs(), Left()));
  const int64_t now = MonotonicNs();
  const uint64_t left = Left();
  over_ = left == 0 && now >= pacer_.end_ns();
  if (over_) return;
  // Those who are due and cannot be found yet are not looked for all the time.
  timer_.Set(nobody ? kLongest
                    : std::clamp(absl::Nanoseconds(pacer_.NextNs(left) - now),
                                 kShortest, kLongest));
}

// False: nobody could be found.
bool PacedDrain::Close(size_t count) {
  if (count == 0) return true;
  const bool outdated = order_ == Pace::Order::kIdle &&
                        MonotonicNs() - found_ns_ > kIdleOrderHoldsNs;
  if (victims_.empty() || outdated) FindVictims();
  const bool found = !victims_.empty();
  while (count > 0 && !victims_.empty()) {
    const uint64_t id = victims_.back();
    victims_.pop_back();
    if (Kill(id)) --count;
  }
  return found;
}

// It may be gone, or have failed to connect and be with another backend.
bool PacedDrain::Kill(uint64_t connection) {
  if (PacketServices::IsFlow(connection)) return packet_->Kill(connection);
  const auto& worker = (*workers_)[relay::Worker::IndexOf(connection)];
  return worker->Kill(connection, backend_);
}

void PacedDrain::FindVictims() {
  std::vector<std::pair<int64_t, uint64_t>> found;
  const auto add = [&](const auto& connection) {
    found.emplace_back(order_ == Pace::Order::kOldest ? connection.started_ns
                                                      : connection.active_ns,
                       connection.id);
  };
  for (const auto& worker : *workers_) {
    for (const relay::ConnectionInfo& info : worker->Connections()) {
      if (info.backend == backend_) add(info);
    }
  }
  for (const auto& flow : packet_->ConnectionsTo(backend_)) add(flow);
  // The next victim is the last one.
  std::sort(found.rbegin(), found.rend());
  victims_.clear();
  for (const auto& [time, id] : found) victims_.push_back(id);
  found_ns_ = MonotonicNs();
}

}  // namespace headgate::control
