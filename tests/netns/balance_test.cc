// Each way to choose a backend, by the real daemon.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/tcp.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kGreeting[] = "220 ready\r\n";

// Backends of the addresses 198.18.2.11, .12 and .13.
std::string Config(const std::string& service, const std::string& one = "",
                   const std::string& two = "", const std::string& three = "") {
  return absl::StrCat(R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: "198.18.2.11:25")",
                      one, R"(}
      - {name: two, address: "198.18.2.12:25")",
                      two, R"(}
      - {name: three, address: "198.18.2.13:25")",
                      three, R"(}
services:
  mail:
    listen: [198.18.1.1:25, "[2001:db8:1::1]:25"]
    pool: nodes
    health: {type: tcp, interval: 200ms, timeout: 100ms, rise: 1, fall: 1}
)",
                      service);
}

class BalanceTest : public ::testing::Test {
 protected:
  static std::unique_ptr<Server> Node(int host) {
    return std::make_unique<Server>(
        std::vector<Endpoint>{At(absl::StrCat("198.18.2.", host, ":25"))},
        ServerOptions{.greeting = kGreeting, .echo = true});
  }
  void Load(size_t total) const {
    const LoadReport report =
        RunLoad({.target = vip_, .total = total, .expect = kGreeting});
    EXPECT_EQ(report.ok, total) << report.ToString();
  }
  // Open, greeted connections.
  std::vector<TcpSocket> Hold(size_t count) const {
    std::vector<TcpSocket> held;
    for (size_t i = 0; i < count; ++i) {
      held.push_back(TcpSocket::Connect(kClient, vip_));
      EXPECT_EQ(held.back().Receive(11), kGreeting);
    }
    return held;
  }
  std::vector<size_t> Open() const {
    return {nodes_[0]->open(), nodes_[1]->open(), nodes_[2]->open()};
  }
  std::vector<size_t> Accepted() const {
    return {nodes_[0]->accepted(), nodes_[1]->accepted(),
            nodes_[2]->accepted()};
  }
  static bool WaitActive(const Daemon& daemon, int64_t connections) {
    return WaitUntil(absl::Seconds(10),
                     [&] { return daemon.ActiveConnections() == connections; });
  }

  using Counts = std::vector<size_t>;
  Lab lab_;
  std::vector<std::unique_ptr<Server>> nodes_ = [] {
    std::vector<std::unique_ptr<Server>> nodes;
    for (const int host : {11, 12, 13}) nodes.push_back(Node(host));
    return nodes;
  }();
  const Endpoint vip_ = At("198.18.1.1:25");
};

TEST_F(BalanceTest, LeastConnectionsFillsWhoHasFewest) {
  Daemon daemon(Config("    balance: least_connections\n", ", weight: 2", "",
                       ", weight: 0"));
  EXPECT_EQ(daemon.Service("mail")["balance"], "least_connections");
  const std::vector<TcpSocket> held = Hold(30);
  EXPECT_EQ(Open(), (Counts{20, 10, 0}));
}

TEST_F(BalanceTest, MaglevSpreadsOneClientsPorts) {
  Daemon daemon(Config("    balance: maglev\n"));
  Load(300);
  for (const size_t accepted : Accepted()) EXPECT_GE(accepted, 50u);
}

TEST_F(BalanceTest, SourceKeepsAClientThroughARestart) {
  Counts before;
  {
    Daemon daemon(Config("    balance: source\n"));
    Load(30);
    before = Accepted();
    EXPECT_EQ(*std::max_element(before.begin(), before.end()), 30u);
  }
  Daemon daemon(Config("    balance: source\n"));
  Load(30);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(Accepted()[i], 2 * before[i]);
}

TEST_F(BalanceTest, AWeightThatAnOperatorSetsMovesTheTable) {
  Daemon daemon(Config("    balance: maglev\n"));
  for (const char* name : {"mail/one", "mail/two"}) {
    ASSERT_EQ(daemon.Ctl({"backend", "weight", name, "0"}).exit_code, 0);
  }
  Load(50);
  EXPECT_EQ(Accepted(), (Counts{0, 0, 50}));
}

TEST_F(BalanceTest, FirstFillsInTheOrderOfTheFile) {
  Daemon daemon(Config("    balance: first\n", ", max_connections: 3",
                       ", max_connections: 2"));
  std::vector<TcpSocket> held = Hold(7);
  EXPECT_EQ(Open(), (Counts{3, 2, 2}));
  EXPECT_EQ(daemon.Backend("mail", "one")["max_connections"], 3);
  held.clear();
  ASSERT_TRUE(WaitActive(daemon, 0));
  held = Hold(1);
  EXPECT_EQ(Accepted(), (Counts{4, 2, 2}));
}

TEST_F(BalanceTest, WhenAllAreFullClientsAreReset) {
  Daemon daemon(Config("", ", max_connections: 1", ", max_connections: 1",
                       ", max_connections: 1"));
  const std::vector<TcpSocket> held = Hold(3);
  EXPECT_EQ(Open(), (Counts{1, 1, 1}));
  EXPECT_TRUE(TcpSocket::Connect(kClient, vip_).ReceivesReset());
}

TEST_F(BalanceTest, APanicIsSeenAndEnds) {
  Daemon daemon(Config("    panic_threshold: 50\n"));
  nodes_[0]->Kill();
  nodes_[1]->Kill();
  ASSERT_TRUE(daemon.WaitBackendState("mail", "one", "down"));
  ASSERT_TRUE(daemon.WaitBackendState("mail", "two", "down"));
  EXPECT_EQ(daemon.Service("mail")["panic"], true);
  EXPECT_EQ(daemon.Metrics()["headgate_service_panic{service=\"mail\"}"], 1);
  EXPECT_TRUE(daemon.LogHas("mail is in panic"));
  Load(30);  // Those that are down are tried, too, and refuse.
  EXPECT_GE((daemon.Metrics()["headgate_connect_failures_total{backend=\"one\","
                              "reason=\"refused\",service=\"mail\"}"]),
            1);
  nodes_[0] = Node(11);
  ASSERT_TRUE(daemon.WaitBackendState("mail", "one", "up"));
  EXPECT_EQ(daemon.Service("mail")["panic"], false);
}

TEST_F(BalanceTest, DrainingOnesAreTheLastResort) {
  Daemon daemon(Config("    last_resort: draining\n"));
  ASSERT_EQ(daemon.Ctl({"backend", "drain", "mail/one"}).exit_code, 0);
  Load(20);
  EXPECT_EQ(Accepted(), (Counts{0, 10, 10}));
  nodes_[1]->Kill();
  nodes_[2]->Kill();
  ASSERT_TRUE(daemon.WaitBackendState("mail", "two", "down"));
  ASSERT_TRUE(daemon.WaitBackendState("mail", "three", "down"));
  Load(20);
  EXPECT_EQ(nodes_[0]->accepted(), 20u);
}

}  // namespace
}  // namespace headgate::testing
