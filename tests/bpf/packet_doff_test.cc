// Every length of TCP options, doff 20 to 60, in every kind of segment.
#include <functional>

#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

class PacketDoffTest : public PacketFamilyTest {
 protected:
  static void ForEverySize(size_t first, size_t last,
                           const std::function<void(size_t)>& check) {
    for (size_t size = first; size <= last; size += 4) {
      SCOPED_TRACE(absl::StrCat("doff ", 20 + size));
      check(size);
    }
  }
  // Of a SYN. What may have to be changed comes last.
  static Bytes EndingInMss(size_t size, uint32_t mss) {
    return size == 0 ? Bytes{} : Concat({Nops(size - 4), Mss(mss)});
  }
  static void ExpectMssOf(Segment in, Segment out, size_t size, uint32_t mss,
                          uint32_t wanted) {
    in.options = EndingInMss(size, mss);
    out.options = EndingInMss(size, wanted);
    ExpectSent(in, out);
  }
  static Segment WithOptions(Segment s, size_t size) {
    s.options = OptionsOf(size);
    return s;
  }
  // Its SACK edges are beyond the header.
  static void ExpectFromBackendWithOptions(const Conn& conn, Segment in,
                                           size_t size) {
    in.options = OptionsOf(size, conn.isn + conn.shift + conn.header() + 1000);
    Segment wanted = conn.ToClient(in, conn.header());
    wanted.options = OptionsOf(size, conn.isn + 1000);
    ExpectSent(in, wanted);
  }
  static void ExpectHeader(size_t size) {
    const Conn conn = Answered(v6());
    const Segment ack = WithOptions(conn.FromClient(kAck, 0, 0), size);
    ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  }
  // What the clone became goes a way of its own.
  static void ExpectHeaderAheadOf(const Conn& conn, const Segment& s) {
    const Exits before = Counted();
    const Outcome ahead = Run(s);
    EXPECT_EQ(ahead.verdict, kSent);
    EXPECT_EQ(ahead.mark, 0U);
    ExpectFrame(ahead.frame, conn.HeaderFor(s));
    const std::optional<Bytes> behind = Captured();
    ASSERT_TRUE(behind.has_value()) << "nothing left by out0";
    ExpectFrame(*behind, conn.ToBackend(s, conn.header()));
    EXPECT_EQ(Since(before), (Exits{{"header_ahead", 1}, {"forwarded", 1}}));
  }
};
INSTANTIATE_TEST_SUITE_P(Both, PacketDoffTest, ::testing::Bool(), FamilyName);

// ---- the handshake ----------------------------------------------------------

TEST_P(PacketDoffTest, B11_ASynAndItsAnswerPass) {
  const uint32_t most = v6() ? 1440 : 1460;
  ForEverySize(0, 40, [&](size_t size) {
    Conn conn = NewConn(v6());
    Open(&conn, conn.Syn(EndingInMss(size, most)));
    for (const uint32_t mss : {most, 9000U}) {
      ExpectMssOf(conn.Syn(), conn.ToBackend(conn.Syn(), 0), size, mss, most);
      ExpectMssOf(conn.SynAck(), conn.ToClient(conn.SynAck(), 0), size, mss,
                  most);
    }
  });
}

TEST_P(PacketDoffTest, DataOfASynAreDroppedOddLengthsToo) {
  ForEverySize(0, 40, [&](size_t size) {
    for (size_t payload = 1; payload <= 9; ++payload) {
      Conn conn = NewConn(v6());
      Open(&conn);
      Segment syn = conn.Syn(EndingInMss(size, 1400));
      const Segment wanted = conn.ToBackend(syn, 0);
      syn.payload = Bytes(payload, 0xa5);
      ExpectSent(syn, wanted);
    }
  });
}

TEST_P(PacketDoffTest, B2_AHeaderFollowsEveryUsualLengthOfOptions) {
  ForEverySize(0, 20, ExpectHeader);
}

TEST_P(PacketDoffTest, B3_AHeaderFollowsOptionsThatFillTheirSpace) {
  ForEverySize(24, 40, ExpectHeader);
}

