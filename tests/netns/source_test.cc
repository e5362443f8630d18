// Where connections to backends come from, and what happens when the ports
// there are used up.
#include <gtest/gtest.h>
#include <poll.h>

#include <map>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/tcp.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

// One service, without a check unless `health` says so.
std::string Config(const std::string& source, const std::string& backends,
                   const std::string& health = "{type: none}") {
  return absl::StrCat(
      "pools:\n  nodes:\n",
      source.empty() ? "" : absl::StrCat("    source: ", source, "\n"),
      "    backends: ", backends, R"(
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    proxy_protocol: none
    health: )",
      health, "\n");
}

constexpr char kOne[] = "[{name: one, address: 198.18.2.11}]";
constexpr char kBoth[] =
    "[{name: one, address: 198.18.2.11}, {name: two, address: 198.18.2.12}]";
constexpr char kOneAndSpare[] =
    "[{name: one, address: 198.18.2.11}, "
    "{name: spare, address: 198.18.2.12, backup: true}]";

// A client's connection and the backend's end of it.
struct Pair {
  TcpSocket client;
  TcpSocket backend;

  IpAddress source() const { return PeerEndpoint(backend.fd()).address; }
  IpAddress target() const { return LocalEndpoint(backend.fd()).address; }
};

class SourceTest : public ::testing::Test {
 protected:
  SourceTest() {
    Shell(R"(
      for host in 2 3; do
        ip -n edge addr add 198.18.2.$host/24 dev e1
        ip -n edge addr add 2001:db8:2::$host/64 dev e1 nodad
      done)");
    listener_ = RunIn(kBackend, [] { return Listen(At("0.0.0.0:30125")); });
  }

  static void LimitPortsTo20() {
    Shell(
        "ip netns exec edge sysctl -qw "
        "net.ipv4.ip_local_port_range='40000 40019'");
  }
  TcpSocket Client() const { return TcpSocket::Connect(kClient, vip_); }
  Pair Connect() const {
    Pair pair;
    pair.client = Client();
    pair.backend = TcpSocket::Accept(listener_);
    EXPECT_TRUE(pair.client.valid() && pair.backend.valid());
    return pair;
  }
  // How many of so many new clients come from where; they stay in `held_`.
  std::map<std::string, int> Hold(int count) {
    std::map<std::string, int> sources;
    for (int i = 0; i < count; ++i) {
      held_.push_back(Connect());
      if (!held_.back().backend.valid()) break;
      ++sources[held_.back().source().ToString()];
    }
    return sources;
  }
  // Whether a new client is reset, as without any backend.
  bool IsRefused() const {
    TcpSocket client = Client();
    return client.valid() ? client.ReceivesReset()
                          : client.error() == ECONNRESET;
  }

