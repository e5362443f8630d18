// Starting, refusing to start, and ending.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <csignal>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
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
    backends: [{name: one, address: 198.18.2.11}]
services:
  smtp:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
  imap:
    listen: [198.18.1.1:143]
    pool: nodes
    backend_port: 30125
    health: {type: none}
)";

// Line by line: what is wrong there is found in the test below.
constexpr char kTenMistakes[] = R"(metrics: {listen: 127.0.0.1}
colour: blue
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11, wieght: 2}
      - {name: two, address: mail.example.org}
      - {name: three, address: 198.18.2.13, weight: 300}
services:
  smtp:
    listen: [198.18.1.1:25]
    pool: nodez
    backend_port: 70000
    health: {interval: 5}
  imap:
    listen: [198.18.1.1:143]
    listen: [198.18.1.1:144]
    pool: nodes
    backend_port: 30125
    proxy_protocol: v3
)";
constexpr int kMistakenLines[] = {1, 2, 6, 7, 8, 12, 13, 14, 17, 20};

bool Exists(const std::string& path) {
  struct stat ignored {};
  return ::stat(path.c_str(), &ignored) == 0;
}

std::vector<std::string> Lines(const std::string& text) {
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

class StartTest : public ::testing::Test {
 protected:
  static size_t Greeted(uint16_t port) {
    return RunLoad({.target = {At("198.18.1.1:1").address, port},
                    .total = 10,
                    .expect = "220 one\r\n"})
        .ok;
  }
  // Of a daemon that refuses to start: one sentence, which has `word` in it.
  static void ExpectRefusal(Daemon& daemon, const std::string& word) {
    const int status = daemon.WaitExit();
    EXPECT_GT(status, 0);
    EXPECT_LT(status, 128) << "ended by a signal";
    EXPECT_EQ(Lines(daemon.Log()).size(), 1u) << daemon.Log();
    EXPECT_TRUE(absl::StrContains(daemon.Log(), word)) << daemon.Log();
  }
  static DaemonOptions Wrapped(std::vector<std::string> wrapper) {
    return {.wrapper = std::move(wrapper), .wait_until_ready = false};
  }
  // The value of the series about the listener on 198.18.1.1:25, else -1.
  static double ListenerMetric(const Daemon& daemon) {
    for (const auto& [series, value] : daemon.Metrics()) {
      if (absl::StrContains(series, "\"198.18.1.1:25\"")) return value;
    }
    return -1;
  }

  Lab lab_;
  Server one_{{At("198.18.2.11:30125")}, {.greeting = "220 one\r\n"}};
};

// No resolver is configured, and nobody asks one: all of /etc is missing.
TEST_F(StartTest, NeedsNoDns) {
  const std::string calls = "/run/headgate/calls";
  const std::string config = absl::StrReplaceAll(
      kConfig, {{"type: none", "type: tcp, interval: 100ms"}});
  Daemon daemon(config,
                {.wrapper = {// Leaks cannot be looked for under strace.
                             "env", "ASAN_OPTIONS=detect_leaks=0", "strace",
                             "-D", "-f", "-o", calls, "-e",
                             "trace=openat,connect,sendto,sendmsg,sendmmsg",
                             "unshare", "--mount", "sh", "-euc",
                             "mount -t tmpfs tmpfs /etc; exec \"$@\"", "sh"}});
  ASSERT_TRUE(daemon.WaitBackendState("smtp", "one", "up"));
  EXPECT_EQ(Greeted(25), 10u);
  EXPECT_EQ(daemon.Ctl({"config", "reload"}).exit_code, 0);
  daemon.Stop();

  std::string text;
  ASSERT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    std::ifstream file(calls);
    text.assign(std::istreambuf_iterator<char>(file), {});
    return absl::StrContains(
        text, absl::StrFormat("%-5d +++ exited with 0 +++", daemon.pid()));
  })) << text;
  // What would be seen is: a connect, a file.
  EXPECT_TRUE(absl::StrContains(text, "htons(30125)")) << text;
  EXPECT_TRUE(absl::StrContains(text, daemon.config_path())) << text;
  for (const char* resolver :
       {"htons(53)", "resolv.conf", "nsswitch.conf", "/etc/hosts", "nscd"}) {
    EXPECT_FALSE(absl::StrContains(text, resolver)) << resolver;
  }
}

TEST_F(StartTest, EndsWithZeroAndLeavesNothing) {
  Daemon daemon(kConfig);
  EXPECT_EQ(Greeted(25), 10u);
  TcpSocket open = TcpSocket::Connect(kClient, At("198.18.1.1:25"));
  ASSERT_EQ(open.Receive(9), "220 one\r\n");
  EXPECT_TRUE(Exists(daemon.socket_path()));
  EXPECT_TRUE(Exists(daemon.pin_dir()));
  daemon.Stop();
  EXPECT_FALSE(Exists(daemon.socket_path()));
  EXPECT_FALSE(Exists(daemon.pin_dir()));
  EXPECT_EQ(open.Receive(1), "");
}

