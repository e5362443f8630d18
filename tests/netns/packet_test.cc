// The packet path by the real daemon: whole connections that no socket on the
// edge has, with the header in front.
#include <gmock/gmock.h>
#include <signal.h>

#include <algorithm>

#include "packet_fixture.h"
#include "packet_hooks.h"

namespace headgate::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class PacketTest : public PacketLab {};

// At once: a header that waited for the backend's SYN-ACK to come again would
// take a second, and one that waited for a delayed acknowledgment 40 ms.
TEST_F(PacketTest, ASilentClientIsGreeted) {
  const auto server = Node();
  const auto server6 = Node("[2001:db8:2::11]");
  Start();
  ASSERT_TRUE(OnPacketPath());
  for (const Endpoint& vip : {vip_, vip6_}) {
    const LoadReport report = RunLoad(
        {.target = vip, .total = 20, .concurrency = 1, .expect = kGreeting});
    EXPECT_EQ(report.ok, 20u) << vip.ToString() << report.ToString();
    // A timer would be in the way of each of them, the machine is not.
    EXPECT_LT(report.answered.front(), absl::Milliseconds(30));
    EXPECT_LT(report.Percentile(1), absl::Milliseconds(900));
  }
}

TEST_F(PacketTest, ConnectionsAreSeen) {
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  Start();
  Session session = OpenSession(vip_, listener);  // Compares the header.
  ASSERT_TRUE(HeaderIsAcked());
  ASSERT_TRUE(session.Exchange(1000));
  const nlohmann::json list = daemon_->Json({"conn", "list"}).at("connections");
  ASSERT_EQ(list.size(), 1u) << list;
  EXPECT_EQ(list[0]["service"], "mail");
  EXPECT_EQ(list[0]["backend"], "one");
  EXPECT_EQ(list[0]["datapath"], "packet");
  EXPECT_EQ(list[0]["client"], LocalEndpoint(session.client.fd()).ToString());
  EXPECT_EQ(list[0]["bytes_in"], 1000);
  EXPECT_EQ(list[0]["bytes_out"], 1000);
  const nlohmann::json service = daemon_->Service("mail");
  EXPECT_EQ(service["datapath"], "packet");
  EXPECT_EQ(service["connections_active"], 1);
  EXPECT_EQ(service["bytes_in_total"], 1000);
  EXPECT_EQ(Metric("headgate_connections_active{service=\"mail\"}"), 1);
  EXPECT_GE(Metric("headgate_packets_forwarded_total{as=\"header\"}"), 1);
  EXPECT_EQ(Metric("headgate_packets_consumed_total{as=\"header_acked\"}"), 1);
  const nlohmann::json flow = daemon_->Json({"flow", "list"}).at("flows").at(0);
  EXPECT_EQ(flow["client"], list[0]["client"]);
  EXPECT_EQ(flow["listen"], "198.18.1.1:25");
  EXPECT_EQ(flow["source"], PeerEndpoint(session.backend.fd()).ToString());
  EXPECT_EQ(flow["backend"], "198.18.2.11:25");
  EXPECT_EQ(flow["state"], "established");
  EXPECT_EQ(flow["header"], "acknowledged");
  session.client.Close();
  EXPECT_TRUE(session.backend.ReceivesEnd());
  session.backend.Close();
  EXPECT_TRUE(WaitActive(0));
}

TEST_F(PacketTest, KilledConnectionsAreResetAtBothEnds) {
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  const UniqueFd listener6 = ListenAt("[2001:db8:2::11]:25");
  Start();
  Session sessions[] = {OpenSession(vip_, listener),
                        OpenSession(vip6_, listener6)};
  for (Session& session : sessions) ASSERT_TRUE(session.Exchange(1000));
  const nlohmann::json list = daemon_->Json({"conn", "list"}).at("connections");
  ASSERT_EQ(list.size(), 2u) << list;
  for (const auto& row : list) {
    EXPECT_EQ(daemon_->Ctl({"conn", "kill", row["id"].dump()}).exit_code, 0);
  }
  for (Session& session : sessions) {
    EXPECT_TRUE(session.client.ReceivesReset());
    EXPECT_TRUE(session.backend.ReceivesReset());
  }
  EXPECT_TRUE(WaitActive(0));
}

