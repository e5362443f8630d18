#include "net/event_loop.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>

#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "base/status.h"

namespace headgate {
namespace {

constexpr int kEventsPerRound = 256;
constexpr int64_t kNsPerMs = 1'000'000;

}  // namespace

int64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

absl::Time WallTime(int64_t monotonic_ns) {
  return absl::Now() + absl::Nanoseconds(monotonic_ns - MonotonicNs());
}

void Timer::Set(absl::Duration from_now) {
  deadline_ns_ = MonotonicNs() + absl::ToInt64Nanoseconds(
                                     std::max(from_now, absl::ZeroDuration()));
  if (!armed()) {
    loop_->timers_.push_back(this);
    position_ = loop_->timers_.size() - 1;
  }
  loop_->SiftUp(position_);
  loop_->SiftDown(position_);
}

Timer::~Timer() {
  Cancel();
  if (loop_->running_ == this) loop_->running_ = nullptr;
}

void Timer::Cancel() {
  if (armed()) loop_->EraseTimer(this);
}

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Make() {
  std::unique_ptr<EventLoop> loop(new EventLoop());
  loop->epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_.valid()) return ErrnoStatus(errno, "make epoll");
  loop->wakeup_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!loop->wakeup_.valid()) return ErrnoStatus(errno, "make eventfd");
  RETURN_IF_ERROR(loop->Add(loop->wakeup_.get(), EPOLLIN, nullptr));
  loop->now_ns_ = MonotonicNs();
  return loop;
}

EventLoop::~EventLoop() {
  // What is posted or doomed may own objects that use this loop's timers.
  posted_.clear();
  while (!doomed_.empty()) {
    auto doomed = std::move(doomed_);
    doomed_.clear();
  }
}

absl::Status EventLoop::Add(int fd, uint32_t events, IoHandler* handler) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = handler;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) {
    return absl::OkStatus();
  }
  return ErrnoStatus(errno, "watch descriptor");
}

absl::Status EventLoop::Modify(int fd, uint32_t events, IoHandler* handler) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = handler;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) == 0) {
    return absl::OkStatus();
  }
  return ErrnoStatus(errno, "change watch on descriptor");
}

void EventLoop::Remove(int fd, IoHandler* handler) {
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  DropEvents(handler);
}

void EventLoop::Close(UniqueFd fd, IoHandler* handler) {
  fd.reset();
  DropEvents(handler);
}

absl::Status EventLoop::HandOver(int fd, IoHandler* from, IoHandler* to,
                                 uint32_t events) {
  DropEvents(from);
  return Modify(fd, events, to);
}

// Those of this round that are still to be told.
void EventLoop::DropEvents(const IoHandler* handler) {
  for (int i = 0; i < round_size_; ++i) {
    if (round_[i].data.ptr == handler) round_[i].events = 0;
  }
}

void EventLoop::Post(absl::AnyInvocable<void()> work) {
  {
    std::lock_guard<std::mutex> lock(posted_mutex_);
    posted_.push_back(std::move(work));
  }
  const uint64_t one = 1;
  // Can only fail with EAGAIN, and then the loop is awake anyway.
  [[maybe_unused]] const ssize_t written =
      write(wakeup_.get(), &one, sizeof one);
}

void EventLoop::Stop() {
  stopping_ = true;
  Post([] {});
}

void EventLoop::RunPosted() {
  uint64_t ignored = 0;
  [[maybe_unused]] const ssize_t got =
      read(wakeup_.get(), &ignored, sizeof ignored);
  std::vector<absl::AnyInvocable<void()>> work;
  {
    std::lock_guard<std::mutex> lock(posted_mutex_);
    work.swap(posted_);
  }
  for (auto& item : work) item();
}

void EventLoop::RunDeferred() {
  std::vector<IoHandler*> round;
  round.swap(deferred_);
  for (IoHandler* handler : round) handler->OnIo(0);
}

void EventLoop::RunTimers() {
  while (!timers_.empty() && timers_.front()->deadline_ns_ <= now_ns_) {
    Timer* timer = timers_.front();
    EraseTimer(timer);
    // Moved out while it runs: it may destroy the timer.
    auto callback = std::move(timer->callback_);
    running_ = timer;
    callback();
    if (running_ == timer) timer->callback_ = std::move(callback);
    running_ = nullptr;
  }
}

int EventLoop::WaitMs() const {
  if (!deferred_.empty()) return 0;
  if (timers_.empty()) return -1;
  const int64_t ns = timers_.front()->deadline_ns_ - MonotonicNs();
  // Rounded up: waking early would spin until the deadline.
  const int64_t ms = ns <= 0 ? 0 : (ns + kNsPerMs - 1) / kNsPerMs;
  return static_cast<int>(std::min<int64_t>(ms, 3'600'000));
}

void EventLoop::Run() {
  std::array<epoll_event, kEventsPerRound> events{};
  do {
    const int count =
        epoll_wait(epoll_.get(), events.data(), kEventsPerRound, WaitMs());
    now_ns_ = MonotonicNs();
    round_ = events.data();
    round_size_ = std::max(count, 0);
    bool posted = false;
    for (const epoll_event& event :
         absl::MakeConstSpan(round_, static_cast<size_t>(round_size_))) {
      if (event.data.ptr == nullptr) {
        posted = true;
      } else if (event.events != 0) {
        static_cast<IoHandler*>(event.data.ptr)->OnIo(event.events);
      }
    }
    round_size_ = 0;
    if (posted) RunPosted();
    if (!deferred_.empty()) RunDeferred();
    RunTimers();
    // Destructors may doom more.
    while (!doomed_.empty()) {
      auto doomed = std::move(doomed_);
      doomed_.clear();
    }
  } while (!stopping_);
}

void EventLoop::Place(Timer* timer, size_t position) {
  timers_[position] = timer;
  timer->position_ = position;
}

void EventLoop::SiftUp(size_t position) {
  Timer* timer = timers_[position];
  while (position > 0) {
    const size_t parent = (position - 1) / 2;
    if (timers_[parent]->deadline_ns_ <= timer->deadline_ns_) break;
    Place(timers_[parent], position);
    position = parent;
  }
  Place(timer, position);
}

void EventLoop::SiftDown(size_t position) {
  Timer* timer = timers_[position];
  for (;;) {
    size_t child = 2 * position + 1;
    if (child >= timers_.size()) break;
    if (child + 1 < timers_.size() &&
        timers_[child + 1]->deadline_ns_ < timers_[child]->deadline_ns_) {
      ++child;
    }
    if (timer->deadline_ns_ <= timers_[child]->deadline_ns_) break;
    Place(timers_[child], position);
    position = child;
  }
  Place(timer, position);
}

void EventLoop::EraseTimer(Timer* timer) {
  const size_t position = timer->position_;
  timer->position_ = Timer::kUnarmed;
  Timer* last = timers_.back();
  timers_.pop_back();
  if (last == timer) return;
  Place(last, position);
  SiftUp(position);
  SiftDown(last->position_);
}

}  // namespace headgate