TEST_F(StartTest, APortInUseLeavesTheOthersServingAndIsRetried) {
  UniqueFd occupied = RunIn(kEdge, [] { return Listen(At("198.18.1.1:25")); });
  Daemon daemon(kConfig);
  EXPECT_EQ(Greeted(143), 10u);
  EXPECT_TRUE(daemon.LogHas("198.18.1.1:25")) << daemon.Log();
  EXPECT_TRUE(
      absl::StrContains(daemon.Json({"status"}).dump(), "198.18.1.1:25"));
  EXPECT_TRUE(absl::StrContains(daemon.Ctl({"status"}).out, "198.18.1.1:25"));
  EXPECT_EQ(ListenerMetric(daemon), 0) << daemon.MetricsText();
  occupied.reset();
  EXPECT_TRUE(WaitUntil(absl::Seconds(15), [] { return Greeted(25) == 10; }));
  EXPECT_FALSE(
      absl::StrContains(daemon.Json({"status"}).dump(), "198.18.1.1:25"));
  EXPECT_EQ(ListenerMetric(daemon), 1) << daemon.MetricsText();
}

TEST_F(StartTest, ASecondDaemonOnTheSameSocketRefuses) {
  Daemon first(kConfig);
  Daemon second(kConfig, Wrapped({}));
  ExpectRefusal(second, first.socket_path());
  EXPECT_EQ(first.Ctl({"status"}).exit_code, 0);
  EXPECT_EQ(Greeted(25), 10u);
}

TEST_F(StartTest, TwoDaemonsSideBySide) {
  Daemon first(kConfig);
  Daemon second(R"(
pools:
  nodes:
    backends: [{name: one, address: "198.18.2.11:30125"}]
services:
  other: {listen: [198.18.1.1:26], pool: nodes, health: {type: none}}
)",
                {.name = "second"});
  EXPECT_EQ(Greeted(25), 10u);
  EXPECT_EQ(Greeted(26), 10u);
  EXPECT_FALSE(first.Service("smtp").is_null());
  EXPECT_TRUE(first.Service("other").is_null());
  EXPECT_FALSE(second.Service("other").is_null());
}

TEST_F(StartTest, StartsAfterAKill) {
  {
    Daemon killed(kConfig);
    ::kill(killed.pid(), SIGKILL);
    EXPECT_EQ(killed.WaitExit(), 128 + SIGKILL);
  }
  Daemon daemon(kConfig);
  EXPECT_EQ(Greeted(25), 10u);
}

TEST_F(StartTest, WithoutPrivilegesSaysWhichAreMissing) {
  Daemon daemon(kConfig, Wrapped({"setpriv", "--bounding-set", "-all",
                                  "--inh-caps", "-all"}));
  ExpectRefusal(daemon, "CAP_");
}

TEST_F(StartTest, AnOrdinaryUserIsToldWhichAreMissing) {
  Daemon daemon(kConfig,
                Wrapped({"setpriv", "--reuid=65534", "--clear-groups"}));
  ExpectRefusal(daemon, "CAP_");
}

TEST_F(StartTest, WithoutBtfSaysSo) {
  Daemon daemon(
      kConfig,
      Wrapped({"unshare", "--mount", "sh", "-euc",
               "mount -t tmpfs tmpfs /sys/kernel/btf; exec \"$@\"", "sh"}));
  ExpectRefusal(daemon, "BTF");
}

TEST_F(StartTest, WithoutAFileSaysSo) {
  const ProcessResult result =
      RunCommand({Program("headgated"), "--config=/run/headgate/absent.yaml"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(Lines(result.err).size(), 1u) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "/run/headgate/absent.yaml"));
}

TEST_F(StartTest, AnInvalidFileIsRefusedWithEveryMistake) {
  Daemon daemon(kTenMistakes, Wrapped({}));
  EXPECT_EQ(daemon.WaitExit(), 1);
  EXPECT_GE(Lines(daemon.Log()).size(), 10u) << daemon.Log();
}

TEST(CheckTest, TenMistakesAreTenLines) {
  const ProcessResult result = CheckConfig(kTenMistakes);
  EXPECT_EQ(result.exit_code, 1);
  const std::vector<std::string> lines = Lines(result.err);
  ASSERT_EQ(lines.size(), std::size(kMistakenLines)) << result.err;
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::vector<std::string> parts =
        absl::StrSplit(lines[i], absl::MaxSplits(':', 4));
    ASSERT_EQ(parts.size(), 5u) << lines[i];
    EXPECT_EQ(parts[0], "/run/headgate/checked.yaml");
    EXPECT_EQ(parts[1], std::to_string(kMistakenLines[i])) << lines[i];
    EXPECT_EQ(parts[3], " error") << lines[i];
  }
}

TEST(CheckTest, AValidFileIsZeroAndNeedsNoPrivileges) {
  EXPECT_EQ(CheckConfig(kConfig).exit_code, 0);
}

}  // namespace
}  // namespace headgate::testing
