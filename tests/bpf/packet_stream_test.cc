// What follows the handshake, frame by frame: numbers, options, ends, and what
// is refused.
#include <functional>
#include <set>

#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

using PacketStreamTest = PacketFamilyTest;
INSTANTIATE_TEST_SUITE_P(Both, PacketStreamTest, ::testing::Bool(), FamilyName);

// ---- SACK -------------------------------------------------------------------

// What `edges` from the backend, from the header's first byte, are for the
// client, from the stream's.
void ExpectEdges(const Conn& conn, const Edges& edges, const Edges& wanted,
                 const std::function<void(Segment, Segment)>& check) {
  const auto from = [&](uint32_t first, const Edges& offsets) {
    Edges numbers;
    for (const auto& [left, right] : offsets) {
      numbers.push_back({first + left, first + right});
    }
    return Sack(numbers);
  };
  Segment in = conn.FromBackend(kAck, 0, conn.header());
  in.options = from(conn.isn + conn.shift + 1, edges);
  Segment out = conn.ToClient(in, conn.header());
  out.options = from(conn.isn + 1, wanted);
  check(in, out);
  // Behind timestamps, as usual.
  if (edges.size() > 3) return;
  in.options = Concat({Timestamps(), in.options});
  out.options = Concat({Timestamps(), out.options});
  check(in, out);
}

TEST_P(PacketStreamTest, B9_SackEdgesMove) {
  for (const uint32_t isn : {0x11223344U, 0xffffff00U, 0xfffffff0U}) {
    const Conn conn = Established(v6(), isn);
    const uint32_t n = conn.header();
    ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Bytes(1000, 1)));
    const auto check = [](const Segment& in, const Segment& out) {
      ExpectSent(in, out);
    };
    ExpectEdges(conn, {{n + 100, n + 200}}, {{100, 200}}, check);
    ExpectEdges(conn, {{n + 300, n + 400}, {n + 100, n + 200}},
                {{300, 400}, {100, 200}}, check);
    ExpectEdges(conn,
                {{n + 500, n + 600}, {n + 300, n + 400}, {n + 100, n + 200}},
                {{500, 600}, {300, 400}, {100, 200}}, check);
    ExpectEdges(conn,
                {{n + 700, n + 800},
                 {n + 500, n + 600},
                 {n + 300, n + 400},
                 {n + 100, n + 200}},
                {{700, 800}, {500, 600}, {300, 400}, {100, 200}}, check);
  }
}

TEST_P(PacketStreamTest, B9_ADuplicateOfTheHeaderIsNoneOfTheClients) {
  for (const uint32_t isn : {0x11223344U, 0xfffffff0U}) {
    const Conn conn = Established(v6(), isn);
    const uint32_t n = conn.header();
    const auto check = [](const Segment& in, const Segment& out) {
      ExpectSent(in, out);
    };
    ExpectEdges(conn, {{0, n}}, {{0, 0}}, check);
    ExpectEdges(conn, {{0, n + 50}}, {{0, 50}}, check);
    ExpectEdges(conn, {{n - 1, n + 50}, {n + 100, n + 200}},
                {{0, 50}, {100, 200}}, check);
  }
}

TEST_P(PacketStreamTest, TheClientsSackIsOfTheBackendsOwnNumbers) {
  const Conn conn = Established(v6());
  Segment in = conn.FromClient(kAck, 0, 0);
  in.options = Sack({{conn.server_isn + 100, conn.server_isn + 200}});
  ExpectFromClient(conn, in);
}

// ---- flags and probes -------------------------------------------------------