TEST_P(PacketDoffTest, B6_TheHeaderGoesAheadOfDataThatCameFirst) {
  ForEverySize(0, 40, [&](size_t size) {
    for (const size_t payload : {1U, 2U, 27U, 28U, 52U, 1400U}) {
      const Conn conn = Answered(v6());
      ForgetCaptured();
      const Segment data = WithOptions(
          conn.FromClient(kAck | kPsh, 0, 0, Bytes(payload, 0x77)), size);
      for (int i = 0; i < 2; ++i) ExpectHeaderAheadOf(conn, data);  // One lost.
      ExpectFromBackend(conn, conn.FromBackend(kAck, 0, conn.header()));
      ExpectFromClient(conn, data);
    }
  });
}

// ---- data -------------------------------------------------------------------

TEST_P(PacketDoffTest, B2_DataPassBothWays) {
  const Conn conn = Established(v6());
  ForEverySize(0, 40, [&](size_t size) {
    for (const size_t payload : {1U, 2U, 3U, 700U, 1000U}) {
      ExpectFromClient(conn, WithOptions(conn.FromClient(kAck | kPsh, 10, 0,
                                                         Bytes(payload, 0x5a)),
                                         size));
      ExpectFromBackendWithOptions(
          conn, conn.FromBackend(kAck, 0, 600, Bytes(payload, 0xa5)), size);
    }
  });
}

// ---- ends -------------------------------------------------------------------

TEST_P(PacketDoffTest, B13_AFinBeforeAnyDataHasTheHeaderAheadOfIt) {
  ForEverySize(0, 40, [&](size_t size) {
    const Conn conn = Answered(v6());
    ForgetCaptured();
    ExpectHeaderAheadOf(conn,
                        WithOptions(conn.FromClient(kFin | kAck, 0, 0), size));
  });
}

TEST_P(PacketDoffTest, B13_FinsPassBothWays) {
  ForEverySize(0, 40, [&](size_t size) {
    const Conn conn = Established(v6());
    ExpectFromClient(conn,
                     WithOptions(conn.FromClient(kFin | kAck, 0, 0), size));
    ExpectFromBackendWithOptions(
        conn, conn.FromBackend(kFin | kAck, 0, conn.header() + 1), size);
    EXPECT_TRUE(IsLive(conn));
    ExpectFromClient(conn, WithOptions(conn.FromClient(kAck, 1, 1), size));
    EXPECT_FALSE(IsLive(conn));
  });
}

TEST_P(PacketDoffTest, B13_RstsPassBothWays) {
  ForEverySize(0, 40, [&](size_t size) {
    for (const uint8_t flags : {uint8_t{kRst}, uint8_t{kRst | kAck}}) {
      const Conn by_client = Established(v6()), by_backend = Established(v6());
      ExpectEnds(by_client,
                 WithOptions(by_client.FromClient(flags, 0, 0), size));
      ExpectFromBackendWithOptions(
          by_backend, by_backend.FromBackend(flags, 0, by_backend.header()),
          size);
      EXPECT_FALSE(IsLive(by_backend));
    }
  });
}

// Ours have no options, and no data.
TEST_P(PacketDoffTest, B13_WhatIsRefusedIsReset) {
  const Conn conn = Established(v6());
  Conn stray = conn;
  ++stray.client_port;
  stray.source_port ^= 1;
  Serve({});
  ForEverySize(0, 40, [&](size_t size) {
    for (const size_t payload : {0U, 1U, 700U}) {
      const Bytes data(payload, 0x5a);
      ExpectReset(WithOptions(stray.FromClient(kAck, 5, 7, data), size),
                  HG_PACKET_NO_FLOW);
      ExpectReset(WithOptions(stray.FromBackend(kAck, 5, 7, data), size),
                  HG_PACKET_NO_FLOW);
      Segment syn = NewConn(v6()).Syn(EndingInMss(size, 1400));
      syn.payload = data;
      ExpectReset(syn, HG_PACKET_NO_BACKEND);
    }
  });
}

}  // namespace
}  // namespace headgate::datapath
