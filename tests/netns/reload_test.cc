// A new configuration under a running daemon.
#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/stream.h"
#include "support/tcp.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kOld[] = R"(
pools:
  nodes:
    backends: [{name: one, address: 198.18.2.11}]
services:
  kept:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
  removed:
    listen: [198.18.1.1:26]
    pool: nodes
    backend_port: 30125
    health: {type: none}
)";

constexpr char kNew[] = R"(
pools:
  nodes:
    backends: [{name: two, address: 198.18.2.12}]
services:
  kept:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
  added:
    listen: [198.18.1.1:27]
    pool: nodes
    backend_port: 30125
    health: {type: none}
)";

constexpr char kInvalid[] = R"(
pools:
  nodes:
    backends: [{name: one, address: "198.18.2.11:30125"}]
services:
  kept:
    listen: [198.18.1.1:25]
    pool: missing
)";

std::string WriteNext(const std::string& text) {
  const std::string path = "/run/headgate/next.yaml";
  std::ofstream(path) << text;
  return path;
}

class ReloadTest : public ::testing::Test {
 protected:
  static LoadReport Load(uint16_t port, const std::string& greeting,
                         size_t total = 20) {
    return RunLoad({.target = {At("198.18.1.1:1").address, port},
                    .total = total,
                    .expect = greeting});
  }
  // Waits for what only the new configuration has.
  bool HasService(const std::string& name) {
    return WaitUntil(absl::Seconds(10),
                     [&] { return !daemon_.Service(name).is_null(); });
  }

  Lab lab_;
  Server one_{{At("198.18.2.11:30125")},
              {.greeting = "220 one\r\n", .echo = true}};
  Server two_{{At("198.18.2.12:30125")},
              {.greeting = "220 two\r\n", .echo = true}};
  Daemon daemon_{kOld};
};

TEST_F(ReloadTest, KeepsWhatIsKeptAndClosesWhatIsRemoved) {
  TcpSocket kept = TcpSocket::Connect(kClient, At("198.18.1.1:25"));
  TcpSocket removed = TcpSocket::Connect(kClient, At("198.18.1.1:26"));
  ASSERT_EQ(kept.Receive(9), "220 one\r\n");
  ASSERT_EQ(removed.Receive(9), "220 one\r\n");
  daemon_.Reload(kNew);
  ASSERT_TRUE(HasService("added"));

  ASSERT_TRUE(kept.Send("still here"));
  EXPECT_EQ(kept.Receive(10), "still here");
  EXPECT_EQ(removed.Receive(1), "");
  EXPECT_NE(removed.error(), ETIMEDOUT);
  EXPECT_EQ(Load(25, "220 two\r\n").ok, 20u);
  EXPECT_EQ(Load(27, "220 two\r\n").ok, 20u);
  EXPECT_EQ(Load(26, "220 one\r\n").errors["connect: ECONNREFUSED"], 20u);
  EXPECT_TRUE(daemon_.Service("removed").is_null());
  EXPECT_TRUE(daemon_.Backend("kept", "one").is_null());
}

TEST_F(ReloadTest, AnotherAddressUnderTheSameNameIsAnotherServer) {
  // One without connections, which is forgotten at once, and one with.
  for (const bool connected : {false, true}) {
    TcpSocket held;
    if (connected) {
      held = TcpSocket::Connect(kClient, At("198.18.1.1:25"));
      ASSERT_EQ(held.Receive(9), "220 two\r\n");
    }
    const std::string next = absl::StrReplaceAll(
        kOld, {{"198.18.2.11", connected ? "198.18.2.11" : "198.18.2.12"}});
    ASSERT_EQ(daemon_.Ctl({"config", "apply", WriteNext(next)}).exit_code, 0);
    EXPECT_EQ(Load(25, connected ? "220 one\r\n" : "220 two\r\n").ok, 20u);
    if (!connected) continue;
    ASSERT_TRUE(held.Send("still here"));
    EXPECT_EQ(held.Receive(10), "still here");
  }
}

