// Streams over every combination of what devices leave to each other: TCP's
// checksum, segments of many frames, and how large a frame may be.

#include <linux/if_packet.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "packet_fixture.h"

namespace headgate::testing {
namespace {

// tcpdump on what arrives at a device, which verifies checksums.
class Arrivals {
 public:
  Arrivals(const std::string& netns, const std::string& device)
      : tcpdump_(RunIn(netns, [&] {
          return std::make_unique<Process>(
              std::vector<std::string>{"tcpdump", "-n", "-vv", "-Q", "in", "-B",
                                       "65536", "-i", device, "tcp"});
        })) {
    EXPECT_TRUE(WaitUntil(kTcpTimeout, [&] {
      return absl::StrContains(tcpdump_->err(), "listening on");
    })) << tcpdump_->err();
  }
  struct Counts {
    size_t right = 0, wrong = 0;
    std::string first_wrong;
  };
  Counts Stop() {
    tcpdump_->Signal(SIGINT);
    EXPECT_EQ(tcpdump_->Wait(kTcpTimeout), 0) << tcpdump_->err();
    EXPECT_TRUE(
        absl::StrContains(tcpdump_->err(), "\n0 packets dropped by kernel"))
        << tcpdump_->err();
    Counts counts;
    for (const absl::string_view line : absl::StrSplit(tcpdump_->out(), '\n')) {
      counts.right += absl::StrContains(line, "(correct)") ? 1U : 0U;
      if (!absl::StrContains(line, "incorrect") &&
          !absl::StrContains(line, "bad cksum")) {
        continue;
      }
      if (counts.wrong++ == 0) counts.first_wrong = std::string(line);
    }
    return counts;
  }

 private:
  std::unique_ptr<Process> tcpdump_;
};

void ExpectCorrect(const Arrivals::Counts& counts) {
  EXPECT_GT(counts.right, 100u);
  EXPECT_EQ(counts.wrong, 0u) << counts.first_wrong;
}

class PacketMatrixTest : public PacketLab {
 protected:
  // Both ends of both links.
  struct Device {
    const char* netns;
    const char* name;
    bool is_edge;
  };
  static constexpr Device kDevices[] = {{kClient, "c0", false},
                                        {kEdge, "e0", true},
                                        {kEdge, "e1", true},
                                        {kBackend, "b0", false}};

  // Who completes the checksums of what is sent, for others leave it to their
  // devices.
  struct Completed {
    const char* by;
    bool ends_leave;
    bool edge_leaves;
  };
  static constexpr Completed kCompleted[] = {{"nobody", true, true},
                                             {"the ends", false, false},
                                             {"the edge", true, false}};

