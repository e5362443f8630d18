// Checks and the operator's switches, and that both reach the maps from which
// the kernel selects.
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/substitute.h"
#include "support/bpf_map.h"
#include "support/daemon.h"
#include "support/injection.h"
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
    health: {type: tcp, port: 30145, interval: 300ms, timeout: 200ms,
             rise: 2, fall: 3}
)";

constexpr char kHeaderConfig[] = R"(
pools:
  nodes:
    backends: [{name: one, address: "198.18.2.11:30125"}]
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    proxy_protocol: v2
    health: {type: tcp, interval: 100ms, timeout: 100ms, proxy_protocol: $0}
)";

// fall * (interval + timeout) at most, and what a busy machine adds; at the
// default interval it would be ten seconds or more.
constexpr absl::Duration kDownWithin =
    absl::Milliseconds(3 * (300 + 200) + 1500);

class HealthTest : public ::testing::Test {
 protected:
  static Server Node(const std::string& host) {
    return Server({At(host + ":30125")},
                  {.greeting = "220 ok\r\n", .echo = true});
  }
  static std::unique_ptr<Server> CheckPort(const std::string& host) {
    return std::make_unique<Server>(std::vector<Endpoint>{At(host + ":30145")},
                                    ServerOptions{.header = HeaderKind::kNone});
  }
  static size_t Load(size_t total) {
    return RunLoad({.target = At("198.18.1.1:25"),
                    .total = total,
                    .expect = "220 ok\r\n"})
        .ok;
  }
  bool BothUp(const Daemon& daemon) {
    return daemon.WaitBackendState("mail", "one", "up") &&
           daemon.WaitBackendState("mail", "two", "up");
  }
  static nlohmann::json InMap(const Daemon& daemon, const std::string& name) {
    for (const nlohmann::json& value : DumpMap(daemon.pin_dir(), "backends")) {
      if (value.at("name") == name) return value;
    }
    return nullptr;
  }
  static void ExpectCtl(const Daemon& daemon, std::vector<std::string> args) {
    args.insert(args.begin(), "backend");
    const ProcessResult result = daemon.Ctl(args);
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }

  Lab lab_;
  Server one_ = Node("198.18.2.11");
  Server two_ = Node("198.18.2.12");
  std::unique_ptr<Server> check_one_ = CheckPort("198.18.2.11");
  std::unique_ptr<Server> check_two_ = CheckPort("198.18.2.12");
};

TEST_F(HealthTest, D3_AClosedCheckPortTakesABackendDownAndBackUp) {
  Daemon daemon(kConfig);
  ASSERT_TRUE(BothUp(daemon));
  EXPECT_EQ(InMap(daemon, "one")["health"], "HG_HEALTH_UP");

  check_one_->Kill();
  EXPECT_TRUE(daemon.WaitBackendState("mail", "one", "down", kDownWithin));
  EXPECT_TRUE(
      daemon.LogHas("Server mail/one is DOWN, reason: Layer4 connection "
                    "problem, info: \"Connection refused\""))
      << daemon.Log();
  EXPECT_EQ(InMap(daemon, "one")["health"], "HG_HEALTH_DOWN");
  const size_t before = one_.accepted();
  EXPECT_EQ(Load(20), 20u);
  EXPECT_EQ(one_.accepted(), before);
  nlohmann::json check = daemon.Backend("mail", "one")["last_check"];
  EXPECT_TRUE(absl::StrContains(check["detail"].get<std::string>(),
                                "Connection refused"))
      << check;

  check_one_ = CheckPort("198.18.2.11");
  EXPECT_TRUE(daemon.WaitBackendState("mail", "one", "up", kDownWithin));
  EXPECT_TRUE(daemon.LogHas("Server mail/one is UP")) << daemon.Log();
  EXPECT_EQ(Load(20), 20u);
  EXPECT_EQ(one_.accepted(), before + 10);
}

