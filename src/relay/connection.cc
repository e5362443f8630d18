#include "relay/connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "base/status.h"
#include "net/socket.h"
#include "proxyproto/encode.h"

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

static_assert(proxyproto::Header::kCapacity <= Direction::kFirstBytes);

void NoteReadable(Direction& direction, uint32_t events) {
  if (Any(events, EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
    direction.SourceEnding();
  } else if (Any(events, EPOLLIN)) {
    direction.SourceReadable();
  }
}

// Connections that move little never pay for a place in the sockmap.
uint64_t PromoteAfter(const config::Splice& splice) {
  return splice.mode == config::SpliceMode::kAlways
             ? 1
             : std::max<uint64_t>(splice.promote_after_bytes, 1);
}

proxyproto::Header MakeHeader(config::ProxyProtocol version,
                              const Endpoint& source,
                              const Endpoint& destination) {
  return version == config::ProxyProtocol::kV1
             ? proxyproto::EncodeV1(source, destination)
             : proxyproto::EncodeV2(source, destination);
}

}  // namespace

Connection::Connection(ConnectionHost* host, uint64_t id, ServicePtr service,
                       UniqueFd client, const Endpoint& source,
                       const Endpoint& destination)
    : host_(host),
      id_(id),
      service_(std::move(service)),
      source_(source),
      destination_(destination),
      client_(std::move(client)),
      timer_(host->loop(), [this] { OnTimer(); }),
      dial_(host, this, service_.get(), &backend_leg_, &timer_),
      in_(host->context(), service_->id, false),
      out_(host->context(), service_->id, true),
      promote_at_bytes_(PromoteAfter(host->splice())),
      started_ns_(host->loop()->now_ns()) {
  hg_service_stats& stats =
      host_->context()->datapath->service_stats(service_->id);
  datapath::Add(stats.connections_total, 1);
  datapath::Add(stats.connections_active, 1);
}

void Connection::Start() {
  if (!host_->loop()->Add(client_.get(), kAllEvents, &client_leg_).ok()) {
    Reset();
    return;
  }
  dial_.Next();
}

// ---- connecting -----------------------------------------------------------

// At once and whole: receivers peek once, and servers that speak first wait
// for it (Postfix, Dovecot, HAProxy, nginx all reset on a split).
int Connection::SendHeader(int socket) {
  in_.Open(client_.get(), socket);
  const config::ProxyProtocol version = service_->config.proxy_protocol;
  if (version == config::ProxyProtocol::kNone) return TakeSocketError(socket);
  return in_.SendFirst(MakeHeader(version, source_, destination_).bytes());
}

void Connection::OnDialled(Dialled dialled) {
  backend_ = std::move(dialled.socket);
  backend_id_ = dialled.backend;
  out_.Open(backend_.get(), client_.get());
  NoteReadable(out_, dialled.events);
  Opened();
}

void Connection::OnNobodyLeft() {
  datapath::Add(
      host_->context()->datapath->service_stats(service_->id).no_backend, 1);
  Reset();
}

void Connection::Opened() {
  state_ = State::kOpen;
  active_ns_ = host_->loop()->now_ns();
  hg_backend_stats& stats =
      host_->context()->datapath->backend_stats(backend_id_);
  datapath::Add(stats.connections_total, 1);
  SetIdleTimer(service_->config.idle_timeout);
  PumpBoth();
}

// ---- events ---------------------------------------------------------------

void Connection::OnClient(uint32_t events) {
  if (state_ == State::kClosed) return;
  if (Any(events, EPOLLERR)) {  // RST, or the network has given up.
    Failed(in_);
    return;
  }
  NoteReadable(in_, events);
  if (Any(events, EPOLLOUT | EPOLLHUP)) out_.SinkWritable();
  if (state_ != State::kConnecting) PumpBoth();
}

void Connection::OnBackend(uint32_t events) {
  if (state_ == State::kClosed) return;
  if (state_ == State::kConnecting) {
    dial_.OnIo(events);
    return;
  }
  if (Any(events, EPOLLERR)) {
    Failed(out_);
    return;
  }
  NoteReadable(out_, events);
  if (Any(events, EPOLLOUT | EPOLLHUP)) in_.SinkWritable();
  PumpBoth();
}

void Connection::OnSpliceEvent() {
  if (state_ == State::kClosed) return;
  (in_.spliced() ? in_ : out_).SourceReadable();
  PumpBoth();
}

void Connection::OnDeferred(uint32_t) {
  deferred_ = false;
  if (state_ == State::kClosed) {
    host_->Closed(this);
    return;
  }
  PumpBoth();
}

void Connection::OnTimer() {
  if (state_ == State::kConnecting) {
    dial_.OnTimer();
    return;
  }
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

// ---- moving bytes ---------------------------------------------------------

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

// ---- the end --------------------------------------------------------------

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

void Connection::Reset() { Close(true); }

void Connection::Close(bool reset) {
  if (state_ == State::kClosed) return;
  datapath::Datapath* datapath = host_->context()->datapath;
  CountFallback();
  datapath::Subtract(datapath->service_stats(service_->id).connections_active,
                     1);
  dial_.Abandon();
  if (backend_id_ != 0) {
    datapath::Subtract(datapath->backend_stats(backend_id_).connections_active,
                       1);
    backend_id_ = 0;
  }
  state_ = State::kClosed;
  timer_.Cancel();
  if (reset) {
    ResetOnClose(client_.get());
    if (backend_.valid()) ResetOnClose(backend_.get());
  }
  for (Direction* direction : {&in_, &out_}) {
    if (direction->spliced()) {
      host_->SetFlowOwner(*direction->flow(), nullptr);
    }
  }
  client_.reset();
  backend_.reset();
  in_.Release();
  out_.Release();
  if (!deferred_) host_->Closed(this);  // Else OnDeferred does.
}

void Connection::CountFallback() {
  if (was_spliced_ || state_ == State::kConnecting) return;
  hg_fallback reason = fallback_.value_or(HG_FALLBACK_SHORT);
  if (service_->config.datapath == config::Datapath::kRelay) {
    reason = HG_FALLBACK_RELAY;
  }
  host_->context()->datapath->CountFallback(reason);
}

ConnectionInfo Connection::Info() const {
  ConnectionInfo info;
  info.id = id_;
  info.service = service_->id;
  info.backend = backend_id_;
  info.client = source_;
  info.spliced = in_.kernel_carries() || out_.kernel_carries();
  const int64_t now = MonotonicNs();
  info.age_ns = now - started_ns_;
  info.idle_ns =
      now - (state_ == State::kConnecting ? started_ns_ : last_active_ns());
  info.bytes_in = in_.bytes();
  info.bytes_out = out_.bytes();
  return info;
}

}  // namespace headgate::relay
