// Readers that are slow or have stopped, behind backends that send as fast as
// they can: what they cost is bounded, the others do not notice, and no byte is
// lost once they read again.
#include <poll.h>

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <vector>

#include "base/status.h"
#include "netns/splice_traps.h"
#include "support/edge.h"
#include "support/median.h"

namespace headgate::testing {
namespace {

constexpr int64_t kHeaderBytes = 28;  // PROXY version 2, IPv4.
constexpr int64_t kMiB = 1 << 20;
// One buffer a worker is reserved from nowhere.
constexpr int64_t kWorkersOwn = 2 * 64 << 10;

std::string Pattern() {
  std::string pattern(kMiB + 1, '\0');  // No power of two divides it.
  for (size_t i = 0; i < pattern.size(); ++i) {
    pattern[i] = static_cast<char>(i * 7919 >> 5);
  }
  return pattern;
}

// A client that reads when it is told to, and a backend that sends all it can.
class SlowReader {
 public:
  explicit SlowReader(Session session) : session_(std::move(session)) {}

  // False: nothing was taken.
  bool Send() {
    const size_t begin = sent_;
    ssize_t n = 0;
    do {
      sent_ += static_cast<size_t>(n);
      const size_t at = sent_ % pattern_.size();
      n = send(session_.backend.fd(), pattern_.data() + at,
               pattern_.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n > 0);
    return sent_ > begin;
  }
  // False: not what was sent, or not in time.
  bool Read(size_t bytes) {
    while (bytes > 0) {
      const size_t at = read_ % pattern_.size();
      const size_t step = std::min(bytes, pattern_.size() - at);
      if (session_.client.Receive(step) != pattern_.substr(at, step)) {
        return false;
      }
      read_ += step;
      bytes -= step;
    }
    return true;
  }
  bool ReadRest() { return Read(unread()); }

  size_t sent() const { return sent_; }
  size_t unread() const { return sent_ - read_; }
  Session& session() { return session_; }

 private:
  static const std::string pattern_;
  Session session_;
  size_t sent_ = 0;
  size_t read_ = 0;
};

const std::string SlowReader::pattern_ = Pattern();

class SlowReaders : public SpliceTraps {
 protected:
  void Open(size_t count, First first = First::kDown) {
    while (readers_.size() < count) {
      Session session = OpenSession(vip_, node_);
      ASSERT_TRUE(session.valid()) << readers_.size();
      TcpSocket& from =
          first == First::kDown ? session.backend : session.client;
      TcpSocket& to = first == First::kDown ? session.client : session.backend;
      ASSERT_TRUE(from.Send("first"));
      ASSERT_EQ(to.Receive(5), "first");
      readers_.emplace_back(std::move(session));
    }
  }
  // Until no backend can send any more.
  void Flood() {
    absl::Time last = absl::Now();
    WaitUntil(absl::Seconds(60), [&] {
      for (SlowReader& reader : readers_) {
        if (reader.Send()) last = absl::Now();
      }
      return absl::Now() - last > absl::Milliseconds(300);
    });
  }
  int64_t Held() const {
    const EdgeQueues queues = QueuesAtEdge();
    return queues.HeldBetween(queues.sockets / 2 * kHeaderBytes);
  }
  double Reserved() const {
    return Metric("headgate_splice_backlog_reserved_bytes");
  }
  // Socket buffers so small that thousands of them stay below the machine's
  // tcp_mem; only what the edge receives may be as much as it reads at once.
  static void SmallSocketBuffers() {
    for (const char* netns : {kClient, kEdge, kBackend}) {
      const int receive = netns != kEdge ? 16384 : Soak() ? 32768 : 131072;
      Shell(absl::StrCat("ip netns exec ", netns,
                         " sysctl -qw net.ipv4.tcp_rmem='4096 ", receive, " ",
                         receive, "' net.ipv4.tcp_wmem='4096 16384 32768'"));
    }
  }