TEST_P(PacketStreamTest, B13_ProbesAreMovedAlike) {
  const Conn conn = Established(v6());
  ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Bytes(100, 1)));
  ExpectFromBackend(conn, conn.FromBackend(kAck, 0, conn.header() + 100));
  for (const size_t garbage : {0U, 1U}) {  // Keepalives.
    ExpectFromClient(conn, conn.FromClient(kAck, 99, 0, Bytes(garbage, 0)));
    ExpectFromBackend(conn, conn.FromBackend(kAck, -1, conn.header() + 100,
                                             Bytes(garbage, 0)));
  }
  Segment closed = conn.FromBackend(kAck, 0, conn.header() + 100);
  closed.window = 0;
  ExpectFromBackend(conn, closed);
  ExpectFromClient(conn, conn.FromClient(kAck, 100, 0, Text("p")));
}

// Of a client that claims bytes from before its first: there, the backend would
// take them for the header.
TEST_P(PacketStreamTest, AForgedHeaderGoesNowhere) {
  const Conn conn = Answered(v6());
  const uint32_t n = conn.header();
  const Bytes forged = conn.Header();
  const auto expect_dropped = [&] {
    for (uint32_t ahead = 1; ahead <= n + 5; ++ahead) {
      ExpectDropped(conn.FromClient(kAck, -int64_t{ahead}, 0, forged),
                    HG_PACKET_MALFORMED);
      ExpectDropped(conn.FromClient(kAck | kFin, -int64_t{ahead} - 1, 0),
                    HG_PACKET_MALFORMED);
      ExpectDropped(conn.FromClient(kAck, -int64_t{ahead} - 1, 0, Text("x")),
                    HG_PACKET_MALFORMED);
    }
  };
  expect_dropped();
  EXPECT_EQ(Read(datapath_->service_stats(v6() ? kService6 : kService4)
                     .connections_active),
            0U);
  const Segment ack = conn.FromClient(kAck, 0, 0);
  ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  expect_dropped();
  ExpectHeaderAcked(conn);
  expect_dropped();
}

// By a SYN cookie that it has not forgotten, a backend that has forgotten all
// else would take it for a handshake's end.
TEST_P(PacketStreamTest, NorDoesAnAckFromBeforeTheFirstByte) {
  for (const Conn& conn : {Answered(v6()), Greeted(v6()), Established(v6())}) {
    for (const uint32_t ahead : {2U, 5U, conn.header(), 1U << 30}) {
      ExpectDropped(conn.FromClient(kAck, -int64_t{ahead}, 0),
                    HG_PACKET_MALFORMED);
    }
  }
}

// A lap later, the same numbers are new ones.
TEST_P(PacketStreamTest, NumbersBeforeTheFirstByteAreUsedInTheNextLap) {
  const Conn conn = Established(v6());
  const uint32_t n = conn.header();
  constexpr int64_t kQuarter = 1 << 30;
  for (int64_t at = kQuarter; at <= 4 * kQuarter; at += kQuarter) {
    ExpectFromClient(conn, conn.FromClient(kAck, at - 1, 0, Text("x")));
    ExpectFromBackend(conn, conn.FromBackend(kAck, 0, n + at));
    ExpectFromClient(conn, conn.FromClient(kAck, at - n, 0));
    ExpectDropped(conn.FromClient(kAck, at - kQuarter - 2, 0),
                  HG_PACKET_MALFORMED);
  }
}

// The one byte that a probe may have must not come before the header.
TEST_P(PacketStreamTest, B13_AKeepaliveBeforeAnyByteIsForWhoHasTheHeader) {
  for (const bool sent : {false, true}) {
    const Conn conn = sent ? Greeted(v6()) : Answered(v6());
    for (const size_t garbage : {0U, 1U}) {
      ExpectDropped(conn.FromClient(kAck, -1, 0, Bytes(garbage, 0)),
                    HG_PACKET_MALFORMED);
    }
  }
  const Conn conn = Established(v6());
  for (const size_t garbage : {0U, 1U}) {
    ExpectFromClient(conn, conn.FromClient(kAck, -1, 0, Bytes(garbage, 0)));
  }
}

// ---- SYN cookies ------------------------------------------------------------

