#include "support/load.h"

#include <sys/epoll.h>

#include <algorithm>
#include <deque>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "support/lab.h"
#include "support/tcp.h"

namespace headgate::testing {
namespace {

class LoadRun {
 public:
  explicit LoadRun(const LoadPlan& plan)
      : plan_(plan), epoll_(::epoll_create1(EPOLL_CLOEXEC)) {}

  LoadReport Run() {
    ScopedNetns inside(kClient);
    begin_ = absl::Now();
    while (started_ < plan_.total || !connections_.empty()) {
      StartDue();
      HandleEvents();
      ExpireOverdue();
    }
    std::sort(report_.answered.begin(), report_.answered.end());
    return std::move(report_);
  }

 private:
  struct Connection {
    UniqueFd fd;
    absl::Time start;
    absl::Duration first_byte = absl::ZeroDuration();
    bool connected = false;
    bool all_sent = false;
    size_t sent = 0;
    std::string received;
  };

  bool Due() const {
    if (started_ == plan_.total || connections_.size() >= plan_.concurrency) {
      return false;
    }
    if (plan_.per_second == 0) return true;
    const double elapsed = absl::ToDoubleSeconds(absl::Now() - begin_);
    return static_cast<double>(started_) <= elapsed * plan_.per_second;
  }

  void StartDue() {
    while (Due()) {
      IpAddress source;
      if (!plan_.sources.empty()) {
        source = plan_.sources[started_ % plan_.sources.size()];
      }
      ++started_;
      // Before the SYN: the other side may be quicker than we come back.
      const absl::Time start = absl::Now();
      UniqueFd fd = StartConnect(source, plan_.target);
      if (!fd.valid()) {
        ++report_.errors[absl::StrCat("start: ", ErrnoName(errno))];
        continue;
      }
      epoll_event event{};
      event.events = EPOLLIN | EPOLLOUT;
      event.data.u64 = next_id_;
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event);
      Connection& connection = connections_[next_id_++];
      connection.fd = std::move(fd);
      connection.start = start;
    }
  }

  void HandleEvents() {
    epoll_event events[256];
    const int n = ::epoll_wait(epoll_.get(), events, 256, 1);
    for (int i = 0; i < n; ++i) {
      const uint64_t id = events[i].data.u64;
      Connection& connection = connections_[id];
      const std::string outcome = Advance(connection, id);
      if (!outcome.empty()) Finish(id, outcome);
    }
  }

  // "" while under way, "ok", or what went wrong.
  std::string Advance(Connection& connection, uint64_t id) {
    if (!connection.connected) {
      const int error = SocketError(connection.fd.get());
      if (error != 0) return absl::StrCat("connect: ", ErrnoName(error));
      connection.connected = true;
    }
    if (connection.sent < plan_.send.size()) {
      const ssize_t n =
          ::send(connection.fd.get(), plan_.send.data() + connection.sent,
                 plan_.send.size() - connection.sent, MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) {
        return absl::StrCat("send: ", ErrnoName(errno));
      }
      if (n > 0) connection.sent += static_cast<size_t>(n);
    }
    if (connection.sent == plan_.send.size() && !connection.all_sent) {
      connection.all_sent = true;
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.u64 = id;
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, connection.fd.get(), &event);
    }
    return Receive(connection);
  }

  std::string Receive(Connection& connection) {
    char buffer[4096];
    const ssize_t n = ::recv(connection.fd.get(), buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN) return "";
    if (n < 0) return absl::StrCat("receive: ", ErrnoName(errno));
    if (n == 0) return "receive: end of stream";
    if (connection.received.empty()) {
      connection.first_byte = absl::Now() - connection.start;
    }
    connection.received.append(buffer, static_cast<size_t>(n));
    if (connection.received.size() < plan_.expect.size()) return "";
    return connection.received == plan_.expect ? "ok" : "wrong answer";
  }

  void Finish(uint64_t id, const std::string& outcome) {
    const auto it = connections_.find(id);
    const int fd = it->second.fd.get();
    if (outcome == "ok") {
      ++report_.ok;
      report_.locals.push_back(LocalEndpoint(fd));
      report_.answered.push_back(it->second.first_byte);
    } else {
      ++report_.errors[outcome];
    }
    if (plan_.resets) ResetOnClose(fd);
    connections_.erase(it);
  }

  void ExpireOverdue() {
    // Ids ascend with the start time.
    while (!connections_.empty()) {
      const auto& [id, oldest] = *connections_.begin();
      if (absl::Now() - oldest.start < plan_.timeout) return;
      Finish(id, oldest.connected ? "receive: no answer" : "connect: time-out");
    }
  }

  const LoadPlan& plan_;
  UniqueFd epoll_;
  absl::Time begin_;
  size_t started_ = 0;
  uint64_t next_id_ = 0;
  std::map<uint64_t, Connection> connections_;
  LoadReport report_;
};

}  // namespace

size_t LoadReport::failed() const {
  size_t sum = 0;
  for (const auto& [what, count] : errors) sum += count;
  return sum;
}

absl::Duration LoadReport::Percentile(double share) const {
  if (answered.empty()) return absl::ZeroDuration();
  const double position = share * static_cast<double>(answered.size());
  const size_t index =
      std::min(static_cast<size_t>(position), answered.size() - 1);
  return answered[index];
}

std::string LoadReport::ToString() const {
  std::string text =
      absl::StrCat(ok, " ok, p50 ", absl::FormatDuration(Percentile(0.5)),
                   ", p99 ", absl::FormatDuration(Percentile(0.99)));
  for (const auto& [what, count] : errors) {
    absl::StrAppend(&text, ", ", count, " ", what);
  }
  return text;
}

LoadReport RunLoad(const LoadPlan& plan) { return LoadRun(plan).Run(); }

}  // namespace headgate::testing
