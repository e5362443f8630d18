// The flow table: who gets a place in it, and what never mixes.
#include <set>

#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

class PacketTableTest : public PacketProgramTest {
 protected:
  void TearDown() override {
    PacketProgramTest::TearDown();
    OpenTable(4096);
  }
  static void OpenSmallTable(uint32_t flows) {
    OpenTable(flows);
    Configure();
  }
  // So many that were closed in turn fill the table.
  static std::vector<Conn> FillWithClosed(uint32_t flows) {
    OpenSmallTable(flows);
    std::vector<Conn> conns;
    for (uint32_t i = 0; i < flows; ++i) conns.push_back(Established(false));
    for (const Conn& conn : conns) CloseInOrder(conn);
    return conns;
  }
  // As when a daemon comes after one that was killed.
  static void AdoptTable() {
    datapath_->LeavePacket();
    datapath_.reset();
    auto opened = Datapath::Open({kPins, 1, 1024, true});
    ASSERT_TRUE(opened.ok()) << opened.status();
    datapath_ = *std::move(opened);
    OpenTable(4096);
  }
  static void SetFlowFormat(uint32_t format) {
    const int configs = Pinned("packet_config");
    const uint32_t zero = 0;
    hg_packet_config config{};
    ASSERT_EQ(bpf_map_lookup_elem(configs, &zero, &config), 0);
    config.flow_format = format;
    ASSERT_EQ(bpf_map_update_elem(configs, &zero, &config, BPF_ANY), 0);
    close(configs);
  }
  static void Close(const Conn& conn) {
    const Segment rst = conn.FromClient(kRst, 0, 0);
    ExpectSent(rst, conn.OwnReset(rst, conn.header()));
  }
  static void Establish(Conn* conn) {
    Open(conn);
    ExpectSent(conn->SynAck(), conn->ToClient(conn->SynAck(), 0));
    const Segment ack = conn->FromClient(kAck, 0, 0);
    ExpectSent(ack, conn->HeaderFor(ack), HG_PACKET_HEADER);
    ExpectHeaderAcked(*conn);
  }
  // Its client's next connection, from the same port.
  static void EstablishAgain(Conn* conn) {
    conn->isn += 1000000;
    conn->server_isn += 2000000;
    Establish(conn);
  }
  static size_t KeyEntries() {
    const int configs = Pinned("packet_config"), keys = Pinned("packet_keys");
    const uint32_t zero = 0;
    hg_packet_config config{};
    EXPECT_EQ(bpf_map_lookup_elem(configs, &zero, &config), 0);
    size_t count = 0;
    for (uint32_t i = 0; i < config.buckets; ++i) {
      hg_key_bucket bucket{};
      EXPECT_EQ(bpf_map_lookup_elem(keys, &i, &bucket), 0);
      if (config.buckets <= 2) {
        EXPECT_EQ(bucket.spilled, 0U);  // So few.
      }
      count += HG_BUCKET_ENTRIES -
               static_cast<size_t>(std::count(std::begin(bucket.entries),
                                              std::end(bucket.entries), 0U));
    }
    close(configs);
    close(keys);
    return count;
  }
  // Two clients of each family, to its services, of which one has two
  // addresses. All from one port, which they would keep as a source port.
  static std::vector<Conn> ConnsOfOnePort() {
    std::vector<Conn> conns;
    for (const bool v6 : {false, true}) {
      Conn conn = NewConn(v6);
      conn.client_port = kFirstPort;
      const auto other = Parse(v6 ? "2001:db8:8000::1" : "198.19.0.1");
      for (const PacketAddress& client : {conn.client, other}) {
        conn.client = client;
        for (const PacketPath::Listener& at : DefaultSetup().listeners) {
          if (IsOfV6(at.value.service) != v6) continue;
          conn.vip = at.address;
          conn.vip_port = at.port;
          conn.isn += 0x10101;
          conn.server_isn += 0x20202;
          conns.push_back(conn);
        }
      }
    }
    return conns;
  }
  // A byte each, after so many.
  static void ExpectToTalk(const Conn& conn, uint32_t said) {
    ExpectFromBackend(
        conn, conn.FromBackend(kAck, said, conn.header() + said, Text("b")));
    ExpectFromClient(conn, conn.FromClient(kAck, said, said + 1, Text("a")));
  }
};

