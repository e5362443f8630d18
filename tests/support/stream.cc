#include "support/stream.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "support/lab.h"
#include "support/stream_ends.h"
#include "support/tcp.h"

namespace headgate::testing {
namespace {

constexpr size_t kPatternSize = 8 << 20;
constexpr uint64_t kMaxWrite = 256 << 10;
constexpr int kCallsPerEvent = 8;  // So that one stream cannot starve others.
constexpr size_t kSlowRead = 4096;
constexpr absl::Duration kLongestRest = absl::Milliseconds(20);
constexpr absl::Duration kDeadFor = absl::Milliseconds(200);

class StreamRun {
 public:
  explicit StreamRun(const StreamPlan& plan)
      : plan_(plan),
        random_(plan.seed),
        epoll_(::epoll_create1(EPOLL_CLOEXEC)),
        pattern_(kPatternSize, '\0') {
    for (size_t i = 0; i < kPatternSize; i += sizeof(uint64_t)) {
      const uint64_t word = random_();
      std::memcpy(pattern_.data() + i, &word, sizeof word);
    }
  }

  StreamReport Run() {
    ScopedNetns backend(kBackend);
    listeners_.resize(plan_.listen.size());
    for (size_t node = 0; node < listeners_.size(); ++node) Revive(node);
    ScopedNetns client(kClient);
    last_progress_ = absl::Now();
    report_.pauses.resize(plan_.count);
    while (report_.first_error.empty() &&
           (next_ < plan_.count || !streams_.empty())) {
      while (next_ < plan_.count && streams_.size() < plan_.concurrency) {
        Start();
      }
      HandleHold();
      HandleEvents();
      HandleTimes();
      if (absl::Now() - last_progress_ > plan_.patience) {
        Fail(streams_.empty() ? 0 : streams_.begin()->first, "stalled");
      }
    }
    return std::move(report_);
  }

 private:
  // epoll tags: fds of listeners and of connections whose stream is not known
  // yet, or stream * 2 + (1 for the server's end).
  static constexpr uint64_t kListenerTag = uint64_t{1} << 63;
  static constexpr uint64_t kPendingTag = uint64_t{1} << 62;

  void Watch(int fd, uint64_t tag, uint32_t events, int operation) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = tag < kPendingTag ? tag : tag | static_cast<uint64_t>(fd);
    ::epoll_ctl(epoll_.get(), operation, fd, &event);
  }

  void Revive(size_t node) {
    ScopedNetns backend(kBackend);
    listeners_[node] = Listen(plan_.listen[node]);
    Watch(listeners_[node].get(), kListenerTag, EPOLLIN, EPOLL_CTL_ADD);
  }

  void Kill(size_t node) {
    listeners_[node].reset();
    for (auto it = pending_.begin(); it != pending_.end();) {
      if (it->second.node == node) ResetOnClose(it->first);
      it = it->second.node == node ? pending_.erase(it) : std::next(it);
    }
    std::vector<uint64_t> killed;  // Reset() changes the map.
    for (auto& [id, stream] : streams_) {
      if (stream.node == node && !stream.server.over) killed.push_back(id);
    }
    for (const uint64_t id : killed) Reset(id, streams_[id].server);
  }

  void HandleHold() {
    const bool held = plan_.hold != nullptr && *plan_.hold;
    if (held) last_progress_ = absl::Now();
    if (held == std::exchange(held_, held) || held) return;
    std::vector<uint64_t> all;  // Advance() changes the map.
    for (const auto& [id, stream] : streams_) all.push_back(id);
    for (const uint64_t id : all) {
      Advance(id * 2);
      Advance(id * 2 + 1);
    }
  }

  void HandleTimes() {
    const absl::Time now = absl::Now();
    while (!resting_.empty() && resting_.begin()->first <= now) {
      const uint64_t tag = resting_.begin()->second;
      resting_.erase(resting_.begin());
      Advance(tag);
    }
    if (victim_.has_value()) {
      if (now < revival_) return;
      Revive(*victim_);
      victim_.reset();
      alive_since_ = Over();
    } else if (plan_.chaos.kill_every > 0 &&
               Over() - alive_since_ >= plan_.chaos.kill_every) {
      victim_ = next_victim_++ % listeners_.size();
      Kill(*victim_);
      revival_ = now + kDeadFor;
    }
  }

