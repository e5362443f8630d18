// Backends that answer nothing at all, as hosts without power do: how long
// clients wait for the one that does.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

// $0: timeouts. Without checks nobody learns which backends are gone.
constexpr char kConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: two, address: 198.18.2.12}
      - {name: three, address: 198.18.2.13}
      - {name: four, address: 198.18.2.14}
  ordered:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: two, address: 198.18.2.12, backup: true}
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
    timeouts: {$0}
  ordered:
    listen: [198.18.1.1:26]
    pool: ordered
    backend_port: 30125
    health: {type: none}
    timeouts: {$0}
)";
constexpr char kGreeting[] = "220 ready\r\n";
constexpr absl::Duration kPrompt = absl::Milliseconds(500);
constexpr absl::Duration kTryNext = absl::Milliseconds(200);
constexpr char kBeside[] = "connect: 3s, try_next: 200ms";

constexpr char kCheckedConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: two, address: 198.18.2.12}
      - {name: three, address: 198.18.2.13}
      - {name: four, address: 198.18.2.14}
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: tcp, interval: 500ms, timeout: 500ms, fall: 3}
    timeouts: {try_next: 100ms, greeting: 1s, dead_peer: 5s}
)";

class BlackHoleTest : public ::testing::Test {
 protected:
  void Start(const char* timeouts) {
    daemon_ = std::make_unique<Daemon>(absl::Substitute(kConfig, timeouts));
  }
  static std::unique_ptr<Server> Node(const char* address) {
    return std::make_unique<Server>(
        std::vector<Endpoint>{At(absl::StrCat(address, ":30125"))},
        ServerOptions{.greeting = kGreeting, .echo = true});
  }
  // At 100 new connections a second.
  static LoadReport Load(size_t total, const char* vip = "198.18.1.1:25") {
    return RunLoad({.target = At(vip),
                    .total = total,
                    .concurrency = 1000,
                    .per_second = 100,
                    .send = "NOOP\r\n",
                    .expect = absl::StrCat(kGreeting, "NOOP\r\n")});
  }
  // At 500 a second, until they are greeted.
  static LoadReport LoadOf500(size_t total) {
    return RunLoad({.target = At("198.18.1.1:25"),
                    .total = total,
                    .concurrency = 5000,
                    .per_second = 500,
                    .expect = kGreeting});
  }
  // How many connections backend one has failed, of all kinds.
  size_t FailedByOne() const {
    double sum = 0;
    for (const auto& [series, value] : daemon_->Metrics()) {
      const bool failures =
          absl::StartsWith(series, "headgate_connect_failures_total{") ||
          absl::StartsWith(series, "headgate_backend_early_closes_total{");
      if (failures && absl::StrContains(series, "backend=\"one\"")) {
        sum += value;
      }
    }
    return static_cast<size_t>(sum);
  }
  double Failures(const char* service, const char* backend,
                  const char* reason) const {
    return daemon_->Metrics()[absl::StrCat(
        "headgate_connect_failures_total{backend=\"", backend, "\",reason=\"",
        reason, "\",service=\"", service, "\"}")];
  }
  // Nothing is left behind, whoever lost.
  void ExpectAllReleased() {
    EXPECT_TRUE(WaitUntil(kTcpTimeout,
                          [&] { return daemon_->ActiveConnections() == 0; }));
    const nlohmann::json list = daemon_->Json({"backend", "list"});
    for (const auto& backend : list["backends"]) {
      EXPECT_EQ(backend["connections_active"], 0) << backend;
    }
    EXPECT_TRUE(
        WaitUntil(kTcpTimeout, [&] { return daemon_->OpenFiles() <= files_; }))
        << daemon_->OpenFiles() << " of " << files_;
  }

  Lab lab_;
  std::unique_ptr<Daemon> daemon_;
  size_t files_ = 0;
};

TEST_F(BlackHoleTest, D1_ThreeOfFourDelayNobodyForLong) {
  const auto four = Node("198.18.2.14");
  Start(kBeside);
  ASSERT_EQ(Load(4).ok, 4u);  // The others refuse: no time is lost.
  files_ = daemon_->OpenFiles();
  for (const char* gone : {"198.18.2.11", "198.18.2.12", "198.18.2.13"}) {
    lab_.BlackHole(gone);
  }
  const LoadReport report = Load(200);
  EXPECT_EQ(report.ok, 200u) << report.ToString();
  EXPECT_LT(report.Percentile(1), 3 * kTryNext + kPrompt) << report.ToString();
  // Nobody waits for somebody else: who is lucky is served at once.
  EXPECT_LT(report.Percentile(0.1), kTryNext / 2) << report.ToString();
  EXPECT_GT(Failures("mail", "one", "overtaken"), 0);
  EXPECT_EQ(Failures("mail", "one", "timeout"), 0);
  RecordProperty("answered", report.ToString());
  ExpectAllReleased();
}