TEST_F(PacketTableTest, AFullTableRefusesAndCounts) {
  OpenSmallTable(3);
  const Conn first = Established(false), second = Established(true),
             third = Established(false);
  for (int i = 0; i < 5; ++i) {
    ExpectDropped(NewConn(i % 2 == 0).Syn(), HG_PACKET_TABLE_FULL);
  }
  // Those that have a place are not touched.
  for (const Conn& conn : {first, second, third}) {
    ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Text("x")));
  }
}

TEST_F(PacketTableTest, OnlyServicesThatAreKeptTakeNewConnections) {
  Conn plain = NewConn(false);
  plain.vip_port = 26;
  packet().KeepListeners({kService4, kService6});
  ExpectNotOurs(Build(plain.Syn()));
  Established(false);
  Established(true);
}

TEST_F(PacketTableTest, InAFullTableTheOneClosedFirstGives) {
  OpenSmallTable(3);
  const Conn first = Established(false), second = Established(false),
             third = Established(false);
  CloseInOrder(second);
  CloseInOrder(first);
  const Conn fourth = Established(false);
  ExpectReset(second.FromClient(kAck, 0, 0), HG_PACKET_NO_FLOW);
  ExpectReset(second.FromBackend(kAck, 0, 28), HG_PACKET_NO_FLOW);
  ExpectFromClient(first, first.FromClient(kAck, 1, 0));
  ExpectFromClient(third, third.FromClient(kAck, 1, 0));
  const Conn fifth = Established(false);
  ExpectReset(first.FromClient(kAck, 0, 0), HG_PACKET_NO_FLOW);
  ExpectDropped(NewConn(false).Syn(), HG_PACKET_TABLE_FULL);
  for (const Conn& conn : {third, fourth, fifth}) {
    ExpectFromClient(conn, conn.FromClient(kAck, 1, 0));
    ExpectFromBackend(conn, conn.FromBackend(kAck, 1, 29));
  }
}

TEST_F(PacketTableTest, ASynThatGoesNowhereHoldsNoPlace) {
  OpenSmallTable(1);
  Segment syn = NewConn(false).Syn();
  syn.ttl = 1;
  ExpectTooFar(syn);
  ExpectDropped(NewConn(false).Syn(Concat({{19, 18}, Bytes(16, 9), Nops(2)})),
                HG_PACKET_SIGNED);
  Established(false);
}

TEST_F(PacketTableTest, B16_APortIsUsedAgainAtOnce) {
  for (const bool v6 : {false, true}) {
    const Conn old = Established(v6);
    CloseInOrder(old);
    Conn again = old;
    again.isn += 1000000;
    Open(&again);
    if (again.source_port != old.source_port) {
      ExpectReset(old.FromBackend(kFin | kAck, 0, old.header() + 1),
                  HG_PACKET_NO_FLOW);
    }
    ExpectSent(again.SynAck(), again.ToClient(again.SynAck(), 0));
    const Segment ack = again.FromClient(kAck, 0, 0);
    ExpectSent(ack, again.HeaderFor(ack), HG_PACKET_HEADER);
  }
}

// Where others were closed before it, they keep their places.
TEST_F(PacketTableTest, AClientThatComesAgainTakesNobodysPlace) {
  OpenSmallTable(3);
  const Conn open = Established(false), closed = Established(false);
  Conn again = Established(false);
  CloseInOrder(closed);
  for (int i = 0; i < 5; ++i) {
    CloseInOrder(again);
    EstablishAgain(&again);
    EXPECT_EQ(KeyEntries(), 6U);
  }
  ExpectFromClient(closed, closed.FromClient(kAck, 1, 1));
  ExpectFromClient(open, open.FromClient(kAck, 0, 0, Text("x")));
  ExpectFromClient(again, again.FromClient(kAck, 0, 0, Text("x")));
}