  double Unit() {
    return std::uniform_real_distribution<double>(0, 1)(random_);
  }
  bool Chance(double share) { return Unit() < share; }

  uint64_t LogUniform(uint64_t max) {
    const double log_max = std::log(static_cast<double>(max) + 1);
    return static_cast<uint64_t>(std::exp(Unit() * log_max)) - 1;
  }

  void Draw(Flow& flow) {
    flow.size =
        next_ < plan_.large ? plan_.max_size : LogUniform(plan_.max_size);
    flow.offset = random_() % kPatternSize;
  }

  void Start() {
    const uint64_t id = next_;
    Stream& stream = streams_[id];
    Draw(stream.up);
    Draw(stream.down);
    ++next_;
    stream.client.out = stream.server.in = &stream.up;
    stream.client.in = stream.server.out = &stream.down;
    const uint64_t order = random_() % 3;  // At most one end waits.
    stream.client.waits_for_peer = order == 1;
    stream.server.waits_for_peer = order == 2;
    for (End* end : {&stream.client, &stream.server}) {
      end->slow = Chance(plan_.chaos.slow);
    }
    if (Chance(plan_.chaos.resets)) {
      End& end = Chance(0.5) ? stream.client : stream.server;
      end.reset_after = random_() % (stream.up.size + stream.down.size + 1);
    }
    stream.client.quiet = id < plan_.quiet;
    stream.last_arrival = absl::Now();
    stream.client.fd = StartConnect(IpAddress(), plan_.target, PortOf(id));
    if (!stream.client.fd.valid()) return Fail(id, "connect");
    by_source_[LocalEndpoint(stream.client.fd.get())] = id;
    Adopt(stream.client, id * 2, EPOLL_CTL_ADD);
  }

  uint16_t PortOf(uint64_t id) const {
    return plan_.first_port == 0 ? 0
                                 : static_cast<uint16_t>(plan_.first_port + id);
  }

  void Adopt(End& end, uint64_t tag, int operation) {
    end.watched = EPOLLIN | EPOLLOUT;
    Watch(end.fd.get(), tag, end.watched, operation);
  }

  void HandleEvents() {
    epoll_event events[64];
    const int n =
        ::epoll_wait(epoll_.get(), events, 64, resting_.empty() ? 100 : 1);
    for (int i = 0; i < n && report_.first_error.empty(); ++i) {
      const uint64_t tag = events[i].data.u64;
      if ((tag & kListenerTag) != 0) {
        AcceptAll(static_cast<int>(tag & ~kListenerTag));
      } else if ((tag & kPendingTag) != 0) {
        ReadHeader(static_cast<int>(tag & ~kPendingTag));
      } else {
        Advance(tag);
      }
    }
  }

  void AcceptAll(int listener) {
    while (true) {
      UniqueFd fd(
          ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!fd.valid()) return;
      const int key = fd.get();
      Watch(key, kPendingTag, EPOLLIN, EPOLL_CTL_ADD);
      pending_[key].fd = std::move(fd);
      pending_[key].node = NodeOf(listener);
      if (plan_.header == HeaderKind::kNone) Match(key, PeerEndpoint(key));
    }
  }

  size_t NodeOf(int listener) const {
    size_t node = 0;
    while (listeners_[node].get() != listener) ++node;
    return node;
  }

  // A connection whose client has gone meanwhile, or dies with its node.
  void Orphan(int key, const std::string& why) {
    pending_.erase(key);
    if (!Chaotic()) Fail(0, why);
  }
  bool Chaotic() const {
    return plan_.chaos.resets > 0 || plan_.chaos.kill_every > 0;
  }
  size_t Over() const { return report_.equal + report_.lost; }

