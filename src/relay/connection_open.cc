// The part of Connection that is at work while both sides are connected.
#include <sys/epoll.h>

#include <algorithm>

#include "net/socket.h"
#include "relay/connection.h"

namespace headgate::relay {
namespace {

// A spliced source wakes its EPOLLIN waiters for every skb (skmsg.c,
// sk_psock_verdict_data_ready); passed bytes are told by the event ring.
constexpr uint32_t kSplicedSourceEvents =
    kAllEvents &
    ~(static_cast<uint32_t>(EPOLLIN) | static_cast<uint32_t>(EPOLLPRI));
// Connections that end before pay for no watch on their peers.
constexpr absl::Duration kWatchPeersAfter = absl::Seconds(2);
constexpr absl::Duration kDrainPollFirst = absl::Milliseconds(1);
constexpr absl::Duration kDrainPollMost = absl::Milliseconds(250);
// For what a peer had sent before its RST.
constexpr absl::Duration kResetGrace = absl::Seconds(2);

}  // namespace

void Connection::Opened() {
  state_ = State::kOpen;
  active_ns_ = host_->loop()->now_ns();
  SetIdleTimer(service_->config.idle_timeout);
  PumpBoth();
}

void Connection::PumpBoth() {
  if (state_ == State::kResetting) {
    FlushThenReset();
    return;
  }
  draining_ = false;
  in_.CloseFollows(out_.finished());
  if (!Act(in_)) return;
  out_.CloseFollows(in_.finished());
  if (!Act(out_)) return;
  if (!heard_) NoteFirstWord();
  if (in_.finished() && out_.finished()) {
    Close(false);
    return;
  }
  if (draining_ && drain_poll_ == absl::ZeroDuration()) {
    drain_poll_ = kDrainPollFirst;
    timer_.Set(drain_poll_);
  } else if (!draining_ && drain_poll_ > absl::ZeroDuration()) {
    drain_poll_ = absl::ZeroDuration();
    SetIdleTimer(service_->config.idle_timeout);
  }
  MaybePromote(in_, client_leg_, client_.get());
  MaybePromote(out_, backend_leg_, backend_.get());
}

// False: the connection is closed.
bool Connection::Act(Direction& direction) {
  switch (direction.Pump()) {
    case Direction::Outcome::kWait:
      return true;
    case Direction::Outcome::kMore:
      if (!deferred_) {
        deferred_ = true;
        host_->loop()->Defer(&deferred_leg_);
      }
      return true;
    case Direction::Outcome::kWaitDrain:
      draining_ = true;
      return true;
    case Direction::Outcome::kSourceReset:
      Failed(direction);
      return false;
    case Direction::Outcome::kSinkReset:
      Reset();
      return false;
  }
  return false;
}

// The source of `direction` is broken. What it had sent before goes on to the
// sink, as it would without us, and a RST follows.
void Connection::Failed(Direction& direction) {
  if (state_ == State::kResetting && last_words_ == &direction) return;
  if (state_ != State::kOpen) {
    Reset();
    return;
  }
  state_ = State::kResetting;
  last_words_ = &direction;
  last_words_->CloseFollows(false);
  reset_by_ns_ = MonotonicNs() + absl::ToInt64Nanoseconds(kResetGrace);
  drain_poll_ = kDrainPollFirst;
  FlushThenReset();
}

void Connection::FlushThenReset() {
  last_words_->SourceEnding();
  Direction::Outcome outcome = last_words_->Pump();
  while (outcome == Direction::Outcome::kMore) outcome = last_words_->Pump();
  if (!heard_) NoteFirstWord();
  const bool said =
      outcome == Direction::Outcome::kSourceReset && last_words_->Delivered();
  if (said || outcome == Direction::Outcome::kSinkReset ||
      MonotonicNs() >= reset_by_ns_) {
    Reset();
    return;
  }
  timer_.Set(drain_poll_);
}

// Only one direction of a connection is ever spliced: a socket that is both a
// source and a sink would queue passed bytes behind its own backlog, charged
// to nobody (skmsg.c, sk_psock_verdict_apply).
void Connection::MaybePromote(Direction& direction, Leg& source_leg,
                              int source_fd) {
  if (was_spliced_ || direction.bytes() < promote_at_bytes_) return;
  if (service_->config.datapath != config::Datapath::kSplice) return;
  fallback_ = host_->splice_obstacle();
  if (fallback_.has_value()) return;
  const config::Splice& splice = host_->splice();
  if (!direction.Promote(splice.backlog_per_connection_bytes,
                         splice.mode == config::SpliceMode::kAlways,
                         &fallback_)) {
    host_->context()->datapath->LogShortage(*fallback_);
    // What it moves may be of another kind the next time; else ask again when
    // as much has moved once more.
    if (fallback_ != HG_FALLBACK_BUSY && fallback_ != HG_FALLBACK_INTERACTIVE) {
      promote_at_bytes_ += direction.bytes();
    }
    return;
  }
  was_spliced_ = true;
  host_->SetFlowOwner(*direction.flow(), this);
  if (!host_->loop()
           ->Modify(source_fd, kSplicedSourceEvents, &source_leg)
           .ok()) {
    Reset();
    return;
  }
  PumpBoth();
}

void Connection::SpliceChanged(bool on) {
  in_.SetSplicing(on);
  out_.SetSplicing(on);
}

// Asked until the backend has said something or has ended.
void Connection::NoteFirstWord() {
  if (out_.bytes() > 0) {
    heard_ = true;
    datapath::CountGreeting(
        host_->context()->datapath->greeting_times(backend_id_),
        out_.last_active_ns() - dialled_ns_);
    return;
  }
  const bool reset = state_ == State::kResetting && last_words_ == &out_;
  if (!reset && !out_.finished()) return;
  heard_ = true;
  if (in_.finished()) return;  // The client has ended it.
  hg_backend_stats& stats = backend_stats();
  datapath::Add(reset ? stats.early_reset : stats.early_closed, 1);
}

// ---- silence ---------------------------------------------------------------

void Connection::OnTimerOpen() {
  drain_poll_ = std::min(drain_poll_ * 2, kDrainPollMost);
  if (state_ == State::kResetting) {
    FlushThenReset();
    return;
  }
  MaybeWatchPeers();
  if (draining_) {
    timer_.Set(drain_poll_);
    PumpBoth();
  }
  if (state_ == State::kOpen) CheckIdle();
}

int64_t Connection::last_active_ns() const {
  return std::max({active_ns_, in_.last_active_ns(), out_.last_active_ns()});
}

void Connection::SetIdleTimer(absl::Duration left) {
  timer_.Set(peers_watched_ ? left : std::min(left, kWatchPeersAfter));
}

void Connection::MaybeWatchPeers() {
  if (peers_watched_ || MonotonicNs() - started_ns_ <
                            absl::ToInt64Nanoseconds(kWatchPeersAfter)) {
    return;
  }
  peers_watched_ = true;
  for (const int fd : {client_.get(), backend_.get()}) {
    WatchPeer(fd, service_->config.dead_peer_timeout);
  }
}

// Ends the connection if it is idle, else sets the timer to when it may be.
void Connection::CheckIdle() {
  const absl::Duration idle = service_->config.idle_timeout;
  absl::Duration quiet = absl::Nanoseconds(MonotonicNs() - last_active_ns());
  if (quiet >= idle) {
    const bool delivered = in_.Delivered() && out_.Delivered();
    // Bytes on their way to a slow reader that takes some are no silence.
    const uint64_t progress = in_.SinkProgress() + out_.SinkProgress();
    if (delivered || progress == sink_progress_) {
      Close(!delivered);
      return;
    }
    sink_progress_ = progress;
    active_ns_ = MonotonicNs();
    quiet = absl::ZeroDuration();
  }
  if (!draining_) SetIdleTimer(idle - quiet);
}

void Connection::CountFallback() {
  if (was_spliced_ || active_ns_ == 0) return;  // Or never open.
  hg_fallback reason = fallback_.value_or(HG_FALLBACK_SHORT);
  if (service_->config.datapath == config::Datapath::kRelay) {
    reason = HG_FALLBACK_RELAY;
  }
  host_->context()->datapath->CountFallback(reason);
}

}  // namespace headgate::relay