TEST_F(PacketTableTest, AFlowThatIsClosedAgainIsNotTheOneClosedFirst) {
  OpenSmallTable(2);
  Conn again = Established(false);
  const Conn other = Established(false);
  CloseInOrder(again);
  CloseInOrder(other);
  EstablishAgain(&again);
  CloseInOrder(again);
  Established(false);
  ExpectReset(other.FromClient(kAck, 1, 1), HG_PACKET_NO_FLOW);
  ExpectFromClient(again, again.FromClient(kAck, 1, 1));
  Established(false);
  ExpectReset(again.FromClient(kAck, 1, 1), HG_PACKET_NO_FLOW);
}

// More of them than are asked (RECYCLE_TRIES): then the turn does not matter.
TEST_F(PacketTableTest, AFullTableOfFlowsThatWereClosedAgainHasRoom) {
  constexpr uint32_t kFlows = 300;
  std::vector<Conn> conns = FillWithClosed(kFlows);
  for (Conn& conn : conns) {
    EstablishAgain(&conn);
    CloseInOrder(conn);
  }
  for (uint32_t i = 0; i < kFlows; ++i) Established(false);
  ExpectDropped(NewConn(false).Syn(), HG_PACKET_TABLE_FULL);
  EXPECT_EQ(KeyEntries(), 2 * kFlows);
}

TEST_F(PacketTableTest, B16_APortThatIsUsedAgainIsTheSameToTheBackend) {
  for (const bool v6 : {false, true}) {
    Conn again = NewConn(v6);
    again.client_port += kFirstPort;
    Establish(&again);
    const uint16_t port = again.source_port;
    EXPECT_EQ(port, again.client_port);
    for (int i = 0; i < 3; ++i) {
      CloseInOrder(again);
      EstablishAgain(&again);
      EXPECT_EQ(again.source_port, port);
    }
    CloseInOrder(again);
  }
}

// Of the sources and ports that there are: those of before may have gone.
TEST_F(PacketTableTest, B16_APortThatIsUsedAgainIsOneThatIsStillOurs) {
  Conn again = NewConn(false);
  again.client_port += kFirstPort;
  Establish(&again);
  EXPECT_EQ(again.source_port, again.client_port);
  PacketPath::Setup setup = DefaultSetup();
  setup.sources = {Parse("198.18.3.77"), Parse("2001:db8:3::77")};
  const auto open_again = [&] {
    Configure(setup);
    again.isn += 1000000;
    const Outcome outcome = Run(again.Syn());
    ASSERT_EQ(outcome.verdict, kSent);
    LearnLeg(outcome.frame, &again);
  };
  CloseInOrder(again);
  open_again();
  EXPECT_EQ(again.source, Parse("198.18.3.77"));
  EXPECT_EQ(again.source_port, again.client_port);
  setup.first_port = static_cast<uint16_t>(again.client_port + 1);
  open_again();
  EXPECT_EQ(again.source, Parse("198.18.3.77"));
  EXPECT_GT(again.source_port, again.client_port);
}

// They are at the queue's head, and open.
TEST_F(PacketTableTest, AFullTableWhoseFirstClosedCameAgainHasRoom) {
  constexpr uint32_t kFlows = 20;
  std::vector<Conn> conns = FillWithClosed(kFlows);
  for (uint32_t i = 0; i < kFlows / 2; ++i) EstablishAgain(&conns[i]);
  for (uint32_t i = 0; i < kFlows / 2; ++i) Established(false);
  ExpectDropped(NewConn(false).Syn(), HG_PACKET_TABLE_FULL);
  for (uint32_t i = 0; i < kFlows / 2; ++i) {
    ExpectFromClient(conns[i], conns[i].FromClient(kAck, 0, 0, Text("x")));
  }
}