TEST_F(PacketTest, AnIdIsOfOneConnectionOnly) {
  const auto server = Node();
  Start({.packet = "  max_flows: 1024"});
  const auto ids = [this] {
    std::vector<uint64_t> found;
    const nlohmann::json list =
        daemon_->Json({"conn", "list"}).at("connections");
    for (const auto& row : list) found.push_back(row["id"].get<uint64_t>());
    return found;
  };
  std::vector<TcpSocket> held;
  // The whole table: then every number is somebody else's.
  const auto fill = [&] {
    for (int i = 0; i < 1024; ++i) {
      held.push_back(TcpSocket::Connect(kClient, vip_));
      ASSERT_EQ(held.back().Receive(11), kGreeting) << i;
    }
  };
  fill();
  const std::vector<uint64_t> before = ids();
  ASSERT_EQ(before.size(), 1024u);
  EXPECT_LT(before.back(), uint64_t{1} << 53);
  for (TcpSocket& socket : held) socket.Reset();
  held.clear();
  ASSERT_TRUE(WaitActive(0));
  fill();
  for (const uint64_t stale : {before.front(), before.back()}) {
    EXPECT_EQ(daemon_->Ctl({"conn", "kill", absl::StrCat(stale)}).exit_code, 4);
  }
  EXPECT_EQ(daemon_->ActiveConnections(), 1024);
  const std::string id = absl::StrCat(ids().front());
  EXPECT_EQ(daemon_->Ctl({"conn", "kill", id}).exit_code, 0);
  EXPECT_EQ(daemon_->ActiveConnections(), 1023);
}

TEST_F(PacketTest, ABackendThatGoesDownResetsItsConnections) {
  UniqueFd listener = ListenAt("198.18.2.11:25");
  UniqueFd listener6 = ListenAt("[2001:db8:2::11]:25");
  Start({.service = "    on_backend_down: reset"});
  Session sessions[] = {OpenSession(vip_, listener),
                        OpenSession(vip6_, listener6)};
  for (Session& session : sessions) ASSERT_TRUE(session.Exchange(1000));
  listener.reset();
  listener6.reset();
  for (Session& session : sessions) {
    EXPECT_TRUE(session.client.ReceivesReset());
    EXPECT_TRUE(session.backend.ReceivesReset());
  }
  for (const char* of : {R"({backend="one",service="mail"})",
                         R"({backend="six",service="mail6"})"}) {
    EXPECT_EQ(Metric(absl::StrCat("headgate_backend_down_resets_total", of)), 1)
        << of;
  }
}

TEST_F(PacketTest, FiguresAreThoseOfItsTableAndItsPorts) {
  const auto server = Node();
  Start({.packet = "  ports: 20000-20009", .health = "{type: none}"});
  const std::string of_one = R"({backend="one",service="mail"})";
  EXPECT_EQ(Metric("headgate_source_ports" + of_one), 10);
  std::vector<TcpSocket> held;
  for (int i = 0; i < 9; ++i) {
    held.push_back(TcpSocket::Connect(kClient, vip_));
    ASSERT_EQ(held.back().Receive(11), kGreeting) << i;
  }
  EXPECT_EQ(Metric(R"(headgate_flows{state="established"})"), 9);
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] {
    return daemon_->LogHas("add addresses to packet.source, or widen");
  }));
  EXPECT_EQ(Metric("headgate_source_ports_forecast" + of_one), 9);
  for (TcpSocket& socket : held) socket.Reset();
  ASSERT_TRUE(WaitActive(0));
  EXPECT_EQ(Metric(R"(headgate_flows{state="established"})"), 0);
  EXPECT_EQ(Metric(R"(headgate_flows{state="closed"})"), 9);
}

TEST_F(PacketTest, FirstWordsAndEndsWithoutOneAreCounted) {
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  Start({.health = "{type: none}"});
  const auto count = [this](const char* name, const char* labels) {
    return Metric(absl::Substitute(
        R"(headgate_backend_$0{backend="one",$1service="mail"})", name,
        labels));
  };
  Session speaks = OpenSession(vip_, listener);
  ASSERT_TRUE(speaks.backend.Send(kGreeting));
  ASSERT_EQ(speaks.client.Receive(11), kGreeting);
  ASSERT_TRUE(speaks.Exchange());
  EXPECT_EQ(count("greeting_seconds_count", ""), 1);
  speaks.backend.Close();
  Session closes = OpenSession(vip_, listener);
  closes.backend.ShutdownWrite();
  EXPECT_TRUE(closes.client.ReceivesEnd());
  Session resets = OpenSession(vip_, listener);
  resets.backend.Reset();
  EXPECT_TRUE(resets.client.ReceivesReset());
  Session left = OpenSession(vip_, listener);
  left.client.ShutdownWrite();
  EXPECT_TRUE(left.backend.ReceivesEnd());
  left.backend.Close();
  EXPECT_TRUE(left.client.ReceivesEnd());
  EXPECT_EQ(count("early_closes_total", R"(reason="closed",)"), 1);
  EXPECT_EQ(count("early_closes_total", R"(reason="reset",)"), 1);
  EXPECT_EQ(count("greeting_seconds_count", ""), 1);
}

