// A backend: one thread that accepts, reads the PROXY header, keeps it, and
// then greets, echoes or only reads. The public functions may be called from
// any thread.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "support/header.h"
#include "support/tcp.h"

namespace headgate::testing {

struct ServerOptions {
  HeaderKind header = HeaderKind::kV2;
  std::string greeting = {};          // Sent right after the header.
  bool greets_before_header = false;  // As a lenient server may.
  bool echo = false;                  // Otherwise what comes is dropped.
  bool hangs_up = false;              // Closes right after the header.
  std::string answer = {};            // To what comes first; then it closes.
};

struct Accepted {
  std::string header;
  bool in_one_recv = false;  // The first recv() held the whole header.
};

class Server {
 public:
  // Listens in the backend namespace.
  Server(std::vector<Endpoint> endpoints, ServerOptions options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Connections whose header is complete, since the last call.
  std::vector<Accepted> TakeAccepted();
  size_t accepted() const { return accepted_; }
  size_t open() const { return open_; }

  // As by kill -STOP: the kernel accepts, nobody answers. Resume() undoes it.
  void Pause();
  void Resume() { Command(State::kRunning); }
  // As by kill -KILL: closes the listeners, resets every connection and
  // returns how many there were.
  size_t Kill();

 private:
  enum class State { kRunning, kPaused, kStopped };
  struct Connection {
    UniqueFd fd;
    uint32_t watched = EPOLLIN;
    std::string received;  // Until the header is complete.
    bool first_recv = true;
    bool header_done = false;
    bool peer_done = false;
    std::string unsent;
  };

  void Command(State state);
  void Loop();
  void AcceptAll(int listener);
  // The next three return false when the connection is over.
  bool Serve(Connection& connection);
  bool Consume(Connection& connection, absl::string_view bytes);
  bool Flush(Connection& connection);
  void Watch(int fd, uint32_t events, int operation);

  const ServerOptions options_;
  UniqueFd epoll_, wake_;
  std::map<int, UniqueFd> listeners_;
  std::map<int, Connection> connections_;  // The thread's own until it ended.
  std::atomic<State> state_ = State::kRunning;
  std::atomic<bool> parked_ = false;
  std::atomic<size_t> accepted_ = 0, open_ = 0;
  std::mutex mutex_;
  std::vector<Accepted> log_;  // Guarded by mutex_.
  std::thread thread_;
};

}  // namespace headgate::testing
