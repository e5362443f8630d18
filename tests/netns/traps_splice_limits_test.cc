// The traps of sockmap forwarding, by their number in the survey of peers:
// C8 to C14, its limits and ends.
#include <unistd.h>

#include <array>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "datapath/datapath.h"
#include "netns/splice_traps.h"
#include "support/server.h"

namespace headgate::testing {
namespace {

// A worker takes no more connections than it has numbers for, so this does not
// happen to the daemon.
TEST_F(SpliceTraps, C8_WithoutAFlowNumberTheSocketIsRefusedAndUntouched) {
  ListenAtNode();
  auto opened = datapath::Datapath::Open({"/sys/fs/bpf/small", 1, 1});
  ASSERT_TRUE(opened.ok()) << opened.status();
  (*opened)->splice_budget().set_limit(4 * kCap);
  datapath::SpliceFlows& flows = *(*opened)->splice_flows(0);
  std::vector<TcpSocket> near, far;
  for (int i = 0; i < 3; ++i) {
    near.push_back(TcpSocket::Connect(kEdge, At("198.18.2.11:30125")));
    far.push_back(TcpSocket::Accept(node_));
  }
  hg_fallback reason{};
  datapath::SpliceFlows::Spec spec;
  spec.sink = near[2].fd();
  spec.backlog_limit_bytes = kCap;
  spec.source = near[0].fd();
  ASSERT_TRUE(flows.Insert(spec, &reason).has_value());
  spec.source = near[1].fd();
  EXPECT_FALSE(flows.Insert(spec, &reason).has_value());
  EXPECT_EQ(reason, HG_FALLBACK_NO_FLOW);
  ASSERT_TRUE(far[1].Send("relayed"));
  EXPECT_EQ(near[1].Receive(7), "relayed");
}

TEST_F(SpliceTraps, C8_WithoutABacklogBudgetItIsRelayed) {
  Start({.backlog = "1GiB"});
  ListenAtNode();
  const auto fit = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) *
                       static_cast<size_t>(sysconf(_SC_PAGESIZE)) / 4 >>
                   30;
  std::vector<Session> sessions;
  for (size_t i = 0; i < fit; ++i) sessions.push_back(Spliced());
  for (int i = 0; i < 3; ++i) {
    sessions.push_back(OpenSession(vip_, node_));
    EXPECT_TRUE(sessions.back().Exchange());
    EXPECT_EQ(Datapath(sessions.back()), "relay");
  }
  // Said once, not for each of them.
  EXPECT_EQ(std::vector<std::string>(
                absl::StrSplit(daemon_->Log(), "carried by userspace"))
                .size(),
            2u);
  sessions.clear();
  EXPECT_TRUE(WaitUntil(kSoon, [&] { return Fallbacks("backlog") == 3; }));
}

TEST_F(SpliceTraps, C8_TheBacklogBudgetCanBeSet) {
  Start({.backlog = "1MiB", .backlog_total = ", backlog_total: 2MiB"});
  ListenAtNode();
  const Session first = Spliced();
  const Session second = Spliced();
  Session third = OpenSession(vip_, node_);
  EXPECT_TRUE(third.Exchange());
  EXPECT_EQ(Datapath(third), "relay");
}

// The kernel deals connections out by hash, and long ones would meet.
TEST_F(SpliceTraps, LongConnectionsAreSharedOutEvenly) {
  constexpr int kWorkers = 2;
  Start({.workers = kWorkers});
  ListenAtNode();
  std::vector<Session> sessions;
  std::array<int, kWorkers> of_worker{};
  const auto count = [&] {
    of_worker = {};
    const nlohmann::json list = daemon_->Json({"conn", "list"});
    for (const nlohmann::json& row : list.at("connections")) {
      ++of_worker.at(row.at("id").get<uint64_t>() % HG_MAX_WORKERS);
    }
  };
  for (const int wanted : {2, 4, 8, 16}) {
    while (sessions.size() < static_cast<size_t>(wanted)) {
      sessions.push_back(OpenSession(vip_, node_));
    }
    count();
    EXPECT_LE(std::abs(of_worker[0] - of_worker[1]), wanted / 4)
        << wanted << " connections";
  }
}

TEST_F(SpliceTraps, C9_Ip6IsSplicedToo) {
  Start();
  node_ = RunIn(kBackend, [] { return Listen(At("[2001:db8:2::11]:30125")); });
  Session session = OpenSession(At("[2001:db8:1::1]:25"), node_);
  EXPECT_TRUE(session.Exchange(1 << 20));
  EXPECT_EQ(Datapath(session), "splice");
  EXPECT_TRUE(session.Exchange(1 << 20));
}

TEST_F(SpliceTraps, C9_TheSameAddressesAtOnceAgain) {
  Start();
  ListenAtNode();
  for (int i = 0; i < 200; ++i) {
    TcpSocket client = TcpSocket::Connect(kClient, vip_, 40000);
    ASSERT_TRUE(client.valid()) << i;
    Session session = AcceptSession(std::move(client), node_);
    ASSERT_TRUE(session.Exchange(100 + static_cast<size_t>(i))) << i;
    session.client.Reset();
    EXPECT_TRUE(session.backend.ReceivesReset()) << i;
  }
  EXPECT_TRUE(NothingIsLeft());
}

// A stream parser would hold bytes back until a message is whole.
TEST_F(SpliceTraps, C10_OnlyAVerdictProgramRuns) {
  Start();
  ListenAtNode();
  EXPECT_TRUE(daemon_->Json({"status"}).at("datapaths").at("splice"));
  Session session = Spliced();
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(session.Exchange(1));
  const nlohmann::json programs =
      nlohmann::json::parse(RunCommand({"bpftool", "-j", "prog", "show"}).out);
  size_t verdicts = 0;
  for (const nlohmann::json& program : programs) {
    if (program.at("type") != "sk_skb") continue;
    EXPECT_FALSE(absl::StrContains(program.dump(), "parser")) << program;
    verdicts += program.at("name") == "splice_verdict";
  }
  EXPECT_GT(verdicts, 0u);
}

TEST_F(SpliceTraps, C11_TheKernelsBytesKeepAConnectionFromBeingIdle) {
  constexpr absl::Duration kIdle = absl::Seconds(2);
  Start({.idle = "2s"});
  ListenAtNode();
  Session session = Spliced();
  const absl::Time end = absl::Now() + 3 * kIdle;
  while (absl::Now() < end) {
    ASSERT_TRUE(session.client.Send("DONE\r\n"));
    ASSERT_EQ(session.backend.Receive(6), "DONE\r\n");
    ASSERT_TRUE(session.client.Quiet(absl::Milliseconds(500)));
  }
  const absl::Time last = absl::Now();
  EXPECT_TRUE(session.client.ReceivesEnd());
  EXPECT_TRUE(session.backend.ReceivesEnd());
  EXPECT_GE(absl::Now() - last, kIdle / 2);
  EXPECT_LE(absl::Now() - last, 2 * kIdle);
}

TEST_F(SpliceTraps, C12_APeerThatVanishesTakesBothLegsWithIt) {
  ListenAtNode();
  const struct {
    First first;
    Settings settings;
  } cases[] = {{First::kUp, {.idle = "1s"}},
               {First::kDown, {.idle = "1s"}},
               {First::kUp, {.dead_peer = "1s"}},
               {First::kDown, {.dead_peer = "1s"}}};
  for (const auto& tested : cases) {
    Start(tested.settings);
    Session session = Spliced(tested.first);
    const bool up = tested.first == First::kUp;
    // Who is sent to has lost power.
    const std::string gone = up ? "198.18.2.11 dev e1" : "198.18.0.2 dev e0";
    Shell(absl::StrCat("ip -n edge neigh replace ", gone,
                       " lladdr 02:00:00:00:00:99 nud permanent"));
    TcpSocket& sender = up ? session.client : session.backend;
    ASSERT_TRUE(sender.Send(std::string(100000, 'g')));
    EXPECT_EQ(sender.ReceiveAll(kTcpTimeout), "");
    EXPECT_NE(sender.error(), ETIMEDOUT) << "nobody told the sender";
    EXPECT_TRUE(NothingIsLeft());
    Shell(absl::StrCat("ip -n edge neigh del ", gone));
    daemon_.reset();
  }
}

// No kernel under test has all of them: what is refused here for another
// program is refused on the same path as a socket with TLS.
TEST_F(SpliceTraps, C13_ASocketThatIsTakenIsRefusedAndUntouched) {
  ListenAtNode();
  const auto open = [](const char* pin_dir) {
    auto opened = datapath::Datapath::Open({pin_dir, 1, 1024});
    EXPECT_TRUE(opened.ok()) << opened.status();
    (*opened)->splice_budget().set_limit(4 * kCap);
    return *std::move(opened);
  };
  const auto owner = open("/sys/fs/bpf/owner");
  const auto other = open("/sys/fs/bpf/other");
  TcpSocket source = TcpSocket::Connect(kEdge, At("198.18.2.11:30125"));
  TcpSocket client = TcpSocket::Accept(node_);
  TcpSocket sink = TcpSocket::Connect(kEdge, At("198.18.2.11:30125"));
  TcpSocket reader = TcpSocket::Accept(node_);
  datapath::SpliceFlows::Spec spec;
  spec.source = source.fd();
  spec.sink = sink.fd();
  spec.backlog_limit_bytes = kCap;
  hg_fallback reason{};
  ASSERT_TRUE(owner->splice_flows(0)->Insert(spec, &reason).has_value());
  EXPECT_FALSE(other->splice_flows(0)->Insert(spec, &reason).has_value());
  EXPECT_EQ(reason, HG_FALLBACK_REFUSED);
  EXPECT_EQ(other->splice_flows(0)->in_use(), 0u);
  EXPECT_EQ(other->splice_budget().reserved(), 0u);
  ASSERT_TRUE(client.Send("goes on"));
  EXPECT_EQ(reader.Receive(7), "goes on");
}

TEST_F(SpliceTraps, C13_AnMptcpSocketIsRefused) {
  Start();
  ListenAtNode();
  const UniqueFd mptcp = RunIn(kEdge, [] {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP));
    sockaddr_storage address{};
    const socklen_t size = At("198.18.2.11:30125").ToSockaddr(&address);
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), size),
              0);
    return fd;
  });
  const auto other = datapath::Datapath::Open({"/sys/fs/bpf/other", 1, 1024});
  ASSERT_TRUE(other.ok()) << other.status();
  (*other)->splice_budget().set_limit(kCap);
  datapath::SpliceFlows::Spec spec;
  spec.source = spec.sink = mptcp.get();
  spec.backlog_limit_bytes = kCap;
  hg_fallback reason{};
  EXPECT_FALSE((*other)->splice_flows(0)->Insert(spec, &reason).has_value());
  EXPECT_EQ((*other)->splice_flows(0)->in_use(), 0u);
}

// Numbers are for tools/bench; that one can tell which carried them is tested.
TEST_F(SpliceTraps, C14_MetricsTellRelayFromSplice) {
  Start();
  Server echo({At("198.18.2.11:30125")}, {.echo = true});
  const std::string bytes(5000, 'm');
  EXPECT_EQ(Load(50, bytes).ok, 50u);
  EXPECT_EQ(Fallbacks("relay"), 0);
  const double redirected = Verdicts("redirected");
  const LoadReport relayed = RunLoad({.target = At("198.18.1.1:26"),
                                      .total = 50,
                                      .send = bytes,
                                      .expect = bytes});
  EXPECT_EQ(relayed.ok, 50u);
  EXPECT_TRUE(WaitUntil(kSoon, [&] { return Fallbacks("relay") == 50; }));
  EXPECT_EQ(Verdicts("redirected"), redirected);
}

}  // namespace
}  // namespace headgate::testing
