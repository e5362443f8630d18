// The packet path at XDP, by the real daemon: what is carried there, what is
// left to tc, and who is attached when.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <signal.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <thread>

#include "absl/strings/str_replace.h"
#include "bpf/packet_frames.h"
#include "packet_fixture.h"

namespace headgate::testing {
namespace {

class PacketXdpTest : public PacketLab {
 protected:
  PacketXdpTest() { TakeFramesFromXdp(); }
  static std::string Config(const std::string& attach = "xdp") {
    return PacketConfig({.attach = attach, .health = "{type: none}"});
  }
  void Start() { daemon_ = std::make_unique<Daemon>(Config()); }
  void Restart(const std::string& config, int signal = SIGKILL) {
    ::kill(daemon_->pid(), signal);
    EXPECT_EQ(daemon_->WaitExit(), signal == SIGKILL ? 128 + SIGKILL : 0);
    daemon_ =
        std::make_unique<Daemon>(config, DaemonOptions{.keep_state = true});
    EXPECT_TRUE(daemon_->LogHas("the packet path goes on"));
  }

  // 0: none.
  static uint32_t XdpOf(const std::string& device) {
    uint32_t id = 0;
    RunIn(kEdge, [&] {
      const auto index = static_cast<int>(if_nametoindex(device.c_str()));
      EXPECT_EQ(bpf_xdp_query_id(index, 0, &id), 0);
    });
    return id;
  }
  bool AtXdp(const std::string& device,
             const std::string& mode = "native") const {
    return Metric(absl::StrCat(
               "headgate_packet_hook_info{hook=\"xdp\",interface=\"", device,
               "\",mode=\"", mode, "\",reason=\"\"}")) == 1;
  }
  double LeftToTc(const std::string& device, const std::string& reason) const {
    return Metric(absl::StrCat("headgate_packet_left_to_tc_total{interface=\"",
                               device, "\",reason=\"", reason, "\"}"));
  }
  bool WaitProblem(const std::string& text, bool told = true) const {
    return WaitUntil(absl::Seconds(5), [&] {
      const std::string problems = daemon_->Json({"status"})["problems"].dump();
      return (problems.find(text) != std::string::npos) == told;
    });
  }
};

// A veth refuses native XDP while its peer's frames are so long.
void UseJumboFrames() {
  Shell(R"(ip -n client link set c0 mtu 9000; ip -n edge link set e0 mtu 9000
           ip -n backend link set b0 mtu 9000; ip -n edge link set e1 mtu 9000
           )");
}

UniqueFd OpenTap(const std::string& name) {
  return RunIn(kEdge, [&] {
    UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    ifreq request{};
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    std::strcpy(request.ifr_name, name.c_str());
    EXPECT_EQ(::ioctl(fd.get(), TUNSETIFF, &request), 0);
    return fd;
  });
}

class PacketGenericTest : public PacketXdpTest {
 protected:
  PacketGenericTest() { UseJumboFrames(); }
};

// By either mode.
class PacketXdpModeTest : public PacketXdpTest,
                          public ::testing::WithParamInterface<std::string> {
 protected:
  PacketXdpModeTest() {
    if (GetParam() == "generic") UseJumboFrames();
  }
  bool AtXdp(const std::string& device) const {
    return PacketXdpTest::AtXdp(device, GetParam());
  }
  static uint32_t Flag() {
    return GetParam() == "generic" ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE;
  }
};
INSTANTIATE_TEST_SUITE_P(Both, PacketXdpModeTest,
                         ::testing::Values("native", "generic"),
                         [](const auto& mode) { return mode.param; });

TEST_F(PacketXdpTest, B18_StreamsAreCarriedThere) {
  SendCompleteChecksums();
  Start();
  EXPECT_TRUE(AtXdp("e0") && AtXdp("e1"));
  ExpectStreams(20);
  double there = PacketsAt("xdp"), behind = PacketsAt("tc");
  EXPECT_GT(there, 5000);
  EXPECT_LT(behind, there / 100);
  // Who waits for the server has nothing but the header's ACK to send.
  for (const auto& [vip, backend] : {std::pair(vip_, "198.18.2.11:25"),
                                     std::pair(vip6_, "[2001:db8:2::11]:25")}) {
    const UniqueFd listener = ListenAt(backend);
    for (int i = 0; i < 10; ++i) {
      EXPECT_TRUE(OpenSession(vip, listener).valid());
    }
  }
  EXPECT_LE(Drops("failed"), 0);
  ExpectStreamsFollowTheMtu(vip_, "198.18.2.11:25");
  ExpectStreamsFollowTheMtu(vip6_, "[2001:db8:2::11]:25");
  EXPECT_EQ(ChecksumErrors(kClient), 0);
  EXPECT_EQ(ChecksumErrors(kBackend), 0);
  // In and out by the same interface.
  const auto server = Node();
  there = PacketsAt("xdp"), behind = PacketsAt("tc");
  for (int i = 0; i < 5; ++i) {
    TcpSocket client = TcpSocket::Connect(kBackend, vip_);
    ASSERT_EQ(client.Receive(11), kGreeting);
    EXPECT_TRUE(client.Send("x") && client.Receive(1) == "x");
  }
  EXPECT_GE(PacketsAt("xdp"), there + 5 * 8);
  EXPECT_LE(PacketsAt("tc"), behind + 2);
  const ProcessResult status = daemon_->Ctl({"status"});
  EXPECT_NE(status.out.find("e0: tc (tcx), xdp (native); e1: tc (tcx)"),
            std::string::npos)
      << status.out;
  EXPECT_EQ(status.out.find("problem"), std::string::npos) << status.out;
}

TEST_F(PacketXdpTest, WhereMostChecksumsAreIncompleteItIsTakenOff) {
  Start();
  ExpectStreams(20);
  for (const std::string device : {"e0", "e1"}) {
    EXPECT_TRUE(WaitProblem(absl::StrCat(
        device, ": attach: xdp: most frames come with incomplete checksums")));
    EXPECT_EQ(XdpOf(device), 0u);
    EXPECT_FALSE(AtXdp(device));
    EXPECT_GE(LeftToTc(device, "incomplete_checksum"), 1000);
  }
  EXPECT_TRUE(WaitProblem("ethtool -K DEVICE tx off"));
  const double there = PacketsAt("xdp");
  ExpectStreams(10);
  EXPECT_EQ(PacketsAt("xdp"), there);
  EXPECT_EQ(ChecksumErrors(kClient), 0);
  EXPECT_EQ(ChecksumErrors(kBackend), 0);
  SendCompleteChecksums();
  daemon_->Reload(Config());
  EXPECT_TRUE(WaitProblem("incomplete checksums", false));
  EXPECT_TRUE(AtXdp("e0") && AtXdp("e1"));
}

TEST_F(PacketXdpTest, SomeIncompleteChecksumsAreLeftToTc) {
  SendCompleteChecksums();
  Start();
  ExpectStreams(10, 20 << 20);
  const auto server = Node();
  SetOffload(kClient, "c0", ETHTOOL_STXCSUM, true);
  EXPECT_EQ(Load(300).ok, 300u);
  EXPECT_GE(LeftToTc("e0", "incomplete_checksum"), 1000);
  // What is put back at e1 comes after a look at e0.
  Shell("ip -n edge link set e1 xdp off");
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [] { return XdpOf("e1") != 0; }));
  EXPECT_TRUE(AtXdp("e0"));
  EXPECT_TRUE(WaitProblem("incomplete checksums", false));
}

