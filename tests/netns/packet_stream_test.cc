// Streams over the packet path, byte for byte: offloads on and off, packet
// sizes, and what is lost on the way.
#include <linux/tcp.h>
#include <netinet/in.h>
#include <signal.h>

#include <atomic>
#include <cstdlib>
#include <thread>
#include <tuple>
#include <utility>

#include "absl/strings/strip.h"
#include "packet_fixture.h"

namespace headgate::testing {
namespace {

struct Agreement;

class PacketStreamTest : public PacketLab {
 protected:
  // The streams' listeners come and go.
  void Start() { PacketLab::Start({.health = "{type: none}"}); }
  void ExpectDataInThePlaceOfTheHandshakesAck() const;
  void ExpectInForceAtBothEnds(const Agreement& agreement) const;
  static void SwitchOff(const TcpSocket& socket, int option) {
    const int off = 0;
    EXPECT_EQ(::setsockopt(socket.fd(), IPPROTO_TCP, option, &off, sizeof off),
              0);
  }
  static bool Soak() { return std::getenv("HG_SOAK") != nullptr; }
  void ExpectNoChecksumErrors() const {
    EXPECT_EQ(ChecksumErrors(kClient), 0);
    EXPECT_EQ(ChecksumErrors(kBackend), 0);
  }
};

// A backend that gathers small words (RFC 896) keeps its next one back until
// the last is acknowledged: here by a message of some joined segments, which
// nothing follows. Without that it waits until it probes for one (RFC 8985, 7).
TEST_F(PacketStreamTest, AMessageAcknowledgesWhatCameBeforeIt) {
  Start();
  for (const auto& [vip, node] : {std::pair(vip_, "198.18.2.11:25"),
                                  std::pair(vip6_, "[2001:db8:2::11]:25")}) {
    const UniqueFd listener = ListenAt(node);
    const int64_t before = Counter(kBackend, "TcpExtTCPLossProbes");
    for (const size_t size : {1500U, 3000U, 5000U}) {
      Session session = OpenSession(vip, listener);
      SwitchOff(session.backend, TCP_NODELAY);
      const auto answer = [&](size_t asked, size_t answered) {
        ASSERT_TRUE(session.client.Send(std::string(asked, 'c')));
        ASSERT_EQ(session.backend.Receive(asked).size(), asked);
        ASSERT_TRUE(session.backend.Send(std::string(answered, 'b')));
        ASSERT_EQ(session.client.Receive(answered).size(), answered);
      };
      answer(25, 200);  // EHLO
      answer(80, 500);  // MAIL, RCPT, DATA: it has said more than it was told.
      answer(size, 30);
    }
    // Each would take one; so may a machine that stands still, but not thrice.
    EXPECT_LT(Counter(kBackend, "TcpExtTCPLossProbes"), before + 3) << node;
  }
}

// Likewise by one small segment, which fits the handshake's SYN cookie: what it
// cannot acknowledge itself, the next one does.
TEST_F(PacketStreamTest, AGreetingOfTheHeadersSizeIsAcknowledged) {
  Start();
  for (const auto& [vip, node, header] :
       {std::tuple(vip_, "198.18.2.11:25", 28),
        std::tuple(vip6_, "[2001:db8:2::11]:25", 52)}) {
    const UniqueFd listener = ListenAt(node);
    const int64_t before = Counter(kBackend, "TcpExtTCPLossProbes");
    for (int size = header - 3; size <= header + 3; ++size) {
      Session session = OpenSession(vip, listener);
      SwitchOff(session.backend, TCP_NODELAY);
      SwitchOff(session.client, TCP_QUICKACK);
      const std::string greeting(static_cast<size_t>(size), 'b');
      ASSERT_TRUE(session.backend.Send(greeting));
      ASSERT_EQ(session.client.Receive(greeting.size()), greeting);
      ASSERT_TRUE(session.client.Send("EHLO"));
      ASSERT_EQ(session.backend.Receive(4), "EHLO");
      ASSERT_TRUE(session.backend.Send("250 "));
      ASSERT_EQ(session.client.Receive(4), "250 ");
    }
    EXPECT_LT(Counter(kBackend, "TcpExtTCPLossProbes"), before + 3) << node;
  }
}

TEST_F(PacketStreamTest, EverySha256IsEqual) {
  Start();
  ExpectStreams(100, 50 << 20);
  ExpectNoChecksumErrors();
}

// In and out by the same interface.
TEST_F(PacketStreamTest, ClientsAndBackendsOnOneInterface) {
  std::string config = PacketConfig({.health = "{type: none}"});
  config.replace(config.find("[e0, e1]"), 8, "[e1]");
  daemon_ = std::make_unique<Daemon>(config);
  for (const auto& [vip, backend] : {std::pair(vip_, "198.18.2.11:25"),
                                     std::pair(vip6_, "[2001:db8:2::11]:25")}) {
    SCOPED_TRACE(backend);
    const UniqueFd listener = ListenAt(backend);
    for (const size_t size : {1UL, 1000UL, 100000UL}) {
      Session session =
          AcceptSession(TcpSocket::Connect(kBackend, vip), listener);
      ASSERT_TRUE(session.Exchange(size));
      TcpSocket& first = size == 1 ? session.backend : session.client;
      TcpSocket& second = size == 1 ? session.client : session.backend;
      first.ShutdownWrite();
      EXPECT_TRUE(second.ReceivesEnd());
      second.Close();
      EXPECT_TRUE(first.ReceivesEnd());
    }
  }
  EXPECT_TRUE(WaitActive(0));
  EXPECT_EQ(Metric("headgate_packets_forwarded_total{as=\"header\"}"), 6);
  EXPECT_EQ(Drops("no_flow"), 0);
  EXPECT_EQ(ChecksumErrors(kBackend), 0);
}

// Of what comes out of one the kernel has the sum already.
TEST_F(PacketStreamTest, B5_ClientsBehindATunnel) {
  LayTunnel();
  for (const char* device : {"x0", "c0"}) {
    SetOffload(kClient, device, ETHTOOL_STXCSUM, false);
  }
  daemon_ = std::make_unique<Daemon>(
      ByTunnel(PacketConfig({.health = "{type: none}"})));
  ExpectStreams(20);
  ExpectNoChecksumErrors();
  EXPECT_EQ(Drops("malformed"), 0);
}

// What GRO has put into a list of frames (rx-gro-list) is sent as frames again,
// each of which must have its number.
TEST_F(PacketStreamTest, B14_FramesThatGroKeepsInAList) {
  for (const auto& [netns, device] :
       {std::pair(kClient, "c0"), std::pair(kBackend, "b0")}) {
    SetOffload(netns, device, ETHTOOL_STSO, false);
    SetOffload(netns, device, ETHTOOL_SGSO, false);
  }
  for (const char* device : {"e0", "e1"}) {
    Shell(absl::Substitute(
        R"(ip netns exec edge ethtool -K $0 gro on rx-gro-list on \
             tx-gso-list off
           # Waits so long for more, in ns.
           ip netns exec edge sh -c \
             'echo 1000000 > /sys/class/net/$0/gro_flush_timeout')",
        device));
  }
  Start();
  for (const bool complete : {false, true}) {
    SetOffload(kClient, "c0", ETHTOOL_STXCSUM, !complete);
    SetOffload(kBackend, "b0", ETHTOOL_STXCSUM, !complete);
    ExpectStreams(10, 5 << 20);
  }
  EXPECT_GT(Counter(kClient, "TcpInSegs") + Counter(kBackend, "TcpInSegs"),
            2 * PacketsAt("tc"))
      << "GRO does not put them together";
  ExpectDataInThePlaceOfTheHandshakesAck();
  ExpectNoChecksumErrors();
  EXPECT_EQ(Drops("malformed"), 0);
}

// Ends whose links have other sizes: MSS tells neither of the other's.
TEST_F(PacketStreamTest, B11_AWayOutThatIsSmaller) {
  Start();
  Shell("ip -n edge link set e0 mtu 1400");
  ExpectStreams(20);
  Shell("ip -n edge link set e0 mtu 1500; ip -n edge link set e1 mtu 1400");
  ExpectStreams(20);
  EXPECT_EQ(Drops("too_big"), 0);
}

// ---- what the ends agree on -------------------------------------------------

constexpr int kUsual = TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE;
constexpr int kNegotiated = kUsual | TCPI_OPT_ECN;

struct Agreement {
  const char* name;
  // net.ipv4.... or, after "congctl ", whose congestion control.
  std::vector<const char*> client;
  std::vector<const char*> backend;
  int options = kUsual;  // Of kNegotiated, what is in force then.
};

// Either end may lack what the other has; what is not named is as Linux has it.
const Agreement kAgreements[] = {
    {"Cubic", {"congctl cubic"}, {"congctl cubic"}},
    {"Bbr", {"congctl bbr"}, {"congctl bbr"}},
    {"BbrUpCubicDown", {"congctl bbr"}, {"congctl cubic"}},
    {"WithoutTimestamps",
     {"tcp_timestamps=0"},
     {"tcp_timestamps=0"},
     kUsual & ~TCPI_OPT_TIMESTAMPS},
    {"ClientWithoutTimestamps",
     {"tcp_timestamps=0"},
     {},
     kUsual & ~TCPI_OPT_TIMESTAMPS},
    {"BackendWithoutTimestamps",
     {},
     {"tcp_timestamps=0"},
     kUsual & ~TCPI_OPT_TIMESTAMPS},
    {"WithoutSack", {"tcp_sack=0"}, {}, kUsual & ~TCPI_OPT_SACK},
    {"WithoutDsack", {"tcp_dsack=0"}, {"tcp_dsack=0"}},
    {"ClientWithoutWindowScaling",
     {"tcp_window_scaling=0"},
     {},
     kUsual & ~TCPI_OPT_WSCALE},
    {"BackendWithoutWindowScaling",
     {},
     {"tcp_window_scaling=0"},
     kUsual & ~TCPI_OPT_WSCALE},
    {"WithoutAnyOption",
     {"tcp_timestamps=0", "tcp_sack=0", "tcp_window_scaling=0"},
     {},
     0},
    {"Ecn", {"tcp_ecn=1"}, {"tcp_ecn=1"}, kNegotiated},
    {"EcnRefused", {"tcp_ecn=1"}, {"tcp_ecn=0"}},
};

std::vector<std::string> Routes(const std::string& netns) {
  if (netns == kBackend) return {"198.18.2.1 dev b0", "2001:db8:2::1 dev b0"};
  return {"198.18.1.1 via 198.18.0.1", "2001:db8:1::1 via 2001:db8::1"};
}

// Makes a setting, and answers what undoes it. Congestion control goes by the
// route: a namespace may not choose what the machine has not allowed.
std::string Set(const std::string& netns, const std::string& setting) {
  std::string undo;
  if (setting.starts_with("congctl ")) {
    for (const std::string& route : Routes(netns)) {
      Shell(absl::StrCat("ip -n ", netns, " route add ", route, " ", setting));
      absl::StrAppend(&undo, "ip -n ", netns, " route del ", route, "\n");
    }
    return undo;
  }
  const std::string key = "net.ipv4." + setting.substr(0, setting.find('='));
  const std::string sysctl = absl::StrCat("ip netns exec ", netns, " sysctl ");
  const ProcessResult before = RunCommand({"sh", "-c", sysctl + "-n " + key});
  Shell(absl::StrCat(sysctl, "-qw net.ipv4.", setting));
  return absl::StrCat(sysctl, "-qw ", key, "=", before.out);
}

tcp_info InfoOf(const TcpSocket& socket) {
  tcp_info info{};
  socklen_t size = sizeof info;
  EXPECT_EQ(::getsockopt(socket.fd(), IPPROTO_TCP, TCP_INFO, &info, &size), 0);
  return info;
}

// That an end has what was agreed on, and hears of congestion where it may.
void ExpectInForce(const TcpSocket& end,
                   const std::vector<const char*>& settings, int options) {
  EXPECT_EQ(InfoOf(end).tcpi_options & kNegotiated, options);
  EXPECT_EQ(WaitUntil(absl::Milliseconds(options & TCPI_OPT_ECN ? 5000 : 0),
                      [&] { return InfoOf(end).tcpi_delivered_ce > 0; }),
            (options & TCPI_OPT_ECN) != 0);
  char control[16] = "";
  socklen_t size = sizeof control;
  EXPECT_EQ(::getsockopt(end.fd(), IPPROTO_TCP, TCP_CONGESTION, control, &size),
            0);
  for (absl::string_view setting : settings) {
    if (absl::ConsumePrefix(&setting, "congctl ")) {
      EXPECT_EQ(control, setting);
    }
  }
}

void PacketStreamTest::ExpectInForceAtBothEnds(
    const Agreement& agreement) const {
  for (const auto& [vip, backend] : {std::pair(vip_, "198.18.2.11:25"),
                                     std::pair(vip6_, "[2001:db8:2::11]:25")}) {
    SCOPED_TRACE(backend);
    const UniqueFd listener = ListenAt(backend);
    // A SYN asks for ECN but once (tcp_ecn_clear_syn()), and the machine may be
    // a second late.
    Session session;
    ASSERT_TRUE(WaitUntil(absl::Seconds(10), [&] {
      session = OpenSession(vip, listener);
      return InfoOf(session.client).tcpi_total_retrans == 0;
    }));
    ASSERT_TRUE(session.Exchange(200000));
    ExpectInForce(session.client, agreement.client, agreement.options);
    ExpectInForce(session.backend, agreement.backend, agreement.options);
  }
}

// A little loss, so that SACK and congestion control have something to do; but
// of no SYN.
TEST_F(PacketStreamTest, B2_B10_WhateverTheEndsAgreeOn) {
  Start();
  const std::string rule =
      "tcp flags & syn == 0 tcp sport 25 numgen random mod 200 == 0 drop; "
      "tcp flags & syn == 0 tcp dport 25 numgen random mod 200 == 0 drop;";
  Nft(kClient, "input", rule);
  Nft(kBackend, "input", rule);
  // As a router does that is about to lose some; only where ECN is agreed on.
  const std::string congestion =
      "ip ecn ect0 numgen inc mod 4 == 0 ip ecn set ce; "
      "ip6 ecn ect0 numgen inc mod 4 == 0 ip6 ecn set ce;";
  Nft(kClient, "output", congestion);
  Nft(kBackend, "output", congestion);
  for (const Agreement& agreement : kAgreements) {
    SCOPED_TRACE(agreement.name);
    std::string undo;
    for (const char* setting : agreement.client) undo += Set(kClient, setting);
    for (const char* setting : agreement.backend) {
      undo += Set(kBackend, setting);
    }
    ExpectInForceAtBothEnds(agreement);
    ExpectStreams(Soak() ? 100 : 8, 200 << 10);
    Shell(undo);
  }
  ExpectNoChecksumErrors();
}

// ---- loss -------------------------------------------------------------------

// Then the client's first data come in the place of the handshake's ACK, and
// their header ahead of them.
void PacketStreamTest::ExpectDataInThePlaceOfTheHandshakesAck() const {
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  Shell(R"(ip netns exec client nft 'table ip lose {
             set once { type inet_service; flags dynamic; size 9999; }
             chain out { type filter hook output priority 0
               tcp dport 25 tcp flags == ack tcp sport != @once \
                 add @once { tcp sport } drop
             }; }')");
  for (const size_t size : {10UL, 1448UL, 100000UL}) {
    SCOPED_TRACE(size);
    TcpSocket client = TcpSocket::Connect(kClient, vip_);
    const std::string bytes(size, 'd');
    ASSERT_TRUE(client.Send(bytes));
    Session session = AcceptSession(std::move(client), listener);
    EXPECT_EQ(session.backend.Receive(size), bytes);
    ASSERT_TRUE(session.backend.Send("answer"));
    EXPECT_EQ(session.client.Receive(6), "answer");
  }
  EXPECT_GE(Metric("headgate_packets_forwarded_total{as=\"header_ahead\"}"), 3);
}

TEST_F(PacketStreamTest, B6_DataInThePlaceOfTheHandshakesAck) {
  Start();
  ExpectDataInThePlaceOfTheHandshakesAck();
}

// ---- ICMP -------------------------------------------------------------------

TEST_F(PacketStreamTest, B11_AnUnreachableBackendsIcmpReachesTheClient) {
  Start();
  Shell(R"(ip netns exec backend nft 'table inet no {
             chain in { type filter hook input priority 0
               tcp dport 25 reject with icmpx port-unreachable
             }; }')");
  for (const Endpoint& vip : {vip_, vip6_}) {
    TcpSocket client = TcpSocket::Connect(kClient, vip);
    EXPECT_EQ(client.error(), ECONNREFUSED) << vip.ToString();
  }
  // One that finds its socket in use (connect() has not returned) is kept as a
  // soft error: then the second one counts (tcp_v4_err()).
  EXPECT_GE(Metric("headgate_packets_forwarded_total{as=\"icmp_error\"}"), 2);
}

// The SYN's retransmission, a second later, goes to the other.
TEST_F(PacketStreamTest, AnUnreachableBackendIsReplaced) {
  const auto two = Node("198.18.2.12");
  PacketLab::Start(
      {.service = "    balance: first",
       .backends = R"(      - {name: one, address: "198.18.2.11:25"}
      - {name: two, address: "198.18.2.12:25"})",
       .health = "{type: none}"});
  Shell(R"(ip netns exec backend nft 'table ip no {
             chain in { type filter hook input priority 0
               ip daddr 198.18.2.11 tcp dport 25 reject with icmp \
                 host-unreachable
             }; }')");
  const LoadReport report = Load(4);
  EXPECT_EQ(report.ok, 4u) << report.ToString();
  EXPECT_GE(report.answered.front(), absl::Milliseconds(900));
  EXPECT_LT(report.Percentile(1), absl::Seconds(2));
  EXPECT_EQ(Drops("refused"), 4);
  EXPECT_EQ(Metric("headgate_connect_failures_total{backend=\"one\",reason="
                   "\"unreachable\",service=\"mail\"}"),
            4);
}