// To a backend that has forgotten the connection, its cookie would be good for
// what is as far from the SYN as it acknowledges bytes, give or take three.
TEST_P(PacketStreamTest, WhatFitsASynCookieHasOtherNumbers) {
  const Conn conn = Established(v6());
  const uint32_t n = conn.header();
  ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Bytes(200, 1)));
  ExpectFromBackend(conn, conn.FromBackend(kAck, 0, n + 200, Bytes(400, 1)));
  uint32_t end = 200;  // Of what the client has sent.
  const auto expect = [&](uint32_t at, int64_t apart, uint8_t flags,
                          const Bytes& data) {
    const Segment s = conn.FromClient(flags, at, int64_t{n} + at + apart, data);
    Segment out = conn.ToBackend(s, n);
    const bool fits = apart >= -3 && apart <= 3;
    const uint32_t till =
        at + static_cast<uint32_t>(data.size()) + ((flags & kFin) ? 1 : 0);
    const bool news = till > end;
    end = std::max(end, till);
    if (!fits) return ExpectSent(s, out);
    if (data.empty() && (flags & kFin) == 0) {
      out.seq += at < 200 ? 0U - 8 : 8;  // Old, or not.
      return ExpectSent(s, out);
    }
    out.ack = conn.server_isn + 1 + n + at - 8;
    ForgetCaptured();
    const Outcome outcome = Run(s);
    EXPECT_EQ(outcome.verdict, kSent);
    ExpectFrame(outcome.frame, out);
    if (!news) {
      EXPECT_EQ(outcome.exits, Once(HG_PACKET_FORWARDED));
      return;
    }
    Segment ack = conn.AckBehind(s, end);
    // One that would fit is from further on.
    if (std::abs(at + apart - end) <= 3) ack.seq += 8;
    EXPECT_EQ(Captured(), Build(ack)) << "its acknowledgment";
  };
  for (const bool data : {false, true}) {
    for (const uint32_t at : {0U, 7U, 199U, 200U, 210U}) {
      for (int64_t apart = -5; apart <= 5; ++apart) {
        SCOPED_TRACE(absl::StrCat(data, " ", at, " ", apart));
        expect(at, apart, kAck, data ? conn.Header() : Bytes());
      }
    }
  }
  for (int64_t apart = -5; apart <= 5; ++apart) {
    SCOPED_TRACE(apart);
    expect(end - 10, apart, kAck | kCwr, Bytes(20, 1));
  }
  expect(300 + end, 0, kFin | kAck, {});
}

TEST_P(PacketStreamTest, NothingElseFitsASynCookieBeforeTheHeaderIsThere) {
  const Conn conn = Greeted(v6());
  const uint32_t n = conn.header();
  const Bytes forged = conn.Header();
  // In the midst of a stream that begins there, or behind the header.
  for (const int64_t acks : {int64_t{n} - 3, int64_t{n}, int64_t{n} + 3}) {
    const Segment s = conn.FromClient(kAck | kPsh, 0, acks, forged);
    Segment behind = conn.ToBackend(s, n);
    behind.ack = conn.server_isn + 1 + n - 8;
    ForgetCaptured();
    EXPECT_EQ(Run(s).verdict, kSent);
    EXPECT_EQ(Captured(), Build(behind));
    if (acks < n) {  // The first: then it is no news.
      EXPECT_EQ(Captured(), Build(conn.AckBehind(s, n)));
    }
  }
  const Segment s = conn.FromClient(kAck | kPsh, 1, int64_t{n} + 1, forged);
  // What is not whole is not acknowledged for the client.
  Segment damaged = s;
  damaged.damage = 1;
  ExpectDropped(damaged, HG_PACKET_MALFORMED);
  Segment out = conn.ToBackend(s, n);
  out.ack -= 8;
  const Outcome outcome = Run(s);
  EXPECT_EQ(outcome.verdict, kSent);
  ExpectFrame(outcome.frame, out);
  EXPECT_EQ(Captured(), Build(conn.AckBehind(s, n + 1)));
  // Nor does what no window was open for.
  const Segment last = conn.FromClient(kAck, 65535, 0, Text("x"));
  ExpectSent(last, conn.ToBackend(last, n));
  ExpectDropped(conn.FromClient(kAck, 65536, 0, Text("x")),
                HG_PACKET_MALFORMED);
}

