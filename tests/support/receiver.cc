#include "support/receiver.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <utility>

#include "absl/strings/match.h"

namespace headgate::testing {

void Visit::Drip(absl::string_view text) {
  for (const char& c : text) Say({&c, 1});
}

bool Visit::Read() {
  const std::string got = socket_.Receive(1);
  heard_ += got;
  if (!got.empty()) return true;
  if (socket_.error() == 0) end_ = "FIN";
  if (socket_.error() == ECONNRESET) end_ = "RST";
  return false;
}

bool Visit::Hear(absl::string_view text) {
  while (!absl::EndsWith(heard_, text)) {
    if (!Read()) return false;
  }
  return true;
}

bool Visit::HearBytes(size_t size) {
  while (heard_.size() < size) {
    if (!Read()) return false;
  }
  return true;
}

Receiver::Receiver(const Endpoint& endpoint, Script script,
                   const std::string& netns)
    : script_(std::move(script)),
      listener_(RunIn(netns, [&] { return Listen(endpoint); })),
      wake_(::eventfd(0, EFD_CLOEXEC)),
      accepting_([this] { Loop(); }) {}

Receiver::~Receiver() {
  ::eventfd_write(wake_.get(), 1);
  accepting_.join();
  {
    std::lock_guard lock(mutex_);
    for (Visit& visit : visits_) ::shutdown(visit.socket_.fd(), SHUT_RDWR);
  }
  for (std::thread& thread : threads_) thread.join();
}

size_t Receiver::arrived() const {
  std::lock_guard lock(mutex_);
  return visits_.size();
}

std::vector<Receiver::Seen> Receiver::gone() const {
  std::lock_guard lock(mutex_);
  return gone_;
}

void Receiver::Loop() {
  while (true) {
    pollfd waiting[] = {{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    ::poll(waiting, 2, -1);
    if (waiting[1].revents != 0) return;
    TcpSocket socket = TcpSocket::Accept(listener_);
    if (!socket.valid()) continue;
    const int on = 1;
    ::setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    std::lock_guard lock(mutex_);
    Visit* const visit = &visits_.emplace_back(std::move(socket));
    threads_.emplace_back([this, visit] { Serve(*visit); });
  }
}

void Receiver::Serve(Visit& visit) {
  script_(visit);
  while (visit.end_.empty() && visit.Read()) {
  }
  std::lock_guard lock(mutex_);
  gone_.push_back({visit.heard_, visit.end_});
  visit.Leave();
}

Receiver::Script Smtp(std::string greeting, size_t header) {
  return [greeting = std::move(greeting), header](Visit& visit) {
    if (!visit.HearBytes(header)) return;
    visit.Say(greeting);
    if (!visit.Hear("QUIT\r\n")) return;
    visit.Say("221 2.0.0 Bye\r\n");
    visit.Leave();
  };
}

}  // namespace headgate::testing
