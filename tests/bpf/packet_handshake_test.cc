// Handshakes that somebody guesses, or that have to be begun again.
#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

class PacketHandshakeTest : public PacketFamilyTest {
 protected:
  static const hg_service_stats& Stats() {
    return datapath_->service_stats(v6() ? kService6 : kService4);
  }
  static uint64_t Active() { return Read(Stats().connections_active); }
  static void ExpectSynAck(const Conn& conn) {
    ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
  }
  // As from the backend, but by the interface that the client's SYN came by.
  static void ExpectFromClientsSide(const Conn& conn, Segment s, uint32_t n) {
    s.to = kIn0;
    ExpectSent(s, conn.ToClient(s, n));
  }
  static void ExpectNotFromClientsSide(Segment s) {
    s.to = kIn0;
    ExpectDropped(s, HG_PACKET_REVERSE_PATH);
  }
  static void ExpectHeaderWith(const Conn& conn, const Segment& ack) {
    ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  }
  // Its acknowledgment counts by the backend's side, and by no other.
  static void ExpectHeaderIsAcked(const Conn& conn) {
    const uint32_t n = conn.header();
    const Segment ack = conn.FromClient(kAck, 0, 0);
    ExpectHeaderWith(conn, ack);
    ExpectNotFromClientsSide(conn.FromBackend(kAck, 0, n));
    ExpectHeaderWith(conn, ack);
    ExpectHeaderAcked(conn);
    ExpectFromClient(conn, ack);
  }
};

INSTANTIATE_TEST_SUITE_P(Both, PacketHandshakeTest, ::testing::Bool(),
                         FamilyName);

// Sent blindly, in anybody's name (RFC 9293, 3.10.7.4).
TEST_P(PacketHandshakeTest, AnAckOfWhatWasNeverSentTakesNoPlace) {
  const Conn conn = Answered(v6());
  for (const int64_t off : {-2L, -1L, 1L, 70000L, 1L << 31}) {
    ExpectReset(conn.FromClient(kAck, 0, off), HG_PACKET_EARLY);
    EXPECT_EQ(Active(), 0U) << off;
  }
  const Segment ack = conn.FromClient(kAck, 0, 0);
  ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  EXPECT_EQ(Active(), 1U);
  EXPECT_EQ(Read(Stats().connections_total), 1U);
}

TEST_P(PacketHandshakeTest, NorWithoutAHeader) {
  const auto& stats = datapath_->service_stats(v6() ? kPlain6 : kPlain4);
  Conn conn = NewPlainConn(v6());
  Open(&conn);
  ExpectSynAck(conn);
  ExpectReset(conn.FromClient(kAck, 0, 12345), HG_PACKET_EARLY);
  EXPECT_EQ(Read(stats.connections_active), 0U);
  const Segment ack = conn.FromClient(kAck, 0, 0);
  ExpectSent(ack, conn.ToBackend(ack, 0));
  EXPECT_EQ(Read(stats.connections_active), 1U);
}

TEST_P(PacketHandshakeTest, AnAckThatGoesNoFurtherTakesNoPlace) {
  const Conn conn = Answered(v6());
  Segment ack = conn.FromClient(kAck, 0, 0);
  ack.ttl = 1;
  ExpectTooFar(ack);
  EXPECT_EQ(Active(), 0U);
  ++ack.ttl;
  ExpectHeaderWith(conn, ack);
  EXPECT_EQ(Active(), 1U);
}

// Of an earlier client at that port, which left its handshake half done: the
// RST ends that at the backend, too (RFC 9293, 3.10.7.3).
TEST_P(PacketHandshakeTest, AnAnswerToAnotherSynIsReset) {
  Serve({1, 2});
  Conn conn = NewConn(v6());
  Open(&conn);
  const Conn first = conn;
  for (const int64_t off : {-1L, 1L, 5000L, 1L << 31}) {
    ExpectReset(conn.FromBackend(kSyn | kAck, 777, off), HG_PACKET_EARLY);
  }
  ExpectReset(conn.FromBackend(kSyn, -1, 0), HG_PACKET_EARLY);
  // The flow is where it was.
  ExpectDropped(conn.FromBackend(kRst | kAck, -1, 0), HG_PACKET_REFUSED);
  Open(&conn);
  EXPECT_NE(conn.backend, first.backend);
  ExpectSynAck(conn);
}