// Which fits the cookie of a connection that had the same port before.
TEST_P(PacketStreamTest, NobodyLearnsWhatTheBackendsNumbersWere) {
  Conn conn = Established(v6());
  std::set<uint32_t> shifts;
  for (int i = 0; i < 20; ++i) {
    shifts.insert(conn.shift);
    CloseInOrder(conn);
    const uint32_t end = conn.isn + conn.shift + 1 + conn.header() + 1;
    conn.isn += 1000;
    Open(&conn);
    // A backend in TIME_WAIT takes it for a new one.
    EXPECT_LT(conn.isn + conn.shift - end, (1U << 30) + 1000);
    ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
    const Segment ack = conn.FromClient(kAck, 0, 0);
    ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
    ExpectHeaderAcked(conn);
  }
  EXPECT_EQ(shifts.size(), 20U);
}

TEST_P(PacketStreamTest, B13_UrgentDataAndEcnAreKept) {
  const Conn conn = Established(v6());
  for (const uint8_t flags : {kUrg, kEce, kCwr, kPsh}) {
    for (const uint8_t tos : Bytes{0, 1, 2, 3, 0xb8}) {
      Segment in = conn.FromClient(kAck | flags, 5, 5, Text("abc"));
      in.urgent = 2;
      in.tos = tos;
      in.ae = true;
      ExpectFromClient(conn, in);
      Segment back = conn.FromBackend(kAck | flags, 5, 60, Text("abc"));
      back.urgent = 2;
      back.tos = tos;
      ExpectFromBackend(conn, back);
    }
  }
}

TEST_P(PacketStreamTest, TheTtlFallsByOneAndEndsAtOne) {
  const Conn conn = Established(v6());
  for (const uint8_t ttl : Bytes{255, 64, 2}) {
    Segment in = conn.FromClient(kAck, 0, 0, Text("x"));
    in.ttl = ttl;
    ExpectFromClient(conn, in);
    Segment back = conn.FromBackend(kAck, 0, conn.header() + 1);
    back.ttl = ttl;
    ExpectFromBackend(conn, back);
  }
  for (const uint8_t ttl : Bytes{1, 0}) {
    Segment in = conn.FromClient(kAck, 0, 0, Text("x"));
    in.ttl = ttl;
    ExpectTooFar(in);
    Segment back = conn.FromBackend(kAck, 0, conn.header() + 1);
    back.ttl = ttl;
    ExpectTooFar(back);
    Segment syn = NewConn(v6()).Syn();
    syn.ttl = ttl;
    ExpectTooFar(syn);
  }
}

// ---- ends -------------------------------------------------------------------

TEST_P(PacketStreamTest, B13_TheClientEndsFirst) {
  const Conn conn = Established(v6());
  const uint32_t n = conn.header();
  ExpectFromClient(conn, conn.FromClient(kFin | kAck, 0, 0));
  ExpectFromBackend(conn, conn.FromBackend(kAck, 0, n + 1));
  EXPECT_TRUE(IsLive(conn)) << "half closed";
  ExpectFromBackend(conn, conn.FromBackend(kAck | kPsh, 0, n + 1, Text("bye")));
  ExpectFromClient(conn, conn.FromClient(kAck, 1, 3));
  ExpectFromBackend(conn, conn.FromBackend(kFin | kAck, 3, n + 1));
  EXPECT_TRUE(IsLive(conn));
  ExpectFromClient(conn, conn.FromClient(kAck, 1, 4));
  EXPECT_FALSE(IsLive(conn));
  // In TIME_WAIT, the last ACK and the FIN may come again.
  ExpectFromBackend(conn, conn.FromBackend(kFin | kAck, 3, n + 1));
  ExpectFromClient(conn, conn.FromClient(kAck, 1, 4));
}

