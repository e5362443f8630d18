// Pipes through which splice(2) moves pages from one socket to another. A
// direction holds one only while there are bytes in it. They are few, and what
// one may hold is reserved from the budget: who gets none copies instead.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <vector>

#include "base/unique_fd.h"
#include "datapath/splice.h"
#include "net/event_loop.h"

namespace headgate::relay {

struct Pipe {
  // What it is made for, if it may be; more than the default 64 KiB, because
  // every refill costs system calls.
  static constexpr int kBytes = 1 << 20;

  UniqueFd read_end;
  UniqueFd write_end;
  size_t held = 0;  // Bytes.
};

// One worker's; not shared between threads.
class PipePool {
 public:
  // At most so many at a time.
  PipePool(EventLoop* loop, size_t most, datapath::SpliceBudget* budget)
      : most_(most), budget_(budget), trim_(loop, [this] { Trim(); }) {}

  // Null: none is left, or no descriptors, or no budget.
  std::unique_ptr<Pipe> Take() {
    if (free_.empty()) return made_ < most_ ? Make() : nullptr;
    std::unique_ptr<Pipe> pipe = std::move(free_.back());
    free_.pop_back();
    unused_ = std::min(unused_, free_.size());
    return pipe;
  }
  // One that still holds bytes is thrown away with them.
  void Return(std::unique_ptr<Pipe> pipe) {
    if (pipe->held > 0) {
      Unmake(1);
      return;
    }
    free_.push_back(std::move(pipe));
    if (!trim_.armed()) trim_.Set(kTrimAfter);
  }

 private:
  static constexpr absl::Duration kTrimAfter = absl::Seconds(1);

  std::unique_ptr<Pipe> Make() {
    if (!budget_->Reserve(Pipe::kBytes)) return nullptr;
    ++made_;
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC) != 0) {
      Unmake(1);
      return nullptr;
    }
    fcntl(ends[1], F_SETPIPE_SZ, Pipe::kBytes);
    auto pipe = std::make_unique<Pipe>();
    pipe->read_end.reset(ends[0]);
    pipe->write_end.reset(ends[1]);
    return pipe;
  }

  void Unmake(size_t pipes) {
    made_ -= pipes;
    budget_->Return(pipes * Pipe::kBytes);
  }

  // Closes those that nobody has wanted for a while.
  void Trim() {
    Unmake(unused_);
    free_.resize(free_.size() - unused_);
    unused_ = free_.size();
    if (!free_.empty()) trim_.Set(kTrimAfter);
  }

  const size_t most_;
  datapath::SpliceBudget* budget_;
  size_t made_ = 0;
  std::vector<std::unique_ptr<Pipe>> free_;
  size_t unused_ = 0;  // Free all the time since the last Trim().
  Timer trim_;
};

}  // namespace headgate::relay
