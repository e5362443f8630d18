// What operators do at run time, and what outlives the daemon.
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/tcp.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kConfig[] = R"(
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
    slow_start: 4s
    health: {type: tcp, interval: 200ms, timeout: 150ms, rise: 2, fall: 2}
)";

constexpr char kGreeting[] = "220 ok\r\n";

class StateTest : public ::testing::Test {
 protected:
  static std::unique_ptr<Server> Node(const std::string& host) {
    return std::make_unique<Server>(
        std::vector<Endpoint>{At(host + ":30125")},
        ServerOptions{.greeting = kGreeting, .echo = true});
  }
  static size_t Load(size_t total) {
    return RunLoad({.target = At("198.18.1.1:25"),
                    .total = total,
                    .expect = kGreeting})
        .ok;
  }
  static void ExpectCtl(const Daemon& daemon, std::vector<std::string> args) {
    args.insert(args.begin(), "backend");
    const ProcessResult result = daemon.Ctl(args);
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }
  void Start(const std::string& config = kConfig) {
    daemon_ = std::make_unique<Daemon>(config);
  }
  // kill -9, and a new daemon with the state of the old one.
  void Crash(bool wait_until_ready = true) {
    ::kill(daemon_->pid(), SIGKILL);
    EXPECT_EQ(daemon_->WaitExit(), 128 + SIGKILL);
    daemon_ = std::make_unique<Daemon>(
        kConfig, DaemonOptions{.wait_until_ready = wait_until_ready,
                               .keep_state = true});
  }
  bool BothUp() {
    return daemon_->WaitBackendState("mail", "one", "up") &&
           daemon_->WaitBackendState("mail", "two", "up");
  }
  std::string ReadState() const {
    std::ifstream file(daemon_->state_dir() + "/state.json");
    return std::string(std::istreambuf_iterator<char>(file), {});
  }
  bool StateHas(const std::string& text) const {
    return WaitUntil(absl::Seconds(5),
                     [&] { return absl::StrContains(ReadState(), text); });
  }
  std::vector<TcpSocket> Sessions(size_t count) {
    std::vector<TcpSocket> sessions;
    for (size_t i = 0; i < count; ++i) {
      sessions.push_back(TcpSocket::Connect(kClient, At("198.18.1.1:25")));
      EXPECT_EQ(sessions.back().Receive(8), kGreeting);
    }
    return sessions;
  }
  // Of `one`, which has just come back.
  void ExpectSlowStart() {
    const double effective =
        daemon_->Backend("mail", "one")["weight_effective"].get<double>();
    EXPECT_GE(effective, 0.1);
    EXPECT_LT(effective, 0.5);
    EXPECT_EQ(Load(210), 210u);
    const size_t cold = one_->TakeAccepted().size();
    EXPECT_GT(cold, 5u);  // A tenth at first: 19 of 210.
    EXPECT_LT(cold, 70u);
    ASSERT_TRUE(WaitUntil(absl::Seconds(10), [&] {
      return daemon_->Backend("mail", "one")["weight_effective"] == 1.0;
    }));
    EXPECT_EQ(Load(200), 200u);
    EXPECT_EQ(one_->TakeAccepted().size(), 100u);
  }

  Lab lab_;
  std::unique_ptr<Server> one_ = Node("198.18.2.11");
  std::unique_ptr<Server> two_ = Node("198.18.2.12");
  std::unique_ptr<Daemon> daemon_;
};

TEST_F(StateTest, DrainMaintAndWeightOutliveAKill) {
  Start();
  ASSERT_TRUE(BothUp());
  ExpectCtl(*daemon_, {"drain", "mail/one"});
  ExpectCtl(*daemon_, {"weight", "mail/two", "7"});
  Crash();
  EXPECT_EQ(daemon_->Backend("mail", "one")["state"], "drain");
  EXPECT_EQ(daemon_->Backend("mail", "two")["weight"], 7);
  const size_t before = one_->accepted();
  EXPECT_EQ(Load(30), 30u);
  EXPECT_EQ(one_->accepted(), before);

  const std::string status = daemon_->Ctl({"status"}).out;
  EXPECT_TRUE(absl::StrContains(
      status, "runtime      mail/one is drained by the operator since "))
      << status;
  const ProcessResult diff =
      daemon_->Ctl({"config", "diff", daemon_->config_path()});
  EXPECT_EQ(diff.exit_code, 0) << diff.err;
  EXPECT_TRUE(absl::StrContains(diff.out, "runtime: mail/two has weight 7"))
      << diff.out;

  ExpectCtl(*daemon_, {"maint", "mail/one"});
  Crash();
  EXPECT_EQ(daemon_->Backend("mail", "one")["state"], "maint");
  ExpectCtl(*daemon_, {"ready", "mail/one", "--wait", "--timeout=10s"});
  ExpectCtl(*daemon_, {"weight", "mail/two", "1"});
  EXPECT_EQ(daemon_->Json({"status"})["runtime"].size(), 0u);
  Crash();
  EXPECT_EQ(daemon_->Backend("mail", "one")["admin"], "ready");
  EXPECT_EQ(daemon_->Backend("mail", "two")["weight"], 1);
}

