// The packet path while its configuration changes, and what it says of a
// configuration that does not fit this machine.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "packet_fixture.h"
#include "support/injection.h"

namespace headgate::testing {
namespace {

class PacketReloadTest : public PacketLab {
 protected:
  // For listeners.
  static constexpr absl::Duration kLookInterval = absl::Seconds(10);
  static constexpr absl::Duration kLookTimeout = absl::Seconds(30);

  int Generation() const {
    return daemon_->Json({"status"})["generation"].get<int>();
  }
  // Must change something.
  void Reload(const std::string& config) const {
    const int before = Generation();
    daemon_->Reload(config);
    ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] { return Generation() > before; }))
        << daemon_->Log();
  }
  bool HasProblem(const std::string& text) const {
    return absl::StrContains(daemon_->Json({"status"})["problems"].dump(),
                             text);
  }
};

TEST_F(PacketReloadTest, ConnectionsStay) {
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  Start();
  Session session = OpenSession(vip_, listener);
  Reload(PacketConfig({.service = "    max_connections: 100"}));
  EXPECT_TRUE(session.Exchange(1000));
}

// What is sent to an address that it had is somebody else's, but for what is of
// connections from then.
TEST_F(PacketReloadTest, ASourceThatIsTakenAwayIsLeftAlone) {
  const auto server = Node();
  Shell("ip -n edge addr add 198.18.2.2/24 dev e1");
  Start();
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  const auto reach_old = [] {
    return TcpSocket::Connect(kBackend, At("198.18.2.1:20000")).error();
  };
  EXPECT_EQ(reach_old(), ECONNREFUSED);
  EXPECT_EQ(Drops("no_flow"), 1);
  std::string config = PacketConfig();
  config.replace(config.find("198.18.2.1,"), 10, "198.18.2.2");
  Reload(config);
  EXPECT_EQ(reach_old(), ECONNREFUSED);
  EXPECT_EQ(Drops("no_flow"), 1) << "it was not the kernel";
  EXPECT_TRUE(held.Send("still"));
  EXPECT_EQ(held.Receive(5), "still");
  EXPECT_EQ(Load(5).ok, 5u);
}

// Connections that come while it ends are counted out like the others.
TEST_F(PacketReloadTest, ItsEndUnderLoadLeavesNoConnectionBehind) {
  const auto server = Node();
  const std::string config =
      PacketConfig({.packet = "  max_flows: 4096", .health = "{type: none}"});
  const std::string spliced =
      absl::StrReplaceAll(config, {{"datapath: packet", "datapath: splice"}});
  daemon_ = std::make_unique<Daemon>(config);
  for (int i = 0; i < 3; ++i) {
    std::future<LoadReport> load =
        std::async(std::launch::async, [this] { return Load(4000, 32); });
    ASSERT_TRUE(WaitUntil(kTcpTimeout,
                          [&] { return daemon_->ActiveConnections() > 0; }));
    Reload(spliced);
    load.wait();
    EXPECT_TRUE(WaitActive(0)) << daemon_->ActiveConnections();
    Reload(config);
    ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] { return OnPacketPath(); }));
  }
  EXPECT_EQ(Load(5).ok, 5u);
}

TEST_F(PacketReloadTest, OnceNoServiceUsesItItsConnectionsEnd) {
  const auto server = Node();
  const std::string config = PacketConfig({.health = "{type: none}"});
  daemon_ = std::make_unique<Daemon>(config);
  std::vector<TcpSocket> held;
  for (int i = 0; i < 20; ++i) {
    held.push_back(TcpSocket::Connect(kClient, vip_));
    ASSERT_EQ(held.back().Receive(11), kGreeting);
  }
  Reload(
      absl::StrReplaceAll(config, {{"datapath: packet", "datapath: splice"}}));
  for (TcpSocket& each : held) EXPECT_TRUE(each.ReceivesReset());
  EXPECT_TRUE(WaitUntil(kTcpTimeout, [&] {
    return daemon_->LogHas("20 connections have ended");
  })) << daemon_->Log();
  EXPECT_TRUE(WaitActive(0));
  EXPECT_EQ(Load(5).ok, 5u);
}