TEST_F(PacketTest, ADrainedBackendKeepsItsConnectionsAndGetsNoNewOnes) {
  const auto one = Node(), two = Node("198.18.2.12");
  Start({.backends = R"(      - {name: one, address: "198.18.2.11:25"}
      - {name: two, address: "198.18.2.12:25"})"});
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  const std::string of = one->open() == 1 ? "one" : "two";
  EXPECT_EQ(daemon_->Ctl({"backend", "drain", "mail/" + of}).exit_code, 0);
  const size_t before = (of == "one" ? one : two)->accepted();
  EXPECT_EQ(Load(20).ok, 20u);
  EXPECT_EQ((of == "one" ? one : two)->accepted(), before);
  EXPECT_TRUE(held.Send("still"));
  EXPECT_EQ(held.Receive(5), "still");
}

TEST_F(PacketTest, APacedDrainResetsThoseThatAreIdleFirst) {
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  Start();
  // The oldest ones are those that have something to do.
  std::vector<Session> busy, idle;
  for (int i = 0; i < 2; ++i) busy.push_back(OpenSession(vip_, listener));
  for (int i = 0; i < 2; ++i) idle.push_back(OpenSession(vip_, listener));
  ASSERT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    for (Session& session : busy) {
      if (!session.Exchange()) return false;
    }
    const auto flows = daemon_->Json({"flow", "list"}).at("flows");
    return std::count_if(flows.begin(), flows.end(), [](const auto& flow) {
             return flow["idle_seconds"].template get<double>() > 2;
           }) == 2;
  }));
  EXPECT_EQ(
      daemon_
          ->Ctl({"backend", "drain", "mail/one", "--over=6s", "--order=idle"})
          .exit_code,
      0);
  for (Session& session : idle) {
    EXPECT_TRUE(session.client.ReceivesReset());
    EXPECT_TRUE(session.backend.ReceivesReset());
  }
  for (Session& session : busy) EXPECT_TRUE(session.Exchange());
  EXPECT_EQ(daemon_->Backend("mail", "one")["draining"]["left"], 2);
  EXPECT_EQ(
      daemon_->Ctl({"backend", "drain", "mail/one", "--wait", "--timeout=9s"})
          .exit_code,
      0);
  for (Session& session : busy) {
    EXPECT_TRUE(session.client.ReceivesReset());
    EXPECT_TRUE(session.backend.ReceivesReset());
  }
  EXPECT_EQ(daemon_->ActiveConnections(), 0);
}

TEST_F(PacketTest, B20_WithoutABackendClientsAreResetAtOnce) {
  Start();  // Nobody listens: checks find it down.
  ASSERT_TRUE(daemon_->WaitBackendState("mail", "one", "down"));
  const absl::Time start = absl::Now();
  TcpSocket client = TcpSocket::Connect(kClient, vip_);
  EXPECT_FALSE(client.valid());
  EXPECT_EQ(client.error(), ECONNREFUSED);
  // Not at its SYN's retransmission.
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(900));
  EXPECT_EQ(Drops("no_backend"), 1);
}

// The SYN's retransmission, a second later, goes to the other.
TEST_F(PacketTest, ABackendThatRefusesOrIsSilentIsReplaced) {
  const auto two = Node("198.18.2.12");
  Start({.service = "    balance: first",
         .backends = R"(      - {name: one, address: "198.18.2.11:25"}
      - {name: two, address: "198.18.2.12:25"})",
         .health = "{type: none}"});
  const LoadReport refused = Load(4);
  EXPECT_EQ(refused.ok, 4u) << refused.ToString();
  EXPECT_GE(refused.answered.front(), absl::Milliseconds(900));
  EXPECT_LT(refused.Percentile(1), absl::Seconds(2));
  EXPECT_EQ(Drops("refused"), 4);
  lab_.BlackHole("198.18.2.11");
  const LoadReport silent = Load(4);
  EXPECT_EQ(silent.ok, 4u) << silent.ToString();
  EXPECT_LT(silent.Percentile(1), absl::Seconds(2));
  EXPECT_EQ(daemon_->Backend("mail", "two")["connections_total"], 8);
}