  // Whether a new client gets through to the backend; it is held then.
  bool IsServed() {
    Pair pair;
    pair.client = Client();
    pollfd events[] = {{pair.client.fd(), POLLIN, 0},
                       {listener_.get(), POLLIN, 0}};
    if (!pair.client.valid() || ::poll(events, 2, 10'000) <= 0 ||
        events[1].revents == 0) {
      return false;
    }
    pair.backend = TcpSocket::Accept(listener_);
    held_.push_back(std::move(pair));
    return true;
  }

  static double Metric(const Daemon& daemon, const std::string& series) {
    const MetricMap metrics = ParseMetrics(daemon.Api("GET", "/metrics").body);
    const auto found = metrics.find(series);
    EXPECT_TRUE(found != metrics.end()) << series;
    return found == metrics.end() ? -1 : found->second;
  }
  static double Failures(const Daemon& daemon, const std::string& reason,
                         const std::string& backend = "one") {
    return Metric(
        daemon,
        absl::StrCat("headgate_connect_failures_total{backend=\"", backend,
                     "\",reason=\"", reason, "\",service=\"mail\"}"));
  }
  static bool HasProblem(const Daemon& daemon, const std::string& text) {
    const nlohmann::json status = daemon.Json({"status"});
    for (const nlohmann::json& problem : status.at("problems")) {
      if (absl::StrContains(problem.get<std::string>(), text)) return true;
    }
    return false;
  }
  static bool WaitProblem(const Daemon& daemon, const std::string& text,
                          bool there = true) {
    return WaitUntil(absl::Seconds(30),
                     [&] { return HasProblem(daemon, text) == there; });
  }
  static size_t LogLines(const Daemon& daemon, const std::string& text) {
    size_t count = 0;
    for (absl::string_view line : absl::StrSplit(daemon.Log(), '\n')) {
      count += absl::StrContains(line, text) ? 1u : 0u;
    }
    return count;
  }

  Lab lab_;
  UniqueFd listener_;
  std::vector<Pair> held_;
  const Endpoint vip_ = At("198.18.1.1:25");
};

TEST_F(SourceTest, SourcesAreUsedEvenlyTowardsEachBackend) {
  Daemon daemon(Config("[198.18.2.1, 198.18.2.2, 198.18.2.3]", kBoth));
  std::map<std::string, int> pairs;
  for (int i = 0; i < 1800; ++i) {
    const Pair pair = Connect();
    ASSERT_TRUE(pair.backend.valid());
    ++pairs[absl::StrCat(pair.source().ToString(), " to ",
                         pair.target().ToString())];
  }
  EXPECT_EQ(pairs.size(), 6u);
  for (const auto& [pair, count] : pairs) EXPECT_NEAR(count, 300, 3) << pair;
}

TEST_F(SourceTest, EachFamilyHasItsOwn) {
  listener_.reset();
  listener_ = RunIn(kBackend, [] { return Listen(At("[::]:30125")); });
  Daemon daemon(Config("[198.18.2.3, \"2001:db8:2::2\", \"2001:db8:2::3\"]",
                       "[{name: six, address: \"2001:db8:2::11\"}]",
                       "{type: tcp, interval: 200ms}"));
  EXPECT_TRUE(daemon.WaitBackendState("mail", "six", "up"));
  const std::map<std::string, int> sources = Hold(20);
  EXPECT_EQ(sources.size(), 2u);
  // Each worker has its own turns.
  for (const auto& [source, count] : sources) EXPECT_NEAR(count, 10, 1);
}

TEST_F(SourceTest, AReloadChangesThem) {
  Daemon daemon(Config("", kOne));
  EXPECT_EQ(Hold(1).begin()->first, "198.18.2.1");
  daemon.Reload(Config("198.18.2.3", kOne));
  ASSERT_TRUE(
      WaitUntil(absl::Seconds(10), [&] { return daemon.LogHas("reloaded"); }));
  EXPECT_TRUE(daemon.LogHas("pool nodes: source: unset -> [198.18.2.3]"));
  EXPECT_EQ(Hold(2), (std::map<std::string, int>{{"198.18.2.3", 2}}));
}

TEST_F(SourceTest, UsedUpPortsAreSaidAndTheNextSourceAndBackendTaken) {
  LimitPortsTo20();
  Daemon daemon(Config("[198.18.2.1, 198.18.2.2]", kOneAndSpare));
  EXPECT_EQ(Hold(40), (std::map<std::string, int>{{"198.18.2.1", 20},
                                                  {"198.18.2.2", 20}}));
  EXPECT_EQ(held_.back().target().ToString(), "198.18.2.11");
  EXPECT_EQ(Hold(40), (std::map<std::string, int>{{"198.18.2.1", 20},
                                                  {"198.18.2.2", 20}}));
  EXPECT_EQ(held_[40].target().ToString(), "198.18.2.12");
  EXPECT_GE(Failures(daemon, "no_source_port"), 1);

  EXPECT_TRUE(IsRefused());
  EXPECT_EQ(Metric(daemon, "headgate_no_backend_total{service=\"mail\"}"), 1);
  EXPECT_GE(Failures(daemon, "no_source_port", "spare"), 1);
  EXPECT_EQ(Failures(daemon, "error"), 0);
  const std::string said =
      "backend one: no source port is left towards 198.18.2.11:30125: add "
      "addresses to the source of pool nodes, or widen "
      "net.ipv4.ip_local_port_range";
  EXPECT_TRUE(WaitProblem(daemon, said));
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(IsRefused());
  EXPECT_EQ(LogLines(daemon, said), 1u);

  // A reset leaves no TIME_WAIT.
  const IpAddress freed = held_[0].source();
  held_[0].client.Reset();
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] { return IsServed(); }));
  EXPECT_EQ(held_.back().source(), freed);
  for (size_t i = 1; i < 40; ++i) held_[i].client.Reset();
  // Over when connections have succeeded for a while.
  EXPECT_TRUE(WaitUntil(absl::Seconds(30), [&] {
    if (IsServed()) held_.back().client.Reset();
    return !HasProblem(daemon, said);
  }));
  EXPECT_EQ(LogLines(daemon, "no longer: service mail: " + said), 1u);
}

TEST_F(SourceTest, WithoutSourcesTheKernelsPortsAreUsedUpAlike) {
  LimitPortsTo20();
  Daemon daemon(Config("", kOne));
  Hold(20);
  const LoadReport refused = RunLoad({.target = vip_,
                                      .total = 500,
                                      .concurrency = 50,
                                      .expect = "nothing",
                                      .timeout = absl::Seconds(2)});
  EXPECT_EQ(refused.failed(), 500u);
  for (const auto& [error, count] : refused.errors) {
    EXPECT_TRUE(absl::StrContains(error, "ECONNRESET")) << error;
  }
  EXPECT_EQ(Failures(daemon, "no_source_port"), 500);
  EXPECT_TRUE(WaitProblem(daemon, "no source port is left"));
  held_[0].client.Reset();
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] { return IsServed(); }));
}

