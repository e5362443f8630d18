#include "relay/queue.h"

#include <utility>

#include "datapath/datapath.h"

namespace headgate::relay {

void Queue::SetLimits(uint64_t max, uint64_t size) {
  std::lock_guard<std::mutex> lock(mutex_);
  max_ = max;
  size_ = size;
  AdmitLocked();
}

Queue::Entry Queue::Enter(absl::AnyInvocable<void()> admitted, Ticket* ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++waiting_;  // Before the look at the room, see LookForRoom().
  std::atomic_thread_fence(std::memory_order_seq_cst);
  *ticket = next_++;
  if (waiters_.empty() && TakeRoom()) {
    --waiting_;
    return Entry::kAdmitted;
  }
  if (waiters_.size() >= size_) {
    --waiting_;
    return Entry::kFull;
  }
  AddWaiter(*ticket, std::move(admitted));
  return Entry::kWaits;
}

bool Queue::Return(Ticket ticket, bool has_waited,
                   absl::AnyInvocable<void()> admitted) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!has_waited && waiters_.size() >= size_) return false;
  ++waiting_;
  backends_full_ = true;
  AddWaiter(ticket, std::move(admitted));
  datapath::Subtract(stats_->connections_active, 1);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return true;
}

void Queue::AddWaiter(Ticket ticket, absl::AnyInvocable<void()> admitted) {
  waiters_.emplace(ticket, std::move(admitted));
  datapath::Add(stats_->queue_active, 1);
}

bool Queue::Cancel(Ticket ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (waiters_.erase(ticket) == 0) return false;
  --waiting_;
  backends_full_ &= !waiters_.empty();
  datapath::Subtract(stats_->queue_active, 1);
  return true;
}

void Queue::GiveBack() {
  datapath::Subtract(stats_->connections_active, 1);
  LookForRoom();
}

void Queue::Admit() {
  std::lock_guard<std::mutex> lock(mutex_);
  AdmitLocked();
}

void Queue::AdmitLocked() {
  while (!waiters_.empty() && TakeRoom()) {
    const auto first = waiters_.begin();
    --waiting_;
    datapath::Subtract(stats_->queue_active, 1);
    first->second();
    waiters_.erase(first);
    if (backends_full_) break;
  }
  backends_full_ &= !waiters_.empty();
}

// Only the holder of the lock adds connections, so the limit is never passed.
bool Queue::TakeRoom() {
  if (max_ != 0 && datapath::Read(stats_->connections_active) >= max_) {
    return false;
  }
  datapath::Add(stats_->connections_active, 1);
  return true;
}

}  // namespace headgate::relay
