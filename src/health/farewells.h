// Connections that checks are done with, and checks that nobody waits for any
// more, on their way to an orderly end.
//
// A server that is closed upon is told so by a FIN and left the time to read
// everything, above all the PROXY header: Postfix before 3.11 dies of a LOCAL
// header whose connection was reset (smtpd_peer_hostaddr_to_sockaddr()). So no
// check closes its own socket. And who leaves without the goodbye of the
// protocol is in the log (smtpd: lost connection after CONNECT), so a check
// that is under way when its backend is removed goes on to its end.
#pragma once

#include <list>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "net/event_loop.h"

namespace headgate::health {

class Check;

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
  // `fd` is in the loop for `from`, which hears no more of it. `events`: what
  // was told of it in this round; a peer that has closed need not be waited
  // for.
  void Take(UniqueFd fd, IoHandler* from, uint32_t events = 0);
  // Its result is nobody's; one that no server has heard of ends at once.
  void Add(std::unique_ptr<Check> check);

  // Calls `done` when all have left: at once if there are none, and after
  // `patience` whatever is left. Checks have half of it, the rest is for their
  // servers' FINs. To be called once, before the end.
  void Finish(absl::Duration patience, absl::AnyInvocable<void()> done);

  size_t size() const { return leaving_.size() + checks_.size(); }

 private:
  class Leaving;

  void Erase(std::list<Leaving>::iterator left);
  void NoteEmpty();
  void OnImpatience();
  void Finished();

  EventLoop* loop_;
  std::list<Leaving> leaving_;  // Oldest first, as the next.
  std::list<std::unique_ptr<Check>> checks_;
  absl::AnyInvocable<void()> finished_;
  absl::Duration patience_;  // What is left of it when the timer fires.
  Timer impatience_;
};

}  // namespace headgate::health
