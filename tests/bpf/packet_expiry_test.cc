// When flows are over that nobody ends, and for how long closed ones stay.
#include "datapath/coarse_clock.h"
#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

class PacketExpiryTest : public PacketFamilyTest {
 protected:
  static constexpr uint32_t kIdle = 100;  // Seconds that services allow.

  void SetUp() override {
    PacketFamilyTest::SetUp();
    OpenTable(4096);
    Configure();
  }

  // As if it had been closed, and last seen, so many seconds ago.
  static void Age(const Conn& conn, uint32_t closed, uint32_t seen) {
    const uint32_t now = NowSeconds();
    Change(conn, [&](hg_flow& flow) {
      flow.since = uint64_t{now - closed} * 1000000000;
      flow.last_seen = now - seen;
    });
  }
  static void Age(const Conn& conn, uint32_t seen) { Age(conn, seen, seen); }
  // The whole table, in more calls than it takes.
  static void Sweep(uint32_t idle = kIdle) {
    for (int i = 0; i < 20; ++i) packet().Sweep([&](uint32_t) { return idle; });
  }
  static void ExpectOverAfter(const Conn& conn, uint32_t seconds,
                              uint32_t idle = kIdle) {
    Age(conn, seconds - 10);
    Sweep(idle);
    EXPECT_TRUE(IsLive(conn)) << "too early";
    Age(conn, seconds + 1);
    Sweep(idle);
    EXPECT_FALSE(IsLive(conn));
    ExpectReset(conn.FromBackend(kAck, 0, 0), HG_PACKET_NO_FLOW);
  }
  static uint64_t Active() {
    return Read(datapath_->service_stats(v6() ? kService6 : kService4)
                    .connections_active);
  }
  // The next frame to the backend is a RST at `seq` of its connection.
  static void ExpectBackendIsReset(const Conn& conn, uint32_t seq) {
    const std::optional<Bytes> frame = Captured();
    ASSERT_TRUE(frame.has_value());
    const size_t tcp = TcpAt(conn.v6);
    EXPECT_EQ(Get16(*frame, tcp), conn.source_port);
    EXPECT_EQ(Get16(*frame, tcp + 2), conn.backend_port);
    EXPECT_EQ(Get32(*frame, tcp + 4), seq);
    EXPECT_EQ((*frame)[tcp + 13], kRst | kAck);
  }
};

INSTANTIATE_TEST_SUITE_P(Both, PacketExpiryTest, ::testing::Bool(), FamilyName);

TEST_P(PacketExpiryTest, AHandshakeThatDoesNotEndIsForgotten) {
  Conn conn = NewConn(v6());
  Open(&conn);
  ExpectOverAfter(conn, 20);
  ExpectOverAfter(Answered(v6()), 20);
  EXPECT_EQ(Active(), 0U);
}

// Who was never there does not answer the backend, which asks for a minute.
TEST_P(PacketExpiryTest, AHandshakeLivesByWhatItsClientSends) {
  const Conn silent = Answered(v6()), waiting = Answered(v6());
  Age(silent, 21);
  ExpectSent(silent.SynAck(), silent.ToClient(silent.SynAck(), 0));
  Age(waiting, 21);
  ExpectSent(waiting.Syn(), waiting.ToBackend(waiting.Syn(), 0));
  Sweep();
  EXPECT_FALSE(IsLive(silent));
  EXPECT_TRUE(IsLive(waiting));
}

// The backend never answers what ends the handshake.
TEST_P(PacketExpiryTest, AConnectionThatTheBackendDoesNotKnowIsForgotten) {
  const Conn conn = Greeted(v6());
  EXPECT_EQ(Active(), 1U);
  ExpectOverAfter(conn, 20, 86400);
  EXPECT_EQ(Active(), 0U);
}