// What is freed while it is in the queue is there once all the same.
TEST_F(PacketTableTest, AFlowThatCameAgainAndIsKilledGetsOnePlaceInTheQueue) {
  OpenSmallTable(2);
  const Conn open = Established(false);
  for (int i = 0; i < 10; ++i) {
    Conn again = Established(false);
    CloseInOrder(again);
    EstablishAgain(&again);
    for (const PacketPath::Flow& flow : packet().Flows()) {
      if (flow.state.client_port == again.client_port) {
        EXPECT_TRUE(packet().Kill(flow.number));
      }
    }
    const Conn next = Established(false);
    CloseInOrder(next);
    ExpectFromClient(
        open, open.FromClient(kAck, static_cast<uint32_t>(i), 0, Text("x")));
  }
}

// Nor is a port that it has tried in vain taken for its own.
TEST_F(PacketTableTest, B17_WhoFindsNoPortHasNoneTheNextTime) {
  PacketPath::Setup setup = DefaultSetup();
  setup.first_port = setup.last_port = 30000;
  Configure(setup);
  Conn again = NewConn(false);
  again.client_port = 30000;
  Establish(&again);
  CloseInOrder(again);
  Serve({2});
  const Conn other = Established(false);
  for (int i = 0; i < 3; ++i) {
    again.isn += 1000000;
    ExpectDropped(again.Syn(), HG_PACKET_NO_PORT);
  }
  ExpectFromBackend(other, other.FromBackend(kAck, 0, 28, Text("y")));
  Serve({1});
}

// Its old port is free by then, for everybody.
TEST_F(PacketTableTest, B17_WhoFindsNoPortTheNextTimeIsClosed) {
  OpenSmallTable(2);
  PacketPath::Setup setup = DefaultSetup();
  setup.first_port = setup.last_port = 30000;
  Configure(setup);
  Serve({1});
  Conn again = Established(false);
  CloseInOrder(again);
  Serve({2});
  const Conn other = Established(false);
  again.isn += 1000000;
  ExpectDropped(again.Syn(), HG_PACKET_NO_PORT);
  EXPECT_EQ(KeyEntries(), 3U);
  ExpectReset(again.FromClient(kAck, 0, 0), HG_PACKET_NO_FLOW);
  Serve({1});
  EstablishAgain(&again);
  ExpectFromClient(other, other.FromClient(kAck, 0, 0, Text("x")));
  EXPECT_EQ(KeyEntries(), 4U);
}

// It goes where new ones go: not to the old backend when that drains, nor when
// it is gone.
TEST_F(PacketTableTest, B16_APortThatIsUsedAgainIsNotTheOldBackends) {
  for (const bool v6 : {false, true}) {
    const uint32_t service = v6 ? kService6 : kService4;
    for (const bool gone : {false, true}) {
      Serve({1, 2});
      Conn again = Established(v6);
      const uint32_t had = again.backend == BackendAddress(1, v6) ? 1 : 2;
      CloseInOrder(again);
      if (gone) {
        Serve({3 - had});
      } else {
        hg_backend draining = BackendOf(service, had);
        draining.admin = HG_ADMIN_DRAIN;
        Put(service, had, draining);
      }
      again.isn += 1000000;
      Open(&again);
      EXPECT_EQ(again.backend, BackendAddress(3 - had, v6));
    }
  }
}

// The client has lost all memory of it: the backend's challenge makes it end
// the old connection, and its next SYN begins a new one (RFC 9293, 3.5.1).
TEST_F(PacketTableTest, B16_ASynIntoALiveConnectionIsTheBackendsToChallenge) {
  const Conn old = Established(false);
  Conn again = old;
  again.isn += 5000;
  ExpectSent(again.Syn(), old.ToBackend(again.Syn(), old.header()));
  const Segment challenge = old.FromBackend(kAck, 0, old.header());
  ExpectFromBackend(old, challenge);
  const Segment rst = old.FromClient(kRst, 0, 0);
  ExpectSent(rst, old.OwnReset(rst, old.header()));
  Open(&again);
}

// Nor is it taken for the header's acknowledgment, where that got lost.
TEST_F(PacketTableTest, B16_TheChallengeMayBeTheFirstToAcknowledgeTheHeader) {
  const Conn old = Greeted(false);
  Conn again = old;
  again.isn += 5000;
  ExpectSent(again.Syn(), old.ToBackend(again.Syn(), old.header()));
  ExpectFromBackend(old, old.FromBackend(kAck, 0, old.header()));
}

