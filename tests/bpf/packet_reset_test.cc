// Resets: whose ends a connection, what they answer, and what becomes of
// segments that came damaged.
#include <map>
#include <set>

#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

class PacketResetTest : public PacketFamilyTest {
 protected:
  static uint32_t service() { return v6() ? kService6 : kService4; }
  static uint64_t Refusals(const std::vector<uint32_t>& backends) {
    uint64_t sum = 0;
    for (const uint32_t n : backends) {
      sum += Read(datapath_->backend_stats(service() * 10 + n).connect_refused);
    }
    return sum;
  }
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

// ---- whose counts -----------------------------------------------------------

// RFC 5961, 3.2: any other is the receiver's to challenge, or to ignore.
TEST_P(PacketResetTest, B13_OnlyARstAtTheNextByteEndsAConnection) {
  const Conn conn = Established(v6());
  const uint32_t n = conn.header();
  ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Bytes(100, 1)));
  ExpectFromBackend(conn, conn.FromBackend(kAck, 0, conn.header(), Text("ab")));
  for (const int64_t off : {-1L, 1L, 1000L, 1L << 29, 1L << 31}) {
    for (const uint8_t flags : {uint8_t{kRst}, uint8_t{kRst | kAck}}) {
      ExpectFromClient(conn, conn.FromClient(flags, 100 + off, 2));
      const Segment rst = conn.FromBackend(flags, 2 + off, n + 100);
      ExpectSent(rst, conn.ToClient(rst, (flags & kAck) ? n : 0));
      EXPECT_TRUE(IsLive(conn)) << off;
    }
  }
  ExpectEnds(conn, conn.FromClient(kRst, 100, 0), 0, 100);
  const Conn other = Established(v6());
  ExpectFromBackend(other, other.FromBackend(kRst | kAck, 0, n));
  EXPECT_FALSE(IsLive(other));
}

// What the edge has seen beyond that got lost behind it, or was junk that the
// receiver did not take: a damaged segment, say.
TEST_P(PacketResetTest, ARstAtWhatIsAcknowledgedEndsAConnection) {
  const Conn by_client = Established(v6());
  const uint32_t n = by_client.header();
  ExpectFromClient(by_client,
                   by_client.FromClient(kAck, (1 << 30) - 1, 0, Text("x")));
  ExpectEnds(by_client, by_client.FromClient(kRst, 0, 0), 0, 1 << 30);
  for (const uint8_t last : {uint8_t{kAck}, uint8_t{kFin | kAck}}) {
    const Conn conn = Established(v6());
    ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Bytes(100, 1)));
    ExpectFromBackend(conn, conn.FromBackend(kAck, 0, n + 100, Text("got")));
    ExpectFromClient(conn, conn.FromClient(kAck, 100, 3));
    ExpectFromBackend(conn, conn.FromBackend(last, 3, n + 100, Text("lost")));
    const Segment rst = conn.FromBackend(kRst, 3, 0);
    ExpectSent(rst, conn.ToClient(rst, 0));
    EXPECT_FALSE(IsLive(conn));
  }
}

// Only what was sent can be acknowledged, and no acknowledgment is taken back.
TEST_P(PacketResetTest, ARstBetweenWhatIsAcknowledgedAndNextEndsNothing) {
  const Conn conn = Established(v6());
  const uint32_t n = conn.header();
  ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Bytes(100, 1)));
  ExpectFromBackend(conn, conn.FromBackend(kAck, 0, n + 40, Bytes(100, 1)));
  ExpectFromClient(conn, conn.FromClient(kAck, 100, 40));
  for (const uint32_t other : {20U, 5000U}) {
    ExpectFromBackend(conn, conn.FromBackend(kAck, 100, n + other));
    ExpectFromClient(conn, conn.FromClient(kAck, 100, other));
  }
  for (const uint32_t off : {0U, 20U, 39U, 41U, 99U, 101U, 5000U}) {
    ExpectFromClient(conn, conn.FromClient(kRst, off, 0));
    const Segment rst = conn.FromBackend(kRst, off, 0);
    ExpectSent(rst, conn.ToClient(rst, 0));
    EXPECT_TRUE(IsLive(conn)) << off;
  }
  ExpectEnds(conn, conn.FromClient(kRst, 40, 0), 40, 100);
}