// Which may have forgotten it long ago, and resets whatever comes.
TEST_P(PacketExpiryTest, ItsBackendKeepsAConnectionAndNotItsClient) {
  const Conn conn = Established(v6());
  Age(conn, kIdle + 2);
  ExpectFromBackend(conn, conn.FromBackend(kAck, 0, conn.header()));
  Sweep();
  EXPECT_TRUE(IsLive(conn));
  Age(conn, kIdle + 2);
  ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Text("x")));
  const Segment rst = conn.FromBackend(kRst, 5, 0);
  ExpectSent(rst, conn.ToClient(rst, 0));
  Sweep();
  EXPECT_FALSE(IsLive(conn));
}

TEST_P(PacketExpiryTest, AnIdleConnectionIsResetAtItsTime) {
  const Conn conn = Established(v6());
  ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Text("EHLO\r\n")));
  ExpectFromBackend(conn, conn.FromBackend(kAck, 0, conn.header() + 4));
  EXPECT_EQ(Active(), 1U);
  ForgetCaptured();
  ExpectOverAfter(conn, kIdle);
  EXPECT_EQ(Active(), 0U);
  // Of what is behind that, it may have nothing.
  ExpectBackendIsReset(conn, conn.isn + conn.shift + 1 + conn.header() + 4);
}

// Seen in the second before this one may be a moment ago.
TEST_P(PacketExpiryTest, AnIdleTimeOfASecondIsAWholeOne) {
  while (true) {
    const Conn conn = Established(v6());
    const uint32_t now = NowSeconds();
    Age(conn, 1);
    Sweep(1);
    if (NowSeconds() != now) continue;
    EXPECT_TRUE(IsLive(conn));
    Age(conn, 2);
    Sweep(1);
    EXPECT_FALSE(IsLive(conn));
    return;
  }
}

TEST_P(PacketExpiryTest, WhatIsSaidKeepsAConnection) {
  const Conn conn = Established(v6());
  for (const Segment& probe :
       {conn.FromClient(kAck, -1, 0), conn.FromBackend(kAck, -1, 28)}) {
    Age(conn, kIdle);
    Run(probe);
    Sweep();
    EXPECT_TRUE(IsLive(conn));
  }
}

// A service's idle time may be a day; the rest of a connection is no such.
TEST_P(PacketExpiryTest, AHalfClosedConnectionIsOverInAnHourAtMost) {
  constexpr uint32_t kDay = 86400, kHour = 3600;
  const Conn by_client = Established(v6());
  ExpectFromClient(by_client, by_client.FromClient(kFin | kAck, 0, 0));
  ExpectOverAfter(by_client, kHour, kDay);
  const Conn by_backend = Established(v6());
  ExpectFromBackend(
      by_backend, by_backend.FromBackend(kFin | kAck, 0, by_backend.header()));
  ExpectOverAfter(by_backend, kHour, kDay);
  const Conn sooner = Established(v6());
  ExpectFromClient(sooner, sooner.FromClient(kFin | kAck, 0, 0));
  ExpectOverAfter(sooner, kIdle);
  const Conn open = Established(v6());
  Age(open, kDay - 10);
  Sweep(kDay);
  EXPECT_TRUE(IsLive(open));
}

// For TIME_WAIT, that is; and one that an end goes on with holds nobody up.
TEST_P(PacketExpiryTest, AClosedFlowStaysForAMinuteAfterItsLastSegment) {
  const Conn lively = Established(v6()), later = Established(v6()),
             fresh = Established(v6());
  for (const Conn& conn : {lively, later, fresh}) {
    CloseInOrder(conn);
  }
  Age(lively, 100, -1U);  // In the second after the sweep read the clock.
  Age(later, 90, 90);
  Sweep();
  ExpectReset(later.FromClient(kAck, 0, 0), HG_PACKET_NO_FLOW);
  for (const Conn& conn : {lively, fresh}) {
    ExpectFromClient(conn, conn.FromClient(kAck, 1, 1));
  }
  // In its turn again, behind the others.
  Age(fresh, 70, 70);
  Sweep();
  ExpectReset(fresh.FromClient(kAck, 1, 0), HG_PACKET_NO_FLOW);
  Age(lively, 61, 61);
  Sweep();
  ExpectReset(lively.FromClient(kAck, 1, 0), HG_PACKET_NO_FLOW);
}