// The clone that goes after the header, and asking for a neighbour.
TEST_F(PacketXdpTest, TcDoesWhatTakesMore) {
  SendCompleteChecksums();
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  Start();
  Shell(R"(ip -n edge neigh flush all
           ip netns exec client nft 'table ip lose {
             set once { type inet_service; flags dynamic; size 9999; }
             chain out { type filter hook output priority 0
               tcp dport 25 tcp flags == ack tcp sport != @once \
                 add @once { tcp sport } drop
             }; }')");
  TcpSocket client = TcpSocket::Connect(kClient, vip_);
  const std::string bytes(100000, 'd');
  ASSERT_TRUE(client.Send(bytes));
  Session session = AcceptSession(std::move(client), listener);
  EXPECT_EQ(session.backend.Receive(bytes.size()), bytes);
  EXPECT_GE(LeftToTc("e0", "no_neighbour"), 1);
  EXPECT_GE(LeftToTc("e0", "early_data"), 1);
  EXPECT_EQ(Drops("failed"), 0);
}

TEST_F(PacketXdpTest, B18_WhereNobodyTakesFramesFromXdpTcSendsThem) {
  SendCompleteChecksums();
  SetOffload(kBackend, "b0", ETHTOOL_SGRO, false);
  const auto server = Node();
  Start();
  EXPECT_TRUE(WaitProblem("e1: its driver takes no frames from XDP"));
  EXPECT_EQ(Load(5).ok, 5u);
  EXPECT_GE(LeftToTc("e0", "no_transmit"), 5);
  SetOffload(kBackend, "b0", ETHTOOL_SGRO, true);
  EXPECT_TRUE(WaitProblem("takes no frames from XDP", false));
  const double left = LeftToTc("e0", "no_transmit");
  EXPECT_EQ(Load(5).ok, 5u);
  EXPECT_EQ(LeftToTc("e0", "no_transmit"), left);
}