// The backend has forgotten its first one, by a restart or for lack of room; or
// it is another SYN cookie. The client's next SYN begins anew.
TEST_P(PacketHandshakeTest, ASecondAnswerEndsIt) {
  for (const bool established : {false, true}) {
    Conn conn = established ? Greeted(v6()) : Answered(v6());
    ExpectSynAck(conn);  // The same one again.
    Conn second = conn;
    second.server_isn += 1 << 20;
    ExpectReset(second.SynAck(), HG_PACKET_EARLY);
    EXPECT_FALSE(IsLive(conn));
    EXPECT_EQ(Active(), 0U);
    Open(&conn);
    ExpectSynAck(conn);
  }
}

TEST_P(PacketHandshakeTest, WhatCameDamagedBeginsAndEndsNothing) {
  Conn conn = NewConn(v6());
  Segment syn = conn.Syn();
  syn.damage = 1;
  ExpectDropped(syn, HG_PACKET_MALFORMED);
  EXPECT_FALSE(IsLive(conn));
  Open(&conn);
  Segment answer = conn.SynAck();
  answer.damage = 1;
  ++answer.seq;
  ExpectDropped(answer, HG_PACKET_MALFORMED);
  ExpectSynAck(conn);
  Segment ack = conn.FromClient(kAck, 0, 0);
  ack.damage = 1;
  ExpectDropped(ack, HG_PACKET_MALFORMED);
  EXPECT_EQ(Active(), 0U);
  ack.damage = 0;
  ExpectHeaderWith(conn, ack);
  Segment rst = conn.FromClient(kRst, 0, 0);
  rst.damage = 1;
  ExpectDropped(rst, HG_PACKET_MALFORMED);
  EXPECT_TRUE(IsLive(conn));
}

// Nothing of it goes on while another backend is chosen for it.
TEST_P(PacketHandshakeTest, AFlowThatMovesTakesNothing) {
  Conn conn = NewConn(v6());
  Open(&conn);
  const auto set = [&](uint32_t state) {
    Change(conn, [&](hg_flow& flow) { flow.state = state; });
  };
  set(HG_FLOW_MOVING);
  ExpectDropped(conn.Syn(), HG_PACKET_EARLY);
  ExpectDropped(conn.SynAck(), HG_PACKET_EARLY);
  EXPECT_EQ(packet().KillIf([](const hg_flow&) { return true; }), 0U);
  set(HG_FLOW_SYN_SENT);
  ExpectSynAck(conn);
}

// By a network that doubles, or by who spoofs it: that is no silence.
TEST_P(PacketHandshakeTest, TheSameSynAtOnceGoesToTheSameBackend) {
  Serve({1, 2});
  Conn conn = NewConn(v6());
  Open(&conn);
  for (int i = 0; i < 3; ++i) {
    ExpectSent(conn.Syn(), conn.ToBackend(conn.Syn(), 0));
  }
  ExpectSynAck(conn);
}

// ---- who says that the header has arrived -----------------------------------

// Who is a client could send it as well, and then a header of its own.
TEST_P(PacketHandshakeTest, NobodyOnTheClientsSideAcknowledgesTheHeader) {
  const Conn conn = Answered(v6());
  const uint32_t n = conn.header();
  ExpectNotFromClientsSide(conn.FromBackend(kAck, 0, n));
  const Segment ack = conn.FromClient(kAck, 0, 0);
  ExpectHeaderWith(conn, ack);
  ExpectDropped(conn.FromClient(kAck, -int64_t{n}, 0, conn.Header()),
                HG_PACKET_MALFORMED);
  ExpectHeaderAcked(conn);
  ExpectFromClient(conn, ack);
}

