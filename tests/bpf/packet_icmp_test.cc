// ICMP errors: of our own, about what goes no further; and of others, about
// what was sent on, which name addresses that the receiver does not know.
#include <sched.h>

#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

class PacketIcmpTest : public PacketFamilyTest {
 protected:
  void TearDown() override {
    for (const char* interface : {"in0", "out0"}) SetMtu(interface, 1500);
    PacketFamilyTest::TearDown();
  }
  static void SetMtu(const char* interface, uint32_t mtu) {
    ASSERT_TRUE(Shell(absl::StrCat("ip link set ", interface, " mtu ", mtu)));
  }
  static size_t Headers() { return v6() ? 60 : 40; }
};
INSTANTIATE_TEST_SUITE_P(Both, PacketIcmpTest, ::testing::Bool(), FamilyName);

// ---- of our own -------------------------------------------------------------

TEST_P(PacketIcmpTest, B11_WhatIsTooBigForTheWayOutIsAnswered) {
  const Conn conn = Established(v6());
  for (const uint32_t mtu : {1280U, 1400U}) {
    const Bytes fits(mtu - Headers(), 1), over(mtu - Headers() + 1, 1);
    SetMtu("out0", mtu);
    ExpectFromClient(conn, conn.FromClient(kAck, 5, 0, fits));
    const Segment in = conn.FromClient(kAck | kPsh, 5, 0, over);
    ExpectTold(in, TooBigFor(in, mtu), HG_PACKET_TOO_BIG);
    SetMtu("out0", 1500);
    ExpectFromClient(conn, in);
    SetMtu("in0", mtu);
    ExpectFromBackend(conn, conn.FromBackend(kAck, 9, conn.header(), fits));
    const Segment out = conn.FromBackend(kAck, 9, conn.header(), over);
    ExpectTold(out, TooBigFor(out, mtu), HG_PACKET_TOO_BIG);
    SetMtu("in0", 1500);
  }
}

TEST_P(PacketIcmpTest, B11_TheAnswerQuotesWhatCame) {
  const Conn conn = Established(v6());
  SetMtu("out0", 1280);
  for (const size_t options : {0U, 12U, 40U}) {
    Segment in = conn.FromClient(kAck, 7, 3, Bytes(1300, 0x33));
    in.options = OptionsOf(options);
    in.tos = 0xb8;
    in.id = 0x7788;
    in.fragment = 0;  // It may be fragmented, but not by us.
    if (!v6()) in.ip_options = Bytes(options, 1);
    ExpectTold(in, TooBigFor(in, 1280), HG_PACKET_TOO_BIG);
  }
}

// Of a segment that the header has gone ahead of.
TEST_P(PacketIcmpTest, B11_DataBehindTheirHeaderAreAnsweredAlike) {
  const Conn conn = Greeted(v6());
  SetMtu("out0", 1280);
  const Segment data = conn.FromClient(kAck, 0, 0, Bytes(1400, 1));
  const Outcome outcome = Run(data, HG_PACKET_MARK_BEHIND);
  EXPECT_EQ(outcome.verdict, kSent);
  EXPECT_EQ(outcome.exits, Once(HG_PACKET_TOO_BIG));
  ExpectFrame(outcome.frame, TooBigFor(data, 1280));
}

TEST_P(PacketIcmpTest, B1_ManySegmentsFitAsEachOfThemDoes) {
  const Conn conn = Established(v6());
  SetMtu("out0", 1280);
  Segment data = conn.FromClient(kAck, 0, 0, Bytes(3000, 0x16));
  data.options = Timestamps();
  const auto most = static_cast<uint32_t>(1280 - Headers() - 12);
  const Outcome passed = RunOnce(Build(data), "in0", 0, most);
  EXPECT_EQ(passed.verdict, kSent);
  EXPECT_GT(passed.segments, 0U);
  ExpectFrame(passed.frame, conn.ToBackend(data, conn.header()));
  const Outcome told = RunOnce(Build(data), "in0", 0, most + 1);
  EXPECT_EQ(told.verdict, kSent);
  EXPECT_EQ(told.segments, 0U);
  ExpectFrame(told.frame, TooBigFor(data, 1280));
}

TEST_P(PacketIcmpTest, AFloodOfWhatGoesNoFurtherIsNoFloodOfErrors) {
  OpenTable(4096);  // With its allowance whole.
  Configure();
  cpu_set_t all, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  Segment in = NewConn(v6()).Syn();
  in.ttl = 1;
  const Bytes frame = Build(in);
  const Exits before = Counted();
  const absl::Time start = absl::Now();
  uint64_t told = 0, silent = 0;
  while (silent < 500 && absl::Now() - start < absl::Seconds(20)) {
    ++(RunOnce(frame, "in0").verdict == kSent ? told : silent);
  }
  const absl::Duration took = absl::Now() - start;
  EXPECT_EQ(silent, 500U);
  EXPECT_GE(told, 50U);
  EXPECT_LE(static_cast<double>(told), 51 + absl::ToDoubleMilliseconds(took));
  EXPECT_EQ(Since(before), (Exits{{"ttl", told + silent}}));
  ASSERT_EQ(sched_setaffinity(0, sizeof all, &all), 0);
}

}  // namespace
}  // namespace headgate::datapath