  std::vector<SlowReader> readers_;
};

// Bytes a second, one way.
double Rate(Session& session, absl::Duration duration) {
  constexpr size_t kPiece = 100000;
  const absl::Time begin = absl::Now();
  double bytes = 0;
  while (absl::Now() - begin < duration) {
    if (!session.Exchange(kPiece)) return 0;
    bytes += kPiece;
  }
  return bytes / absl::ToDoubleSeconds(absl::Now() - begin);
}

// A full backlog passes bytes to userspace, for as long as some are there. Once
// the reader has caught up, the kernel must take the flow up again, not leave
// it there for good.
TEST_F(SlowReaders, TheKernelTakesAFlowUpAgainOnceItsReaderHasCaughtUp) {
  Start({.mode = "always"});
  ListenAtNode();
  SlowReader reader(Spliced(First::kDown));
  // The daemon's thread may run after the last byte has been read.
  const auto userspace_is_done = [&] {
    const auto flows = DumpMap(daemon_->pin_dir(), "splice_flows");
    return SumMapField(flows, "relayed") == SumMapField(flows, "passed");
  };
  for (int round = 0; round < (Soak() ? 100 : 8); ++round) {
    const double redirected = Verdicts("redirected");
    const double passed = Verdicts("passed_backlog");
    ASSERT_TRUE(WaitUntil(absl::Seconds(10),
                          [&] {
                            reader.Send();
                            return Verdicts("passed_backlog") > passed;
                          }))
        << "the reader is no bottleneck in round " << round;
    EXPECT_GT(Verdicts("redirected"), redirected) << "not in round " << round;
    ASSERT_TRUE(reader.ReadRest());
    ASSERT_TRUE(WaitUntil(absl::Seconds(10), userspace_is_done));
  }
}

class StoppedReaders : public SlowReaders,
                       public ::testing::WithParamInterface<const char*> {
 protected:
  // The kernel's, of the whole machine, less socket buffers, and the daemon's.
  int64_t MemoryInUse() const {
    return ResidentBytes(daemon_->pid()) - AvailableMemoryBytes() -
           SocketMemoryBytes() - MemoryUseBytes().at("AnonPages:");
  }
};

TEST_P(StoppedReaders, EightCostEightCapsAndNobodyElseNotices) {
  Start({.mode = GetParam()});
  ListenAtNode();
  Session innocent = OpenSession(vip_, node_);
  ASSERT_TRUE(innocent.Exchange(kMiB));
  const absl::Duration round = absl::Milliseconds(Soak() ? 1000 : 200);
  std::vector<double> alone, beside, spent;
  int64_t most_held = 0, most_memory = 0, sockets = 0;
  std::string used_for;
  for (int i = 0; i < (Soak() ? 15 : 5); ++i) {
    const auto uses = MemoryUseBytes();
    const int64_t memory = MemoryInUse();
    alone.push_back(Rate(innocent, round));
    Open(8);
    Flood();
    beside.push_back(Rate(innocent, round));
    const double cpu = CpuTimeOf(daemon_->pid()).total();
    ASSERT_TRUE(innocent.client.Quiet(absl::Milliseconds(100)));
    spent.push_back(CpuTimeOf(daemon_->pid()).total() - cpu);
    most_held = std::max(most_held, Held());
    sockets = std::max(sockets, SocketMemoryBytes());
    const int64_t taken = MemoryInUse() - memory;
    if (taken > most_memory) {
      most_memory = taken;
      used_for = Changes(uses, MemoryUseBytes());
    }
    readers_.clear();  // Some with bytes unread: a RST, and all is dropped.
    ASSERT_TRUE(WaitUntil(absl::Seconds(10),
                          [&] { return daemon_->ActiveConnections() == 1; }));
  }
  std::cout << GetParam() << ": held " << most_held << " B, machine's memory "
            << most_memory << " B besides " << sockets
            << " B of socket buffers; innocent " << Median(alone) * 8e-9
            << " Gb/s alone, " << Median(beside) * 8e-9 << " beside\n";
  EXPECT_GT(most_held, 0) << "nothing is held: they are not slow";
  EXPECT_LE(most_held, 8 * (kCap + kSlack));
  // A page takes more than the bytes in it, and others use the kernel, too;
  // what is not bounded takes gigabytes.
  EXPECT_LE(most_memory, 8 * (kCap + kSlack) + 256 * kMiB)
      << "what the machine's memory was used for:\n"
      << used_for;
  EXPECT_LT(Median(spent), 0.02) << "it spins";
  // Short rounds on a busy machine differ by more than half among themselves;
  // who is held up by the stopped gets next to nothing.
  EXPECT_GE(Median(beside), (Soak() ? 0.9 : 0.2) * Median(alone));
}

TEST_P(StoppedReaders, ManyCostNoMoreThanTheTotal) {
  const int64_t total = (Soak() ? 64 : 4) * kMiB;
  const size_t count = Soak() ? 9300 : 400;
  SmallSocketBuffers();
  Start({.mode = GetParam(),
         .backlog_total =
             Soak() ? ", backlog_total: 64MiB" : ", backlog_total: 4MiB"});
  ListenAtNode();
  Open(count);
  ASSERT_EQ(readers_.size(), count);
  Flood();
  const int64_t held = Held();
  std::cout << GetParam() << ": " << count << " stopped readers: held " << held
            << " B, reserved " << static_cast<int64_t>(Reserved()) << " B of "
            << total << " B; socket buffers " << SocketMemoryBytes() << " B\n";
  EXPECT_GT(held, total / 8) << "they do not stop anything";
  EXPECT_LE(held, total + kWorkersOwn);
  EXPECT_LE(Reserved(), total);

  // There is room for one that reads, all the same.
  {
    SlowReader innocent(OpenSession(vip_, node_));
    while (innocent.sent() < 8 * kMiB) {
      innocent.Send();
      ASSERT_TRUE(innocent.ReadRest());
    }
    EXPECT_TRUE(innocent.session().Exchange());
  }

  for (SlowReader& reader : readers_) {
    ASSERT_TRUE(reader.ReadRest())
        << reader.unread() << " bytes of " << reader.sent() << " missing, "
        << ErrnoName(reader.session().client.error());
  }
  for (SlowReader& reader : readers_) {
    ASSERT_TRUE(reader.session().Exchange(100));
  }
  readers_.clear();
  EXPECT_TRUE(NothingIsLeft());
  // What is kept for the next burst.
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    return Reserved() <= 2 * kMiB;
  })) << Reserved();
}

