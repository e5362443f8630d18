// What somebody who comes from HAProxy expects of the server states and of
// retries (points 5 and 8 of the migration list; 4 is tests/mail/truth_test.sh
// and verdict_test.sh, 3 is rate_limit_test.sh there).
#include <gtest/gtest.h>

#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/tcp.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: two, address: 198.18.2.12}
      - {name: spare, address: 198.18.2.13, backup: true}
  nobody:
    backends: [{name: gone, address: 198.18.2.14}]
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: tcp, interval: 200ms, timeout: 200ms, rise: 2, fall: 3}
    slow_start: 5s
  unchecked:
    listen: [198.18.1.1:26]
    pool: nodes
    backend_port: 30125
    balance: first
    health: {type: none}
    timeouts: {connect: 5s, try_next: 5s}
  reset:
    listen: [198.18.1.1:27]
    pool: nobody
    backend_port: 30125
  told:
    listen: [198.18.1.1:28]
    pool: nobody
    backend_port: 30125
    on_no_backend: smtp_421
)";

constexpr char kGreeting[] = "220 ready\r\n";

class MigrationTest : public ::testing::Test {
 protected:
  static std::unique_ptr<Server> Node(const std::string& host) {
    return std::make_unique<Server>(
        std::vector<Endpoint>{At(host + ":30125")},
        ServerOptions{.greeting = kGreeting, .echo = true});
  }
  static LoadReport Load(size_t total, const char* vip = "198.18.1.1:25") {
    return RunLoad({.target = At(vip), .total = total, .expect = kGreeting});
  }
  // How many of `total` connections each backend gets: one, two, spare.
  std::vector<size_t> Shares(size_t total) {
    for (const auto& node : nodes_) node->TakeAccepted();
    const LoadReport report = Load(total);
    EXPECT_EQ(report.ok, total) << report.ToString();
    std::vector<size_t> shares;
    for (const auto& node : nodes_) {
      shares.push_back(node->TakeAccepted().size());
    }
    return shares;
  }
  void Ctl(std::vector<std::string> args) {
    args.insert(args.begin(), "backend");
    const ProcessResult result = daemon_.Ctl(args);
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }
  double Checks(const char* backend) {
    return daemon_.Metrics()[std::string("headgate_backend_checks_total{"
                                         "backend=\"") +
                             backend + "\",service=\"mail\"}"];
  }
  static void ExpectAlive(TcpSocket& socket) {
    ASSERT_TRUE(socket.Send("NOOP"));
    EXPECT_EQ(socket.Receive(4), "NOOP");
  }

  using Counts = std::vector<size_t>;
  Lab lab_;
  std::vector<std::unique_ptr<Server>> nodes_ = [] {
    std::vector<std::unique_ptr<Server>> nodes;
    for (const char* host : {"198.18.2.11", "198.18.2.12", "198.18.2.13"}) {
      nodes.push_back(Node(host));
    }
    return nodes;
  }();
  Daemon daemon_{kConfig};
};

TEST_F(MigrationTest, Point5DrainTakesNothingNewKeepsAndIsChecked) {
  ASSERT_TRUE(daemon_.WaitBackendState("mail", "one", "up"));
  Ctl({"maint", "mail/two"});
  TcpSocket open = TcpSocket::Connect(kClient, At("198.18.1.1:25"));
  ASSERT_EQ(open.Receive(11), kGreeting);  // From one.
  Ctl({"ready", "mail/two"});
  Ctl({"drain", "mail/one"});
  EXPECT_EQ(daemon_.Backend("mail", "one")["state"], "drain");
  EXPECT_EQ(Shares(20), (Counts{0, 20, 0}));
  const double checks = Checks("one");
  EXPECT_TRUE(
      WaitUntil(absl::Seconds(5), [&] { return Checks("one") > checks + 2; }));
  ExpectAlive(open);
  Ctl({"ready", "mail/one"});
  EXPECT_EQ(daemon_.Backend("mail", "one")["state"], "up");
}

