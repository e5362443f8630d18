#include "relay/dial.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "base/status.h"
#include "net/socket.h"

namespace headgate::relay {
namespace {

bool IsLocal(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS ||
         error == ENOMEM;
}

__u64& FailureCounter(hg_backend_stats& stats, int error) {
  switch (error) {
    case ECONNREFUSED:
      return stats.connect_refused;
    case ETIMEDOUT:
      return stats.connect_timeout;
    case EHOSTUNREACH:
    case ENETUNREACH:
      return stats.connect_unreachable;
    case EADDRINUSE:
      return stats.connect_no_source_port;
    case EADDRNOTAVAIL:
      return stats.connect_no_source_address;
    case ECONNRESET:
    case EPIPE:
      return stats.connect_reset;
    default:
      return stats.connect_error;
  }
}

Endpoint AddressOf(const hg_select& selection) {
  std::array<uint8_t, 16> address{};
  std::memcpy(address.data(), selection.address, address.size());
  return {IpAddress::FromBytes(address), static_cast<uint16_t>(selection.port)};
}

}  // namespace

Dial::Dial(ConnectionHost* host, DialOwner* owner, const Service* service,
           const Endpoint& client, IoHandler* handler, Timer* timer)
    : host_(host), owner_(owner), service_(service), timer_(timer) {
  first_.handler = handler;
  selection_.service = service->id;
  std::memcpy(selection_.client, client.address.bytes().data(),
              sizeof selection_.client);
  selection_.client_port = client.port;
}

// Ends with an attempt under way, or tells the owner that nobody is left.
void Dial::GoOn(bool start) {
  if (start) exhausted_ = !Start();
  if (under_way()) {
    Arm();
    return;
  }
  timer_->Cancel();
  owner_->OnNobodyLeft(selection_.full != 0);
}

// Whether one more connect is under way.
bool Dial::Start() {
  if (!first_.socket.valid()) return Connect(first_, HandshakeAck::kSend);
  return rivals_.size() < kMostRivals && StartRival();
}

bool Dial::StartRival() {
  if (!host_->TakeRoom()) return false;
  auto rival = std::make_unique<Rival>(this);
  // A rival that loses has not even had the handshake's last ACK: its server
  // never hears of it. The header stands for that ACK.
  const bool header =
      service_->config.proxy_protocol != config::ProxyProtocol::kNone;
  if (!Connect(rival->attempt,
               header ? HandshakeAck::kHold : HandshakeAck::kSend)) {
    host_->ReturnRoom();
    return false;
  }
  rivals_.push_back(std::move(rival));
  return true;
}

bool Dial::Connect(Attempt& attempt, HandshakeAck ack) {
  while (Select()) {
    attempt.backend = selection_.backend;
    // Connected at once or not, the loop will say so.
    const int error = ConnectFromSource(attempt, ack);
    if (!attempt.socket.valid()) {
      LeavePlace(attempt.backend);
      if (IsLocal(error)) return false;  // No backend can help.
      continue;
    }
    if (!host_->loop()
             ->Add(attempt.socket.get(), kAllEvents, attempt.handler)
             .ok()) {
      attempt.socket.reset();
      LeavePlace(attempt.backend);
      return false;
    }
    attempt.started_ns = last_start_ns_ = MonotonicNs();
    return true;
  }
  return false;
}

// From the next source that can be used; each is tried once. Returns what
// ConnectTcp says; failures are counted.
int Dial::ConnectFromSource(Attempt& attempt, HandshakeAck ack) {
  const Endpoint backend = AddressOf(selection_);
  const std::vector<IpAddress>& sources = service_->SourcesTo(backend);
  SourceRotation& rotation = host_->sources();
  const int64_t round_ns = host_->loop()->now_ns();
  const hg_backend_stats& stats =
      host_->context()->datapath->backend_stats(attempt.backend);
  ConnectOptions options;
  options.crowded = datapath::Read(stats.crowded) != 0;
  options.ack = ack;
  int error = 0;
  for (size_t tries = std::max<size_t>(sources.size(), 1); tries > 0; --tries) {
    options.source = rotation.Next(attempt.backend, sources);
    error = rotation.PausedBy(attempt.backend, options.source, round_ns);
    if (error == 0) {
      attempt.socket = ConnectTcp(backend, &error, options);
      if (attempt.socket.valid()) return error;
      if (IsSourceError(error)) {
        rotation.Pause(attempt.backend, options.source, error, round_ns,
                       MonotonicNs());
      }
    }
    CountFailure(attempt, error);
    if (!IsSourceError(error)) break;
  }
  return error;
}

// A backend that has not been tried, and a place there.
bool Dial::Select() {
  do {
    const absl::Status status = host_->context()->datapath->Select(&selection_);
    if (!status.ok()) {
      log::Error("service %s: %s", service_->config.name, status.message());
      return false;
    }
    if (selection_.backend == 0) return false;
  } while (!TakePlace());  // The last one is gone: the next look sees it full.
  selection_.tried[selection_.slot / 64] |= 1ULL << (selection_.slot % 64);
  return true;
}

// Counted from here on, so that the id is not given to another backend, either.
bool Dial::TakePlace() {
  const uint64_t before = datapath::AddOwn(
      host_->context()->datapath->backend_stats(selection_.backend));
  if (selection_.max_connections == 0 || before < selection_.max_connections) {
    return true;
  }
  LeavePlace(selection_.backend);
  return false;
}

// Somebody may be waiting for it.
void Dial::LeavePlace(uint32_t backend) {
  datapath::RemoveOwn(host_->context()->datapath->backend_stats(backend));
  service_->queue->LookForRoom();
}

bool Dial::AllAreFull() {
  hg_select selection = selection_;
  return host_->context()->datapath->Select(&selection).ok() &&
         selection.backend == 0 && selection.full != 0;
}

// ---- answers ---------------------------------------------------------------

void Dial::OnAttempt(Attempt& attempt, uint32_t events) {
  if (!attempt.socket.valid()) return;
  if (!Any(events, EPOLLOUT | EPOLLERR | EPOLLHUP)) return;
  const int error = owner_->SendHeader(attempt.socket.get());
  if (error == EAGAIN) return;  // Not connected yet after all.
  if (error == 0) {
    Won(attempt, events);
    return;
  }
  CountFailure(attempt, error);
  Drop(attempt);
  FreeRivals();
  GoOn(true);
}

void Dial::Won(Attempt& attempt, uint32_t events) {
  timer_->Cancel();
  Dialled dialled{std::move(attempt.socket), attempt.backend,
                  attempt.started_ns, events};
  if (!rivals_.empty()) {
    const bool first = &attempt == &first_;
    for (const auto& rival : rivals_) NoteOvertaken(rival->attempt, dialled);
    NoteOvertaken(first_, dialled);
    Abandon();
    // Its rival's handler goes: the socket has the connection's from now on.
    if (!first &&
        !host_->loop()
             ->Modify(dialled.socket.get(), kAllEvents, first_.handler)
             .ok()) {
      attempt.socket = std::move(dialled.socket);
      Drop(attempt);
      owner_->OnNobodyLeft(selection_.full != 0);
      return;
    }
  }
  owner_->OnDialled(std::move(dialled));
}

// It was asked before `winner` was, and has not answered yet.
void Dial::NoteOvertaken(const Attempt& attempt, const Dialled& winner) {
  if (!attempt.socket.valid() || attempt.started_ns >= winner.started_ns) {
    return;
  }
  datapath::Add(host_->context()
                    ->datapath->backend_stats(attempt.backend)
                    .connect_overtaken,
                1);
}

void Dial::OnTimer() {
  const int64_t now = MonotonicNs();
  while (Attempt* late = Overdue(now)) {
    CountFailure(*late, ETIMEDOUT);
    Drop(*late);
    FreeRivals();
  }
  GoOn(!under_way() ||
       now - last_start_ns_ >=
           absl::ToInt64Nanoseconds(service_->config.try_next_timeout));
}

Dial::Attempt* Dial::Overdue(int64_t now_ns) {
  const int64_t begun_by =
      now_ns - absl::ToInt64Nanoseconds(service_->config.connect_timeout);
  if (first_.socket.valid() && first_.started_ns <= begun_by) return &first_;
  for (auto& rival : rivals_) {
    if (rival->attempt.started_ns <= begun_by) return &rival->attempt;
  }
  return nullptr;
}

// The timer goes off when the oldest attempt is overdue or another is due.
void Dial::Arm() {
  int64_t oldest_ns = first_.socket.valid() ? first_.started_ns : INT64_MAX;
  for (const auto& rival : rivals_) {
    oldest_ns = std::min(oldest_ns, rival->attempt.started_ns);
  }
  int64_t due_ns =
      oldest_ns + absl::ToInt64Nanoseconds(service_->config.connect_timeout);
  if (!exhausted_ && rivals_.size() < kMostRivals) {
    due_ns = std::min(due_ns,
                      last_start_ns_ + absl::ToInt64Nanoseconds(
                                           service_->config.try_next_timeout));
  }
  timer_->Set(absl::Nanoseconds(due_ns - MonotonicNs()));
}

// ---- the end of an attempt -------------------------------------------------

void Dial::CountFailure(const Attempt& attempt, int error) {
  datapath::Add(
      FailureCounter(host_->context()->datapath->backend_stats(attempt.backend),
                     error),
      1);
  log::Debug("service %s: backend %d: %s", service_->config.name,
             attempt.backend, ErrnoName(error));
}

void Dial::Drop(Attempt& attempt) {
  if (!attempt.socket.valid()) return;
  // Its handler may get another socket in this very round.
  host_->loop()->Remove(attempt.socket.get(), attempt.handler);
  ResetOnClose(attempt.socket.get());
  attempt.socket.reset();
  LeavePlace(attempt.backend);
}

void Dial::FreeRivals() {
  for (size_t i = rivals_.size(); i-- > 0;) {
    if (rivals_[i]->attempt.socket.valid()) continue;
    host_->ReturnRoom();
    host_->loop()->DestroyLater(std::move(rivals_[i]));
    rivals_.erase(rivals_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

void Dial::Abandon() {
  Drop(first_);
  for (auto& rival : rivals_) Drop(rival->attempt);
  FreeRivals();
}

}  // namespace headgate::relay