// Both ends have lost all memory of it: then the backend takes the SYN for a
// new connection, which would lack its header.
TEST_F(PacketTableTest, B16_ASynThatTheBackendTakesForANewOneBeginsAnew) {
  for (const bool v6 : {false, true}) {
    const Conn old = Established(v6);
    Conn again = old;
    again.isn += 5000;
    ExpectSent(again.Syn(), old.ToBackend(again.Syn(), old.header()));
    Conn shifted = again;
    shifted.isn += old.header();
    ExpectReset(shifted.SynAck(), HG_PACKET_EARLY);
    EXPECT_FALSE(IsLive(old));
    Open(&again);
    ExpectSent(again.SynAck(), again.ToClient(again.SynAck(), 0));
    const Segment ack = again.FromClient(kAck, 0, 0);
    ExpectSent(ack, again.HeaderFor(ack), HG_PACKET_HEADER);
  }
}

// The backend has forgotten it, and the client opens the same once more: that
// would lack its header, and the client could send one of its own.
TEST_F(PacketTableTest, NoSynOpensASecondConnectionWithoutHeader) {
  for (const bool v6 : {false, true}) {
    for (const bool begins_at_isn : {true, false}) {
      const Conn old = Established(v6);
      const uint32_t n = begins_at_isn ? 0 : old.header();
      Segment syn = old.Syn();
      syn.seq -= n;
      ExpectSent(syn, old.ToBackend(syn, n));
      ExpectReset(old.SynAck(), HG_PACKET_EARLY);
      EXPECT_TRUE(IsLive(old)) << "it was late";
      Conn again = old;
      again.server_isn += 5000;
      ExpectReset(again.SynAck(), HG_PACKET_EARLY);
      EXPECT_FALSE(IsLive(old));
    }
  }
}

TEST_F(PacketTableTest, ANewAttemptFromTheSamePortReplacesAnUnfinishedOne) {
  const Conn old = Answered(false);
  Conn again = old;
  again.isn += 5000;
  Open(&again);
  ExpectSent(again.SynAck(), again.ToClient(again.SynAck(), 0));
}

TEST_F(PacketTableTest, B19_TwoClientsOfOnePortThroughTwoServicesDoNotMix) {
  std::vector<Conn> conns = ConnsOfOnePort();
  ASSERT_EQ(conns.size(), 12U);
  std::set<std::pair<PacketAddress, uint16_t>> legs;
  for (Conn& conn : conns) {
    Open(&conn);
    EXPECT_TRUE(legs.insert({conn.source, conn.source_port}).second);
  }
  for (const Conn& conn : conns) {
    ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
  }
  for (const Conn& conn : conns) {
    const Segment ack = conn.FromClient(kAck, 0, 0);
    if (conn.header() == 0) {
      ExpectFromClient(conn, ack);
    } else {
      ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
    }
  }
  for (const Conn& conn : conns) ExpectToTalk(conn, 0);
  // Its end is no other's.
  const Conn last = conns.back();
  ExpectOwnResets(last, last.FromClient(kRst, 1, 0), 0, 1);
  conns.pop_back();
  for (const Conn& conn : conns) ExpectToTalk(conn, 1);
}

TEST_F(PacketTableTest, MaxConnectionsBoundsThem) {
  Configure(DefaultSetup(2));
  const Conn first = Established(false);
  Established(false);
  ExpectDropped(NewConn(false).Syn(), HG_PACKET_SERVICE_FULL);
  Established(true);  // Another service.
  Close(first);
  Established(false);
  ExpectDropped(NewConn(false).Syn(), HG_PACKET_SERVICE_FULL);
}