// Those whom the lost backend was chosen for wait for the next one; nobody
// waits with them, and nobody fails. Checks find it out within their time, and
// one that refuses is not taken for connected.
TEST_F(BlackHoleTest, D1_OneOfFourUnder500ASecondDelaysNobodyElse) {
  const auto one = Node("198.18.2.11"), two = Node("198.18.2.12"),
             three = Node("198.18.2.13"), four = Node("198.18.2.14");
  daemon_ = std::make_unique<Daemon>(kCheckedConfig);
  ASSERT_TRUE(daemon_->WaitBackendState("mail", "one", "up"));
  files_ = daemon_->OpenFiles();
  const LoadReport before = LoadOf500(1000);
  ASSERT_EQ(before.ok, 1000u) << before.ToString();

  LoadReport during;
  std::thread load([&] { during = LoadOf500(2000); });
  EXPECT_TRUE(
      WaitUntil(kTcpTimeout, [&] { return one->accepted() >= 250 + 125; }));
  lab_.BlackHole("198.18.2.11");
  // interval x fall + timeout, and what a busy machine adds.
  EXPECT_TRUE(daemon_->WaitBackendState("mail", "one", "down",
                                        absl::Seconds(2) + 2 * kPrompt));
  load.join();
  EXPECT_EQ(during.ok, 2000u) << during.ToString();

  const size_t delayed = FailedByOne();
  EXPECT_GT(delayed, 0u);
  ASSERT_LT(delayed, 1000u);
  LoadReport others = during;
  others.answered.resize(during.ok - delayed);  // The slowest are last.
  // Of those who have not chosen the lost one, nearly half come before it is
  // found out. Waiting with those who have would cost try_next, 100 ms; on a
  // machine that does nothing else the rise is less than 5 ms even at p99.
  const bool soak = std::getenv("HG_SOAK") != nullptr;
  const double share = soak ? 0.99 : 0.75;
  EXPECT_LT(others.Percentile(share) - before.Percentile(share),
            absl::Milliseconds(soak ? 5 : 50))
      << before.ToString() << "; then " << others.ToString();
  if (soak) {
    EXPECT_LT(others.Percentile(0.5), absl::Milliseconds(1))
        << others.ToString();
  }
  // Greeted by the next one after `greeting`, long before `dead_peer`.
  EXPECT_LT(during.Percentile(1), absl::Seconds(1) + 2 * kPrompt)
      << during.ToString();
  std::cout << "before: " << before.ToString() << "; " << delayed
            << " had chosen the lost one, slowest "
            << absl::FormatDuration(during.Percentile(1))
            << "; the others: " << others.ToString() << "\n";
  four->Kill();
  const LoadReport after = LoadOf500(50);
  EXPECT_EQ(after.ok, 50u) << after.ToString();
  EXPECT_GT(Failures("mail", "four", "refused"), 0);
  ExpectAllReleased();
}

TEST_F(BlackHoleTest, AllOfThemCostOneTimeOutNotFour) {
  Start("connect: 500ms, try_next: 100ms");
  files_ = daemon_->OpenFiles();
  for (const char* gone :
       {"198.18.2.11", "198.18.2.12", "198.18.2.13", "198.18.2.14"}) {
    lab_.BlackHole(gone);
  }
  const absl::Time start = absl::Now();
  TcpSocket client = TcpSocket::Connect(kClient, At("198.18.1.1:25"));
  ASSERT_TRUE(client.valid());
  EXPECT_TRUE(client.ReceivesReset());
  const absl::Duration waited = absl::Now() - start;
  EXPECT_GE(waited, absl::Milliseconds(800));
  EXPECT_LT(waited, absl::Milliseconds(800) + kPrompt);
  for (const char* backend : {"one", "two", "three", "four"}) {
    EXPECT_EQ(Failures("mail", backend, "timeout"), 1) << backend;
  }
  ExpectAllReleased();
}

TEST_F(BlackHoleTest, WithALongTryNextTheyAreTriedOneByOne) {
  const auto two = Node("198.18.2.12");
  Start("connect: 300ms, try_next: 5m");
  files_ = daemon_->OpenFiles();
  lab_.BlackHole("198.18.2.11");
  const LoadReport report = Load(10, "198.18.1.1:26");
  EXPECT_EQ(report.ok, 10u) << report.ToString();
  EXPECT_GE(report.answered.front(), absl::Milliseconds(300));
  EXPECT_EQ(Failures("ordered", "one", "timeout"), 10);
  EXPECT_EQ(Failures("ordered", "one", "overtaken"), 0);
  ExpectAllReleased();
}

// The first SYN of each connection to the first choice is lost; it would be
// answered a second later.
TEST_F(BlackHoleTest, TheOvertakenServerHearsNothing) {
  const auto one = Node("198.18.2.11");
  const auto two = Node("198.18.2.12");
  Start(kBeside);
  files_ = daemon_->OpenFiles();
  Shell(R"(ip netns exec backend nft 'table ip lose {
             set seen { type inet_service; flags dynamic; size 1000; }
             chain in { type filter hook input priority 0
               ip daddr 198.18.2.11 tcp flags & (syn | ack) == syn \
                 tcp sport != @seen add @seen { tcp sport } drop
             }; }')");
  const LoadReport report = Load(50, "198.18.1.1:26");
  EXPECT_EQ(report.ok, 50u) << report.ToString();
  EXPECT_GE(report.answered.front(), kTryNext);
  EXPECT_LT(report.Percentile(1), kTryNext + kPrompt);
  EXPECT_EQ(two->TakeAccepted().size(), 50u);
  EXPECT_EQ(Failures("ordered", "one", "overtaken"), 50);
  EXPECT_EQ(one->open() + one->accepted(), 0u);
  ExpectAllReleased();
}

}  // namespace
}  // namespace headgate::testing