TEST_F(HealthTest, WhatTheMapsDoNotTakeIsPublishedAgain) {
  Daemon daemon(kConfig);
  ASSERT_TRUE(BothUp(daemon));
  const auto problems = [&] {
    return daemon.Json({"status"})["problems"].dump();
  };
  {
    const Injection fault(daemon.pid(), "bpf:error=ENOMEM");
    check_one_->Kill();
    EXPECT_TRUE(daemon.WaitBackendState("mail", "one", "down"));
    EXPECT_TRUE(absl::StrContains(problems(), "update map backends"))
        << problems();
  }
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] {
    return InMap(daemon, "one")["health"] == "HG_HEALTH_DOWN" &&
           !absl::StrContains(problems(), "update map");
  })) << problems();
}

TEST_F(HealthTest, ABlackHoleIsATimeout) {
  Daemon daemon(kConfig);
  ASSERT_TRUE(BothUp(daemon));
  lab_.BlackHole("198.18.2.12");
  EXPECT_TRUE(daemon.WaitBackendState("mail", "two", "down", kDownWithin));
  EXPECT_TRUE(daemon.LogHas("Server mail/two is DOWN, reason: Layer4 timeout"))
      << daemon.Log();
  lab_.Heal("198.18.2.12");
  EXPECT_TRUE(daemon.WaitBackendState("mail", "two", "up"));
}

TEST_F(HealthTest, DownKeepsEstablishedConnections) {
  Daemon daemon(kConfig);
  ASSERT_TRUE(BothUp(daemon));
  TcpSocket open[2];
  for (TcpSocket& socket : open) {
    socket = TcpSocket::Connect(kClient, At("198.18.1.1:25"));
    ASSERT_EQ(socket.Receive(8), "220 ok\r\n");
  }
  check_one_->Kill();
  ASSERT_TRUE(daemon.WaitBackendState("mail", "one", "down"));
  for (TcpSocket& socket : open) {
    ASSERT_TRUE(socket.Send("NOOP"));
    EXPECT_EQ(socket.Receive(4), "NOOP");
  }
}

TEST_F(HealthTest, DrainMaintAndReady) {
  Daemon daemon(kConfig);
  ASSERT_TRUE(BothUp(daemon));
  TcpSocket open = TcpSocket::Connect(kClient, At("198.18.1.1:25"));
  TcpSocket other = TcpSocket::Connect(kClient, At("198.18.1.1:25"));
  ASSERT_EQ(open.Receive(8), "220 ok\r\n");
  ASSERT_EQ(other.Receive(8), "220 ok\r\n");
  for (const char* verb : {"drain", "maint"}) {
    ExpectCtl(daemon, {verb, "mail/one"});
    EXPECT_EQ(daemon.Backend("mail", "one")["state"], verb);
    EXPECT_EQ(daemon.Backend("mail", "one")["admin"], verb);
    const size_t before = one_.accepted();
    EXPECT_EQ(Load(20), 20u);
    EXPECT_EQ(one_.accepted(), before);
  }
  EXPECT_EQ(InMap(daemon, "one")["admin"], "HG_ADMIN_MAINT");
  for (TcpSocket* socket : {&open, &other}) {
    ASSERT_TRUE(socket->Send("NOOP"));
    EXPECT_EQ(socket->Receive(4), "NOOP");
  }
  ExpectCtl(daemon, {"ready", "mail/one"});
  EXPECT_TRUE(daemon.WaitBackendState("mail", "one", "up"));
  EXPECT_EQ(InMap(daemon, "one")["admin"], "HG_ADMIN_READY");
  const size_t before = one_.accepted();
  EXPECT_EQ(Load(20), 20u);
  EXPECT_EQ(one_.accepted(), before + 10);
}

TEST_F(HealthTest, DrainWaitsForTheLastConnection) {
  Daemon daemon(kConfig);
  ASSERT_TRUE(BothUp(daemon));
  ExpectCtl(daemon, {"maint", "mail/two"});
  TcpSocket open = TcpSocket::Connect(kClient, At("198.18.1.1:25"));
  ASSERT_EQ(open.Receive(8), "220 ok\r\n");
  EXPECT_EQ(
      daemon.Ctl({"backend", "drain", "mail/one", "--wait", "--timeout=500ms"})
          .exit_code,
      6);
  open.Close();
  ExpectCtl(daemon, {"drain", "mail/one", "--wait", "--timeout=10s"});
}