TEST_P(PacketStreamTest, B13_TheBackendEndsFirst) {
  const Conn conn = Established(v6());
  const uint32_t n = conn.header();
  ExpectFromBackend(conn, conn.FromBackend(kFin | kAck, 0, n, Text("421")));
  ExpectFromClient(conn, conn.FromClient(kAck, 0, 4));
  EXPECT_TRUE(IsLive(conn)) << "half closed";
  ExpectFromClient(conn, conn.FromClient(kAck, 0, 4, Text("more")));
  ExpectFromBackend(conn, conn.FromBackend(kAck, 4, n + 4));
  ExpectFromClient(conn, conn.FromClient(kFin | kAck, 4, 4));
  EXPECT_TRUE(IsLive(conn));
  ExpectFromBackend(conn, conn.FromBackend(kAck, 4, n + 5));
  EXPECT_FALSE(IsLive(conn));
}

TEST_P(PacketStreamTest, B13_BothEndAtOnce) {
  const Conn conn = Established(v6());
  const uint32_t n = conn.header();
  ExpectFromClient(conn, conn.FromClient(kFin | kAck, 0, 0));
  ExpectFromBackend(conn, conn.FromBackend(kFin | kAck, 0, n));
  EXPECT_TRUE(IsLive(conn));
  ExpectFromClient(conn, conn.FromClient(kAck, 1, 1));
  EXPECT_TRUE(IsLive(conn));
  ExpectFromBackend(conn, conn.FromBackend(kAck, 1, n + 1));
  EXPECT_FALSE(IsLive(conn));
}

TEST_P(PacketStreamTest, B13_AFinThatIsNotNextEndsNothing) {
  const Conn conn = Established(v6());
  const uint32_t n = conn.header();
  const int64_t far = (1LL << 31) - 2;
  ExpectFromClient(conn, conn.FromClient(kFin | kAck, far, 0));
  ExpectFromBackend(conn, conn.FromBackend(kFin | kAck, far, n));
  ExpectFromClient(conn, conn.FromClient(kAck, 0, 0));
  ExpectFromBackend(conn, conn.FromBackend(kAck, 0, n));
  EXPECT_TRUE(IsLive(conn));
}

// Whatever the edge saw besides, the other end has taken the nearest one.
TEST_P(PacketStreamTest, AnEndBehindJunkIsAnEnd) {
  const Conn conn = Established(v6());
  const uint32_t n = conn.header();
  ExpectFromClient(conn, conn.FromClient(kAck, 1 << 29, 0, Text("x")));
  ExpectFromClient(conn, conn.FromClient(kFin | kAck, 1000, 0));
  ExpectFromClient(conn, conn.FromClient(kFin | kAck, 0, 0));
  ExpectFromBackend(conn, conn.FromBackend(kFin | kAck, 50, n + 1));
  ExpectFromBackend(conn, conn.FromBackend(kFin | kAck, 0, n + 1));
  EXPECT_TRUE(IsLive(conn));
  ExpectFromClient(conn, conn.FromClient(kAck, 1, 1));
  EXPECT_FALSE(IsLive(conn));
}

