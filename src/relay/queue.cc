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

Queue::Entry Queue::Enter(Admitted admitted, Ticket* ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++waiting_;  // Before the look at the room, see LookForRoom().
  std::atomic_thread_fence(std::memory_order_seq_cst);
  *ticket = next_++;
  if (waiters_.empty() && !looking_.has_value() && TakeRoom()) {
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

bool Queue::Return(Ticket ticket, bool has_waited, Admitted admitted) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!has_waited && waiters_.size() >= size_) return false;
  ++waiting_;
  backends_full_ = true;
  if (looking_ == ticket) looking_.reset();
  AddWaiter(ticket, std::move(admitted));
  datapath::RemoveOwn(*stats_);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return true;
}

void Queue::FoundRoom(Ticket ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (looking_ == ticket) looking_.reset();
  AdmitLocked();
}

void Queue::GiveBack(Ticket ticket) {
  datapath::RemoveOwn(*stats_);
  FoundRoom(ticket);
}

void Queue::AddWaiter(Ticket ticket, Admitted admitted) {
  waiters_.emplace(ticket, std::move(admitted));
  datapath::Add(stats_->queue_active, 1);
}

bool Queue::Cancel(Ticket ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (waiters_.erase(ticket) == 0) return false;
  --waiting_;
  NoteWhoIsLeft();
  datapath::Subtract(stats_->queue_active, 1);
  return true;
}

void Queue::Admit() {
  std::lock_guard<std::mutex> lock(mutex_);
  AdmitLocked();
}

void Queue::AdmitLocked() {
  while (!waiters_.empty() && !looking_.has_value() && TakeRoom()) {
    auto first = waiters_.extract(waiters_.begin());
    --waiting_;
    datapath::Subtract(stats_->queue_active, 1);
    if (backends_full_) looking_ = first.key();
    first.mapped()(first.key());
  }
  NoteWhoIsLeft();
}

void Queue::NoteWhoIsLeft() {
  backends_full_ &= !waiters_.empty() || looking_.has_value();
}

// Only the holder of the lock adds connections, so the limit is never passed.
bool Queue::TakeRoom() {
  if (max_ != 0 && datapath::Read(stats_->connections_active) >= max_) {
    return false;
  }
  datapath::AddOwn(*stats_);
  return true;
}

}  // namespace headgate::relay
