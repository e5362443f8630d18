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
    said_out_of_descriptors_ = false;
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
  if (error == EMFILE || error == ENFILE || error == ENOBUFS ||
      error == ENOMEM) {
    if (!said_out_of_descriptors_) {
      log::Error("listener %s: %s; clients wait until connections end",
                 address_.ToString(), ErrnoStatus(error, "accept").message());
      said_out_of_descriptors_ = true;
    }
    Pause();
    return false;
  }
  return true;  // The client has gone already (ECONNABORTED and its like).
}

void Listener::Pause() {
  loop_->Modify(socket_.get(), 0, this).IgnoreError();
  resume_.Set(kPause);
}

}  // namespace headgate::relay
