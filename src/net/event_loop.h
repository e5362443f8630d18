// One thread's event loop: file descriptors (epoll), timers, work posted by
// other threads. Everything but Post() and Stop() belongs to the loop's
// thread.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace headgate {

// CLOCK_MONOTONIC, nanoseconds; the clock of bpf_ktime_get_ns() too.
int64_t MonotonicNs();
// What the wall clock, as it is set now, says of a moment of MonotonicNs(). It
// may be set at any time: to be shown, never to decide by or to be kept.
absl::Time WallTime(int64_t monotonic_ns);

class IoHandler {
 public:
  // `events` as of epoll_wait. May close descriptors and destroy anything but
  // handlers themselves; those go through EventLoop::DestroyLater.
  virtual void OnIo(uint32_t events) = 0;

 protected:
  ~IoHandler() = default;
};

// What DestroyLater takes.
class LoopOwned {
 public:
  virtual ~LoopOwned() = default;
};

class EventLoop;

// A one-shot timer. Cancelled by its destructor; never fires early.
class Timer {
 public:
  Timer(EventLoop* loop, absl::AnyInvocable<void()> callback)
      : loop_(loop), callback_(std::move(callback)) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer();

  // Replaces an earlier setting. The callback may set or destroy the timer.
  void Set(absl::Duration from_now);
  void Cancel();
  bool armed() const { return position_ != kUnarmed; }

 private:
  friend class EventLoop;
  static constexpr size_t kUnarmed = SIZE_MAX;

  EventLoop* loop_;
  absl::AnyInvocable<void()> callback_;
  int64_t deadline_ns_ = 0;
  size_t position_ = kUnarmed;  // In the loop's heap.
};

class EventLoop {
 public:
  static absl::StatusOr<std::unique_ptr<EventLoop>> Make();
  ~EventLoop();

  // epoll_ctl; the handler must stay until Remove, or until the descriptor is
  // closed, and then until the end of the round (DestroyLater).
  absl::Status Add(int fd, uint32_t events, IoHandler* handler);
  absl::Status Modify(int fd, uint32_t events, IoHandler* handler);
  // No event for the handler comes any more, not even from this round.
  void Remove(int fd, IoHandler* handler);
  // Remove() and close() in one: epoll forgets what is closed by itself. `fd`
  // was not duplicated.
  void Close(UniqueFd fd, IoHandler* handler);
  // Modify(), and it is `to` that hears of it from now on, `from` no more.
  absl::Status HandOver(int fd, IoHandler* from, IoHandler* to,
                        uint32_t events);

  // Runs `handler->OnIo(0)` in the next round; at most once per Defer.
  void Defer(IoHandler* handler) { deferred_.push_back(handler); }
  void DestroyLater(std::unique_ptr<LoopOwned> object) {
    doomed_.push_back(std::move(object));
  }

  // Any thread. Runs `work` in the loop, in order; behind a Stop it may be
  // dropped.
  void Post(absl::AnyInvocable<void()> work);
  // Any thread. Run returns after the current round.
  void Stop();

  void Run();
  // Time at the start of this round.
  int64_t now_ns() const { return now_ns_; }

 private:
  friend class Timer;

  EventLoop() = default;
  void DropEvents(const IoHandler* handler);
  void RunPosted();
  void RunDeferred();
  void RunTimers();
  int WaitMs() const;
  void SiftUp(size_t position);
  void SiftDown(size_t position);
  void Place(Timer* timer, size_t position);
  void EraseTimer(Timer* timer);

  UniqueFd epoll_;
  UniqueFd wakeup_;
  int64_t now_ns_ = 0;
  epoll_event* round_ = nullptr;  // The events of this round.
  int round_size_ = 0;
  std::vector<Timer*> timers_;  // A binary heap by deadline.
  Timer* running_ = nullptr;    // Whose callback runs; null: it is destroyed.
  std::vector<IoHandler*> deferred_;
  std::vector<std::unique_ptr<LoopOwned>> doomed_;
  std::atomic<bool> stopping_{false};
  std::mutex posted_mutex_;  // Guards posted_.
  std::vector<absl::AnyInvocable<void()>> posted_;
};

}  // namespace headgate
