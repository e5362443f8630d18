// Backends that die, hang or vanish: what the clients notice of it.
#include <gtest/gtest.h>

#include <thread>

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
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: tcp, interval: 500ms, timeout: 300ms, rise: 1, fall: 2}
    timeouts: {connect: 500ms}
)";

constexpr char kBackupConfig[] = R"(
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: spare, address: "198.18.2.12:30125", backup: true}
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: tcp, interval: 200ms, timeout: 100ms, rise: 1, fall: 2}
)";

constexpr char kGreeting[] = "220 ready\r\n";
constexpr absl::Duration kPrompt = absl::Milliseconds(250);  // try_next.

class FailoverTest : public ::testing::Test {
 protected:
  static std::unique_ptr<Server> Node(const std::string& address) {
    return std::make_unique<Server>(
        std::vector<Endpoint>{At(address + ":30125")},
        ServerOptions{.greeting = kGreeting, .echo = true});
  }
  // One session of `total`, at 200 new connections a second.
  LoadReport Load(size_t total, absl::Duration timeout = absl::Seconds(10)) {
    return RunLoad({.target = vip_,
                    .total = total,
                    .concurrency = 1000,
                    .per_second = 200,
                    .send = "NOOP\r\n",
                    .expect = std::string(kGreeting) + "NOOP\r\n",
                    .timeout = timeout});
  }
  static size_t AnsweredPromptly(const LoadReport& report) {
    size_t prompt = 0;
    for (absl::Duration time : report.answered) prompt += time < kPrompt;
    return prompt;
  }

  Lab lab_;
  std::unique_ptr<Server> one_ = Node("198.18.2.11");
  std::unique_ptr<Server> two_ = Node("198.18.2.12");
  const Endpoint vip_ = At("198.18.1.1:25");
};

TEST_F(FailoverTest, AKilledBackendTakesOnlyItsOwnConnectionsWithIt) {
  Daemon daemon(kConfig);
  std::vector<TcpSocket> held;
  for (int i = 0; i < 20; ++i) {
    held.push_back(TcpSocket::Connect(kClient, vip_));
    ASSERT_EQ(held.back().Receive(11), kGreeting);
  }
  LoadReport report;
  std::thread load([&] { report = Load(800); });
  const bool under_way =
      WaitUntil(absl::Seconds(10), [&] { return one_->accepted() >= 100; });
  const size_t killed = one_->Kill();
  load.join();
  ASSERT_TRUE(under_way);

  // One more may have been established between the last accept and the close.
  EXPECT_LE(report.failed() + 10, killed + 1) << report.ToString();
  EXPECT_EQ(report.ok + report.failed(), 800u);
  size_t reset = 0, alive = 0;
  for (TcpSocket& socket : held) {
    if (socket.Send("RSET\r\n")) {
      alive += socket.Receive(6) == "RSET\r\n";
    } else {
      reset += socket.error() == ECONNRESET;
    }
  }
  EXPECT_EQ(reset, 10u);
  EXPECT_EQ(alive, 10u);
  EXPECT_GE((daemon.Metrics()["headgate_connect_failures_total{backend=\"one\","
                              "reason=\"refused\",service=\"mail\"}"]),
            1);
}

TEST_F(FailoverTest, AReturningBackendIsUsedAgain) {
  one_->Kill();
  Daemon daemon(kConfig);
  ASSERT_TRUE(daemon.WaitBackendState("mail", "one", "down"));
  one_ = Node("198.18.2.11");
  ASSERT_TRUE(daemon.WaitBackendState("mail", "one", "up"));
  EXPECT_EQ(Load(100).ok, 100u);
  EXPECT_EQ(one_->accepted(), 50u);
}

TEST_F(FailoverTest, AStoppedBackendDelaysNobodyElse) {
  Daemon daemon(kConfig);
  ASSERT_TRUE(daemon.WaitBackendState("mail", "two", "up"));
  two_->Pause();
  const LoadReport report = Load(400, absl::Seconds(2));
  // The kernel of the stopped one goes on accepting: its clients wait.
  EXPECT_EQ(report.ok, 200u) << report.ToString();
  EXPECT_EQ(report.errors.count("receive: no answer"), 1u);
  EXPECT_LT(report.Percentile(0.9), kPrompt) << report.ToString();
}

TEST_F(FailoverTest, ABlackHoledBackendDelaysNobodyElse) {
  Daemon daemon(kConfig);
  ASSERT_TRUE(daemon.WaitBackendState("mail", "two", "up"));
  lab_.BlackHole("198.18.2.12");
  const LoadReport first = Load(400);
  EXPECT_EQ(first.ok, 400u) << first.ToString();
  // Some try it first and lose the connect time-out, once; a third or more do
  // not (not half of them: retries advance the round robin, too).
  EXPECT_LT(first.Percentile(1), absl::Milliseconds(500) + kPrompt);
  EXPECT_GE(AnsweredPromptly(first), 133u) << first.ToString();
  ASSERT_TRUE(daemon.WaitBackendState("mail", "two", "down"));
  const LoadReport second = Load(200);
  EXPECT_EQ(second.ok, 200u) << second.ToString();
  EXPECT_LT(second.Percentile(0.9), kPrompt) << second.ToString();
  lab_.Heal("198.18.2.12");
  EXPECT_TRUE(daemon.WaitBackendState("mail", "two", "up"));
}

TEST_F(FailoverTest, WithoutBackendsClientsAreResetPromptly) {
  Daemon daemon(kConfig);
  one_->Kill();
  two_->Kill();
  const auto all_reset = [&](const LoadReport& report) {
    size_t resets = 0;
    for (const char* error :
         {"connect: ECONNRESET", "receive: ECONNRESET", "send: ECONNRESET",
          "send: EPIPE", "connect: ECONNREFUSED"}) {
      const auto found = report.errors.find(error);
      if (found != report.errors.end()) resets += found->second;
    }
    return resets == report.failed() && report.ok == 0;
  };
  // Before the checks know of it, and after.
  const LoadReport early = Load(50, absl::Seconds(1));
  EXPECT_TRUE(all_reset(early)) << early.ToString();
  ASSERT_TRUE(daemon.WaitBackendState("mail", "one", "down"));
  ASSERT_TRUE(daemon.WaitBackendState("mail", "two", "down"));
  const LoadReport late = Load(50, absl::Seconds(1));
  EXPECT_TRUE(all_reset(late)) << late.ToString();
}

TEST_F(FailoverTest, ABackupServesOnlyWhenNobodyElseCan) {
  Daemon daemon(kBackupConfig);
  ASSERT_TRUE(daemon.WaitBackendState("mail", "one", "up"));
  EXPECT_EQ(Load(50).ok, 50u);
  EXPECT_EQ(two_->accepted(), 0u);
  one_->Kill();
  const LoadReport on_backup = Load(50);
  EXPECT_EQ(on_backup.ok, 50u) << on_backup.ToString();
  EXPECT_EQ(two_->accepted(), 50u);
  one_ = Node("198.18.2.11");
  ASSERT_TRUE(daemon.WaitBackendState("mail", "one", "up"));
  EXPECT_EQ(Load(50).ok, 50u);
  EXPECT_EQ(one_->accepted(), 50u);
}

}  // namespace
}  // namespace headgate::testing