TEST_F(SourceTest, Ipv6PortsAreUsedUpAlike) {
  LimitPortsTo20();
  listener_.reset();
  listener_ = RunIn(kBackend, [] { return Listen(At("[::]:30125")); });
  Daemon daemon(Config("[\"2001:db8:2::2\", \"2001:db8:2::3\"]",
                       "[{name: one, address: \"2001:db8:2::11\"}]"));
  EXPECT_EQ(Hold(40), (std::map<std::string, int>{{"2001:db8:2::2", 20},
                                                  {"2001:db8:2::3", 20}}));
  EXPECT_TRUE(IsRefused());
  EXPECT_GE(Failures(daemon, "no_source_port"), 2);
  EXPECT_EQ(Failures(daemon, "no_source_address"), 0);
}

TEST_F(SourceTest, TheForecastWarnsBeforePortsAreUsedUp) {
  LimitPortsTo20();
  Shell(
      "ip netns exec edge sysctl -qw "
      "net.ipv4.ip_local_reserved_ports=40000-40003,40019,50000");
  Daemon daemon(Config("[198.18.2.1, 198.18.2.2]", kOne));
  const std::string labels = "{backend=\"one\",service=\"mail\"}";
  EXPECT_EQ(Metric(daemon, "headgate_source_ports" + labels), 30);
  Hold(24);
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    return Metric(daemon, "headgate_source_ports_forecast" + labels) == 24;
  }));
  EXPECT_FALSE(HasProblem(daemon, "source ports"));
  Hold(1);
  EXPECT_TRUE(
      WaitProblem(daemon,
                  "backend one: more than 80 % of the source ports towards "
                  "198.18.2.11:30125 may be in use"));
  // Those that are over may have left their ports in TIME_WAIT.
  held_.clear();
  EXPECT_TRUE(WaitUntil(absl::Seconds(10),
                        [&] { return daemon.ActiveConnections() == 0; }));
  Hold(5);
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    return Metric(daemon, "headgate_source_ports_forecast" + labels) == 30;
  }));
}

// The machine may get the address later (VRRP).
class MissingSourceTest : public SourceTest,
                          public ::testing::WithParamInterface<int> {
 protected:
  MissingSourceTest() {
    Shell(
        absl::StrCat("ip netns exec edge sysctl -qw net.ipv4.ip_nonlocal_bind=",
                     GetParam()));
  }
};

TEST_P(MissingSourceTest, IsPassedOverUntilItComes) {
  Daemon daemon(Config("[198.18.2.99, 198.18.2.1, 198.18.2.2]", kOne,
                       "{type: tcp, interval: 200ms}"));
  const std::string said =
      "pool nodes: source 198.18.2.99: this machine does not have the address";
  EXPECT_TRUE(HasProblem(daemon, said));
  EXPECT_TRUE(daemon.WaitBackendState("mail", "one", "up"));
  std::map<std::string, int> sources = Hold(40);
  EXPECT_NEAR(sources["198.18.2.1"], 20, 2);
  EXPECT_NEAR(sources["198.18.2.2"], 20, 2);
  EXPECT_GE(Failures(daemon, "no_source_address"), 18);
  EXPECT_EQ(Failures(daemon, "no_source_port"), 0);
  EXPECT_EQ(LogLines(daemon, said), 1u);

  Shell("ip -n edge addr add 198.18.2.99/24 dev e1");
  EXPECT_TRUE(WaitProblem(daemon, said, false));
  EXPECT_TRUE(WaitUntil(absl::Seconds(10),
                        [&] { return Hold(3).contains("198.18.2.99"); }));
}

TEST_P(MissingSourceTest, WithoutAnyTheDaemonIsReadyAndRefuses) {
  Daemon daemon(Config("198.18.2.99", kOne, "{type: tcp, interval: 200ms}"));
  EXPECT_TRUE(IsRefused());
  EXPECT_GE(Failures(daemon, "no_source_address"), 1);
  EXPECT_EQ(daemon.Backend("mail", "one").at("last_check").at("result"),
            "error");
  Shell("ip -n edge addr add 198.18.2.99/24 dev e1");
  EXPECT_TRUE(daemon.WaitBackendState("mail", "one", "up"));
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] { return IsServed(); }));
}

INSTANTIATE_TEST_SUITE_P(NonlocalBind, MissingSourceTest,
                         ::testing::Values(0, 1));

}  // namespace
}  // namespace headgate::testing