// Nor is it the client's to see, who has sent nothing that it is of; once, for
// what comes again may be asked for.
TEST_P(PacketHandshakeTest, TheHeadersAcknowledgmentEndsHere) {
  const Conn conn = Greeted(v6());
  ExpectHeaderAcked(conn);
  ExpectFromBackend(conn, conn.FromBackend(kAck, 0, conn.header()));
}

TEST_P(PacketHandshakeTest, AnAcknowledgmentThatSaysMoreGoesOn) {
  const auto expect = [](const Conn& conn, uint8_t flags, int64_t seq,
                         const Bytes& payload) {
    ExpectFromBackend(conn,
                      conn.FromBackend(flags, seq, conn.header(), payload));
    ExpectFromClient(conn, conn.FromClient(kAck, 0, 0));  // It is known.
  };
  expect(Greeted(v6()), kAck, 0, Text("220 "));
  expect(Greeted(v6()), kAck | kFin, 0, {});
  expect(Greeted(v6()), kAck | kEce, 0, {});
  expect(Greeted(v6()), kAck, -1, {});  // A keepalive's probe.
  expect(Greeted(v6()), kAck, 1, {});   // Something is missing.
  // The client has said more, of which this is no acknowledgment.
  const Conn conn = Greeted(v6());
  ExpectFromClient(conn, conn.FromClient(kAck, 5, 0, Text("lo")));
  expect(conn, kAck, 0, {});
}

// An answer of one's own does not help: the backend's ends that.
TEST_P(PacketHandshakeTest, NorDoesWhoAnswersTheSynThere) {
  for (const bool ends_first : {false, true}) {
    Conn conn = NewConn(v6());
    Open(&conn);
    Conn liar = conn;
    liar.server_isn += 4711;
    ExpectFromClientsSide(liar, liar.SynAck(), 0);
    if (ends_first) ExpectHeaderWith(conn, liar.FromClient(kAck, 0, 0));
    ExpectReset(conn.SynAck(), HG_PACKET_EARLY);
    EXPECT_FALSE(IsLive(conn));
  }
}

// Nor does it help to say the backend's again.
TEST_P(PacketHandshakeTest, NorDoesWhoAnswersTheSynThereAgain) {
  const Conn conn = Answered(v6());
  ExpectNotFromClientsSide(conn.SynAck());
  ExpectHeaderIsAcked(conn);
}

TEST_P(PacketHandshakeTest, NorDoesWhoAcknowledgesAHeaderThatWasNotSent) {
  const Conn conn = Answered(v6());
  const uint32_t n = conn.header();
  ExpectFromBackend(conn, conn.FromBackend(kAck, 0, n));
  const Segment ack = conn.FromClient(kAck, 0, 0);
  ExpectHeaderWith(conn, ack);
}

// Two links that both carry both sides.
TEST_P(PacketHandshakeTest, ABackendMayAnswerOnTheClientsSide) {
  Conn conn = NewConn(v6());
  Open(&conn);
  ExpectFromClientsSide(conn, conn.SynAck(), 0);
  const Segment ack = conn.FromClient(kAck, 0, 0);
  ExpectHeaderWith(conn, ack);
  Segment acked = conn.FromBackend(kAck, 0, conn.header());
  acked.to = kIn0;
  ExpectDropped(acked, HG_PACKET_HEADER_ACKED);
  ExpectFromClient(conn, ack);
}

TEST_P(PacketHandshakeTest, NorDoesWhoAcknowledgesWhatWasNeverSent) {
  const Conn conn = Greeted(v6());
  const uint32_t n = conn.header();
  const Segment ack = conn.FromClient(kAck, 0, 0);
  for (const uint32_t beyond : {1U, 5000U, 1U << 30}) {
    ExpectFromBackend(conn, conn.FromBackend(kAck, 0, n + beyond));
    ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  }
  ExpectHeaderAcked(conn);
  ExpectFromClient(conn, ack);
}

}  // namespace
}  // namespace headgate::datapath
