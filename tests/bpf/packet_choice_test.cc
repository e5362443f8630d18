// Whom a SYN goes to: the backend that selection gives its client, as it does
// to userspace's connections.
#include "balance/maglev.h"
#include "packet_fixture.h"
#include "select_fixture.h"

namespace headgate::datapath {
namespace {

class PacketChoiceTest : public PacketFamilyTest {
 protected:
  static constexpr uint32_t kTable = 7;

  void TearDown() override {
    PacketFamilyTest::TearDown();
    ASSERT_TRUE(datapath_->EraseTable(kTable).ok());
    for (const uint32_t n : {1U, 2U}) Clear(stats(n));
  }
  static uint32_t service() { return v6() ? kService6 : kService4; }
  static hg_backend_stats& stats(uint32_t n) {
    return datapath_->backend_stats(BackendId(service(), n));
  }
  static hg_backend Backend(uint32_t n, uint32_t weight = 1) {
    hg_backend backend = BackendOf(service(), n);
    backend.weight = weight;
    return backend;
  }
  static void Put(uint32_t n, const hg_backend& backend) {
    PacketFamilyTest::Put(service(), n, backend);
  }
  // Two backends: least_connections compares all.
  static void ServeBy(hg_balance balance, uint32_t weight, uint32_t other) {
    hg_service value = ServiceOf(service(), {1, 2});
    value.balance = balance;
    value.table = kTable;
    Put(1, Backend(1, weight));
    Put(2, Backend(2, other));
    const auto table = balance::BuildTable({{"one", weight}, {"two", other}});
    ASSERT_TRUE(datapath_->PutTable(kTable, table).ok());
    ASSERT_TRUE(datapath_->PutService(service(), value).ok());
  }
  // Of a network and a port of its own.
  static Conn ClientOf(uint32_t number) {
    Conn conn = NewConn(v6());
    conn.client = Parse(v6() ? absl::StrCat("2001:db8:8000:", number, "::a")
                             : absl::StrCat("198.19.0.", number));
    conn.client_port = static_cast<uint16_t>(20000 + number);
    return conn;
  }
  // By userspace's program, which leaves the next one's turn as it was.
  static uint32_t Selected(const Conn& conn) {
    hg_select request{};
    request.service = service();
    std::copy(conn.client.begin(), conn.client.end(), request.client);
    request.client_port = conn.client_port;
    const uint64_t cursor = datapath_->service_stats(service()).cursor;
    EXPECT_TRUE(datapath_->Select(&request).ok());
    datapath_->service_stats(service()).cursor = cursor;
    return request.backend - BackendId(service(), 0);
  }
  static uint32_t TakenBy(const Conn& conn) {
    return conn.backend == BackendAddress(1, v6()) ? 1 : 2;
  }
  // Where its SYN goes.
  static uint32_t Chosen(Conn conn) {
    Open(&conn);
    return TakenBy(conn);
  }
  static Counts CountChosen(uint32_t clients) {
    Counts counts;
    for (uint32_t i = 0; i < clients; ++i) ++counts[Chosen(ClientOf(i))];
    packet().KillIf([](const hg_flow&) { return true; });
    return counts;
  }
  static void End(const Conn& conn) {
    ExpectEnds(conn, conn.FromClient(kRst, 0, 0));
  }
};

INSTANTIATE_TEST_SUITE_P(Both, PacketChoiceTest, ::testing::Bool(), FamilyName);

TEST_P(PacketChoiceTest, IsWhomUserspaceWouldTake) {
  for (const hg_balance balance : kBalances) {
    SCOPED_TRACE(BalanceName({balance, 0}));
    ServeBy(balance, 1, 3);
    hg_backend limited = Backend(1);
    limited.max_connections = 3;
    Put(1, limited);
    stats(2).connections_active = 4;
    Counts counts;
    for (uint32_t i = 0; i < 200; ++i) {
      // Less busy for its weight, busier, full.
      stats(1).connections_active = i % 4;
      const Conn client = ClientOf(i);
      const uint32_t selected = Selected(client);
      EXPECT_EQ(Chosen(client), selected) << i;
      ++counts[selected];
    }
    EXPECT_GT(counts[1], 20);
    EXPECT_GT(counts[2], 20);
    packet().KillIf([](const hg_flow&) { return true; });
  }
}

TEST_P(PacketChoiceTest, ABackupGetsWhatNobodyElseIsUpFor) {
  for (const hg_balance balance : kBalances) {
    SCOPED_TRACE(BalanceName({balance, 0}));
    ServeBy(balance, 1, 1);
    hg_backend down = Backend(1), backup = Backend(2);
    down.health = HG_HEALTH_DOWN;
    backup.backup = 1;
    Put(2, backup);
    EXPECT_EQ(CountChosen(20), (Counts{{1, 20}}));
    Put(1, down);
    EXPECT_EQ(CountChosen(20), (Counts{{2, 20}}));
    Put(1, Backend(1));
    EXPECT_EQ(CountChosen(20), (Counts{{1, 20}}));
  }
}

TEST_P(PacketChoiceTest, SharesAreTheWeights) {
  ServeBy(HG_BALANCE_ROUND_ROBIN, 1, 3);
  EXPECT_EQ(CountChosen(200), (Counts{{1, 50}, {2, 150}}));
  for (const hg_balance balance : {HG_BALANCE_MAGLEV, HG_BALANCE_SOURCE}) {
    SCOPED_TRACE(BalanceName({balance, 0}));
    ServeBy(balance, 1, 3);
    // 4 standard deviations; the clients are always the same.
    EXPECT_NEAR(CountChosen(200)[1], 50, 24);
  }
}

// Whether another may do better is asked, and nobody's turn is taken by that:
// else all would go to the one that refuses, whenever there are two.
TEST_P(PacketChoiceTest, OneThatRefusesGetsItsShareOnly) {
  ServeBy(HG_BALANCE_ROUND_ROBIN, 1, 1);
  Counts counts;
  for (uint32_t i = 0; i < 20; ++i) {
    Conn conn = ClientOf(i);
    Open(&conn);
    ++counts[TakenBy(conn)];
    if (TakenBy(conn) == 2) continue;
    ExpectDropped(conn.FromBackend(kRst | kAck, -1, 0), HG_PACKET_REFUSED);
  }
  EXPECT_EQ(counts, (Counts{{1, 10}, {2, 10}}));
}

TEST_P(PacketChoiceTest, LeastConnectionsFollowsWhatIsOpen) {
  ServeBy(HG_BALANCE_LEAST_CONNECTIONS, 1, 3);
  std::vector<Conn> open;
  Counts counts;
  for (int i = 0; i < 40; ++i) {
    open.push_back(Greeted(v6()));
    ++counts[TakenBy(open.back())];
  }
  EXPECT_EQ(counts, (Counts{{1, 10}, {2, 30}}));
  // Each makes room where it was.
  for (const Conn& conn : open) {
    End(conn);
    EXPECT_EQ(TakenBy(Greeted(v6())), TakenBy(conn));
  }
}

}  // namespace
}  // namespace headgate::datapath