// As many as come at once: a handshake takes no place, so that a flood of them
// locks nobody out, and its last ACK waits for one, as in a full accept queue.
TEST_F(PacketTableTest, MaxConnectionsBoundsABurst) {
  Configure(DefaultSetup(2));
  std::vector<Conn> burst;
  for (int i = 0; i < 5; ++i) burst.push_back(Answered(false));
  const auto& stats = datapath_->service_stats(kService4);
  const auto finish = [](const Conn& conn) {
    const Segment ack = conn.FromClient(kAck, 0, 0);
    ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  };
  finish(burst[0]);
  finish(burst[1]);
  for (size_t i = 2; i < 5; ++i) {
    ExpectDropped(burst[i].FromClient(kAck, 0, 0), HG_PACKET_SERVICE_FULL);
    ExpectDropped(burst[i].FromClient(kAck, 0, 0, Text("EHLO")),
                  HG_PACKET_SERVICE_FULL);
    EXPECT_EQ(Read(stats.connections_active), 2U);
  }
  Close(burst[0]);
  finish(burst[3]);
  ExpectDropped(burst[2].FromClient(kAck, 0, 0), HG_PACKET_SERVICE_FULL);
  EXPECT_EQ(Read(stats.connections_active), 2U);
  EXPECT_EQ(Read(stats.connections_total), 3U);
}

// Selection passes over a backend that is full; of those that it has chosen
// before, the handshakes' ends wait for a place there.
TEST_F(PacketTableTest, MaxConnectionsOfABackendBoundABurst) {
  Serve({1}, 2);
  Configure(DefaultSetup());
  std::vector<Conn> burst;
  for (int i = 0; i < 4; ++i) burst.push_back(Answered(false));
  const auto finish = [](const Conn& conn) {
    const Segment ack = conn.FromClient(kAck, 0, 0);
    ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  };
  finish(burst[0]);
  finish(burst[1]);
  for (const Conn& late : {burst[2], burst[3]}) {
    ExpectDropped(late.FromClient(kAck, 0, 0), HG_PACKET_BACKEND_FULL);
    ExpectDropped(late.FromClient(kAck, 0, 0, Text("EHLO")),
                  HG_PACKET_BACKEND_FULL);
  }
  Close(burst[0]);
  finish(burst[3]);
  ExpectDropped(burst[2].FromClient(kAck, 0, 0), HG_PACKET_BACKEND_FULL);
  EXPECT_EQ(Read(datapath_->service_stats(kService4).connections_active), 2U);
  Serve({1});
}

TEST_F(PacketTableTest, B17_EveryPortIsUsedOnceAndThenRefused) {
  PacketPath::Setup setup = DefaultSetup();
  setup.first_port = 30000;
  setup.last_port = 30007;
  Configure(setup);
  std::set<uint16_t> ports;
  int refused = 0;
  for (int i = 0; i < 8 + 4; ++i) {
    Conn conn = NewConn(false);
    const Outcome outcome = Run(conn.Syn());
    if (outcome.verdict == kDropped) {
      EXPECT_EQ(outcome.exits, Once(HG_PACKET_NO_PORT));
      ++refused;
      continue;
    }
    Learn(outcome.frame, &conn);
    EXPECT_TRUE(ports.insert(conn.source_port).second) << conn.source_port;
  }
  // A search is at random, 64 times: it may miss the last ones.
  EXPECT_GE(ports.size(), 6U);
  EXPECT_EQ(ports.size() + static_cast<size_t>(refused), 12U);
  EXPECT_GE(*ports.begin(), 30000);
  EXPECT_LE(*ports.rbegin(), 30007);
}

TEST_F(PacketTableTest, B17_WhereNoPortIsFreeTheNextBackendIsAsked) {
  PacketPath::Setup setup = DefaultSetup();
  setup.first_port = 30000;
  setup.last_port = 30003;
  Configure(setup);
  const auto passed_over = [](uint32_t n) {
    return Read(
        datapath_->backend_stats(kService4 * 10 + n).connect_no_source_port);
  };
  const uint64_t first = passed_over(1), second = passed_over(2);
  const auto open = [](int count, uint32_t backend) {
    for (int i = 0; i < count; ++i) {
      Conn conn = NewConn(false);
      const Outcome outcome = Run(conn.Syn());
      ASSERT_EQ(outcome.verdict, kSent);
      EXPECT_EQ(outcome.exits, Once(HG_PACKET_FORWARDED));
      LearnLeg(outcome.frame, &conn);
      EXPECT_EQ(conn.backend, BackendAddress(backend, false));
    }
  };
  open(4, 1);
  ExpectDropped(NewConn(false).Syn(), HG_PACKET_NO_PORT);
  EXPECT_EQ(passed_over(1), first + 1);
  Serve({1, 2});
  open(4, 2);
  const uint64_t since = passed_over(1);
  EXPECT_GT(since, first + 1) << "it is chosen in turn";
  EXPECT_EQ(passed_over(2), second);
  ExpectDropped(NewConn(false).Syn(), HG_PACKET_NO_PORT);
  EXPECT_EQ(passed_over(1), since + 1);
  EXPECT_EQ(passed_over(2), second + 1);
}