TEST_F(ReloadTest, CountersSurvive) {
  EXPECT_EQ(Load(25, "220 one\r\n").ok, 20u);
  daemon_.Reload(kNew);
  ASSERT_TRUE(HasService("added"));
  EXPECT_EQ(daemon_.Service("kept")["connections_total"], 20);
}

TEST_F(ReloadTest, FailsNoConnectionUnderLoad) {
  LoadReport report;
  std::thread load([&] {
    report = RunLoad({.target = At("198.18.1.1:25"),
                      .total = 1500,
                      .per_second = 500,
                      .send = "NOOP",
                      .expect = "220 one\r\nNOOP"});
  });
  // The same backends, with and without a second service.
  const std::string with(kOld);
  const std::string without = with.substr(0, with.find("  removed:"));
  for (int i = 0; i < 10; ++i) {
    daemon_.Reload(i % 2 == 0 ? without : with);
    EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] {
      return daemon_.Service("removed").is_null() == (i % 2 == 0);
    }));
  }
  load.join();
  EXPECT_EQ(report.ok, 1500u) << report.ToString();
}

TEST_F(ReloadTest, LeavesStreamsUnchanged) {
  // The nodes' own servers are not needed; the streams bring theirs.
  one_.Kill();
  StreamReport report;
  std::thread streams([&] {
    report = RunStreams({.seed = 7,
                         .listen = {At("198.18.2.11:30125")},
                         .target = At("198.18.1.1:25"),
                         .count = 60,
                         .large = 2});
  });
  const std::string other = std::string(kOld) + "    max_connections: 1000\n";
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(
        daemon_.Ctl({"config", "apply", WriteNext(i % 2 == 0 ? other : kOld)})
            .exit_code,
        0);
  }
  streams.join();
  EXPECT_EQ(report.first_error, "");
  EXPECT_EQ(report.equal, 60u);
}

TEST_F(ReloadTest, RefusesAnInvalidFileAndServesOn) {
  daemon_.Reload(kInvalid);
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    return daemon_.LogHas(daemon_.config_path() + ":8:");
  })) << daemon_.Log();
  EXPECT_EQ(Load(25, "220 one\r\n").ok, 20u);

  const ProcessResult reload = daemon_.Ctl({"config", "reload"});
  EXPECT_EQ(reload.exit_code, 1);
  EXPECT_TRUE(absl::StrContains(reload.err, "missing")) << reload.err;
  EXPECT_EQ(Load(25, "220 one\r\n").ok, 20u);
}

TEST_F(ReloadTest, ApplyRefusesAnUnbindableListenerWhole) {
  const UniqueFd occupied =
      RunIn(kEdge, [] { return Listen(At("198.18.1.1:27")); });
  const std::string next = WriteNext(kNew);
  const ProcessResult apply = daemon_.Ctl({"config", "apply", next});
  EXPECT_EQ(apply.exit_code, 1);
  EXPECT_TRUE(absl::StrContains(apply.err, "198.18.1.1:27")) << apply.err;
  EXPECT_TRUE(daemon_.Service("added").is_null());
  EXPECT_EQ(Load(25, "220 one\r\n").ok, 20u);
  EXPECT_EQ(Load(26, "220 one\r\n").ok, 20u);
}

TEST_F(ReloadTest, DiffAndApplyFromTheCommandLine) {
  const std::string next = WriteNext(kNew);
  EXPECT_EQ(daemon_.Ctl({"config", "check", next}).exit_code, 0);
  const ProcessResult diff = daemon_.Ctl({"config", "diff", next});
  EXPECT_EQ(diff.exit_code, 1);
  EXPECT_TRUE(absl::StrContains(diff.out, "service added")) << diff.out;
  EXPECT_EQ(daemon_.Ctl({"config", "apply", next}).exit_code, 0);
  EXPECT_EQ(daemon_.Ctl({"config", "diff", next}).exit_code, 0);
  EXPECT_EQ(Load(27, "220 two\r\n").ok, 20u);
}

}  // namespace
}  // namespace headgate::testing
