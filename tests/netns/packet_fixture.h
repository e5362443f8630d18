// A lab whose edge carries services by the packet path.
#pragma once

#include <gtest/gtest.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/process.h"
#include "support/server.h"
#include "support/session.h"
#include "support/stream.h"
#include "support/tcp.h"
#include "support/wait.h"

namespace headgate::testing {

struct PacketOptions {
  std::string attach = "tc";
  std::string packet = "";   // Lines of the packet section.
  std::string service = "";  // Lines of both services.
  std::string backends = R"(      - {name: one, address: "198.18.2.11:25"})";
  std::string health =
      "{type: tcp, interval: 500ms, timeout: 200ms, rise: 1, fall: 1}";
};

inline std::string PacketConfig(const PacketOptions& options = {}) {
  return absl::Substitute(R"(
metrics: {listen: 127.0.0.1:9140}
packet:
  interfaces: [e0, e1]
  source: [198.18.2.1, "2001:db8:2::1"]
  attach: $4
$0
pools:
  nodes:
    backends:
$2
  nodes6:
    backends:
      - {name: six, address: "[2001:db8:2::11]:25"}
services:
  mail:
    listen: [198.18.1.1:25]
    datapath: packet
    pool: nodes
    health: $3
$1
  mail6:
    listen: ["[2001:db8:1::1]:25"]
    datapath: packet
    pool: nodes6
    health: $3
$1
)",
                          options.packet, options.service, options.backends,
                          options.health, options.attach);
}

// What passes a device: frames of SOCK_RAW, IP packets of SOCK_DGRAM.
inline UniqueFd OpenCapture(const std::string& netns, const char* device,
                            int type) {
  return RunIn(netns, [&] {
    UniqueFd fd(::socket(AF_PACKET, type | SOCK_NONBLOCK | SOCK_CLOEXEC,
                         htons(ETH_P_ALL)));
    sockaddr_ll at{};
    at.sll_family = AF_PACKET;
    at.sll_protocol = htons(ETH_P_ALL);
    at.sll_ifindex = static_cast<int>(if_nametoindex(device));
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
    return fd;
  });
}

class PacketLab : public ::testing::Test {
 protected:
  static constexpr char kGreeting[] = "220 ready\r\n";

  PacketLab() {
    // Out of the range that the load generators need.
    Shell(
        "ip netns exec edge sysctl -qw "
        "net.ipv4.ip_local_reserved_ports=10240-32767");
  }