TEST_F(PacketTest, TheLastRefusalIsTheClients) {
  Start({.backends = R"(      - {name: one, address: "198.18.2.11:25"}
      - {name: two, address: "198.18.2.12:25"})",
         .health = "{type: none}"});  // Nobody listens.
  const absl::Time start = absl::Now();
  EXPECT_EQ(TcpSocket::Connect(kClient, vip_).error(), ECONNREFUSED);
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(900));
  EXPECT_EQ(Drops("refused"), 1);
  EXPECT_EQ(Metric(R"(headgate_no_backend_total{service="mail"})"), 1);
}

TEST_F(PacketTest, AFullTableRecyclesTheClosedAndRefusesTheRest) {
  const auto server = Node();
  Start({.packet = "  max_flows: 1024"});
  // Four tables full, one after the other: each takes the oldest closed.
  const LoadReport report = Load(4096, 64);
  EXPECT_EQ(report.ok, 4096u) << report.ToString();
  EXPECT_EQ(Drops("flow_table_full"), 0);
  std::vector<TcpSocket> held;
  for (int i = 0; i < 1024; ++i) {
    held.push_back(TcpSocket::Connect(kClient, vip_));
    ASSERT_EQ(held.back().Receive(11), kGreeting) << i;
  }
  const UniqueFd more = RunIn(kClient, [&] { return StartConnect({}, vip_); });
  EXPECT_TRUE(WaitUntil(absl::Seconds(5),
                        [&] { return Drops("flow_table_full") >= 1; }));
  EXPECT_TRUE(held.front().Send("x") && held.front().Receive(1) == "x");
}

TEST_F(PacketTest, MaxConnectionsHold) {
  const auto server = Node();
  Start({.service = "    max_connections: 2"});
  TcpSocket one = TcpSocket::Connect(kClient, vip_);
  TcpSocket two = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(one.Receive(11), kGreeting);
  ASSERT_EQ(two.Receive(11), kGreeting);
  const UniqueFd three = RunIn(kClient, [&] { return StartConnect({}, vip_); });
  EXPECT_TRUE(
      WaitUntil(absl::Seconds(5), [&] { return Drops("service_full") >= 1; }));
  one.Reset();
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    return server->accepted() >= 3;  // The SYN came again.
  }));
}

TEST_F(PacketTest, WithoutForwardingItIsSplicedAndSaysWhy) {
  const auto server = Node();
  Shell("ip netns exec edge sysctl -qw net.ipv4.conf.e0.forwarding=0");
  Start();
  EXPECT_EQ(Load(5).ok, 5u);
  const nlohmann::json status = daemon_->Json({"status"});
  EXPECT_NE(status.dump().find("net.ipv4.conf.e0.forwarding=1"),
            std::string::npos)
      << status;
  EXPECT_TRUE(daemon_->LogHas("net.ipv4.conf.e0.forwarding=1"));
  TcpSocket spliced = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(spliced.Receive(11), kGreeting);
  // It is tried again.
  Shell("ip netns exec edge sysctl -qw net.ipv4.conf.e0.forwarding=1");
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] {
    return daemon_->LogHas("datapath packet: no problem any more");
  }));
  TcpSocket client = TcpSocket::Connect(kClient, vip_);
  EXPECT_EQ(client.Receive(11), kGreeting);
  const nlohmann::json list = daemon_->Json({"conn", "list"}).at("connections");
  ASSERT_EQ(list.size(), 2u) << list;
  EXPECT_EQ(list[1]["datapath"], "packet");
  // And who was spliced before stays it.
  EXPECT_TRUE(spliced.Send("still"));
  EXPECT_EQ(spliced.Receive(5), "still");
  // A daemon that is killed takes the one with it, and leaves the other.
  EXPECT_EQ(daemon_->Service("mail")["connections_active"], 2);
  ::kill(daemon_->pid(), SIGKILL);
  EXPECT_EQ(daemon_->WaitExit(), 128 + SIGKILL);
  daemon_ = std::make_unique<Daemon>(PacketConfig(),
                                     DaemonOptions{.keep_state = true});
  EXPECT_EQ(daemon_->Service("mail")["connections_active"], 1);
  EXPECT_EQ(daemon_->Backend("mail", "one")["connections_active"], 1);
  EXPECT_TRUE(client.Send("x") && client.Receive(1) == "x");
}

