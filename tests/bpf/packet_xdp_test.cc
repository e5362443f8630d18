// What is XDP's own: what it carries, what it leaves to tc, and as what. All
// else is as at tc: there, and here, by the tests beside this one.
#include "packet_fixture.h"
#include "packet_wire.h"

namespace headgate::datapath {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
  static uint64_t Left(hg_packet_left reason,
                       const std::string& interface = "in0") {
    return packet().LeftToTc().at(interface)[reason];
  }
  static void ExpectLeftAsItCame(const Bytes& frame, hg_packet_left reason) {
    const uint64_t left = Left(reason);
    const Outcome outcome = RunXdp(frame, "in0");
    EXPECT_EQ(outcome.xdp, XDP_PASS);
    EXPECT_FALSE(outcome.rewritten);
    EXPECT_EQ(outcome.frame, frame);
    EXPECT_EQ(Left(reason), left + 1);
  }
  // As many as an interface is judged by come in with the pseudo-header's sum;
  // what the path says of its interfaces then. Without `flags` of the driver
  // they are those of a wire, where whoever sends decides what they hold.
  static std::vector<std::string> AfterAThousandBareSums(uint8_t flags) {
    const Segment reset = NewConn(v6()).FromClient(kRst, 5, 0);
    VirtioNetHeader head;
    head.flags = flags;
    head.csum_start = static_cast<uint16_t>(TcpAt(v6()));
    EXPECT_THAT(packet().Attach(Interfaces(), true), IsEmpty());
    const uint64_t left = Left(HG_LEFT_INCOMPLETE);
    const Exits before = Counted();
    SendByWire(head, Incomplete(reset), 1000);
    EXPECT_TRUE(headgate::testing::WaitUntil(absl::Seconds(5), [&] {
      return Since(before) ==
             Exits{{PacketExitName(HG_PACKET_STRAY_RST), 1000}};
    }));
    EXPECT_EQ(Left(HG_LEFT_INCOMPLETE), left + 1000);
    return packet().Reattach();
  }
};
INSTANTIATE_TEST_SUITE_P(Both, PacketXdpTest, ::testing::Bool(), FamilyName);

TEST_P(PacketXdpTest, DataAreCarried) {
  const Conn conn = Established(v6());
  const std::vector<uint64_t> before = packet().ExitsOf(HG_HOOK_TC);
  const uint32_t n = conn.header();
  const Segment data = conn.FromClient(kAck, 0, 0, Text("EHLO\r\n"));
  ExpectCarried(data, conn.ToBackend(data, n));
  const Segment answer = conn.FromBackend(kAck, 0, n + 6, Text("250\r\n"));
  ExpectCarried(answer, conn.ToClient(answer, n));
  EXPECT_EQ(packet().ExitsOf(HG_HOOK_TC), before);
}

TEST_P(PacketXdpTest, NativelyWhatChangesItsLengthIsCarried) {
  if (AtGeneric()) GTEST_SKIP() << "there it is left";
  const std::vector<uint64_t> before = packet().ExitsOf(HG_HOOK_TC);
  Established(v6());
  const Segment stray = NewConn(v6()).FromClient(kAck, 5, 7);
  ExpectCarried(stray, ResetFor(stray));
  EXPECT_EQ(packet().ExitsOf(HG_HOOK_TC), before);
}

TEST_P(PacketXdpTest, EarlyDataAreLeftAsTheyCame) {
  const Conn conn = Answered(v6());
  ExpectLeftAsItCame(Build(conn.FromClient(kAck, 0, 0, Text("EHLO\r\n"))),
                     AtGeneric() ? HG_LEFT_LENGTH : HG_LEFT_EARLY_DATA);
}

TEST_P(PacketXdpTest, GenericallyWhatWouldChangeItsLengthIsLeftAsItCame) {
  if (!AtGeneric()) GTEST_SKIP() << "else it is carried";
  const Conn conn = Answered(v6());
  Segment syn = NewConn(v6()).Syn();
  syn.payload = Text("fast");
  for (const Segment& each :
       {syn, conn.FromClient(kAck, 0, 0), NewConn(v6()).FromClient(kAck, 5, 7)})
    ExpectLeftAsItCame(Build(each), HG_LEFT_LENGTH);
  ExpectSent(conn.FromClient(kAck, 0, 0),
             conn.HeaderFor(conn.FromClient(kAck, 0, 0)), HG_PACKET_HEADER);
}