// They are as long as their own headers say, not those of the packet before.
TEST_F(PacketXdpTest, WhatIsJoinedBehindXdpIsNotTooBig) {
  SendCompleteChecksums();
  SetOffload(kBackend, "b0", ETHTOOL_SGRO, false);
  SetOffload(kEdge, "e0", ETHTOOL_SGRO, true);
  Start();
  Shell("ip netns exec client sysctl -qw net.ipv4.tcp_timestamps=0");
  std::atomic<bool> done = false;
  std::thread others([&] {  // Their SYNs have options.
    while (!done) RunLoad({.target = At("198.18.1.1:81"), .total = 8});
  });
  ExpectStreams(10, 20 << 20);
  done = true;
  others.join();
  EXPECT_GE(LeftToTc("e0", "no_transmit"), 1000);
  EXPECT_EQ(Drops("too_big"), 0);
}

// Before Linux 6.15 a tap has no room ahead of a frame for what tc must know of
// one that XDP has rewritten and cannot send.
TEST_F(PacketXdpTest, WhatADriverWithoutMetadataTookInIsNotLost) {
  SendCompleteChecksums();
  const UniqueFd tap = OpenTap("t0");
  Shell(R"(ip -n edge link set t0 address 02:00:00:00:00:07 up
           ip -n edge addr add 198.18.4.1/24 dev t0
           ip -n edge neigh add 198.18.4.2 lladdr 02:00:00:00:00:08 dev t0)");
  const auto server = Node();
  daemon_ = std::make_unique<Daemon>(
      absl::StrReplaceAll(Config(), {{"[e0, e1]", "[t0, e1]"}}));
  EXPECT_TRUE(AtXdp("t0") && AtXdp("e1"));
  Shell("ip -n edge neigh flush dev e1");
  datapath::Segment syn;
  syn.to = {2, 0, 0, 0, 0, 7};
  syn.from = {2, 0, 0, 0, 0, 8};
  syn.source = datapath::Parse("198.18.4.2");
  syn.destination = datapath::Parse("198.18.1.1");
  syn.source_port = 1025;
  syn.destination_port = 25;
  syn.flags = datapath::kSyn;
  const datapath::Bytes frame = Build(syn);
  ASSERT_EQ(::write(tap.get(), frame.data(), frame.size()),
            static_cast<ssize_t>(frame.size()));
  EXPECT_TRUE(WaitUntil(kTcpTimeout, [&] {
    datapath::Bytes got(2048);
    const ssize_t size = ::read(tap.get(), got.data(), got.size());
    return size >= 54 &&
           std::equal(syn.from.begin(), syn.from.end(), got.data()) &&
           got[14 + 9] == IPPROTO_TCP &&
           got[34 + 13] == (datapath::kSyn | datapath::kAck);
  }));
  EXPECT_EQ(Drops("failed"), 0);
  EXPECT_EQ(LeftToTc("t0", "no_neighbour") + LeftToTc("t0", "no_metadata"), 1);
}

// ---- generic ----------------------------------------------------------------