TEST_F(PacketStreamTest, B11_TheMtuOfTheEdgeFalls) {
  Start();
  ExpectStreamsFollowTheMtu(vip_, "198.18.2.11:25");
  ExpectStreamsFollowTheMtu(vip6_, "[2001:db8:2::11]:25");
  ExpectNoChecksumErrors();
}

// What may be fragmented is not, and its sender heeds the error all the same.
TEST_F(PacketStreamTest, B11_TheMtuOfTheEdgeFallsForSendersWithoutDf) {
  for (const char* netns : {kClient, kBackend}) {
    Shell(absl::StrCat("ip netns exec ", netns,
                       " sysctl -qw net.ipv4.ip_no_pmtu_disc=1"));
  }
  Start();
  ExpectStreamsFollowTheMtu(vip_, "198.18.2.11:25");
}

// A router on the way to the backend has a smaller way out, which neither end
// knows of.
TEST_F(PacketStreamTest, B11_ARouterOnTheWayAsksForSmallerPackets) {
  Shell(R"(
    ip netns add far
    ip -n far link set lo up
    ip link add name f0 netns far type veth peer name b1 netns backend
    ip -n backend addr add 198.18.3.1/24 dev b1
    ip -n far addr add 198.18.3.11/24 dev f0
    ip -n backend link set b1 mtu 1280 up
    ip -n far link set f0 up
    ip -n far route add default via 198.18.3.1
    ip netns exec backend sysctl -qw net.ipv4.ip_forward=1
    ip -n edge route add 198.18.3.0/24 via 198.18.2.11)");
  PacketLab::Start(
      {.backends = R"(      - {name: one, address: "198.18.3.11:25"})",
       .health = "{type: none}"});
  {
    const UniqueFd listener =
        RunIn("far", [] { return Listen(At("198.18.3.11:25")); });
    Session session = OpenSession(vip_, listener);
    const std::string bytes(500000, 'u');
    ASSERT_TRUE(session.client.Send(bytes));
    EXPECT_EQ(session.backend.Receive(bytes.size()), bytes);
  }
  EXPECT_GE(Metric("headgate_packets_forwarded_total{as=\"icmp_error\"}"), 1);
  Shell("ip netns del far");
}