TEST_F(MigrationTest, Point5MaintTakesNothingNewKeepsAndIsNotChecked) {
  ASSERT_TRUE(daemon_.WaitBackendState("mail", "one", "up"));
  ASSERT_TRUE(daemon_.WaitBackendState("mail", "two", "up"));
  TcpSocket open[2];  // One on each.
  for (TcpSocket& socket : open) {
    socket = TcpSocket::Connect(kClient, At("198.18.1.1:25"));
    ASSERT_EQ(socket.Receive(11), kGreeting);
  }
  Ctl({"maint", "mail/one"});
  EXPECT_EQ(Shares(20), (Counts{0, 20, 0}));
  const double checks = Checks("one");
  const double others = Checks("two");
  ASSERT_TRUE(
      WaitUntil(absl::Seconds(5), [&] { return Checks("two") > others + 4; }));
  EXPECT_EQ(Checks("one"), checks);
  for (TcpSocket& socket : open) ExpectAlive(socket);
  Ctl({"ready", "mail/one"});
  EXPECT_TRUE(daemon_.WaitBackendState("mail", "one", "up"));
}

TEST_F(MigrationTest, Point5WeightBackupAndSlowStart) {
  ASSERT_TRUE(daemon_.WaitBackendState("mail", "one", "up"));
  ASSERT_TRUE(daemon_.WaitBackendState("mail", "two", "up"));
  ASSERT_TRUE(daemon_.WaitBackendState("mail", "spare", "up"));
  Ctl({"weight", "mail/two", "3"});
  EXPECT_EQ(Shares(40), (Counts{10, 30, 0}));
  Ctl({"weight", "mail/two", "0"});
  EXPECT_EQ(Shares(20), (Counts{20, 0, 0}));
  Ctl({"weight", "mail/two", "1"});
  nodes_[0]->Kill();
  nodes_[1]->Kill();
  ASSERT_TRUE(daemon_.WaitBackendState("mail", "one", "down"));
  ASSERT_TRUE(daemon_.WaitBackendState("mail", "two", "down"));
  EXPECT_EQ(Shares(20), (Counts{0, 0, 20}));
  nodes_[1] = Node("198.18.2.12");
  ASSERT_TRUE(daemon_.WaitBackendState("mail", "two", "up"));
  EXPECT_EQ(Shares(20), (Counts{0, 20, 0}));
  const auto weight = daemon_.Backend("mail", "two")["weight_effective"];
  EXPECT_LT(weight.get<double>(), 1.0);
}

// Nobody has checked, and each client's first choice refuses: all the same it
// is the next one's at once, not after the second that HAProxy pauses between
// retries, nor the five until another is tried or the attempt given up.
TEST_F(MigrationTest, Point8ARefusedSynGoesToTheNext) {
  nodes_[0]->Kill();
  const LoadReport report = RunLoad({.target = At("198.18.1.1:26"),
                                     .total = 100,
                                     .concurrency = 4,
                                     .expect = kGreeting});
  EXPECT_EQ(report.ok, 100u) << report.ToString();
  EXPECT_EQ(nodes_[1]->TakeAccepted().size(), 100u);
  EXPECT_EQ(
      (daemon_.Metrics()["headgate_connect_failures_total{backend=\"one\","
                         "reason=\"refused\",service=\"unchecked\"}"]),
      100);
  EXPECT_LT(report.Percentile(0.5), absl::Milliseconds(300))
      << report.ToString();
}

TEST_F(MigrationTest, Point8WithNobodyTheClientIsResetAtOnceOrTold) {
  ASSERT_TRUE(daemon_.WaitBackendState("reset", "gone", "down"));
  ASSERT_TRUE(daemon_.WaitBackendState("told", "gone", "down"));
  const absl::Time start = absl::Now();
  TcpSocket reset = TcpSocket::Connect(kClient, At("198.18.1.1:27"));
  EXPECT_TRUE(!reset.valid() || reset.ReceivesReset());
  TcpSocket told = TcpSocket::Connect(kClient, At("198.18.1.1:28"));
  ASSERT_TRUE(told.valid());
  EXPECT_EQ(told.Receive(4), "421 ");
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(500));
}

}  // namespace
}  // namespace headgate::testing