TEST_F(StateTest, ARestartFlapsNothingAndAvoidsWhoIsDown) {
  Start();
  ASSERT_TRUE(BothUp());
  one_->Kill();
  ASSERT_TRUE(daemon_->WaitBackendState("mail", "one", "down"));
  ASSERT_TRUE(StateHas("\"down\""));
  Crash(/*wait_until_ready=*/false);
  ASSERT_TRUE(WaitUntil(absl::Seconds(30), [&] {
    return daemon_->Ctl({"status"}).exit_code != 3;
  })) << daemon_->Log();
  EXPECT_EQ(Load(30), 30u);
  EXPECT_EQ(daemon_->Backend("mail", "one")["state"], "down");
  ASSERT_TRUE(daemon_->WaitReady());
  EXPECT_EQ(daemon_->Backend("mail", "two")["state"], "up");
  EXPECT_FALSE(daemon_->LogHas(" is DOWN")) << daemon_->Log();
  EXPECT_FALSE(daemon_->LogHas(" is UP")) << daemon_->Log();
  // None was tried there: a refused attempt would have been counted.
  const std::string metrics = daemon_->Api("GET", "/metrics").body;
  const std::string refused =
      "headgate_connect_failures_total{service=\"mail\",backend=\"one\","
      "reason=\"refused\"} 0";
  EXPECT_TRUE(absl::StrContains(metrics, refused)) << metrics;

  one_ = Node("198.18.2.11");
  EXPECT_TRUE(daemon_->WaitBackendState("mail", "one", "up"));
}

TEST_F(StateTest, DamagedStateIsNamedAndLeftOut) {
  Start();
  ASSERT_TRUE(BothUp());
  ExpectCtl(*daemon_, {"drain", "mail/one"});
  const std::string good = ReadState();
  ::kill(daemon_->pid(), SIGKILL);
  EXPECT_EQ(daemon_->WaitExit(), 128 + SIGKILL);
  const std::string path = daemon_->state_dir() + "/state.json";
  std::filesystem::resize_file(path, good.size() / 2);
  daemon_ =
      std::make_unique<Daemon>(kConfig, DaemonOptions{.keep_state = true});
  EXPECT_TRUE(daemon_->LogHas("state of the last run is not used, " + path))
      << daemon_->Log();
  EXPECT_EQ(daemon_->Backend("mail", "one")["admin"], "ready");
}

TEST_F(StateTest, APacedDrainEndsConnectionsEvenly) {
  Start();
  ASSERT_TRUE(BothUp());
  ExpectCtl(*daemon_, {"drain", "mail/two"});
  std::vector<TcpSocket> sessions = Sessions(100);
  ExpectCtl(*daemon_, {"ready", "mail/two"});
  const auto left = [&] {
    return daemon_->Backend("mail", "one")["connections_active"].get<double>();
  };
  ASSERT_EQ(left(), 100);
  // It begins between the two.
  const absl::Time asked = absl::Now();
  ExpectCtl(*daemon_, {"drain", "mail/one", "--over=5s"});
  const absl::Time answered = absl::Now();
  EXPECT_EQ(daemon_->Backend("mail", "one")["draining"]["left"].is_number(),
            true);
  // A fifth each second, within a tenth of all of them.
  for (int second = 1; second <= 4; ++second) {
    ASSERT_TRUE(WaitUntil(absl::Seconds(7), [&] {
      return absl::Now() - answered >= absl::Seconds(second);
    }));
    const double least = absl::ToDoubleSeconds(absl::Now() - answered);
    const double now_left = left();
    const double most = absl::ToDoubleSeconds(absl::Now() - asked);
    EXPECT_LE(now_left, 100 - 20 * least + 10) << second;
    EXPECT_GE(now_left, 100 - 20 * most - 10) << second;
  }
  // Asking again, to watch, changes nothing.
  ExpectCtl(*daemon_, {"drain", "mail/one", "--wait", "--timeout=9s"});
  EXPECT_GE(absl::Now() - asked, absl::Milliseconds(4500));
  EXPECT_LT(absl::Now() - answered, absl::Seconds(7));
}

TEST_F(StateTest, OldestFirstAndReadyCancels) {
  Start();
  ASSERT_TRUE(BothUp());
  ExpectCtl(*daemon_, {"drain", "mail/two"});
  std::vector<TcpSocket> sessions = Sessions(10);
  ExpectCtl(*daemon_, {"drain", "mail/one", "--over=20s"});
  ASSERT_TRUE(WaitUntil(absl::Seconds(8),
                        [&] { return daemon_->ActiveConnections() == 8; }));
  ExpectCtl(*daemon_, {"ready", "mail/one"});
  EXPECT_TRUE(daemon_->Backend("mail", "one")["draining"].is_null());
  EXPECT_TRUE(sessions[0].ReceivesReset());
  EXPECT_TRUE(sessions[1].ReceivesReset());
  EXPECT_TRUE(sessions[9].Quiet(absl::Seconds(1)));
  EXPECT_EQ(daemon_->ActiveConnections(), 8);
}

