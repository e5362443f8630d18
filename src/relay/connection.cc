#include "relay/connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "net/socket.h"
#include "proxyproto/encode.h"

namespace headgate::relay {
namespace {

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
      dial_(host, this, service_.get(), source_, &backend_leg_, &timer_),
      in_(host->context(), service_->id, false),
      out_(host->context(), service_->id, true),
      promote_at_bytes_(PromoteAfter(host->splice())),
      started_ns_(host->loop()->now_ns()) {
  datapath::Add(service_stats().connections_total, 1);
}

hg_service_stats& Connection::service_stats() const {
  return host_->context()->datapath->service_stats(service_->id);
}

hg_backend_stats& Connection::backend_stats() const {
  return host_->context()->datapath->backend_stats(backend_id_);
}

void Connection::Start() {
  if (!host_->loop()->Add(client_.get(), kAllEvents, &client_leg_).ok()) {
    Reset();
    return;
  }
  if (service_->config.queue.has_value()) {
    EnterQueue();
    return;
  }
  datapath::AddOwn(service_stats());
  Admit();
}

void Connection::EnterQueue() {
  switch (service_->queue->Enter(AdmissionLater(), &ticket_)) {
    case Queue::Entry::kAdmitted:
      Admit();
      return;
    case Queue::Entry::kWaits:
      Wait();
      return;
    case Queue::Entry::kFull:
      datapath::Add(service_stats().queue_full, 1);
      TurnAway();
      return;
  }
}

// Admitted, with nobody to give it to who has room.
void Connection::ReturnToQueue() {
  if (!service_->queue->Return(ticket_, has_waited_, AdmissionLater())) {
    datapath::Add(service_stats().queue_full, 1);
    TurnAway();
    return;
  }
  admitted_ = false;
  Wait();
  if (!dial_.AllAreFull()) service_->queue->LookForRoom();
}

Queue::Admitted Connection::AdmissionLater() {
  return
      [host = host_, id = id_, queue = service_->queue](Queue::Ticket ticket) {
        host->loop()->Post([host, id, queue, ticket] {
          if (!host->Admitted(id)) queue->GiveBack(ticket);
        });
      };
}

void Connection::Wait() {
  state_ = State::kQueued;
  has_waited_ = true;
  timer_.Set(service_->config.queue->timeout -
             absl::Nanoseconds(MonotonicNs() - started_ns_));
}

bool Connection::OnAdmitted() {
  if (state_ != State::kQueued) return false;
  timer_.Cancel();
  Admit();
  return true;
}

// It is counted as active.
void Connection::Admit() {
  admitted_ = true;
  state_ = State::kConnecting;
  dial_.Next();
  // Where it has found room there may be more.
  if (has_waited_ && state_ != State::kQueued) {
    service_->queue->FoundRoom(ticket_);
  }
}

// ---- connecting -----------------------------------------------------------

// At once and whole: receivers peek once, and servers that speak first wait
// for it (Postfix, Dovecot, HAProxy, nginx all reset on a split).
int Connection::SendHeader(int socket) {
  in_.Open(client_.get(), socket);
  const config::ProxyProtocol version = service_->config.proxy_protocol;
  if (version == config::ProxyProtocol::kNone) return TakeSocketError(socket);
  return in_.SendFirst(MakeHeader(version, source_, destination_).bytes(),
                       service_->config.greeting_timeout.has_value());
}

void Connection::OnDialled(Dialled dialled) {
  backend_ = std::move(dialled.socket);
  backend_id_ = dialled.backend;
  dialled_ns_ = dialled.started_ns;
  out_.Open(backend_.get(), client_.get());
  datapath::Add(backend_stats().connections_total, 1);
  if (service_->config.greeting_timeout.has_value()) {
    AwaitGreeting(dialled.events);
    return;
  }
  NoteReadable(out_, dialled.events);
  Opened();
}

void Connection::OnNobodyLeft(bool full) {
  if (full && service_->config.queue.has_value()) {
    ReturnToQueue();
    return;
  }
  datapath::Add(service_stats().no_backend, 1);
  TurnAway();
}

// By the line that the service has for it, or else a RST.
void Connection::TurnAway() {
  const absl::string_view line = FarewellLine(service_->config.on_no_backend);
  if (line.empty() || !farewell_.Send(client_.get(), line)) {
    Reset();
    return;
  }
  state_ = State::kFarewell;
  timer_.Set(Farewell::kMostTime);
  DrainClient();
}

void Connection::DrainClient() {
  if (!farewell_.Drain(client_.get())) Close(false);
}

// ---- the backend's first word ----------------------------------------------

void Connection::AwaitGreeting(uint32_t events) {
  state_ = State::kGreeting;
  timer_.Set(*service_->config.greeting_timeout);
  if (Any(events, EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
    HearGreeting(events);
  }
}

void Connection::HearGreeting(uint32_t events) {
  char byte = 0;
  const ssize_t got = recv(backend_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) {
    hg_backend_stats& stats = backend_stats();
    datapath::Add(got == 0 ? stats.early_closed : stats.early_reset, 1);
    ReplaceBackend();
    return;
  }
  NoteReadable(out_, events);
  Opened();
  if (Any(events, EPOLLERR)) Failed(out_);
}

// Neither side has heard of the other yet: only time is lost.
void Connection::ReplaceBackend() {
  log::Debug("connection %d: backend %d does not speak", id_, backend_id_);
  LeaveBackend();
  service_->queue->LookForRoom();
  ResetOnClose(backend_.get());
  backend_.reset();
  state_ = State::kConnecting;
  dial_.Next();
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
  if (state_ == State::kOpen || state_ == State::kResetting) {
    PumpBoth();
  } else if (state_ == State::kFarewell) {
    DrainClient();
  }
}

void Connection::OnBackend(uint32_t events) {
  if (state_ == State::kClosed) return;
  if (state_ == State::kConnecting) {
    dial_.OnIo(events);
    return;
  }
  if (state_ == State::kGreeting) {
    HearGreeting(events);
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
  switch (state_) {
    case State::kQueued:
      // Else it was admitted, and word of it is on its way.
      if (!service_->queue->Cancel(ticket_)) return;
      datapath::Add(service_stats().queue_timeout, 1);
      TurnAway();
      return;
    case State::kConnecting:
      dial_.OnTimer();
      return;
    case State::kGreeting:
      datapath::Add(backend_stats().greeting_timeout, 1);
      ReplaceBackend();
      return;
    case State::kFarewell:
      Close(false);
      return;
    case State::kOpen:
    case State::kResetting:
      OnTimerOpen();
      return;
    case State::kClosed:
      return;
  }
}

void Connection::OnBackendDown() {
  if (state_ == State::kGreeting) {
    ReplaceBackend();
    return;
  }
  datapath::Add(backend_stats().down_resets, 1);
  Reset();
}

// ---- the end --------------------------------------------------------------

void Connection::Reset() { Close(true); }

void Connection::Close(bool reset) {
  if (state_ == State::kClosed) return;
  CountFallback();
  dial_.Abandon();
  LeaveBackend();
  LeaveService();  // The last: it looks for who may come next.
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

void Connection::LeaveService() {
  if (state_ == State::kQueued) service_->queue->Cancel(ticket_);
  if (!admitted_) return;
  datapath::RemoveOwn(service_stats());
  service_->queue->LookForRoom();
}

void Connection::LeaveBackend() {
  if (backend_id_ == 0) return;
  datapath::RemoveOwn(backend_stats());
  backend_id_ = 0;
}

ConnectionInfo Connection::Info() const {
  ConnectionInfo info;
  info.id = id_;
  info.service = service_->id;
  info.backend = backend_id_;
  info.client = source_;
  info.spliced = in_.kernel_carries() || out_.kernel_carries();
  info.started_ns = started_ns_;
  info.active_ns = active_ns_ == 0 ? started_ns_ : last_active_ns();
  info.bytes_in = in_.bytes();
  info.bytes_out = out_.bytes();
  return info;
}

}  // namespace headgate::relay
