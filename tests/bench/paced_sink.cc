#include "bench/paced_sink.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace headgate::bench {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(5);
// What a reader may catch up on: more would undo the slowness.
constexpr double kMaxSavedNs = 100e6;

}  // namespace

PacedSink::PacedSink(EventLoop* loop, const Plan& plan, ByteCounter* received)
    : bytes_per_ns_(static_cast<double>(plan.receive_rate) / 1e9 /
                    static_cast<double>(plan.connections)),
      received_(received),
      scratch_(kChunkBytes),
      last_tick_ns_(MonotonicNs()),
      timer_(loop, [this] { Tick(); }) {
  if (enabled()) timer_.Set(kTick);
}

void PacedSink::Tick() {
  timer_.Set(kTick);
  const int64_t now = MonotonicNs();
  const double earned =
      static_cast<double>(now - last_tick_ns_) * bytes_per_ns_;
  last_tick_ns_ = now;
  std::erase_if(readers_, [&](Reader& reader) {
    reader.allowance =
        std::min(reader.allowance + earned, kMaxSavedNs * bytes_per_ns_);
    return !Read(&reader);
  });
}

bool PacedSink::Read(Reader* reader) {
  while (reader->allowance >= 1) {
    const size_t want =
        std::min(scratch_.size(), static_cast<size_t>(reader->allowance));
    const ssize_t got = recv(reader->fd, scratch_.data(), want, 0);
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    reader->allowance -= static_cast<double>(got);
    *received_ += static_cast<uint64_t>(got);
  }
  return true;
}

}  // namespace headgate::bench
