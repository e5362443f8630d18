// Connections that checks are done with, on their way to an orderly end.
//
// A server that is closed upon is told so by a FIN and left the time to read
// everything, above all the PROXY header: Postfix before 3.11 dies of a LOCAL
// header whose connection was reset (smtpd_peer_hostaddr_to_sockaddr()). So no
// check closes its own socket.
#pragma once

#include <list>

#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "net/event_loop.h"

namespace headgate::health {

class Farewells {
 public:
  // How long a server may take to close: longer than Postfix and Dovecot wait
  // for a header (5 s and 3 s).
  static constexpr absl::Duration kPatience = absl::Seconds(10);
  static constexpr size_t kMax = 1024;  // The oldest has to go then.

  explicit Farewells(EventLoop* loop);
  Farewells(const Farewells&) = delete;
  Farewells& operator=(const Farewells&) = delete;
  ~Farewells();

  // Sends FIN, reads and drops what comes, closes after the peer's FIN.
  // `fd` is in no loop.
  void Add(UniqueFd fd);

  size_t size() const { return leaving_.size(); }

 private:
  class Leaving;

  EventLoop* loop_;
  std::list<Leaving> leaving_;  // Oldest first.
};

}  // namespace headgate::health