TEST_P(PacketXdpTest, GenericallyJoinedSegmentsAreLeftAsTheyCame) {
  if (!AtGeneric()) GTEST_SKIP() << "else there are none";
  const Conn conn = Established(v6());
  const size_t room = 1500 - (v6() ? 40 : 20) - 20;
  const Segment full = conn.FromClient(kAck, 0, 0, Bytes(room, 1));
  ExpectCarried(full, conn.ToBackend(full, conn.header()));
  const Segment joined = conn.FromClient(kAck, 0, 0, Bytes(room + 1, 1));
  ExpectLeftAsItCame(Build(joined), HG_LEFT_JOINED);
}

TEST_P(PacketXdpTest, GenericallyOnlyToInterfacesOfThePacketPath) {
  if (!AtGeneric()) GTEST_SKIP() << "else to who takes frames from XDP";
  const Conn conn = Established(v6());
  const Segment data = conn.FromClient(kAck, 0, 0, Text("EHLO\r\n"));
  const uint64_t left = Left(HG_LEFT_NO_TRANSMIT);
  ASSERT_THAT(packet().Attach({"in0"}, true), IsEmpty());
  const Outcome outcome = XdpOnly(data);
  ASSERT_THAT(packet().Attach(Interfaces(), true), IsEmpty());
  EXPECT_EQ(outcome.xdp, XDP_PASS);
  EXPECT_TRUE(outcome.rewritten);
  EXPECT_EQ(Left(HG_LEFT_NO_TRANSMIT), left + 1);
  ExpectCarried(data, conn.ToBackend(data, conn.header()));
}

// Of every length, so that sums of every kind occur.
TEST_P(PacketXdpTest, B5_IncompleteChecksumsAreLeftAsTheyCame) {
  const Conn conn = Established(v6());
  for (uint8_t size = 0; size < 100; ++size) {
    const Segment data = conn.FromClient(kAck, size, 0, Bytes(size, size));
    ExpectLeftAsItCame(Incomplete(data), HG_LEFT_INCOMPLETE);
  }
}

TEST_P(PacketXdpTest, OnlyWhatIsReallyIncompleteTakesItOff) {
  EXPECT_THAT(AfterAThousandBareSums(0), IsEmpty());
  EXPECT_THAT(AfterAThousandBareSums(VirtioNetHeader::kNeedsChecksum),
              ElementsAre(HasSubstr("in0: attach: xdp: most frames come with "
                                    "incomplete checksums")));
  EXPECT_THAT(packet().Attach(Interfaces(), true), IsEmpty());
}

// Of many drivers, without a program the device takes none any more.
TEST_P(PacketXdpTest, NativelyNothingGoesToWhereItHasJustBeenTakenOff) {
  if (AtGeneric()) GTEST_SKIP() << "there to all";
  const Conn conn = Established(v6());
  const Segment data =
      conn.FromBackend(kAck, 0, conn.header(), Text("250\r\n"));
  const Segment wanted = conn.ToClient(data, conn.header());
  EXPECT_THAT(AfterAThousandBareSums(VirtioNetHeader::kNeedsChecksum),
              ElementsAre(HasSubstr("in0: attach: xdp")));
  const uint64_t left = Left(HG_LEFT_NO_TRANSMIT, "out0");
  const Outcome outcome = XdpOnly(data);
  EXPECT_EQ(outcome.xdp, XDP_PASS);
  EXPECT_TRUE(outcome.rewritten);
  EXPECT_EQ(Left(HG_LEFT_NO_TRANSMIT, "out0"), left + 1);
  ExpectFrame(outcome.frame, wanted);
  packet().Reattach();  // A veth does, and says so.
  ExpectCarried(data, wanted);
  EXPECT_THAT(packet().Attach(Interfaces(), true), IsEmpty());
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

TEST_P(PacketXdpTest, NativelyOnlyToWhoTakesFramesFromXdp) {
  if (AtGeneric()) GTEST_SKIP() << "there to all";
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