// Half a path would take SYNs whose answers meet no hook.
TEST_F(PacketTest, WithOneInterfaceOnlyItIsSplicedAndSaysWhy) {
  const auto server = Node();
  Shell("ip netns exec edge sysctl -qw net.ipv4.conf.e1.forwarding=0");
  Start();
  EXPECT_EQ(Load(5).ok, 5u);
  TcpSocket spliced = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(spliced.Receive(11), kGreeting);
  EXPECT_NE(daemon_->Json({"conn", "list"}).at("connections")[0]["datapath"],
            "packet");
  const std::string reason =
      "does not forward; sysctl -w net.ipv4.conf.e1.forwarding=1";
  const nlohmann::json status = daemon_->Json({"status"});
  EXPECT_FALSE(status["datapaths"]["packet"].get<bool>());
  EXPECT_NE(status["packet_reason"].dump().find("e1: " + reason),
            std::string::npos)
      << status;
  EXPECT_TRUE(daemon_->LogHas("e1: " + reason));
  const auto hook = [](const char* interface, const char* mode,
                       const std::string& why) {
    return absl::Substitute(
        R"(headgate_packet_hook_info{hook="tc",interface="$0",mode="$1",reason="$2"})",
        interface, mode, why);
  };
  EXPECT_EQ(Metric(hook("e0", "tcx", "")), 1);
  EXPECT_EQ(Metric(hook("e1", "", reason)), 0);
  Shell("ip netns exec edge sysctl -qw net.ipv4.conf.e1.forwarding=1");
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] { return OnPacketPath(); }));
  EXPECT_EQ(Metric(hook("e1", "tcx", "")), 1);
  EXPECT_EQ(Load(5).ok, 5u);
  EXPECT_GE(Metric("headgate_packets_forwarded_total{as=\"header\"}"), 5);
}

TEST_F(PacketTest, AnInterfaceMayGoAndComeBack) {
  const auto server = Node();
  Start();
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  Shell("ip -n edge link set e1 name away");
  ASSERT_TRUE(WaitUntil(absl::Seconds(5), [&] { return !OnPacketPath(); }));
  EXPECT_TRUE(daemon_->LogHas("e1: no such interface"));
  EXPECT_EQ(Load(5).ok, 5u) << "spliced";
  TcpSocket spliced = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(spliced.Receive(11), kGreeting);
  Shell("ip -n edge link set away name e1");
  ASSERT_TRUE(WaitUntil(absl::Seconds(5), [&] { return OnPacketPath(); }));
  for (TcpSocket* each : {&held, &spliced}) {
    EXPECT_TRUE(each->Send("still"));
    EXPECT_EQ(each->Receive(5), "still");
  }
  EXPECT_EQ(Load(5).ok, 5u);
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] {
    return daemon_->Service("mail")["connections_active"] == 2;
  }));
}

// Before Linux 6.6.
TEST_F(PacketTest, WithoutTcxAFilterDoesTheSame) {
  const DaemonOptions without_tcx = {.wrapper = WithoutTcx(),
                                     .keep_state = true};
  const std::string config = PacketConfig({.health = "{type: none}"});
  daemon_ = std::make_unique<Daemon>(config, without_tcx);
  for (const char* device : {"e0", "e1"}) {
    EXPECT_THAT(HooksAt(device), ElementsAre("clsact packet_ingress"));
  }
  ExpectStreams(10);
  const auto server = Node();
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  EXPECT_EQ(daemon_->Json({"conn", "list"}).at("connections")[0]["datapath"],
            "packet");
  ::kill(daemon_->pid(), SIGKILL);
  EXPECT_EQ(daemon_->WaitExit(), 128 + SIGKILL);
  EXPECT_EQ(Load(20).ok, 20u) << "without a daemon";
  daemon_ = std::make_unique<Daemon>(config, without_tcx);
  EXPECT_TRUE(daemon_->LogHas("goes on with 1 connections"));
  EXPECT_TRUE(held.Send("x") && held.Receive(1) == "x");
  daemon_->Stop();
  for (const char* device : {"e0", "e1"}) {
    EXPECT_THAT(HooksAt(device), IsEmpty());
  }
}

TEST_F(PacketTest, StoppedInOrderItLeavesNothing) {
  const auto server = Node();
  Start();
  EXPECT_EQ(Load(1).ok, 1u);
  EXPECT_THAT(HooksAt("e0"), ElementsAre("tcx packet_ingress"));
  daemon_->Stop();
  EXPECT_THAT(HooksAt("e0"), IsEmpty());
  EXPECT_THAT(HooksAt("e1"), IsEmpty());
  EXPECT_FALSE(TcpSocket::Connect(kClient, vip_).valid());
  const ProcessResult status = daemon_->Ctl({"status"});
  EXPECT_EQ(status.exit_code, 3);
  EXPECT_EQ(status.err.find("packet path"), std::string::npos) << status.err;
}

}  // namespace
}  // namespace headgate::testing