// There are 255 ids: with so many services at once, theirs are used again. No
// connection comes with them, be it old or under way.
TEST_F(PacketReloadTest, AnIdThatIsUsedAgainBringsNoConnection) {
  const auto config_of = [](absl::string_view prefix) {
    std::string config = absl::StrReplaceAll(
        PacketConfig({.health = "{type: none}"}),
        {{"  mail", absl::StrCat("  ", prefix, "mail")},
         {"  nodes6:",
          "  others: {backends: [{name: two, address: \"198.18.2.12:25\"}]}\n"
          "  nodes6:"}});
    for (int i = 0; i < 200; ++i) {
      absl::StrAppend(&config, "  ", prefix, "other", i,
                      ": {listen: [198.18.1.1:", 3000 + i,
                      "], pool: others, health: {type: none}}\n");
    }
    return config;
  };
  const auto server = Node(), other = Node("198.18.2.12");
  daemon_ = std::make_unique<Daemon>(config_of("a"));
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  std::future<LoadReport> load =
      std::async(std::launch::async, [this] { return Load(10000, 32); });
  ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] { return server->accepted() > 100; }));
  Reload(config_of("b"));
  EXPECT_TRUE(held.ReceivesReset());
  load.wait();
  EXPECT_EQ(other->accepted(), 0u) << "of another service";
  EXPECT_TRUE(WaitActive(0));
  ExpectNoneIsCounted();
  EXPECT_EQ(Load(5).ok, 5u);
}

TEST_F(PacketReloadTest, WhatItHasMovedStaysCounted) {
  const auto server = Node();
  const std::string config = PacketConfig({.health = "{type: none}"});
  const auto bytes = [this](const char* direction) {
    return Metric(absl::StrCat("headgate_bytes_total{direction=\"", direction,
                               "\",service=\"mail\"}"));
  };
  daemon_ = std::make_unique<Daemon>(config);
  EXPECT_EQ(Load(5).ok, 5u);
  EXPECT_TRUE(WaitActive(0));
  EXPECT_EQ(bytes("in"), 20);
  EXPECT_EQ(bytes("out"), 75);
  Reload(
      absl::StrReplaceAll(config, {{"datapath: packet", "datapath: splice"}}));
  EXPECT_EQ(bytes("in"), 20);
  EXPECT_EQ(bytes("out"), 75);
  Reload(config);
  EXPECT_EQ(Load(5).ok, 5u);
  EXPECT_TRUE(WaitActive(0));
  EXPECT_EQ(bytes("in"), 40);
  EXPECT_EQ(bytes("out"), 150);
}

TEST_F(PacketReloadTest, ATableOfAnotherSizeTakesARestart) {
  const std::string problem =
      "packet.max_flows: 1024 takes effect at the next start, which ends the "
      "connections of the packet path";
  Start();
  Reload(PacketConfig({.packet = "  max_flows: 1024"}));
  EXPECT_TRUE(HasProblem(problem)) << daemon_->Json({"status"});
  EXPECT_TRUE(OnPacketPath());
  Reload(PacketConfig());
  EXPECT_FALSE(HasProblem("max_flows"));
}

// With what live connections still have there are more addresses than ids.
TEST_F(PacketReloadTest, AConfigurationThatDoesNotFitServesNobodyUntilItDoes) {
  const auto there = [&] { return HasProblem("room for 255"); };
  Shell(R"(ip -n edge addr add 198.18.1.2/32 dev lo
           ip -n client route add 198.18.1.2 via 198.18.0.1
           ip -n edge route add local 198.19.0.0/24 dev lo)");
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  const std::string config = PacketConfig({.health = "{type: none}"});
  daemon_ = std::make_unique<Daemon>(config);
  Session held = OpenSession(vip_, listener);
  std::string crowd =
      absl::StrReplaceAll(config, {{"198.18.1.1:25", "198.18.1.2:25"}});
  for (int service = 0, last = 0; last < 251; ++service) {
    absl::StrAppend(&crowd, "  more", service,
                    ":\n    datapath: packet\n    pool: nodes\n"
                    "    health: {type: none}\n    listen:\n");
    for (const int end = std::min(last + 64, 251); last < end;) {
      absl::StrAppend(&crowd, "      - 198.19.0.", ++last, ":25\n");
    }
  }
  Reload(crowd);
  EXPECT_FALSE(WaitUntil(absl::Seconds(3), [&] {
    return !there() || OnPacketPath();
  })) << daemon_->Log();
  EXPECT_EQ(TcpSocket::Connect(kClient, vip_).error(), ECONNREFUSED);
  EXPECT_TRUE(OpenSession(At("198.18.1.2:25"), listener).Exchange());
  EXPECT_TRUE(held.Exchange());
  const nlohmann::json flow = daemon_->Json({"flow", "list"})["flows"][0];
  EXPECT_EQ(
      daemon_->Ctl({"conn", "kill", absl::StrCat(flow["id"].get<uint64_t>())})
          .exit_code,
      0);
  EXPECT_TRUE(WaitUntil(kTcpTimeout, [&] {
    return !there() && OnPacketPath();
  })) << daemon_->Log();
  EXPECT_TRUE(OpenSession(At("198.18.1.2:25"), listener).Exchange());
}