TEST_P(PacketStreamTest, B13_AResetPassesInEveryState) {
  const auto from_client = [&](const Conn& conn, uint32_t seq, uint32_t shift) {
    for (const uint8_t flags : {uint8_t{kRst}, uint8_t{kRst | kAck}}) {
      const Segment rst = conn.FromClient(flags, seq, 0);
      ExpectSent(rst, IsLive(conn) ? conn.OwnReset(rst, shift)
                                   : conn.ToBackend(rst, shift));
      EXPECT_FALSE(IsLive(conn));
      if (shift != 0) return;
    }
  };
  const uint32_t n = v6() ? 52 : 28;
  Conn conn = NewConn(v6());
  Open(&conn);
  from_client(conn, 0, 0);
  from_client(Answered(v6()), 0, 0);
  from_client(Greeted(v6()), 0, n);
  from_client(Established(v6()), 0, n);
  for (conn = Established(v6()); IsLive(conn);) {
    const Segment rst = conn.FromBackend(kRst, 0, 0);
    ExpectSent(rst, conn.ToClient(rst, 0));
  }
  for (conn = Answered(v6()); IsLive(conn);) {
    const Segment rst = conn.FromBackend(kRst | kAck, 0, 0);
    ExpectSent(rst, conn.ToClient(rst, 0));
  }
}

TEST_P(PacketStreamTest, AResetHandshakeIsNoConnection) {
  const uint32_t service = v6() ? kService6 : kService4;
  const auto& stats = datapath_->service_stats(service);
  const Conn conn = Answered(v6());
  const Segment rst = conn.FromClient(kRst | kAck, 0, 0);
  ExpectSent(rst, conn.OwnReset(rst, 0));
  EXPECT_EQ(Read(stats.connections_total), 0U);
  Established(v6());
  EXPECT_EQ(Read(stats.connections_total), 1U);
  EXPECT_EQ(Read(stats.connections_active), 1U);
}

TEST_P(PacketStreamTest, BytesAreCountedOnce) {
  const uint32_t service = v6() ? kService6 : kService4;
  const hg_packet_bytes before = packet().Bytes(service);
  const Conn conn = Established(v6());
  const uint32_t n = conn.header();
  for (int i = 0; i < 2; ++i) {
    ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Bytes(100, 1)));
    ExpectFromBackend(conn, conn.FromBackend(kAck, 0, n + 100, Bytes(500, 1)));
    // Late, and no beginning any more.
    ExpectReset(conn.SynAck(), HG_PACKET_EARLY);
  }
  ExpectFromClient(conn, conn.FromClient(kFin | kAck, 100, 500));
  ExpectFromBackend(conn, conn.FromBackend(kFin | kAck, 500, n + 101));
  const hg_packet_bytes after = packet().Bytes(service);
  EXPECT_EQ(after.in - before.in, 100U);
  EXPECT_EQ(after.out - before.out, 500U);
}

// ---- what is refused --------------------------------------------------------

TEST_P(PacketStreamTest, SegmentsOfNoConnectionAreReset) {
  const Conn conn = NewConn(v6());
  ExpectReset(conn.FromClient(kAck, 5, 7, Text("hello")), HG_PACKET_NO_FLOW);
  ExpectReset(conn.FromClient(kFin | kAck, 5, 7), HG_PACKET_NO_FLOW);
  ExpectReset(conn.FromClient(kSyn | kAck, 5, 7), HG_PACKET_NO_FLOW);
  ExpectDropped(conn.FromClient(kRst, 5, 7), HG_PACKET_STRAY_RST);
  // At the ports that backends see, too.
  Conn unknown = conn;
  unknown.source = Parse(v6() ? "2001:db8:2::1" : "198.18.2.1");
  unknown.backend = BackendAddress(1, v6());
  unknown.source_port = kFirstPort;
  ExpectReset(unknown.FromBackend(kAck, 5, 7, Bytes(1000, 3)),
              HG_PACKET_NO_FLOW);
  Segment syn = unknown.FromBackend(kSyn, 5, 7);
  syn.options = OptionsOf(40);
  syn.padding = Bytes(6, 0);
  ExpectReset(syn, HG_PACKET_NO_FLOW);
  unknown.source_port = kFirstPort - 1;  // The host's own.
  ExpectNotOurs(Build(unknown.FromBackend(kAck, 5, 7)));
}

