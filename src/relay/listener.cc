#include "relay/listener.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/log.h"
#include "base/status.h"
#include "net/socket.h"

namespace headgate::relay {
namespace {

constexpr int kAcceptsPerRound = 64;
constexpr absl::Duration kPause = absl::Milliseconds(20);

}  // namespace

Listener::Listener(EventLoop* loop, const Endpoint& address, UniqueFd socket,
                   absl::AnyInvocable<bool()> admit,
                   absl::AnyInvocable<void(Accepted)> accepted)
    : loop_(loop),
      address_(address),
      socket_(std::move(socket)),
      admit_(std::move(admit)),
      accepted_(std::move(accepted)),
      resume_(loop, [this] {
        if (!loop_->Modify(socket_.get(), EPOLLIN, this).ok()) Pause();
      }) {}

Listener::~Listener() { loop_->Remove(socket_.get(), this); }

absl::Status Listener::Start() {
  return loop_->Add(socket_.get(), EPOLLIN, this);
}

void Listener::OnIo(uint32_t) {
  for (int i = 0; i < kAcceptsPerRound; ++i) {
    if (!admit_()) {
      Pause();
      return;
    }
    if (!AcceptOne()) return;
  }
}

// False: enough for this round.
bool Listener::AcceptOne() {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  UniqueFd socket(accept4(socket_.get(), reinterpret_cast<sockaddr*>(&storage),
                          &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (socket.valid()) {
    said_failing_ = false;
    // A wildcard listener has to ask what the client dialled.
    const Endpoint destination = address_.address.is_unspecified()
                                     ? LocalEndpoint(socket.get())
                                     : address_;
    accepted_(
        {std::move(socket), Endpoint::FromSockaddr(storage), destination});
    return true;
  }
  const int error = errno;
  if (error == EAGAIN) return false;
  // The client has gone already, or its network has (accept(2)).
  if (error == ECONNABORTED || error == EINTR || error == EPROTO ||
      error == ENETDOWN || error == EHOSTDOWN || error == EHOSTUNREACH ||
      error == ENETUNREACH || error == ENOPROTOOPT || error == ENONET) {
    return true;
  }
  if (!said_failing_) {
    log::Error("listener %s: %s; clients wait", address_.ToString(),
               ErrnoStatus(error, "accept").message());
    said_failing_ = true;
  }
  Pause();
  return false;
}

void Listener::Pause() {
  loop_->Modify(socket_.get(), 0, this).IgnoreError();
  resume_.Set(kPause);
}

}  // namespace headgate::relay