// ---- without a daemon -------------------------------------------------------

class PacketOutliveTest : public PacketStreamTest {
 protected:
  // Octets at both ends: new ones come by IPv6.
  static int64_t ReceivedByIpv4() {
    const char* name = "IpExtInOctets";
    return Counter(kClient, name) + Counter(kBackend, name);
  }
  // Daemons come and go by `signal`, which they exit with `status` for. All
  // transfers are under way until the last one has adopted them.
  void ExpectStreamsOutlive(int signal, int status) {
    const auto six = Node("[2001:db8:2::11]");
    Start();
    std::atomic<bool> hold = true;
    StreamPlan plan;
    plan.target = vip_;
    plan.listen = {At("198.18.2.11:25")};
    plan.count = plan.concurrency = 1000;
    plan.max_size = Soak() ? 16 << 20 : 8 << 20;
    plan.large = 20;  // Slow ones of them last until the last daemon.
    plan.chaos.slow = 0.5;
    plan.hold = &hold;
    StreamReport report;
    std::thread streams([&] { report = RunStreams(plan); });
    EXPECT_TRUE(WaitActive(1000));
    for (int i = 0; i < 3; ++i) {
      ::kill(daemon_->pid(), signal);
      EXPECT_EQ(daemon_->WaitExit(), status);
      const int64_t before = ReceivedByIpv4();
      EXPECT_TRUE(WaitUntil(kTcpTimeout, [&] {
        return ReceivedByIpv4() > before + (1 << 20);
      })) << "the transfers stand still without a daemon";
      EXPECT_EQ(LoadOn(vip6_, 20).ok, 20u) << "new ones, without a daemon";
      daemon_ =
          std::make_unique<Daemon>(PacketConfig({.health = "{type: none}"}),
                                   DaemonOptions{.keep_state = true});
      EXPECT_TRUE(daemon_->LogHas("goes on with 1000 connections"))
          << daemon_->Log();
      EXPECT_EQ(LoadOn(vip6_, 20).ok, 20u);
      EXPECT_TRUE(WaitActive(1000));
    }
    hold = false;
    streams.join();
    EXPECT_EQ(report.first_error, "");
    EXPECT_EQ(report.equal, plan.count);
    EXPECT_TRUE(WaitActive(0));
  }
};

TEST_F(PacketOutliveTest, AThousandTransfersOutliveADaemonThatIsKilled) {
  ExpectStreamsOutlive(SIGKILL, 128 + SIGKILL);
}

TEST_F(PacketOutliveTest, AThousandTransfersOutliveAnUpgrade) {
  ExpectStreamsOutlive(SIGUSR2, 0);
}

}  // namespace
}  // namespace headgate::testing