TEST_P(StoppedReaders, AKilobyteASecondIsEnoughToLoseNothing) {
  constexpr size_t kReaders = 4;
  Start({.mode = GetParam()});
  ListenAtNode();
  Session innocent = OpenSession(vip_, node_);
  Open(kReaders);
  Flood();
  const std::vector<size_t> sent = [&] {
    std::vector<size_t> each;
    for (const SlowReader& reader : readers_) each.push_back(reader.sent());
    return each;
  }();
  const int64_t held = Held();
  for (int i = 0; i < (Soak() ? 200 : 30); ++i) {
    for (SlowReader& reader : readers_) ASSERT_TRUE(reader.Read(100));
    for (SlowReader& reader : readers_) reader.Send();
    ASSERT_TRUE(innocent.Exchange());
    ASSERT_TRUE(innocent.client.Quiet(absl::Milliseconds(100)));  // The pace.
  }
  EXPECT_LE(Held(), std::max<int64_t>(held, kReaders * (kCap + kSlack)));
  for (size_t i = 0; i < kReaders; ++i) {
    // A window opens by a whole skb or so, not by what was read.
    EXPECT_LT(readers_[i].sent() - sent[i], 1u << 20) << "not held back";
    EXPECT_TRUE(readers_[i].ReadRest());
    EXPECT_TRUE(readers_[i].session().Exchange());
  }
}

INSTANTIATE_TEST_SUITE_P(Mode, StoppedReaders,
                         ::testing::Values("auto", "always", "off"),
                         [](const auto& tested) {
                           return std::string(tested.param);
                         });

}  // namespace
}  // namespace headgate::testing
