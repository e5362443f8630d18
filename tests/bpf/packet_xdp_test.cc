// What is XDP's own: what it carries, what it leaves to tc, and as what. All
// else is as at tc: there, and here, by the tests beside this one.
#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

class PacketXdpTest : public PacketFamilyTest {
 protected:
  void SetUp() override {
    if (!AtXdp()) GTEST_SKIP() << "not at XDP";
    PacketFamilyTest::SetUp();
  }

  static Outcome XdpOnly(const Segment& s) {
    return RunXdp(Build(s), s.to == kIn0 ? "in0" : "out0");
  }
  static void ExpectCarried(const Segment& s, const Segment& wanted) {
    const Outcome outcome = XdpOnly(s);
    EXPECT_EQ(outcome.xdp, XDP_REDIRECT);
    ExpectFrame(outcome.frame, wanted);
  }
  static uint64_t Left(hg_packet_left reason) {
    return packet().LeftToTc().at("in0")[reason];
  }
};
INSTANTIATE_TEST_SUITE_P(Both, PacketXdpTest, ::testing::Bool(), FamilyName);

TEST_P(PacketXdpTest, WholeConnectionsAreCarried) {
  const std::vector<uint64_t> before = packet().ExitsOf(HG_HOOK_TC);
  const Conn conn = Established(v6());
  const uint32_t n = conn.header();
  const Segment data = conn.FromClient(kAck, 0, 0, Text("EHLO\r\n"));
  ExpectCarried(data, conn.ToBackend(data, n));
  const Segment answer = conn.FromBackend(kAck, 0, n + 6, Text("250\r\n"));
  ExpectCarried(answer, conn.ToClient(answer, n));
  const Segment stray = NewConn(v6()).FromClient(kAck, 5, 7);
  ExpectCarried(stray, ResetFor(stray));
  EXPECT_EQ(packet().ExitsOf(HG_HOOK_TC), before);
}

TEST_P(PacketXdpTest, EarlyDataAreLeftAsTheyCame) {
  const Conn conn = Answered(v6());
  const Segment data = conn.FromClient(kAck, 0, 0, Text("EHLO\r\n"));
  const uint64_t left = Left(HG_LEFT_EARLY_DATA);
  const Outcome outcome = XdpOnly(data);
  EXPECT_EQ(outcome.xdp, XDP_PASS);
  EXPECT_FALSE(outcome.rewritten);
  EXPECT_EQ(outcome.frame, Build(data));
  EXPECT_EQ(Left(HG_LEFT_EARLY_DATA), left + 1);
}

// Of every length, so that sums of every kind occur.
TEST_P(PacketXdpTest, B5_IncompleteChecksumsAreLeftAsTheyCame) {
  const Conn conn = Established(v6());
  for (uint8_t size = 0; size < 100; ++size) {
    const Segment data = conn.FromClient(kAck, size, 0, Bytes(size, size));
    const Bytes frame = Incomplete(data);
    const uint64_t left = Left(HG_LEFT_INCOMPLETE);
    const Outcome outcome = RunXdp(frame, "in0");
    EXPECT_EQ(outcome.xdp, XDP_PASS);
    EXPECT_FALSE(outcome.rewritten);
    EXPECT_EQ(outcome.frame, frame);
    EXPECT_EQ(Left(HG_LEFT_INCOMPLETE), left + 1);
  }
}

TEST_P(PacketXdpTest, WithoutANeighbourItIsRewrittenForTcToSend) {
  const std::string neighbour = v6() ? "2001:db8:2::11" : "198.18.2.11";
  const Conn conn = Established(v6());
  const Segment data = conn.FromClient(kAck, 0, 0, Text("EHLO\r\n"));
  const uint64_t left = Left(HG_LEFT_NO_NEIGHBOUR);
  ASSERT_TRUE(Shell(absl::StrCat("ip neigh del ", neighbour, " dev out0")));
  const Outcome outcome = XdpOnly(data);
  ASSERT_TRUE(
      Shell(absl::StrCat("ip neigh replace ", neighbour,
                         " lladdr 02:00:00:00:00:0b dev out0 nud permanent")));
  EXPECT_EQ(outcome.xdp, XDP_PASS);
  EXPECT_TRUE(outcome.rewritten);
  EXPECT_EQ(Left(HG_LEFT_NO_NEIGHBOUR), left + 1);
  Segment wanted = conn.ToBackend(data, conn.header());
  wanted.to = data.to;  // Where it goes is tc's to find out.
  wanted.from = data.from;
  ExpectFrame(outcome.frame, wanted);
}

TEST_P(PacketXdpTest, OnlyToWhoTakesFramesFromXdp) {
  const Conn conn = Established(v6());
  const Segment data = conn.FromClient(kAck, 0, 0, Text("EHLO\r\n"));
  const uint64_t left = Left(HG_LEFT_NO_TRANSMIT);
  ASSERT_TRUE(headgate::testing::SetOffload("out1", ETHTOOL_SGRO, false));
  packet().Reattach();
  const Outcome outcome = XdpOnly(data);
  ASSERT_TRUE(headgate::testing::SetOffload("out1", ETHTOOL_SGRO, true));
  packet().Reattach();
  EXPECT_EQ(outcome.xdp, XDP_PASS);
  EXPECT_TRUE(outcome.rewritten);
  EXPECT_EQ(Left(HG_LEFT_NO_TRANSMIT), left + 1);
  ExpectFrame(outcome.frame, conn.ToBackend(data, conn.header()));
  ExpectCarried(data, conn.ToBackend(data, conn.header()));
}

}  // namespace
}  // namespace headgate::datapath