  void ReadHeader(int key) {
    if (pending_.count(key) == 0) return;  // Killed since the event.
    Pending& pending = pending_[key];
    char buffer[52];
    const size_t size = plan_.target.address.is_v4() ? 28 : 52;
    const ssize_t n = ::recv(key, buffer, size - pending.header.size(), 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return Orphan(key, "no header");
    pending.header.append(buffer, static_cast<size_t>(n));
    if (pending.header.size() == size) Match(key, HeaderSource(pending.header));
  }

  void Match(int key, const Endpoint& source) {
    const auto found = by_source_.find(source);
    if (found == by_source_.end()) {
      return Orphan(key, absl::StrCat("unknown source ", source.ToString()));
    }
    const uint64_t id = found->second;
    by_source_.erase(found);
    Stream& stream = streams_[id];
    stream.server.fd = std::move(pending_[key].fd);
    stream.node = pending_[key].node;
    pending_.erase(key);
    Adopt(stream.server, id * 2 + 1, EPOLL_CTL_MOD);
  }

  void Advance(uint64_t tag) {
    const uint64_t id = tag / 2;
    const auto found = streams_.find(id);
    if (found == streams_.end()) return;
    Stream& stream = found->second;
    End& end = tag % 2 == 0 ? stream.client : stream.server;
    if (!end.fd.valid()) return;
    const uint64_t arrived = stream.arrived();
    const bool received = Receive(end);
    if (stream.arrived() != arrived) NoteArrival(id, stream);
    if (!received || !Send(end)) {
      // A client whose backend dies before it is known is reset, too.
      const bool planned =
          stream.doomed || (Chaotic() && stream.node == kNoNode);
      if (planned &&
          (errno == ECONNRESET || errno == EPIPE || errno == ENOTCONN)) {
        return Reset(id, end);
      }
      return Fail(id, absl::StrCat(tag % 2 == 0 ? "client" : "server", ": ",
                                   ErrnoName(errno)));
    }
    if (end.out->sent + end.in->received >= end.reset_after) {
      return Reset(id, end);
    }
    if (end.done()) {
      end.fd.reset();
      end.over = true;
    }
    if (stream.client.over && stream.server.over) {
      Finish(id, stream);
    } else if (!end.over) {
      Rewatch(end, tag);
    }
  }

  void NoteArrival(uint64_t id, Stream& stream) {
    const absl::Time now = absl::Now();
    report_.pauses[id] =
        std::max(report_.pauses[id], now - stream.last_arrival);
    stream.last_arrival = now;
  }

  void Reset(uint64_t id, End& end) {
    Stream& stream = streams_[id];
    if (stream.node == kNoNode) by_source_.erase(LocalEndpoint(end.fd.get()));
    ResetOnClose(end.fd.get());
    end.fd.reset();
    end.over = true;
    stream.doomed = true;
    last_progress_ = absl::Now();
    if ((stream.client.over && stream.server.over) || stream.node == kNoNode) {
      ++report_.lost;
      streams_.erase(id);
    }
  }

  // How much an end may have sent by now.
  uint64_t Sendable(const End& end) const {
    if (end.must_be_silent()) return 0;
    return end.out->size - (held_ && end.out->size > 0 ? 1 : 0);
  }
  bool MayShut(const End& end) const {
    return !end.must_be_silent() && !held_ && end.out->sent == end.out->size &&
           (!end.waits_for_peer || end.peer_ended);
  }

  void Rewatch(End& end, uint64_t tag) {
    const bool wants_out =
        !end.shut && (end.out->sent < Sendable(end) || MayShut(end));
    const bool rests = end.slow || Chance(plan_.chaos.pauses);
    if (rests) resting_.emplace(absl::Now() + kLongestRest * Unit(), tag);
    const uint32_t events =
        rests ? 0
              : (end.peer_ended ? 0U : EPOLLIN) | (wants_out ? EPOLLOUT : 0U);
    if (events == end.watched) return;
    end.watched = events;
    Watch(end.fd.get(), tag, events, EPOLL_CTL_MOD);
  }

  bool Receive(End& end) {
    static thread_local char buffer[kMaxWrite];
    const size_t wanted = end.slow ? kSlowRead : sizeof buffer;
    const int calls = end.slow ? 1 : kCallsPerEvent;
    for (int i = 0; i < calls && !end.peer_ended; ++i) {
      const ssize_t n = ::recv(end.fd.get(), buffer, wanted, 0);
      if (n < 0) return errno == EAGAIN;
      last_progress_ = absl::Now();
      const auto size = static_cast<size_t>(n);
      if (!IsNext(*end.in, {buffer, size})) return false;
      end.peer_ended = n == 0;
      end.in->received_digest.Update({buffer, size});
      end.in->received += size;
      report_.bytes += size;
    }
    return true;
  }

  // Whether `bytes` are what comes next in `flow`; none: its end. A stream
  // that is reset later has no digest to compare.
  bool IsNext(const Flow& flow, absl::string_view bytes) {
    errno = EBADMSG;
    if (bytes.empty()) return flow.received == flow.size;
    const size_t begin = (flow.offset + flow.received) % kPatternSize;
    const size_t size = std::min(bytes.size(), kPatternSize - begin);
    return bytes.substr(0, size) == pattern().substr(begin, size) &&
           bytes.substr(size) == pattern().substr(0, bytes.size() - size);
  }
  absl::string_view pattern() const { return pattern_; }

  bool Send(End& end) {
    Flow& flow = *end.out;
    const uint64_t sendable = Sendable(end);
    for (int i = 0; i < kCallsPerEvent && flow.sent < sendable; ++i) {
      const size_t position = (flow.offset + flow.sent) % kPatternSize;
      const uint64_t wanted =
          std::min({LogUniform(kMaxWrite) + 1, sendable - flow.sent,
                    kPatternSize - position});
      const absl::string_view bytes(pattern_.data() + position, wanted);
      const ssize_t n =
          ::send(end.fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n < 0) return errno == EAGAIN;
      flow.sent_digest.Update(bytes.substr(0, static_cast<size_t>(n)));
      flow.sent += static_cast<uint64_t>(n);
      last_progress_ = absl::Now();
    }
    if (!end.shut && MayShut(end)) {
      end.shut = ::shutdown(end.fd.get(), SHUT_WR) == 0;
      return end.shut;
    }
    return true;
  }

  void Finish(uint64_t id, Stream& stream) {
    if (stream.doomed) {
      ++report_.lost;
      streams_.erase(id);
      return;
    }
    for (Flow* flow : {&stream.up, &stream.down}) {
      if (flow->received != flow->size ||
          flow->sent_digest.Final() != flow->received_digest.Final()) {
        return Fail(id, flow == &stream.up ? "up: differs" : "down: differs");
      }
    }
    ++report_.equal;
    streams_.erase(id);
  }

  void Fail(uint64_t id, absl::string_view why) {
    const Stream& stream = streams_[id];
    report_.first_error = absl::StrCat(
        "seed ", plan_.seed, ", stream ", id, ": ", why, "; up ",
        stream.up.received, " of ", stream.up.sent, " sent of ", stream.up.size,
        ", down ", stream.down.received, " of ", stream.down.sent, " sent of ",
        stream.down.size, "; client shut ", stream.client.shut, ", ended ",
        stream.client.peer_ended, "; server shut ", stream.server.shut,
        ", ended ", stream.server.peer_ended);
  }

  struct Pending {
    UniqueFd fd;
    std::string header;
    size_t node = 0;
  };

  const StreamPlan& plan_;
  std::mt19937_64 random_;
  UniqueFd epoll_;
  std::string pattern_;
  std::vector<UniqueFd> listeners_;
  std::map<int, Pending> pending_;
  std::map<Endpoint, uint64_t> by_source_;
  uint64_t next_ = 0;
  std::map<uint64_t, Stream> streams_;
  absl::Time last_progress_;
  std::multimap<absl::Time, uint64_t> resting_;  // Tags.
  absl::Time revival_;                           // Of the victim.
  size_t alive_since_ = 0;                       // Over() at the last revival.
  bool held_ = false;
  std::optional<size_t> victim_;
  size_t next_victim_ = 0;
  StreamReport report_;
};

}  // namespace

StreamReport RunStreams(const StreamPlan& plan) {
  return StreamRun(plan).Run();
}

}  // namespace headgate::testing