// The oldest ones are those that have something to do.
TEST_F(StateTest, IdleOnesFirst) {
  Start();
  ASSERT_TRUE(BothUp());
  ExpectCtl(*daemon_, {"drain", "mail/two"});
  std::vector<TcpSocket> sessions = Sessions(10);
  const auto lives = [](TcpSocket& session) {
    return session.Send("NOOP") && session.Receive(4) == "NOOP";
  };
  for (size_t i = 0; i < 5; ++i) EXPECT_TRUE(lives(sessions[i]));
  ExpectCtl(*daemon_, {"drain", "mail/one", "--over=10s", "--order=idle"});
  ASSERT_TRUE(WaitUntil(absl::Seconds(8),
                        [&] { return daemon_->ActiveConnections() <= 8; }));
  ExpectCtl(*daemon_, {"ready", "mail/one"});
  const auto left = static_cast<size_t>(daemon_->ActiveConnections());
  ASSERT_GE(left, 6u) << "too slow to see the order";
  for (size_t i = 0; i < 10; ++i) {
    const bool ended = i >= 5 && i < 5 + 10 - left;
    EXPECT_TRUE(ended ? sessions[i].ReceivesReset() : lives(sessions[i])) << i;
  }
}

TEST_F(StateTest, WhoComesBackStartsSlowly) {
  Start();
  ASSERT_TRUE(BothUp());
  EXPECT_EQ(daemon_->Backend("mail", "one")["weight_effective"], 1.0);
  one_->Kill();
  ASSERT_TRUE(daemon_->WaitBackendState("mail", "one", "down"));
  one_ = Node("198.18.2.11");
  ASSERT_TRUE(daemon_->WaitBackendState("mail", "one", "up"));
  ExpectSlowStart();
}

TEST_F(StateTest, WhoWasInMaintStartsSlowly) {
  Start();
  ASSERT_TRUE(BothUp());
  ExpectCtl(*daemon_, {"maint", "mail/one"});
  EXPECT_EQ(Load(20), 20u);
  EXPECT_EQ(one_->TakeAccepted().size(), 0u);
  ExpectCtl(*daemon_, {"ready", "mail/one"});
  ASSERT_TRUE(daemon_->WaitBackendState("mail", "one", "up"));
  ExpectSlowStart();
}

TEST_F(StateTest, D6_AddedAndDeletedAtRunTime) {
  Start();
  ASSERT_TRUE(BothUp());
  std::unique_ptr<Server> three = Node("198.18.2.13");
  ExpectCtl(*daemon_, {"add", "mail/three", "198.18.2.13", "--weight=2"});
  ASSERT_TRUE(daemon_->WaitBackendState("mail", "three", "up"));
  EXPECT_EQ(Load(40), 40u);
  EXPECT_EQ(three->accepted() > 0, true);
  EXPECT_EQ(
      daemon_->Ctl({"backend", "add", "mail/three", "198.18.2.14"}).exit_code,
      7);
  EXPECT_EQ(daemon_->Ctl({"backend", "add", "none/x", "198.18.2.14"}).exit_code,
            4);
  EXPECT_EQ(daemon_->Ctl({"backend", "add", "mail/x", "a.example"}).exit_code,
            2);

  // A deleted one keeps its connections, out of the list.
  ExpectCtl(*daemon_, {"drain", "mail/two"});
  ExpectCtl(*daemon_, {"drain", "mail/three"});
  std::vector<TcpSocket> held = Sessions(1);
  ExpectCtl(*daemon_, {"ready", "mail/two"});
  ExpectCtl(*daemon_, {"ready", "mail/three"});
  const ProcessResult del =
      daemon_->Ctl({"backend", "del", "mail/one", "--wait", "--timeout=500ms"});
  EXPECT_EQ(del.exit_code, 6);
  EXPECT_TRUE(absl::StrContains(del.err, "1 connections left")) << del.err;
  EXPECT_TRUE(daemon_->Backend("mail", "one").is_null());
  ASSERT_TRUE(held[0].Send("still here"));
  EXPECT_EQ(held[0].Receive(10), "still here");

  // Neither a reload nor a crash undoes any of it.
  EXPECT_EQ(daemon_->Ctl({"config", "reload"}).exit_code, 0);
  Crash();
  EXPECT_TRUE(daemon_->Backend("mail", "one").is_null());
  EXPECT_EQ(daemon_->Backend("mail", "three")["weight"], 2);
  EXPECT_EQ(daemon_->Json({"status"})["runtime"].size(), 2u);

  ExpectCtl(*daemon_, {"add", "mail/one", "198.18.2.11"});
  ExpectCtl(*daemon_, {"del", "mail/three", "--wait", "--timeout=5s"});
  EXPECT_EQ(daemon_->Json({"status"})["runtime"].size(), 0u);
  EXPECT_TRUE(BothUp());
}

}  // namespace
}  // namespace headgate::testing