TEST_P(PacketStreamTest, B20_WithNoBackendASynIsReset) {
  hg_service none{};
  ASSERT_TRUE(datapath_->PutService(v6() ? kService6 : kService4, none).ok());
  Segment syn = NewConn(v6()).Syn(OptionsOf(12));
  ExpectReset(syn, HG_PACKET_NO_BACKEND);
  syn.payload = Text("odd");
  ExpectReset(syn, HG_PACKET_NO_BACKEND);
  syn.padding = Bytes(3, 0x99);
  ExpectReset(syn, HG_PACKET_NO_BACKEND);
}

TEST_P(PacketStreamTest, DataBeforeTheBackendsAnswerAreDropped) {
  Conn conn = NewConn(v6());
  Open(&conn);
  ExpectDropped(conn.FromClient(kAck, 0, 0, Text("x")), HG_PACKET_EARLY);
  EXPECT_TRUE(IsLive(conn));
}

// Left from before a restart, say: its ACK would never reach the client as an
// answer, and the same SYN would come again for ever.
TEST_P(PacketStreamTest, B16_ABackendsOldConnectionIsResetForTheNewOne) {
  Conn conn = NewConn(v6());
  Open(&conn);
  ExpectReset(conn.FromBackend(kAck, 5000, 7000), HG_PACKET_EARLY);
  EXPECT_TRUE(IsLive(conn));
  ExpectSent(conn.Syn(), conn.ToBackend(conn.Syn(), 0));
  ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
}

TEST_P(PacketStreamTest, SegmentsWithoutAnyMeaningAreDropped) {
  const Conn conn = Answered(v6());
  for (const uint8_t flags :
       Bytes{0, kFin, kPsh, kFin | kPsh | kUrg, kSyn | kRst, kSyn | kFin,
             kSyn | kRst | kAck, kSyn | kFin | kAck}) {
    ExpectDropped(NewConn(v6()).FromClient(flags, 0, 0), HG_PACKET_MALFORMED);
    ExpectDropped(conn.FromClient(flags, 0, 0), HG_PACKET_MALFORMED);
    ExpectDropped(conn.FromBackend(flags, 0, 0), HG_PACKET_MALFORMED);
  }
}

TEST_P(PacketStreamTest, B14_FragmentsAndExtensionHeadersAreDropped) {
  const Conn conn = Established(v6());
  for (Segment in : {conn.FromClient(kAck, 0, 0, Text("x")),
                     conn.FromBackend(kAck, 0, conn.header())}) {
    if (!v6()) {
      in.fragment = 0x2000;
      ExpectDropped(in, HG_PACKET_FRAGMENT);
      continue;
    }
    for (const uint8_t kind : Bytes{0, 43, 60}) {
      in.next_header = kind;
      in.extensions = Concat({{6, 0}, Bytes(6, 0)});
      ExpectDropped(in, HG_PACKET_EXTENSION);
      in.extensions = Concat({{6, 2}, Bytes(22, 0)});
      ExpectDropped(in, HG_PACKET_EXTENSION);
    }
    in.next_header = 44;
    in.extensions = {6, 0, 0, 1, 0, 0, 0, 1};
    ExpectDropped(in, HG_PACKET_FRAGMENT);
  }
}

// They have no ports, and may be of what the host has had the first of. What
// they have looks like anything: a segment of ours, or none that makes sense.
TEST_P(PacketStreamTest, B14_LaterFragmentsAreTheHosts) {
  const Conn conn = Established(v6());
  for (Segment in : {conn.FromClient(kAck, 0, 0, Text("x")),
                     conn.FromBackend(kAck, 0, conn.header())}) {
    for (const Bytes& payload : {TcpOf(in), Bytes(64, 0), Bytes(8, 0xff)}) {
      for (const uint16_t offset : std::vector<uint16_t>{1, 32, 0x1fff}) {
        in.fragment = offset;
        in.next_header = 44;
        in.extensions = {6, 0};
        Put16(in.extensions, static_cast<uint32_t>(offset << 3));
        Put32(in.extensions, 1);
        const Bytes frame = Framed(in, payload);
        const Outcome outcome = Run(frame, in.to == kIn0 ? "in0" : "out0");
        EXPECT_EQ(outcome.verdict, kNotOurs);
        EXPECT_EQ(outcome.exits, Exits{});
        EXPECT_EQ(outcome.frame, frame);
      }
    }
  }
}

