// A server that plays a script with each of its clients and remembers what it
// saw of them, to the very end. For clients that are few: each has a thread.
#pragma once

#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "support/lab.h"
#include "support/tcp.h"

namespace headgate::testing {

// One client, as the script meets it.
class Visit {
 public:
  explicit Visit(TcpSocket socket) : socket_(std::move(socket)) {}

  // In a segment of its own.
  void Say(absl::string_view text) { socket_.Send(text); }
  // Each byte by itself.
  void Drip(absl::string_view text);
  // Until all that came ends with `text`; false: it ended otherwise.
  bool Hear(absl::string_view text);
  // Until `size` bytes have come in all.
  bool HearBytes(size_t size);
  // Says nothing for that long; false: the client did, or it ended.
  bool Tarpit(absl::Duration duration) { return socket_.Quiet(duration); }
  // FIN, as servers say after their last word.
  void Leave() { socket_.ShutdownWrite(); }

 private:
  friend class Receiver;

  // False: it is over, and `end_` says how.
  bool Read();

  TcpSocket socket_;
  std::string heard_, end_;
};

class Receiver {
 public:
  using Script = std::function<void(Visit&)>;
  struct Seen {
    std::string heard;  // All of it, with the PROXY header.
    std::string end;    // "FIN" or "RST"; empty: none came.
  };

  // Behind the script what still comes is read until the client ends.
  Receiver(const Endpoint& endpoint, Script script,
           const std::string& netns = kBackend);
  ~Receiver();  // Ends those that are there.
  Receiver(const Receiver&) = delete;
  Receiver& operator=(const Receiver&) = delete;

  // Clients that have come so far, and those of them that are gone.
  size_t arrived() const;
  std::vector<Seen> gone() const;

 private:
  void Loop();
  void Serve(Visit& visit);

  const Script script_;
  UniqueFd listener_, wake_;
  mutable std::mutex mutex_;
  std::list<Visit> visits_;           // The list is guarded by mutex_.
  std::vector<Seen> gone_;            // Guarded by mutex_.
  std::vector<std::thread> threads_;  // The accepting thread's own.
  std::thread accepting_;
};

// A mail server behind a PROXY header of that size: greets, answers QUIT, and
// closes.
Receiver::Script Smtp(std::string greeting, size_t header = 0);

}  // namespace headgate::testing