TEST_F(HealthTest, D10_MaintStopsTheChecks) {
  Daemon daemon(kConfig);
  ASSERT_TRUE(BothUp(daemon));
  ExpectCtl(daemon, {"maint", "mail/one"});
  check_one_->Kill();
  check_two_->Kill();
  // Both would be found down by the same number of checks.
  ASSERT_TRUE(daemon.WaitBackendState("mail", "two", "down"));
  EXPECT_EQ(daemon.Backend("mail", "one")["state"], "maint");
  EXPECT_FALSE(daemon.LogHas("Server mail/one is DOWN, reason: Layer4"));
}

TEST_F(HealthTest, D6_WeightsShareTheConnectionsAndZeroKeepsThem) {
  Daemon daemon(kConfig);
  ASSERT_TRUE(BothUp(daemon));
  ExpectCtl(daemon, {"weight", "mail/two", "3"});
  EXPECT_EQ(daemon.Backend("mail", "two")["weight"], 3);
  EXPECT_EQ(InMap(daemon, "two")["weight"], 3);
  EXPECT_EQ(Load(200), 200u);
  EXPECT_NEAR(static_cast<double>(two_.accepted()), 150, 2);
  ExpectCtl(daemon, {"weight", "mail/one", "0"});
  TcpSocket held = TcpSocket::Connect(kClient, At("198.18.1.1:25"));
  ASSERT_EQ(held.Receive(8), "220 ok\r\n");
  ExpectCtl(daemon, {"weight", "mail/one", "1"});
  ExpectCtl(daemon, {"weight", "mail/two", "0"});
  ASSERT_EQ(daemon.Ctl({"config", "reload"}).exit_code, 0);
  EXPECT_EQ(InMap(daemon, "two")["weight"], 0);
  const size_t before = two_.accepted();
  EXPECT_EQ(Load(20), 20u);
  EXPECT_EQ(two_.accepted(), before);
  ASSERT_TRUE(held.Send("NOOP"));
  EXPECT_EQ(held.Receive(4), "NOOP");
}

TEST_F(HealthTest, D3_ChecksSendTheConfiguredHeaderAndEndInOrder) {
  one_.Kill();
  const UniqueFd listener =
      RunIn(kBackend, [] { return Listen(At("198.18.2.11:30125")); });
  for (const auto& [kind, size] : {std::pair{"local", 16}, {"own", 28}}) {
    Daemon daemon(absl::Substitute(kHeaderConfig, kind));
    TcpSocket check = TcpSocket::Accept(listener);
    ASSERT_TRUE(check.valid());
    EXPECT_EQ(check.Receive(100).size(), static_cast<size_t>(size)) << kind;
    // Postfix dies of a header followed by RST.
    EXPECT_EQ(check.error(), 0) << "no orderly end";
    daemon.Stop();
    // What the kernel has accepted meanwhile is not the next daemon's.
    while (UniqueFd(::accept(listener.get(), nullptr, nullptr)).valid()) {
    }
  }
}

TEST_F(HealthTest, ChecksWithoutHeaderNeverReachTheApplication) {
  one_.Kill();
  const UniqueFd listener =
      RunIn(kBackend, [] { return Listen(At("198.18.2.11:30125")); });
  Daemon daemon(absl::Substitute(kHeaderConfig, "none"));
  const std::string checks =
      "headgate_backend_checks_total{backend=\"one\",service=\"mail\"}";
  ASSERT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    return ParseMetrics(daemon.Api("GET", "/metrics").body)[checks] >= 5;
  }));
  EXPECT_EQ(daemon.Backend("mail", "one")["state"], "up");
  EXPECT_FALSE(UniqueFd(::accept(listener.get(), nullptr, nullptr)).valid());
}

constexpr char kProbeConfig[] = R"(
pools:
  nodes:
    backends: [{name: one, address: 198.18.2.11}]
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30225
    health: {interval: 100ms, timeout: 300ms$0}
)";