TEST_F(PacketReloadTest, APathThatCannotBeOpenedIsTriedAgain) {
  const auto server = Node();
  const std::string config = PacketConfig({.health = "{type: none}"});
  const std::string spliced =
      absl::StrReplaceAll(config, {{"datapath: packet", "datapath: splice"}});
  daemon_ = std::make_unique<Daemon>(spliced);
  const std::string obstacle = daemon_->pin_dir() + "/packet_flows";
  std::filesystem::create_directory(obstacle);
  Reload(config);
  EXPECT_TRUE(HasProblem("pin " + obstacle)) << daemon_->Json({"status"});
  EXPECT_EQ(Load(5).ok, 5u) << "spliced";
  Reload(spliced);
  EXPECT_FALSE(HasProblem("pin "));
  Reload(config);
  EXPECT_TRUE(HasProblem("pin "));
  std::filesystem::remove(obstacle);
  EXPECT_TRUE(WaitUntil(absl::Seconds(20), [&] { return OnPacketPath(); }))
      << daemon_->Log();
  EXPECT_FALSE(HasProblem("pin "));
  EXPECT_EQ(Load(5).ok, 5u);
}

TEST_F(PacketReloadTest, AListenerAmongItsPortsIsAProblem) {
  UniqueFd other = RunIn(kEdge, [] { return Listen(At("0.0.0.0:20025")); });
  const UniqueFd elsewhere =
      RunIn(kEdge, [] { return Listen(At("198.18.1.1:20026")); });
  const auto server = Node();
  Start();
  EXPECT_TRUE(daemon_->LogHas("a socket listens at 0.0.0.0:20025"));
  EXPECT_TRUE(HasProblem("at 198.18.2.1 nobody reaches it"));
  EXPECT_FALSE(HasProblem("20026"));
  EXPECT_TRUE(OnPacketPath());
  EXPECT_EQ(Load(5).ok, 5u);
  {
    const Injection blind(daemon_->pid(), "openat:error=EMFILE");
    EXPECT_FALSE(WaitUntil(kLookInterval + absl::Seconds(2),
                           [&] { return !HasProblem("20025"); }));
  }
  other.reset();
  EXPECT_TRUE(WaitUntil(kLookTimeout, [&] { return !HasProblem("20025"); }));
  const UniqueFd later =
      RunIn(kEdge, [] { return Listen(At("198.18.2.1:20027")); });
  EXPECT_TRUE(WaitUntil(kLookTimeout, [&] { return HasProblem("20027"); }));
}

TEST_F(PacketReloadTest, AServiceOfOursAmongItsPortsIsAProblem) {
  daemon_ = std::make_unique<Daemon>(absl::StrCat(PacketConfig(), R"(
  unreachable:
    listen: [0.0.0.0:20025]
    pool: nodes
    health: {type: none}
)"));
  EXPECT_TRUE(WaitUntil(kLookTimeout, [&] {
    return HasProblem("a socket listens at 0.0.0.0:20025");
  }));
}

TEST_F(PacketReloadTest, PortsOfTheKernelAreRefused) {
  // Some of it is reserved already, and what somebody else has need of.
  Shell(
      "ip netns exec edge sysctl -qw "
      "net.ipv4.ip_local_reserved_ports=10300-10309,20000,40000");
  std::string log;
  {
    Daemon daemon(PacketConfig(), {.wait_until_ready = false});
    EXPECT_EQ(daemon.WaitExit(), 1);
    log = daemon.Log();
  }
  // What it says to do is enough, and takes nothing from anybody.
  const size_t fix = log.find("sysctl -w ");
  ASSERT_NE(fix, std::string::npos) << log;
  Shell("ip netns exec edge " + log.substr(fix, log.find('\n', fix) - fix));
  EXPECT_EQ(
      RunIn(kEdge,
            [] {
              std::ifstream file("/proc/sys/net/ipv4/ip_local_reserved_ports");
              return std::string(std::istreambuf_iterator<char>(file), {});
            }),
      "10240-32767,40000\n");
  Start();
  EXPECT_TRUE(OnPacketPath());
}

}  // namespace
}  // namespace headgate::testing