  // Ends do not merge what arrives, so that it is seen as it was sent.
  static void Prepare(const Completed& completed, bool merge, int mtu) {
    for (const Device& device : kDevices) {
      const bool leaves =
          device.is_edge ? completed.edge_leaves : completed.ends_leave;
      SetOffload(device.netns, device.name, ETHTOOL_STXCSUM, leaves);
      SetOffload(device.netns, device.name, ETHTOOL_STSO, merge && leaves);
      SetOffload(device.netns, device.name, ETHTOOL_SGSO, merge);
      SetOffload(device.netns, device.name, ETHTOOL_SGRO,
                 merge && device.is_edge);
      Shell(absl::StrCat("ip -n ", device.netns, " link set ", device.name,
                         " mtu ", mtu));
    }
  }
  // Of the IP packets that have come in.
  static ssize_t Largest(const UniqueFd& capture) {
    ssize_t largest = 0;
    char byte = 0;
    sockaddr_ll from{};
    socklen_t size = sizeof from;
    for (ssize_t n = 0;
         (n = ::recvfrom(capture.get(), &byte, 1, MSG_TRUNC,
                         reinterpret_cast<sockaddr*>(&from), &size)) > 0;) {
      if (from.sll_pkttype != PACKET_OUTGOING) largest = std::max(largest, n);
    }
    return largest;
  }
  void ExpectRight(const Completed& completed) const {
    Arrivals at_client(kClient, "c0"), at_backend(kBackend, "b0");
    ExpectStreams(10, 1 << 20);
    for (Arrivals* arrivals : {&at_client, &at_backend}) {
      const Arrivals::Counts counts = arrivals->Stop();
      if (completed.edge_leaves) {
        EXPECT_GT(counts.wrong, 0u) << "tcpdump does not look";
        continue;
      }
      ExpectCorrect(counts);
    }
    EXPECT_EQ(ChecksumErrors(kClient), 0);
    EXPECT_EQ(ChecksumErrors(kBackend), 0);
  }
};

TEST_F(PacketMatrixTest, B1_B4_B11_OffloadsAndSizesOfFrames) {
  Start({.health = "{type: none}"});
  for (const int mtu : {1500, 1492, 1280, 9000}) {
    for (const Completed& completed : kCompleted) {
      for (const bool merge : {true, false}) {
        SCOPED_TRACE(absl::StrCat("mtu ", mtu, ", checksums completed by ",
                                  completed.by, ", GSO and GRO ",
                                  merge ? "on" : "off"));
        Prepare(completed, merge, mtu);
        ExpectRight(completed);
      }
    }
  }
  EXPECT_EQ(Drops("too_big"), 0);
  // Each stream's ACK has grown.
  EXPECT_GE(Metric(R"(headgate_packets_forwarded_total{as="header"})"),
            4 * 3 * 2 * 20);
}

// At XDP checksums are the ends' to complete, frames are of one segment, and
// none is larger than a page.
using PacketMatrixAtXdpTest = PacketHookTest;
INSTANTIATE_TEST_SUITE_P(At, PacketMatrixAtXdpTest, ::testing::Values("xdp"),
                         HookName);
TEST_P(PacketMatrixAtXdpTest, B4_B11_SizesOfFrames) {
  Start({.health = "{type: none}"});
  for (const int mtu : {1500, 1492, 1280}) {
    SCOPED_TRACE(mtu);
    for (const auto& [netns, device] :
         {std::pair(kClient, "c0"), std::pair(kEdge, "e0"),
          std::pair(kEdge, "e1"), std::pair(kBackend, "b0")}) {
      Shell(absl::StrCat("ip -n ", netns, " link set ", device, " mtu ", mtu));
    }
    Arrivals at_client(kClient, "c0"), at_backend(kBackend, "b0");
    ExpectStreams(10, 1 << 20);
    ExpectCorrect(at_client.Stop());
    ExpectCorrect(at_backend.Stop());
  }
  EXPECT_EQ(Drops("too_big"), 0);
  EXPECT_EQ(ChecksumErrors(kClient) + ChecksumErrors(kBackend), 0);
}

// A route so small that a ClientHello takes two segments or three, which
// offloads leave in one frame.
TEST_F(PacketMatrixTest, B1_AClientHelloOfManySegments) {
  const std::string hello(500, 'h');
  const auto server = Node("198.18.2.11", {.echo = true});
  const auto server6 = Node("[2001:db8:2::11]", {.echo = true});
  Start({.health = "{type: none}"});
  for (const bool small : {false, true}) {
    if (small) {
      Shell(R"(ip -n client route add 198.18.1.1 via 198.18.0.1 mtu 320
ip -n client route add 2001:db8:1::1 via 2001:db8::1 mtu 320)");
    }
    for (const Endpoint& vip : {vip_, vip6_}) {
      for (const bool merge : {true, false}) {
        SCOPED_TRACE(absl::StrCat(vip.ToString(), small ? ", small" : "",
                                  merge ? ", merged" : ""));
        Prepare(kCompleted[merge ? 0 : 1], merge, 1500);
        const UniqueFd at_edge = OpenCapture(kEdge, "e0", SOCK_DGRAM);
        const LoadReport report = RunLoad({.target = vip,
                                           .total = 20,
                                           .concurrency = 4,
                                           .send = hello,
                                           .expect = hello});
        EXPECT_EQ(report.ok, 20u) << report.ToString();
        EXPECT_EQ(Largest(at_edge) > 320, merge || !small);
      }
    }
  }
}

}  // namespace
}  // namespace headgate::testing