TEST_P(PacketStreamTest, B14_IpOptionsStay) {
  if (v6()) GTEST_SKIP() << "has none";
  for (const size_t size : {4U, 8U, 40U}) {
    Conn conn = NewConn(false);
    Segment syn = conn.Syn();
    syn.ip_options = Bytes(size, 1);
    const Outcome outcome = Run(syn);
    ASSERT_EQ(outcome.verdict, kSent);
    conn.source = Parse("198.18.2.1");
    conn.backend = BackendAddress(1, false);
    conn.source_port =
        static_cast<uint16_t>(Get16(outcome.frame, 14 + 20 + size));
    conn.shift = Get32(outcome.frame, 14 + 20 + size + 4) - conn.isn;
    ExpectFrame(outcome.frame, conn.ToBackend(syn, 0));
    ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
    Segment ack = conn.FromClient(kAck, 0, 0);
    ack.ip_options = Bytes(size, 1);
    ack.options = OptionsOf(40);
    ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  }
}

TEST_P(PacketStreamTest, EthernetPaddingIsNoData) {
  for (const size_t size : {1U, 6U, 40U}) {
    const Conn conn = Answered(v6());
    Segment ack = conn.FromClient(kAck, 0, 0);
    ack.padding = Bytes(size, 0xee);
    ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
    ExpectHeaderAcked(conn);
    ExpectFromClient(conn, ack);
  }
}

TEST_P(PacketStreamTest, LengthsThatDoNotFitAreDropped) {
  const Conn conn = Established(v6());
  const Segment in = conn.FromClient(kAck, 0, 0, Text("0123456789"));
  const Bytes whole = Build(in);
  const size_t ip = v6() ? 40 : 20;
  const auto dropped = [&](const Bytes& frame) {
    const Outcome outcome = Run(frame, "in0");
    EXPECT_EQ(outcome.verdict, kDropped) << Hex(frame);
    EXPECT_EQ(outcome.exits, Once(HG_PACKET_MALFORMED));
  };
  for (size_t size = 14 + ip; size < whole.size(); ++size) {
    dropped(Bytes(whole.begin(), whole.begin() + static_cast<long>(size)));
  }
  for (uint8_t doff = 0; doff < 16; ++doff) {
    if (doff >= 5 && doff <= 7) continue;  // 10 bytes are 2 more words.
    Bytes frame = whole;
    frame[14 + ip + 12] = static_cast<uint8_t>(doff << 4);
    dropped(frame);
  }
  Bytes frame = whole;  // The IP packet ends within TCP's header.
  Set16(frame, v6() ? 18 : 16, v6() ? 19 : 39);
  dropped(frame);
}

TEST_P(PacketStreamTest, OtherProtocolsAndAddressesAreTheHosts) {
  const Conn conn = Established(v6());
  Segment other = conn.FromClient(kAck, 0, 0);
  other.destination = Parse(v6() ? "2001:db8::1" : "198.18.0.1");
  ExpectNotOurs(Build(other));
  Segment port = conn.FromClient(kAck, 0, 0);
  port.destination_port = 22;
  ExpectNotOurs(Build(port));
  Bytes udp = Build(conn.FromClient(kAck, 0, 0));
  udp[v6() ? 20 : 23] = 17;
  ExpectNotOurs(udp);
  Bytes tagged = Build(conn.FromClient(kAck, 0, 0));
  tagged.insert(tagged.begin() + 12, {0x81, 0x00, 0x00, 0x05});
  ExpectNotOurs(tagged);
}

}  // namespace
}  // namespace headgate::datapath
