#include "relay/dial.h"

#include <sys/epoll.h>

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
           IoHandler* handler, Timer* timer)
    : host_(host),
      owner_(owner),
      service_(service),
      handler_(handler),
      timer_(timer) {
  selection_.service = service->id;
}

void Dial::Next() {
  if (!Start()) owner_->OnNobodyLeft();
}

bool Dial::Select() {
  const absl::Status status = host_->context()->datapath->Select(&selection_);
  if (!status.ok()) {
    log::Error("service %s: %s", service_->config.name, status.message());
    return false;
  }
  if (selection_.backend == 0) return false;
  selection_.tried[selection_.slot / 64] |= 1ULL << (selection_.slot % 64);
  return true;
}

// Whether a connect is under way, or has succeeded already.
bool Dial::Start() {
  datapath::Datapath* datapath = host_->context()->datapath;
  while (Select()) {
    hg_backend_stats& stats = datapath->backend_stats(selection_.backend);
    int error = 0;
    UniqueFd socket = ConnectTcp(AddressOf(selection_), &error);
    if (!socket.valid()) {
      datapath::Add(FailureCounter(stats, error), 1);
      if (IsLocal(error)) return false;  // No backend can help.
      continue;
    }
    if (!host_->loop()->Add(socket.get(), kAllEvents, handler_).ok()) {
      return false;
    }
    attempt_ = {std::move(socket), selection_.backend, MonotonicNs()};
    // Counted from here on, so that the id is not given to another backend.
    datapath::Add(stats.connections_active, 1);
    timer_->Set(service_->config.connect_timeout);
    if (error == 0) Try(0);
    return true;
  }
  return false;
}

void Dial::OnIo(uint32_t events) {
  if (Any(events, EPOLLOUT | EPOLLERR | EPOLLHUP)) Try(events);
}

void Dial::Try(uint32_t events) {
  const int error = owner_->SendHeader(attempt_.socket.get());
  if (error == EAGAIN) return;  // Not connected yet after all.
  if (error != 0) {
    Failed(error);
    return;
  }
  owner_->OnDialled({std::move(attempt_.socket), attempt_.backend,
                     attempt_.started_ns, events});
}

void Dial::OnTimer() { Failed(ETIMEDOUT); }

void Dial::Failed(int error) {
  datapath::Add(
      FailureCounter(
          host_->context()->datapath->backend_stats(attempt_.backend), error),
      1);
  log::Debug("service %s: backend %d: %s", service_->config.name,
             attempt_.backend, ErrnoName(error));
  Abandon();
  Next();
}

void Dial::Abandon() {
  if (!attempt_.socket.valid()) return;
  timer_->Cancel();
  datapath::Subtract(host_->context()
                         ->datapath->backend_stats(attempt_.backend)
                         .connections_active,
                     1);
  ResetOnClose(attempt_.socket.get());
  attempt_.socket.reset();
}

}  // namespace headgate::relay