// No daemon may be there to free what has a port.
TEST_P(PacketExpiryTest, APortIsGivenBackWithoutASweep) {
  PacketPath::Setup setup = DefaultSetup();
  setup.first_port = setup.last_port = 30000;
  Configure(setup);
  const auto expect_kept = [] {
    ExpectDropped(NewConn(v6()).Syn(), HG_PACKET_NO_PORT);
  };
  Conn closed = Established(v6());
  Age(closed, 0, 1000);
  expect_kept();  // Idle is not over.
  CloseInOrder(closed);
  expect_kept();
  Age(closed, 55);
  expect_kept();
  Age(closed, 1000, 0);  // An end has not believed it.
  expect_kept();
  Age(closed, 61);
  Conn next = Established(v6());
  EXPECT_EQ(next.source_port, 30000);
  ExpectReset(closed.FromClient(kAck, 1, 1), HG_PACKET_NO_FLOW);
  EXPECT_EQ(Active(), 1U);
  CloseInOrder(next);
  Age(next, 61);
  const Conn silent = Opened(v6());
  Age(silent, 15);
  expect_kept();
  Age(silent, 21);
  const Conn answered = Answered(v6());
  Age(answered, 15);
  expect_kept();
  Age(answered, 21);
  const Conn last = Established(v6());
  EXPECT_EQ(Active(), 1U);
  Age(last, 1000, 0);
  Sweep(86400);
  EXPECT_TRUE(IsLive(last));
  ExpectFromClient(last, last.FromClient(kAck, 0, 0, Text("x")));
}

// Each that gave its port back was in the queue of the closed as well.
TEST_P(PacketExpiryTest, NumbersOfPortsGivenBackAreUsedOnceEach) {
  constexpr uint32_t kFlows = 8;
  OpenTable(kFlows);
  PacketPath::Setup setup = DefaultSetup();
  setup.first_port = setup.last_port = 30000;
  Configure(setup);
  for (uint32_t i = 0; i < 3 * kFlows; ++i) {
    const Conn conn = Established(v6());
    CloseInOrder(conn);
    Age(conn, 61);
    if (i == kFlows) Sweep();
  }
  setup.last_port = 39999;
  Configure(setup);
  std::vector<Conn> conns;
  for (uint32_t i = 0; i < kFlows; ++i) conns.push_back(Established(v6()));
  ExpectDropped(NewConn(v6()).Syn(), HG_PACKET_TABLE_FULL);
  for (const Conn& conn : conns) {
    ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Text("x")));
  }
  OpenTable(4096);
}

// Those behind it in the queue were closed before it was, the second time.
TEST_P(PacketExpiryTest, AFlowThatIsClosedAgainHoldsNobodyUp) {
  Conn again = Established(v6());
  const Conn other = Established(v6());
  CloseInOrder(again);
  CloseInOrder(other);
  again.isn += 1000000;
  Open(&again);
  ExpectSent(again.SynAck(), again.ToClient(again.SynAck(), 0));
  const Segment ack = again.FromClient(kAck, 0, 0);
  ExpectSent(ack, again.HeaderFor(ack), HG_PACKET_HEADER);
  ExpectHeaderAcked(again);
  CloseInOrder(again);
  Age(other, 61);
  Sweep();
  ExpectReset(other.FromClient(kAck, 1, 1), HG_PACKET_NO_FLOW);
  ExpectFromClient(again, again.FromClient(kAck, 1, 1));
  Age(again, 61);
  Sweep();
  ExpectReset(again.FromClient(kAck, 1, 1), HG_PACKET_NO_FLOW);
}

}  // namespace
}  // namespace headgate::datapath