// What nobody has configured: the port that clients use, with a header.
TEST_F(HealthTest, AutoChecksThePortThatClientsUse) {
  Server server({At("198.18.2.11:30225")}, {.greeting = "220-mail\r\n"});
  Daemon daemon(absl::Substitute(kProbeConfig, ""));
  ASSERT_TRUE(daemon.WaitBackendState("mail", "one", "up"));
  EXPECT_TRUE(daemon.LogHas("is UP, reason: Layer7 check passed"));
  const std::vector<Accepted> accepted = server.TakeAccepted();
  ASSERT_FALSE(accepted.empty());
  EXPECT_EQ(accepted[0].header.size(), 16u);
  EXPECT_TRUE(accepted[0].in_one_recv);

  // Alive for the kernel, and for a check of type tcp.
  server.Pause();
  EXPECT_TRUE(daemon.WaitBackendState("mail", "one", "down"));
  EXPECT_TRUE(daemon.LogHas("is DOWN, reason: Layer7 timeout")) << daemon.Log();
  const ProcessResult check =
      daemon.Ctl({"backend", "check", "mail/one", "--explain"});
  EXPECT_EQ(check.exit_code, 1);
  EXPECT_TRUE(absl::StrContains(check.out, "waited for a greeting"))
      << check.out;
  server.Resume();
  EXPECT_TRUE(daemon.WaitBackendState("mail", "one", "up"));
}

TEST_F(HealthTest, AServerMaySayItsWeight) {
  const Server server({At("198.18.2.11:30225")},
                      {.header = HeaderKind::kNone,
                       .greeting = "HTTP/1.1 200 OK\r\nX-Weight: 7\r\n\r\n"});
  Daemon daemon(
      absl::Substitute(kProbeConfig, ", type: http, weight_header: X-Weight"));
  ASSERT_TRUE(daemon.WaitBackendState("mail", "one", "up"));
  EXPECT_EQ(daemon.Backend("mail", "one")["weight"], 7);
  EXPECT_EQ(InMap(daemon, "one")["weight"], 7);
}

TEST_F(HealthTest, RateLimitsKeepTheStateAndAreToldOnce) {
  const Server server(
      {At("198.18.2.11:30225")},
      {.greeting = "421 4.7.0 Error: too many connections\r\n"});
  Daemon daemon(absl::Substitute(kProbeConfig, ""));
  ASSERT_TRUE(daemon.WaitBackendState("mail", "one", "up"));
  ASSERT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    return ParseMetrics(daemon.Api("GET", "/metrics").body)
               ["headgate_backend_check_failures_total{backend=\"one\","
                "reason=\"rate_limited\",service=\"mail\"}"] >= 5;
  }));
  EXPECT_EQ(daemon.Backend("mail", "one")["state"], "up");
  const std::string log = daemon.Log();
  const size_t first = log.find("smtpd_client_event_limit_exceptions");
  EXPECT_NE(first, std::string::npos) << log;
  EXPECT_EQ(log.find("smtpd_client_event_limit_exceptions", first + 1),
            std::string::npos)
      << log;
}

// ---- several addresses of one process ----

constexpr char kGroupConfig[] = R"(
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.13}
      - {name: two, address: 198.18.2.14}
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: greeting, proxy_protocol: local, share: group,
             interval: 100ms, timeout: 200ms, rise: 1, fall: 2}
)";

TEST(GroupTest, OneProcessIsAskedOnceAndEachAddressByItself) {
  Lab lab;
  const auto process = [] {
    return std::make_unique<Server>(
        std::vector<Endpoint>{At("198.18.2.13:30125"), At("198.18.2.14:30125")},
        ServerOptions{.greeting = "hello\r\n"});
  };
  auto server = process();
  Daemon daemon(kGroupConfig);
  for (const char* name : {"one", "two"}) {
    ASSERT_TRUE(daemon.WaitBackendState("mail", name, "up"));
  }
  lab.BlackHole("198.18.2.14");
  ASSERT_TRUE(daemon.WaitBackendState("mail", "two", "down"));
  EXPECT_EQ(daemon.Backend("mail", "one")["state"], "up");
  lab.Heal("198.18.2.14");
  ASSERT_TRUE(daemon.WaitBackendState("mail", "two", "up"));
  // Two at once, and one 8 s later at the earliest; the light ones are not
  // heard of.
  EXPECT_LE(server->accepted(), 3u);
  server->Kill();
  EXPECT_TRUE(daemon.WaitBackendState("mail", "one", "down"));
  EXPECT_TRUE(daemon.WaitBackendState("mail", "two", "down"));
}

}  // namespace
}  // namespace headgate::testing