  void Start(const PacketOptions& options = {}) {
    daemon_ = std::make_unique<Daemon>(PacketConfig(options));
  }
  static std::unique_ptr<Server> Node(const std::string& host = "198.18.2.11",
                                      ServerOptions options = {
                                          .greeting = kGreeting,
                                          .echo = true}) {
    return std::make_unique<Server>(
        std::vector<Endpoint>{At(absl::StrCat(host, ":25"))},
        std::move(options));
  }
  static UniqueFd ListenAt(const std::string& endpoint) {
    return RunIn(kBackend, [&] { return Listen(At(endpoint)); });
  }
  LoadReport Load(size_t total, size_t concurrency = 8) const {
    return LoadOn(vip_, total, concurrency);
  }
  static LoadReport LoadOn(const Endpoint& vip, size_t total,
                           size_t concurrency = 8) {
    return RunLoad({.target = vip,
                    .total = total,
                    .concurrency = concurrency,
                    .send = "EHLO",
                    .expect = absl::StrCat(kGreeting, "EHLO")});
  }
  // Streams over IPv4 and IPv6, each digest equal. The servers of the test
  // have to be gone.
  void ExpectStreams(size_t count, uint64_t max_size = 5 << 20) const {
    for (const Endpoint& vip : {vip_, vip6_}) {
      StreamPlan plan;
      plan.target = vip;
      plan.listen = {
          At(vip.address.is_v4() ? "198.18.2.11:25" : "[2001:db8:2::11]:25")};
      plan.count = count;
      plan.large = 1;
      plan.max_size = max_size;
      const StreamReport report = RunStreams(plan);
      EXPECT_EQ(report.first_error, "") << vip.ToString();
      EXPECT_EQ(report.equal, count) << vip.ToString();
    }
  }
  // A link of the edge becomes smaller while streams are under way: whoever has
  // sent what does not fit any more is told by ICMP, and goes on. Without, it
  // would send the same again for ever.
  void ExpectStreamsFollowTheMtu(const Endpoint& vip,
                                 const std::string& backend) const {
    const UniqueFd listener = ListenAt(backend);
    Session session = OpenSession(vip, listener);
    const std::string bytes(500000, 's');
    const auto pass = [&](TcpSocket& from, TcpSocket& to) {
      const absl::Time start = absl::Now();
      std::thread sending([&] { EXPECT_TRUE(from.Send(bytes)); });
      EXPECT_TRUE(to.Receive(bytes.size()) == bytes);
      sending.join();
      EXPECT_LT(absl::Now() - start, absl::Seconds(2));
    };
    pass(session.client, session.backend);
    pass(session.backend, session.client);
    Shell("ip -n edge link set e1 mtu 1280");
    const double up = Drops("too_big");
    pass(session.client, session.backend);
    Shell("ip -n edge link set e1 mtu 1500; ip -n edge link set e0 mtu 1280");
    const double down = Drops("too_big");
    pass(session.backend, session.client);
    EXPECT_GT(down, up);
    EXPECT_GT(Drops("too_big"), down);
    Shell("ip -n edge link set e0 mtu 1500");
  }
  // Clients' packets to the services come to the edge by a VXLAN, x0.
  static void LayTunnel() {
    Shell(R"(
for ns in client edge; do
  [ $ns = client ] && me=2 && peer=1 || { me=1; peer=2; }
  ip -n $ns link add x0 type vxlan id 7 local 198.18.0.$me \
    remote 198.18.0.$peer dstport 4789 udpcsum
  ip -n $ns addr add 198.18.4.$me/24 dev x0
  ip -n $ns addr add 2001:db8:4::$me/64 dev x0 nodad
  ip -n $ns link set x0 up
done
ip -n client route add 198.18.1.1 via 198.18.4.1
ip -n client route add 2001:db8:1::1 via 2001:db8:4::1)");
  }
  static std::string ByTunnel(std::string config) {
    return config.replace(config.find("[e0, e1]"), 8, "[x0, e1]");
  }
  double Metric(const std::string& series) const {
    const MetricMap metrics = daemon_->Metrics();
    const auto found = metrics.find(series);
    return found == metrics.end() ? -1 : found->second;
  }
  double Drops(const std::string& reason) const {
    return Metric(
        absl::StrCat("headgate_drops_total{reason=\"", reason, "\"}"));
  }
  double PacketsAt(const std::string& hook) const {
    return Metric(absl::StrCat("headgate_packet_hook_packets_total{hook=\"",
                               hook, "\"}"));
  }
  bool OnPacketPath() const {
    return daemon_->Json({"status"})["datapaths"]["packet"].get<bool>();
  }
  // That of mail's one connection; else data could overtake what says so.
  bool HeaderIsAcked() const {
    return WaitUntil(absl::Seconds(5), [&] {
      const nlohmann::json flows =
          daemon_->Json({"flow", "list", "--service=mail"}).at("flows");
      return flows.size() == 1 && flows[0]["header"] == "acknowledged";
    });
  }
  bool WaitActive(int64_t connections) const {
    return WaitUntil(absl::Seconds(10), [&] {
      return daemon_->ActiveConnections() == connections;
    });
  }
  void ExpectNoneIsCounted() const {
    for (const char* kind : {"service", "backend"}) {
      const nlohmann::json rows =
          daemon_->Json({kind, "list"}).at(absl::StrCat(kind, "s"));
      for (const nlohmann::json& row : rows) {
        EXPECT_EQ(row["connections_active"], 0) << row;
      }
    }
  }
  // An nftables rule set in a namespace, both families.
  static void Nft(const std::string& netns, const std::string& hook,
                  const std::string& rules) {
    Shell(absl::Substitute(
        R"(ip netns exec $0 nft 'table inet lose_$1 {
             set seen { type inet_service . tcp_flag; flags dynamic;
                        size 65535; }
             chain lose { type filter hook $1 priority 0
               $2
             }; }')",
        netns, hook, rules));
  }
  // A counter of the kernel's, as nstat names it.
  static int64_t Counter(const std::string& netns, const std::string& name) {
    const ProcessResult result =
        RunCommand({"ip", "netns", "exec", netns, "nstat", "-az", "-j", name});
    return nlohmann::json::parse(result.out)["kernel"][name].get<int64_t>();
  }
  // TCP segments that a receiver found to have a wrong checksum.
  static int64_t ChecksumErrors(const std::string& netns) {
    return Counter(netns, "TcpInCsumErrors");
  }
  static void SetOffload(const std::string& netns, const std::string& device,
                         uint32_t command, bool on) {
    ASSERT_TRUE(RunIn(
        netns,
        [&] { return headgate::testing::SetOffload(device, command, on); }))
        << device << " " << command;
  }

  // As a veth does while it has GRO.
  static void TakeFramesFromXdp() {
    SetOffload(kClient, "c0", ETHTOOL_SGRO, true);
    SetOffload(kBackend, "b0", ETHTOOL_SGRO, true);
  }
  static void SendCompleteChecksums() {
    SetOffload(kClient, "c0", ETHTOOL_STXCSUM, false);
    SetOffload(kBackend, "b0", ETHTOOL_STXCSUM, false);
  }

  Lab lab_;
  std::unique_ptr<Daemon> daemon_;
  const Endpoint vip_ = At("198.18.1.1:25");
  const Endpoint vip6_ = At("[2001:db8:1::1]:25");
};

// The same by either hook, which has to carry it: "tc" or "xdp".
class PacketHookTest : public PacketLab,
                       public ::testing::WithParamInterface<std::string> {
 protected:
  PacketHookTest() {
    if (GetParam() == "tc") return;
    TakeFramesFromXdp();
    SendCompleteChecksums();
    // GRO joins no frames: a test sees and loses each by itself.
    Shell(R"(ip -n client link set c0 gro_max_size 1
             ip -n backend link set b0 gro_max_size 1)");
  }
  void Start(PacketOptions options = {}) {
    options.attach = GetParam();
    PacketLab::Start(options);
  }
  void TearDown() override {
    // tc does what takes more, as where a header goes ahead of data.
    EXPECT_GT(PacketsAt(GetParam()),
              PacketsAt(GetParam() == "xdp" ? "tc" : "xdp"));
  }
};
inline const auto kEitherHook = ::testing::Values("tc", "xdp");
inline std::string HookName(const ::testing::TestParamInfo<std::string>& hook) {
  return hook.param;
}

}  // namespace headgate::testing
