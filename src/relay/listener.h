// One listening socket of one worker. Accepts in rounds, so that a flood does
// not starve connections; stops for a moment at a limit or without descriptors
// instead of spinning, and the kernel's queue holds the clients meanwhile.
#pragma once

#include <cstdint>

#include "absl/functional/any_invocable.h"
#include "base/unique_fd.h"
#include "net/address.h"
#include "net/event_loop.h"

namespace headgate::relay {

class Listener final : public IoHandler {
 public:
  struct Accepted {
    UniqueFd socket;  // Non-blocking.
    Endpoint source;
    Endpoint destination;  // What the client dialled.
  };

  // `admit` says whether one more may come; `accepted` takes it.
  Listener(EventLoop* loop, const Endpoint& address, UniqueFd socket,
           absl::AnyInvocable<bool()> admit,
           absl::AnyInvocable<void(Accepted)> accepted);
  ~Listener();

  absl::Status Start();
  void OnIo(uint32_t events) override;

 private:
  bool AcceptOne();
  void Pause();

  EventLoop* loop_;
  const Endpoint address_;
  UniqueFd socket_;
  absl::AnyInvocable<bool()> admit_;
  absl::AnyInvocable<void(Accepted)> accepted_;
  Timer resume_;
  bool said_failing_ = false;
};

}  // namespace headgate::relay
