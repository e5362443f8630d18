// The traps of sockmap forwarding, by their number in the survey of peers:
// C1 to C7, the bytes.
#include <algorithm>
#include <atomic>
#include <thread>

#include "netns/splice_traps.h"
#include "support/injection.h"
#include "support/server.h"
#include "support/stream.h"

namespace headgate::testing {
namespace {

TEST_F(SpliceTraps, C1_BytesThatArriveDuringTheInsertion) {
  Start();
  Server echo({At("198.18.2.11:30125")}, {.echo = true});
  // More than the daemon reads before it hands over.
  std::string burst(512 << 10, '\0');
  for (size_t i = 0; i < burst.size(); ++i) {
    burst[i] = static_cast<char>(i * 7919 >> 5);
  }
  const size_t races = Soak() ? 100000 : 4000;
  const LoadReport small = Load(races, "EHLO a\r\nMAIL FROM:<b>\r\nQUIT\r\n");
  EXPECT_EQ(small.ok, races) << small.ToString();
  const LoadReport large = Load(races / 10, burst);
  EXPECT_EQ(large.ok, races / 10) << large.ToString();
  EXPECT_GT(Verdicts("redirected"), 0);
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(SpliceTraps, C2_NoByteMeetsAMissingPeer) {
  Start();
  Server echo({At("198.18.2.11:30125")}, {.echo = true});
  EXPECT_EQ(Load(300, std::string(512 << 10, 'p')).ok, 300u);
  EXPECT_GT(Verdicts("redirected"), 0);
  for (const char* miss :
       {"passed_unknown", "passed_no_sink", "passed_failed"}) {
    EXPECT_EQ(Verdicts(miss), 0) << miss;
  }
}

TEST_F(SpliceTraps, C3_ASlowReaderIsBoundedAndHoldsNobodyElseUp) {
  Start();
  ListenAtNode();
  Session slow = Spliced(First::kDown);
  Session other = Spliced();
  const size_t sent = slow.backend.Flood(1 << 30);
  EXPECT_LT(sent, 1u << 30) << "nothing pushes back on the sender";
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(slow.client.Receive(50).size(), 50u);  // 1 kB/s
    EXPECT_LE(UnchargedBytes(slow), kCap + kSlack);
    EXPECT_TRUE(other.Exchange());
    ASSERT_TRUE(other.backend.Quiet(absl::Milliseconds(50)));
  }
  // Nothing is lost or stuck once it reads again.
  EXPECT_EQ(slow.client.Receive(sent - 1000), std::string(sent - 1000, 'x'));
  EXPECT_TRUE(slow.Exchange());
}

// Pushing back on the sender must not bring the bytes up to userspace.
TEST_F(SpliceTraps, C3_ABottleneckReaderIsServedByTheKernel) {
  constexpr size_t kBytes = 128 << 20;
  Start({.mode = "auto"});
  ListenAtNode();
  Session session = OpenSession(vip_, node_);
  std::thread sender(
      [&] { EXPECT_EQ(session.backend.Flood(kBytes, kTcpTimeout), kBytes); });
  size_t wrong = 0;
  for (size_t got = 0; got < kBytes;) {
    const std::string piece = session.client.Receive(16 << 10);
    if (piece.empty()) break;
    got += piece.size();
    // Several looks at each byte make this end the slowest.
    for (const char other : {'w', 'y', 'z', '\0'}) {
      wrong +=
          static_cast<size_t>(std::count(piece.begin(), piece.end(), other));
    }
  }
  sender.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(Metric(R"(headgate_bytes_total{direction="out",service="mail"})"),
            kBytes);
  EXPECT_LT(Metric(R"(headgate_copied_bytes_total{service="mail"})"),
            kBytes / 5);
}

TEST_F(SpliceTraps, C3_EightFloodsCostEightCaps) {
  Start();
  ListenAtNode();
  Session innocent = Spliced();
  const auto rate = [&] {
    const absl::Time end = absl::Now() + absl::Seconds(2);
    int exchanges = 0;
    for (; absl::Now() < end; ++exchanges) {
      if (!innocent.Exchange(100000)) return 0;
    }
    return exchanges;
  };
  const int before = rate();
  std::vector<Session> floods;
  for (int i = 0; i < 8; ++i) floods.push_back(Spliced(First::kDown));
  for (Session& flood : floods) {
    EXPECT_LT(flood.backend.Flood(1 << 30), 1u << 30);
  }
  const int during = rate();
  EXPECT_GE(during, before / (Soak() ? 2 : 5));
  int64_t held = 0;
  for (const Session& flood : floods) held += UnchargedBytes(flood);
  EXPECT_GT(held, kCap) << "they hold nothing: not spliced";
  EXPECT_LE(held, 8 * (kCap + kSlack));
  floods.clear();
  EXPECT_TRUE(WaitUntil(absl::Seconds(10),
                        [&] { return daemon_->ActiveConnections() == 1; }));
}

TEST_F(SpliceTraps, C4_AHalfCloseComesBehindAllBytes) {
  Start();
  ListenAtNode();
  constexpr size_t kQueued = 3 << 20;
  for (const First first : {First::kUp, First::kDown}) {
    Session session = Spliced(first);
    TcpSocket& ends = first == First::kUp ? session.client : session.backend;
    TcpSocket& goes_on = first == First::kUp ? session.backend : session.client;
    const size_t sent = ends.Flood(kQueued);
    ends.ShutdownWrite();
    EXPECT_EQ(goes_on.Receive(sent), std::string(sent, 'x'));
    EXPECT_TRUE(goes_on.ReceivesEnd());
    const absl::Time end = absl::Now() + absl::Seconds(Soak() ? 120 : 2);
    while (absl::Now() < end) {
      ASSERT_TRUE(goes_on.Send("still here"));
      ASSERT_EQ(ends.Receive(10), "still here");
      ASSERT_TRUE(ends.Quiet(absl::Milliseconds(100)));
    }
    goes_on.ShutdownWrite();
    EXPECT_TRUE(ends.ReceivesEnd());
  }
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(SpliceTraps, C5_AResetWithABacklogEndsBothLegs) {
  Start();
  ListenAtNode();
  for (const First first : {First::kUp, First::kDown}) {
    for (const bool sender_resets : {true, false}) {
      Session session = Spliced(first);
      const bool up = first == First::kUp;
      TcpSocket& sender = up ? session.client : session.backend;
      TcpSocket& reader = up ? session.backend : session.client;
      const size_t sent = sender.Flood(64 << 20);
      ASSERT_LT(sent, 64u << 20);
      (sender_resets ? sender : reader).Reset();
      TcpSocket& survivor = sender_resets ? reader : sender;
      EXPECT_LE(survivor.ReceiveAll(kSoon).size(), sent);
      EXPECT_EQ(survivor.error(), ECONNRESET);
      EXPECT_TRUE(NothingIsLeft());
    }
  }
}

// The kernel tells a socket's error once. Who asks first must not keep it to
// himself: then the other side would hear of an orderly end.
TEST_F(SpliceTraps, C5_AResetAfterTheLastReadOrDuringTheInsertion) {
  Start({.workers = 1});
  ListenAtNode();
  for (const First first : {First::kUp, First::kDown}) {
    for (const bool inserted : {false, true}) {
      Session session = OpenSession(vip_, node_);
      const bool up = first == First::kUp;
      TcpSocket& sender = up ? session.client : session.backend;
      TcpSocket& survivor = up ? session.backend : session.client;
      const Injection held(
          daemon_->pid(),
          absl::StrCat(inserted ? "bpf" : "sendto", ":delay_exit=300000"));
      ASSERT_TRUE(sender.Send("last"));
      ASSERT_EQ(survivor.Receive(4), "last");
      ASSERT_TRUE(!inserted || WaitUntil(kSoon, [&] {
        return !DumpMapOf(daemon_->pid(), "splice_index").empty();
      }));
      sender.Reset();
      EXPECT_TRUE(survivor.ReceivesReset()) << "inserted: " << inserted;
    }
  }
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(SpliceTraps, C6_TheSwitchTakesEffectOnLiveConnections) {
  Start();
  ListenAtNode();
  Session session = Spliced();
  SwitchTo("off");
  const double redirected = Verdicts("redirected");
  EXPECT_TRUE(session.Exchange());
  EXPECT_EQ(Verdicts("redirected"), redirected);
  EXPECT_GT(Verdicts("passed_mode"), 0);
  EXPECT_EQ(Datapath(session), "relay");
  SwitchTo("always");
  EXPECT_TRUE(session.Exchange());
  EXPECT_GT(Verdicts("redirected"), redirected);
  EXPECT_EQ(Datapath(session), "splice");
}

TEST_F(SpliceTraps, C6_NoByteIsLostWhileTheSwitchIsThrown) {
  Start();
  StreamReport report;
  std::atomic<bool> done = false;
  std::thread streams([&] {
    report = RunStreams({.seed = 6,
                         .listen = {At("198.18.2.11:30125")},
                         .target = vip_,
                         .count = Soak() ? 2000u : 150u,
                         .large = 4,
                         .max_size = 20 << 20});
    done = true;
  });
  for (bool off = true; !done; off = !off) {
    daemon_->Reload(Config({.mode = off ? "off" : "always"}));
    WaitUntil(absl::Milliseconds(50), [&] { return done.load(); });
  }
  streams.join();
  EXPECT_EQ(report.first_error, "");
  EXPECT_GT(Verdicts("passed_mode"), 0);
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(SpliceTraps, C7_OneByteWrites) {
  Start();
  ListenAtNode();
  Session session = Spliced();
  std::string bytes;
  for (int i = 0; i < 20000; ++i) {
    bytes.push_back(static_cast<char>(i % 251));
    ASSERT_TRUE(session.client.Send(bytes.substr(bytes.size() - 1)));
  }
  EXPECT_EQ(session.backend.Receive(bytes.size()), bytes);
}

TEST_F(SpliceTraps, C7_ZeroCopyAndLargeWrites) {
  Start();
  ListenAtNode();
  Session session = Spliced();
  const int on = 1;
  ASSERT_EQ(
      setsockopt(session.client.fd(), SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on),
      0);
  std::string bytes(1 << 20, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>(i * 31 >> 3);
  }
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t n = send(session.client.fd(), bytes.data() + sent,
                           bytes.size() - sent, MSG_ZEROCOPY | MSG_NOSIGNAL);
    if (n <= 0) break;
    sent += static_cast<size_t>(n);
  }
  ASSERT_GT(sent, 0u);
  EXPECT_EQ(session.backend.Receive(sent), bytes.substr(0, sent));
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(session.Exchange(256 << 10));
}

// The urgent byte itself comes in its place, or not at all, as to anyone who
// does not ask for SO_OOBINLINE.
TEST_F(SpliceTraps, C7_UrgentDataAndEmptyWritesDoNotBreakTheStream) {
  Start();
  ListenAtNode();
  Session session = Spliced();
  ASSERT_TRUE(session.client.Send("before"));
  ASSERT_TRUE(session.client.Send("!", MSG_OOB));
  ASSERT_EQ(send(session.client.fd(), "", 0, 0), 0);
  ASSERT_TRUE(session.client.Send("after"));
  const std::string got = session.backend.ReceiveAll(absl::Milliseconds(500));
  EXPECT_TRUE(got == "before!after" || got == "beforeafter") << got;
  EXPECT_TRUE(session.Exchange());
}

// splice(2) stops before it as if nothing more had come.
TEST_F(SpliceTraps, C7_UrgentDataDoesNotEndASaturatedRelay) {
  constexpr size_t kBulk = 32 << 20;
  Start();
  ListenAtNode();
  Session session = OpenSession(At("198.18.1.1:26"), node_);
  for (int i = 0; i < 3; ++i) {
    std::thread sender([&] {
      EXPECT_TRUE(session.client.Send(std::string(kBulk, 'b')));
      EXPECT_TRUE(session.client.Send("!", MSG_OOB));
      EXPECT_TRUE(session.client.Send(std::string(kBulk, 'a')));
      if (i == 2) session.client.ShutdownWrite();
    });
    std::string got = session.backend.Receive(2 * kBulk);
    sender.join();
    EXPECT_EQ(got.size(), 2 * kBulk);
  }
  EXPECT_LE(session.backend.ReceiveAll(kTcpTimeout).size(), 3u);
  EXPECT_TRUE(session.backend.Send("still there"));
  EXPECT_EQ(session.client.Receive(11), "still there");
}

TEST_F(SpliceTraps, C7_AnOverlappingRetransmission) {
  Start();
  ListenAtNode();
  Session session = Spliced();
  ASSERT_TRUE(session.client.Send("0123456789"));
  ASSERT_EQ(session.backend.Receive(10), "0123456789");
  ASSERT_TRUE(RunIn(kClient, [&] { return session.client.Rewind(4); }));
  ASSERT_TRUE(session.client.Send("6789ab"));
  ASSERT_TRUE(session.client.Send("cd"));
  EXPECT_EQ(session.backend.Receive(4), "abcd");
  EXPECT_TRUE(session.backend.Quiet(absl::Milliseconds(300)));
}

}  // namespace
}  // namespace headgate::testing
