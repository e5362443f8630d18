// Resets, and what becomes of segments that came damaged.
#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

class PacketResetTest : public PacketFamilyTest {
 protected:
  static void ExpectDamagedIsDropped(const Segment& s) {
    const Bytes frame = Build(s);
    const size_t tcp = 14 + (s.v6 ? 40 : 20);
    for (const size_t at :
         {tcp + 11, tcp + 15, (tcp + frame.size()) / 2, frame.size() - 1}) {
      Bytes damaged = frame;
      damaged[at] ^= 0x10;
      const Outcome outcome = Run(damaged, s.to == kIn0 ? "in0" : "out0");
      EXPECT_EQ(outcome.verdict, kDropped) << at;
      EXPECT_EQ(outcome.exits, Once(HG_PACKET_MALFORMED)) << at;
    }
  }
};

INSTANTIATE_TEST_SUITE_P(, PacketResetTest, ::testing::Bool(), FamilyName);

// ---- damage -----------------------------------------------------------------

TEST_P(PacketResetTest, B4_WhatCameDamagedIsNotAnswered) {
  const Conn conn = NewConn(v6());
  for (const size_t size : {0U, 1U, 2U, 3U, 255U, 256U, 257U, 1400U}) {
    Segment stray = conn.FromClient(kAck, 5, 7, Bytes(size, 0x5a));
    stray.options = Timestamps();
    ExpectReset(stray, HG_PACKET_NO_FLOW);
    ExpectDamagedIsDropped(stray);
  }
}

TEST_P(PacketResetTest, B4_ASynWithDataThatCameDamagedIsDropped) {
  for (const size_t size : {1U, 2U, 255U, 300U, 1000U}) {
    Conn conn = NewConn(v6());
    Segment syn = conn.Syn();
    syn.payload = Bytes(size, 0x5a);
    ExpectDamagedIsDropped(syn);
    EXPECT_FALSE(IsLive(conn));
  }
}

TEST_P(PacketResetTest, B4_DamagedDataInThePlaceOfTheHandshakesAckAreDropped) {
  const Conn conn = Answered(v6());
  Segment data = conn.FromClient(kAck | kPsh, 0, 0, Bytes(301, 0x77));
  data.options = Timestamps();
  ForgetCaptured();
  ExpectDamagedIsDropped(data);
  const Outcome ahead = Run(data);
  EXPECT_EQ(ahead.verdict, kSent);
  ExpectFrame(ahead.frame, conn.HeaderFor(data));
  EXPECT_EQ(Captured(), Build(conn.ToBackend(data, conn.header())));
}

}  // namespace
}  // namespace headgate::datapath