// One that the backend discards would free a place for another connection.
TEST_P(PacketResetTest, ARstThatEndsAConnectionIsOneThatTheBackendBelieves) {
  // Behind what no window was open for.
  const Conn jumps = Established(v6());
  ExpectFromClient(jumps, jumps.FromClient(kAck, (1 << 30) - 1, 0, Text("x")));
  ExpectEnds(jumps, jumps.FromClient(kRst, 1 << 30, 0), 0, 1 << 30);
  // Signed, which nobody has agreed on; and with other options, and data.
  for (const Bytes& options :
       {Concat({{19, 18}, Bytes(16, 7), Nops(2)}), Timestamps()}) {
    const Conn conn = Established(v6());
    Segment rst = conn.FromClient(kRst | kAck | kUrg, 0, 0, Text("why"));
    rst.options = options;
    rst.ttl = 2;  // And one that gets no further.
    ExpectEnds(conn, rst);
  }
  const Conn conn = Established(v6());
  // In a header that hosts may discard it for, it goes nowhere.
  if (!v6()) {
    Segment routed = conn.FromClient(kRst, 0, 0);
    routed.ip_options = {131, 7, 4, 198, 18, 2, 11, 0};
    ExpectDropped(routed, HG_PACKET_MALFORMED);
    EXPECT_TRUE(IsLive(conn));
  }
  Segment damaged = conn.FromBackend(kRst, 0, 0);
  damaged.damage = 1;
  ExpectDropped(damaged, HG_PACKET_MALFORMED);
  EXPECT_TRUE(IsLive(conn));
}

// Its connection would go on without taking a place, or begin without a header;
// and what it says in its backend's name tells it how far its numbers move.
TEST_P(PacketResetTest, WhoIsAClientSaysNothingInItsBackendsName) {
  const auto spoofed = [](const Conn& conn, uint8_t flags, int64_t seq,
                          int64_t ack) {
    Segment s = conn.FromBackend(flags, seq, ack);
    s.to = kIn0;
    s.from = kClientMac;
    return s;
  };
  for (const Conn& conn : {Opened(v6()), Answered(v6()), Established(v6())}) {
    for (const uint8_t flags :
         {uint8_t{kRst}, uint8_t{kRst | kAck}, uint8_t{kAck},
          uint8_t{kFin | kAck}, uint8_t{kSyn | kAck}}) {
      for (const int64_t ack : {5, 28, 52, 12345}) {
        ExpectDropped(spoofed(conn, flags, 0, ack), HG_PACKET_REVERSE_PATH);
      }
    }
    EXPECT_TRUE(IsLive(conn));
  }
  // What acknowledges the SYN's very number is the backend's; then the rest is.
  const Conn conn = Opened(v6());
  const uint32_t n = conn.header();
  Segment answer = conn.SynAck();
  answer.to = kIn0;
  ExpectSent(answer, conn.ToClient(answer, 0));
  const Segment ack = conn.FromClient(kAck, 0, 0);
  ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  const Segment greeting = spoofed(conn, kAck | kPsh, 0, n);
  ExpectSent(greeting, conn.ToClient(greeting, n));
}

// As when the link fails that it came by.
TEST_P(PacketResetTest, ABackendMayComeByAnotherWayThatLeadsToIt) {
  const Conn conn = Established(v6());
  const std::string to = v6() ? "2001:db8:2::11" : "198.18.2.11";
  Segment data = conn.FromBackend(kAck, 0, conn.header(), Text("220"));
  data.to = kIn0;
  ExpectDropped(data, HG_PACKET_REVERSE_PATH);
  ASSERT_TRUE(Shell(absl::StrCat("ip route add ", to, " dev in0")));
  ExpectSent(data, conn.ToClient(data, conn.header()));
  ASSERT_TRUE(Shell(absl::StrCat("ip route del ", to, " dev in0")));
  ExpectDropped(data, HG_PACKET_REVERSE_PATH);
}

// The port is used again before the second of two RSTs comes.
TEST_P(PacketResetTest, ALateRstIsNotThatOfTheNextConnection) {
  const Conn conn = Established(v6());
  for (const int64_t at : {0L, 1L}) {
    const Outcome late =
        Run(conn.FromClient(kRst, at, 0), HG_PACKET_MARK_RESET);
    EXPECT_EQ(late.verdict, kDropped);
    EXPECT_EQ(late.exits, Once(HG_PACKET_STRAY_RST));
    EXPECT_TRUE(IsLive(conn));
  }
}

// What ends it at the edge, its end points need not believe: a RST at junk that
// the backend did not take, or in the backend's name. Nobody counts it then.
TEST_P(PacketResetTest, AClosedConnectionIsNotGoneOnWith) {
  for (const bool by_client : {false, true}) {
    const Conn conn = Established(v6());
    const uint32_t n = conn.header();
    ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Text("x")));
    if (by_client) {
      ExpectEnds(conn, conn.FromClient(kRst, 1, 0), 0, 1);
    } else {
      ExpectFromBackend(conn, conn.FromBackend(kRst | kAck, 0, n));
    }
    EXPECT_FALSE(IsLive(conn));
    for (const Segment& more :
         {conn.FromClient(kAck, 0, 0, Text("y")), conn.FromClient(kAck, 1, 0),
          conn.FromClient(kFin | kAck, 1, 0),
          conn.FromClient(kSyn | kAck, -1, 0)}) {
      ExpectReset(more, HG_PACKET_NO_FLOW);
    }
    // Nor does the backend, which may have disbelieved it.
    ExpectReset(conn.FromBackend(kAck, 0, n), HG_PACKET_NO_FLOW);
    ExpectFromClient(conn, conn.FromClient(kRst, 0, 0));
  }
}