TEST_F(PacketGenericTest, B18_WhatKeepsItsLengthIsCarriedThere) {
  SendCompleteChecksums();
  Start();
  EXPECT_TRUE(AtXdp("e0", "generic") && AtXdp("e1", "generic"));
  EXPECT_TRUE(daemon_->LogHas("is at xdp (generic) of e0: attach XDP: "));
  ExpectStreams(20);
  const double length = LeftToTc("e0", "length");
  EXPECT_GE(length, 2 * 20) << "a header for each";
  EXPECT_GT(PacketsAt("xdp"), 2000);
  EXPECT_LT(PacketsAt("tc"), PacketsAt("xdp") / 10);
  EXPECT_EQ(LeftToTc("e1", "length"), 0);
  EXPECT_EQ(ChecksumErrors(kClient), 0);
  EXPECT_EQ(ChecksumErrors(kBackend), 0);
  EXPECT_EQ(Drops("failed"), 0);
  const ProcessResult status = daemon_->Ctl({"status"});
  EXPECT_NE(status.out.find("e0: tc (tcx), xdp (generic); e1: tc (tcx)"),
            std::string::npos)
      << status.out;
  EXPECT_EQ(status.out.find("problem"), std::string::npos) << status.out;
}

TEST_F(PacketGenericTest, JoinedSegmentsAreLeftToTc) {
  Start();
  ExpectStreams(10);
  EXPECT_GT(LeftToTc("e0", "joined_segments"), 10);
  EXPECT_GT(LeftToTc("e1", "joined_segments"), 10);
  EXPECT_GT(LeftToTc("e0", "incomplete_checksum"), 10);
  EXPECT_EQ(ChecksumErrors(kClient), 0);
  EXPECT_EQ(ChecksumErrors(kBackend), 0);
  EXPECT_EQ(Drops("too_big"), 0);
}

TEST_F(PacketXdpTest, B18_ABridgeHasGenericXdpBesideAVethThatHasNative) {
  SendCompleteChecksums();
  Shell(R"(ip -n edge link add br0 type bridge
           ip -n edge link set e0 master br0
           ip -n edge addr flush dev e0
           ip -n edge addr add 198.18.0.1/24 dev br0
           ip -n edge addr add 2001:db8::1/64 dev br0 nodad
           ip -n edge link set br0 up)");
  std::string config = Config();
  config.replace(config.find("[e0, e1]"), 8, "[br0, e1]");
  daemon_ = std::make_unique<Daemon>(config);
  EXPECT_TRUE(AtXdp("br0", "generic") && AtXdp("e1"));
  EXPECT_TRUE(daemon_->LogHas(
      "is at xdp (generic) of br0: its driver has no native XDP"));
  EXPECT_TRUE(WaitProblem("br0: its driver takes no frames from XDP"));
  ExpectStreams(10);
  EXPECT_GT(PacketsAt("xdp"), 1000);
  EXPECT_GT(LeftToTc("e1", "no_transmit"), 100);
  EXPECT_EQ(ChecksumErrors(kClient), 0);
  EXPECT_EQ(ChecksumErrors(kBackend), 0);
}

// Of what comes out of a tunnel the kernel has the sum (CHECKSUM_COMPLETE), for
// it had to check the outer one. It is wrong once generic XDP has changed the
// frame: then receivers sum up themselves.
TEST_F(PacketXdpTest, ASumThatTheKernelHadDoesNoHarm) {
  SendCompleteChecksums();
  LayTunnel();
  Shell("ip netns exec client sysctl -qw net.ipv4.tcp_timestamps=0");
  SetOffload(kClient, "x0", ETHTOOL_STXCSUM, false);
  daemon_ = std::make_unique<Daemon>(ByTunnel(Config()));
  EXPECT_TRUE(AtXdp("x0", "generic") && AtXdp("e1"));
  ExpectStreams(10);
  EXPECT_EQ(ChecksumErrors(kClient), 0);
  EXPECT_EQ(ChecksumErrors(kBackend), 0);
  EXPECT_GT(PacketsAt("xdp"), 1000);
  EXPECT_GT(LeftToTc("x0", "length"), 10);
}

// ---- who is attached --------------------------------------------------------