// What answers could not find their way back to.
TEST_F(PacketTableTest, WithoutAllHooksNewConnectionsAreTheKernels) {
  const Conn live = Established(false), closed = Established(false);
  Close(closed);
  Conn unanswered = NewConn(false);
  Open(&unanswered);
  ASSERT_THAT(packet().Attach({"in0", "none0"}), ::testing::SizeIs(1));
  EXPECT_FALSE(packet().serves());
  for (const Conn& conn : {NewConn(false), closed, unanswered}) {
    ExpectNotOurs(Build(conn.Syn()));
  }
  Configure();
  ExpectNotOurs(Build(NewConn(false).Syn()));
  ExpectFromClient(live, live.FromClient(kAck, 0, 0, Text("x")));
  ASSERT_THAT(packet().Attach({"in0"}), ::testing::IsEmpty());
  EXPECT_TRUE(packet().serves());
  Established(false);
  ExpectFromClient(live, live.FromClient(kAck, 1, 0, Text("x")));
}

// Status says that the path takes nobody, and the listeners' sockets are there.
TEST_F(PacketTableTest, OfMoreListenersThanThereIsRoomForNoneIsServed) {
  ASSERT_THAT(packet().Attach({"in0", "none0"}), ::testing::SizeIs(1));
  PacketPath::Setup setup = DefaultSetup();
  while (setup.listeners.size() <= HG_MAX_PACKET_LISTENERS) {
    const auto port = static_cast<uint16_t>(1000 + setup.listeners.size());
    setup.listeners.push_back(
        {Parse("198.18.1.1"), port, {kService4, 28, 0, 0}});
  }
  Configure(setup);
  EXPECT_THAT(packet().Attach({"in0"}), ::testing::SizeIs(1));
  EXPECT_FALSE(packet().serves());
  ExpectNotOurs(Build(NewConn(false).Syn()));
  Configure();
  ASSERT_THAT(packet().Reattach(), ::testing::IsEmpty());
  EXPECT_TRUE(packet().serves());
  Established(false);
}

TEST_F(PacketTableTest, ARouteThatIsGoneIsCounted) {
  const Conn conn = Established(false);
  const Segment data = conn.FromClient(kAck, 0, 0, Text("x"));
  ASSERT_TRUE(Shell("sysctl -qw net.ipv4.conf.in0.forwarding=0"));
  ExpectDropped(data, HG_PACKET_NOT_FORWARDING);
  ASSERT_TRUE(Shell("sysctl -qw net.ipv4.conf.in0.forwarding=1"));
  ASSERT_TRUE(Shell("ip route add unreachable 198.18.2.11"));
  ExpectDropped(data, HG_PACKET_NO_ROUTE);
  ASSERT_TRUE(Shell("ip route del unreachable 198.18.2.11"));
  ExpectFromClient(conn, data);
}

// Their size does not tell what they mean; before there was a number, it was 0.
TEST_F(PacketTableTest, FlowsOfAnotherFormatAreNotAdopted) {
  for (const uint32_t format : {uint32_t{HG_FLOW_FORMAT}, 0U}) {
    const Conn conn = Established(false);
    SetFlowFormat(format);
    AdoptTable();
    EXPECT_EQ(IsLive(conn), format == HG_FLOW_FORMAT);
  }
}

}  // namespace
}  // namespace headgate::datapath
