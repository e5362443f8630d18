#include "support/server.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <utility>

#include "support/lab.h"

namespace headgate::testing {

Server::Server(std::vector<Endpoint> endpoints, ServerOptions options)
    : options_(std::move(options)),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  ScopedNetns inside(kBackend);
  Watch(wake_.get(), EPOLLIN, EPOLL_CTL_ADD);
  for (const Endpoint& endpoint : endpoints) {
    UniqueFd listener = Listen(endpoint);
    Watch(listener.get(), EPOLLIN, EPOLL_CTL_ADD);
    listeners_[listener.get()] = std::move(listener);
  }
  thread_ = std::thread([this] { Loop(); });
}

Server::~Server() { Kill(); }

std::vector<Accepted> Server::TakeAccepted() {
  std::lock_guard lock(mutex_);
  return std::exchange(log_, {});
}

size_t Server::Kill() {
  if (!thread_.joinable()) return 0;
  Command(State::kStopped);
  thread_.join();
  // Those that only the kernel has accepted die as well, and count.
  for (const auto& [fd, listener] : listeners_) AcceptAll(fd);
  listeners_.clear();
  for (const auto& [fd, connection] : connections_) ResetOnClose(fd);
  const size_t killed = connections_.size();
  connections_.clear();
  open_ = 0;
  return killed;
}

// From here on nobody is accepted, also not by what was under way.
void Server::Pause() {
  Command(State::kPaused);
  parked_.wait(false);
}

void Server::Command(State state) {
  state_ = state;
  ::eventfd_write(wake_.get(), 1);
}

void Server::Watch(int fd, uint32_t events, int operation) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  ::epoll_ctl(epoll_.get(), operation, fd, &event);
}

void Server::Loop() {
  epoll_event events[256];
  while (state_ != State::kStopped) {
    if (state_ == State::kPaused) {
      parked_ = true;
      parked_.notify_all();
      pollfd woken{wake_.get(), POLLIN, 0};
      ::poll(&woken, 1, -1);
      eventfd_t ignored = 0;
      ::eventfd_read(wake_.get(), &ignored);
      continue;
    }
    parked_ = false;
    const int n = ::epoll_wait(epoll_.get(), events, 256, -1);
    for (int i = 0; i < n && state_ == State::kRunning; ++i) {
      const int fd = events[i].data.fd;
      const auto connection = connections_.find(fd);
      if (fd == wake_.get()) {
        eventfd_t ignored = 0;
        ::eventfd_read(fd, &ignored);
      } else if (listeners_.count(fd) > 0) {
        AcceptAll(fd);
      } else if (connection != connections_.end() &&
                 !Serve(connection->second)) {
        connections_.erase(connection);
        --open_;
      }
    }
  }
}

void Server::AcceptAll(int listener) {
  while (true) {
    UniqueFd fd(
        ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid()) return;
    const int key = fd.get();
    Connection& connection = connections_[key];
    connection.fd = std::move(fd);
    if (options_.greets_before_header) connection.unsent = options_.greeting;
    ++open_;
    Watch(key, connection.watched, EPOLL_CTL_ADD);
    // Nothing may come first where no header is expected.
    if (!Consume(connection, "")) {
      connections_.erase(key);
      --open_;
    }
  }
}

bool Server::Serve(Connection& connection) {
  char buffer[65536];
  const ssize_t n = ::recv(connection.fd.get(), buffer, sizeof buffer, 0);
  if (n > 0) {
    return Consume(connection, {buffer, static_cast<size_t>(n)});
  }
  if (n < 0 && errno != EAGAIN) return false;
  if (n == 0) connection.peer_done = true;
  return Flush(connection);
}

bool Server::Consume(Connection& connection, absl::string_view bytes) {
  if (!connection.header_done) {
    absl::StrAppend(&connection.received, bytes);
    const std::optional<size_t> size =
        HeaderSize(options_.header, connection.received);
    if (!size.has_value()) {
      connection.first_recv = connection.first_recv && bytes.empty();
      return Flush(connection);
    }
    connection.header_done = true;
    ++accepted_;
    {
      std::lock_guard lock(mutex_);
      log_.push_back(
          {connection.received.substr(0, *size), connection.first_recv});
    }
    if (options_.hangs_up) return false;
    if (!options_.greets_before_header) connection.unsent = options_.greeting;
    connection.received.erase(0, *size);
    bytes = connection.received;
  }
  if (options_.echo) absl::StrAppend(&connection.unsent, bytes);
  if (!options_.answer.empty() && !bytes.empty()) {
    connection.unsent = options_.answer;
    connection.peer_done = true;
  }
  return Flush(connection);
}

bool Server::Flush(Connection& connection) {
  std::string& unsent = connection.unsent;
  while (!unsent.empty()) {
    const ssize_t n =
        ::send(connection.fd.get(), unsent.data(), unsent.size(), MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) return false;
    if (n < 0) break;
    unsent.erase(0, static_cast<size_t>(n));
  }
  // A level-triggered end of file would be reported for ever.
  const uint32_t in = connection.peer_done ? 0U : EPOLLIN;
  const uint32_t out = unsent.empty() ? 0U : EPOLLOUT;
  if ((in | out) != connection.watched) {
    connection.watched = in | out;
    Watch(connection.fd.get(), connection.watched, EPOLL_CTL_MOD);
  }
  return !(connection.peer_done && unsent.empty());
}

}  // namespace headgate::testing
