// B14: frames for others, with tags, and frames whose headers are not where a
// program can read them at once.
#include "packet_fixture.h"
#include "packet_wire.h"

namespace headgate::datapath {
namespace {

class PacketOddFramesTest : public PacketFamilyTest {
 protected:
  static Bytes Tagged(const Segment& s, const Bytes& tags) {
    Bytes frame = Build(s);
    frame.insert(frame.begin() + 12, tags.begin(), tags.end());
    return frame;
  }
  static void ExpectLeft(const Segment& wanted) {
    const std::optional<Bytes> frame = Captured();
    ASSERT_TRUE(frame.has_value());
    EXPECT_TRUE(*frame == Build(wanted)) << frame->size();
  }
  static void SetMtu(uint32_t mtu) {
    for (const char* device : {"in0", "in1", "out0", "out1"}) {
      ASSERT_TRUE(Shell(absl::StrCat("ip link set ", device, " mtu ", mtu)));
    }
  }

  const Bytes kVlan = {0x81, 0, 0, 5};
  const Bytes kQinQ = {0x88, 0xa8, 0, 7, 0x81, 0, 0, 5};
};
INSTANTIATE_TEST_SUITE_P(Both, PacketOddFramesTest, ::testing::Bool(),
                         FamilyName);

// They are their VLAN's, whose own interface has its own hook.
TEST_P(PacketOddFramesTest, B14_TaggedFramesAreNotOurs) {
  const Conn conn = Established(v6());
  for (const Bytes& tags : {kVlan, kQinQ}) {
    ExpectNotOurs(Tagged(NewConn(v6()).Syn(), tags));
    ExpectNotOurs(Tagged(conn.FromClient(kAck, 0, 0, Text("x")), tags));
    ExpectNotOurs(Tagged(conn.FromBackend(kAck, 0, 0, Text("x")), tags));
  }
}

// A promiscuous interface, or a switch that floods, brings them: they may be
// another edge's, with the same addresses.
TEST_P(PacketOddFramesTest, FramesForAnotherMacAreNotOurs) {
  const Conn conn = Established(v6()), other = NewConn(v6());
  const Mac one = {2, 0, 0, 0, 0, 9}, group = {0x33, 0x33, 0, 0, 0, 1},
            all = {255, 255, 255, 255, 255, 255};
  for (const Mac& mac : {one, group, all}) {
    for (Segment s : {other.Syn(), other.FromClient(kAck, 5, 7),
                      conn.FromClient(kAck, 0, 0, Text("x")),
                      conn.FromClient(kRst, 0, 0)}) {
      s.to = mac;
      ExpectNotOurs(Build(s));
    }
  }
  EXPECT_FALSE(IsLive(other));
  ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Text("x")));
}

// By the wire the kernel takes the outer tag off before tc sees the frame.
TEST_P(PacketOddFramesTest, B14_TagsThatTheKernelTookOffCount) {
  if (AtXdp()) GTEST_SKIP() << "there they are still in the frame";
  const Conn conn = Established(v6());
  const Segment data = conn.FromClient(kAck, 0, 0, Text("untagged"));
  const Exits before = Counted();
  ForgetCaptured();
  for (const Bytes& tags : {kVlan, kQinQ}) {
    SendByWire({}, Tagged(conn.FromClient(kAck, 0, 0, Text("tagged!!")), tags));
  }
  SendByWire({}, Build(data));
  ExpectLeft(conn.ToBackend(data, conn.header()));
  EXPECT_EQ(Since(before), Once(HG_PACKET_FORWARDED));
}

// VLAN 0 is none: such a tag says what comes first (802.1Q), and the kernel
// takes the frame for an untagged one.
TEST_P(PacketOddFramesTest, B14_ATagWithAPriorityOnlyIsNoVlans) {
  const Conn conn = Established(v6());
  const Segment data = conn.FromClient(kAck, 0, 0, Text("first"));
  const Exits before = Counted();
  ForgetCaptured();
  SendByWire({}, Tagged(data, {0x81, 0, 0xa0, 0}));
  ExpectLeft(conn.ToBackend(data, conn.header()));
  EXPECT_EQ(Since(before), Once(HG_PACKET_FORWARDED));
}

TEST_P(PacketOddFramesTest, B14_HeadersInPagesOfTheirOwn) {
  if (AtXdp()) GTEST_SKIP() << "then a veth takes no such frames";
  SetMtu(9000);
  for (const uint16_t linear : std::vector<uint16_t>{14, 30, 60, 100}) {
    for (const size_t options : {0U, 12U, 40U}) {
      SCOPED_TRACE(absl::StrCat(linear, " linear, options ", options));
      const Conn conn = Answered(v6());
      Segment data = conn.FromClient(kAck | kPsh, 0, 0, Bytes(5001, 0x16));
      data.options = OptionsOf(options);
      VirtioNetHeader head;
      head.hdr_len = linear;
      ForgetCaptured();
      SendByWire(head, Build(data));
      ExpectLeft(conn.HeaderFor(data));
      ExpectLeft(conn.ToBackend(data, conn.header()));
      ExpectFromBackend(conn, conn.FromBackend(kAck, 0, conn.header()));
      SendByWire(head, Build(data));
      ExpectLeft(conn.ToBackend(data, conn.header()));
    }
  }
  SetMtu(1500);
}

}  // namespace
}  // namespace headgate::datapath