TEST_P(PacketXdpModeTest, StreamsOutliveTheDaemonAndTheNextOneTakesOver) {
  SendCompleteChecksums();
  Start();
  StreamPlan plan;
  plan.target = vip_;
  plan.listen = {At("198.18.2.11:25")};
  plan.count = 60;
  plan.chaos.pauses = 0.1;
  StreamReport report;
  std::thread streams([&] { report = RunStreams(plan); });
  EXPECT_TRUE(
      WaitUntil(kTcpTimeout, [&] { return daemon_->ActiveConnections() > 0; }));
  for (const int signal : {SIGKILL, SIGUSR2}) {
    const uint32_t old = XdpOf("e0");
    Restart(Config(), signal);
    EXPECT_TRUE(AtXdp("e0") && AtXdp("e1"));
    EXPECT_NE(XdpOf("e0"), old);
  }
  streams.join();
  EXPECT_EQ(report.first_error, "");
  EXPECT_EQ(report.equal, plan.count);
  EXPECT_TRUE(WaitActive(0));
  EXPECT_EQ(Drops("no_flow"), 0) << "somebody was not recognised";
}

TEST_F(PacketGenericTest, NativeIsTakenWhenItHasBecomePossible) {
  const auto server = Node();
  Start();
  EXPECT_TRUE(AtXdp("e0", "generic") && AtXdp("e1", "generic"));
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  Shell("ip -n client link set c0 mtu 1500; ip -n edge link set e0 mtu 1500");
  daemon_->Reload(absl::StrReplaceAll(Config(), {{"mail6:", "post6:"}}));
  EXPECT_TRUE(WaitUntil(kTcpTimeout, [&] { return AtXdp("e0"); }));
  EXPECT_TRUE(daemon_->LogHas("the packet path is at xdp (native) of e0"));
  EXPECT_TRUE(AtXdp("e1", "generic"));
  Shell("ip -n backend link set b0 mtu 1500; ip -n edge link set e1 mtu 1500");
  Restart(Config());
  EXPECT_TRUE(AtXdp("e0") && AtXdp("e1"));
  EXPECT_TRUE(held.Send("x") && held.Receive(1) == "x");
}

TEST_P(PacketXdpModeTest, ItIsWhereTheConfigurationHasIt) {
  const auto server = Node();
  Start();
  std::string config = Config();
  config.replace(config.find("[e0, e1]"), 8, "[e1]");
  daemon_->Reload(config);
  // Generic XDP is off for a moment, to try native.
  EXPECT_TRUE(WaitUntil(kTcpTimeout,
                        [] { return XdpOf("e0") == 0 && XdpOf("e1") != 0; }));
  daemon_->Reload(Config());
  EXPECT_TRUE(WaitUntil(kTcpTimeout, [] { return XdpOf("e0") != 0; }));
  Restart(config);
  EXPECT_EQ(XdpOf("e0"), 0u);
  EXPECT_NE(XdpOf("e1"), 0u);
  Restart(Config("tc"));
  EXPECT_EQ(XdpOf("e1"), 0u);
  EXPECT_EQ(Load(5).ok, 5u);
  daemon_->Reload(Config());
  EXPECT_TRUE(WaitProblem("attach: xdp: takes effect at the next start"));
}

TEST_P(PacketXdpModeTest, B18_AProgramOfSomebodyElseStaysAndOursGoes) {
  const std::array<bpf_insn, 2> pass = {
      bpf_insn{BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, XDP_PASS},
      bpf_insn{BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  const UniqueFd stranger(bpf_prog_load(BPF_PROG_TYPE_XDP, "stranger", "GPL",
                                        pass.data(), pass.size(), nullptr));
  ASSERT_TRUE(stranger.valid());
  const auto put = [](int program) {
    return RunIn(kEdge, [&] {
      return bpf_xdp_attach(static_cast<int>(if_nametoindex("e0")), program,
                            Flag(), nullptr);
    });
  };
  ASSERT_EQ(put(stranger.get()), 0);
  const uint32_t id = XdpOf("e0");
  const auto server = Node();
  Start();
  EXPECT_TRUE(
      WaitProblem("e0: attach: xdp: another XDP program is attached: "
                  "stranger"));
  EXPECT_FALSE(AtXdp("e0"));
  EXPECT_EQ(Load(5).ok, 5u);
  daemon_->Stop();
  EXPECT_EQ(XdpOf("e0"), id);
  Start();
  EXPECT_EQ(XdpOf("e0"), id);
  ASSERT_EQ(put(-1), 0);
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] { return AtXdp("e0"); }));
  EXPECT_TRUE(WaitProblem("another XDP program", false));
  daemon_->Stop();
  EXPECT_EQ(XdpOf("e0"), 0u);
  EXPECT_EQ(XdpOf("e1"), 0u);
}

}  // namespace
}  // namespace headgate::testing