// Of what both have ended, the last may come again, and nothing after it.
TEST_P(PacketResetTest, NorIsOneThatBothHaveEnded) {
  const Conn conn = Established(v6());
  CloseInOrder(conn);
  ExpectFromClient(conn, conn.FromClient(kFin | kAck, 0, 1));
  ExpectFromClient(conn, conn.FromClient(kAck, 1, 1));
  ExpectReset(conn.FromClient(kAck, 0, 1, Text("more")), HG_PACKET_NO_FLOW);
  ExpectReset(conn.FromClient(kAck, 1, 1, Text("x")), HG_PACKET_NO_FLOW);
}

TEST_P(PacketResetTest, ARstSaysNothingOfTheHeader) {
  const Conn conn = Greeted(v6());
  ExpectFromBackend(conn, conn.FromBackend(kRst | kAck, 9999, conn.header()));
  const Segment ack = conn.FromClient(kAck, 0, 0);
  ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
}

// RFC 9293, 3.10.7.3.
TEST_P(PacketResetTest, ARefusalAcknowledgesTheSyn) {
  Conn conn = NewConn(v6());
  Open(&conn);
  ExpectDropped(conn.FromBackend(kRst | kAck, -1, 1), HG_PACKET_STRAY_RST);
  ExpectDropped(conn.FromBackend(kRst, -1, 0), HG_PACKET_STRAY_RST);
  EXPECT_TRUE(IsLive(conn));
  const Segment refusal = conn.FromBackend(kRst | kAck, -1, 0);
  ExpectSent(refusal, conn.ToClient(refusal, 0));
  EXPECT_FALSE(IsLive(conn));
}

// ---- refusals ---------------------------------------------------------------

TEST_P(PacketResetTest, WhenAllHaveRefusedTheClientIsTold) {
  Serve({1, 2, 3});
  const uint64_t refusals = Refusals({1, 2, 3});
  Conn conn = NewConn(v6());
  std::set<PacketAddress> asked;
  for (int i = 0; i < 3; ++i) {
    Open(&conn);
    EXPECT_TRUE(asked.insert(conn.backend).second) << "asked twice";
    const Segment refusal = conn.FromBackend(kRst | kAck, -1, 0);
    if (i < 2) {
      ExpectDropped(refusal, HG_PACKET_REFUSED);
    } else {
      ExpectSent(refusal, conn.ToClient(refusal, 0));
    }
  }
  EXPECT_FALSE(IsLive(conn));
  EXPECT_EQ(Read(datapath_->service_stats(service()).no_backend), 1U);
  EXPECT_EQ(Refusals({1, 2, 3}), refusals + 3);
  // The next attempt has all of them before it again.
  Open(&conn, conn.Syn());
  ExpectDropped(conn.FromBackend(kRst | kAck, -1, 0), HG_PACKET_REFUSED);
}

// What a flow remembers of slots is no count of bytes.
TEST_P(PacketResetTest, WhicheverSlotRefusesTheNextOnesNumbersStay) {
  for (const uint32_t slot : {0U, 29U, 30U, 31U, 62U, 63U, 94U, 126U}) {
    SCOPED_TRACE(slot);
    Serve({1, 2}, 0, slot);
    Conn conn = NewConn(v6());
    Open(&conn);
    ExpectDropped(conn.FromBackend(kRst | kAck, -1, 0), HG_PACKET_REFUSED);
    Open(&conn);
    ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
    const Segment ack = conn.FromClient(kAck, 0, 0);
    ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  }
}

TEST_P(PacketResetTest, TheLastToRefuseAfterSilenceIsPassedOn) {
  Serve({1, 2});
  Conn conn = NewConn(v6());
  Open(&conn);
  const PacketAddress silent = conn.backend;
  WaitForAnswer(conn);
  Open(&conn);
  EXPECT_NE(conn.backend, silent);
  const Segment refusal = conn.FromBackend(kRst | kAck, -1, 0);
  ExpectSent(refusal, conn.ToClient(refusal, 0));
}

TEST_P(PacketResetTest, WhereAllAreSilentTheyAreAskedInTurn) {
  Serve({1, 2, 3});
  Conn conn = NewConn(v6());
  std::map<PacketAddress, int> asked;
  PacketAddress last{};
  for (int i = 0; i < 9; ++i) {
    WaitForAnswer(conn);
    Open(&conn);
    EXPECT_NE(conn.backend, last);
    last = conn.backend;
    ++asked[last];
  }
  for (const auto& [backend, times] : asked) EXPECT_GE(times, 2);
  ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
  const Segment ack = conn.FromClient(kAck, 0, 0);
  ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  for (const PacketPath::Flow& flow : packet().Flows()) {
    EXPECT_EQ(flow.state.bytes_in + flow.state.bytes_out, 0U);
  }
}

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
