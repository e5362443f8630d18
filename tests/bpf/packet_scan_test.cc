// Many clients at once: a scan, which has to leave the others alone, and as
// many connections to one backend as source ports allow.
#include <map>
#include <random>
#include <set>
#include <tuple>

#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

class PacketScanTest : public PacketProgramTest {
 protected:
  static void SetUpTestSuite() {
    PacketProgramTest::SetUpTestSuite();
    ASSERT_TRUE(Shell("ip link set in0 mtu 1500 && ip link set out0 mtu 1500"));
  }
  void TearDown() override {
    PacketProgramTest::TearDown();
    OpenTable(4096);
  }
  static bool IsSyn(const Conn& conn, const Bytes& frame) {
    return frame == Build(conn.ToBackend(conn.Syn(), 0));
  }
  static bool Passes(const Segment& in, const Segment& out,
                     const char* interface) {
    const Outcome outcome = RunOnce(Build(in), interface);
    return outcome.verdict == kSent && outcome.frame == Build(out);
  }
  static bool GoesOn(const Conn& conn) {
    const Segment data = conn.FromClient(kAck | kPsh, 0, 0, Text("NOOP\r\n"));
    const Segment answer = conn.FromBackend(kAck, 0, 34, Text("250 Ok\r\n"));
    return Passes(data, conn.ToBackend(data, 28), "in0") &&
           Passes(answer, conn.ToClient(answer, 28), "out0");
  }
  // No two live flows look the same to a backend.
  static void ExpectLegsOfTheirOwn() {
    std::set<std::tuple<uint32_t, PacketAddress, uint16_t>> legs;
    const std::vector<PacketPath::Flow> flows = packet().Flows();
    for (const PacketPath::Flow& flow : flows) {
      legs.insert({flow.state.backend, flow.source, flow.state.source_port});
    }
    EXPECT_EQ(legs.size(), flows.size());
  }
};

// What becomes of each probe: answered and reset, answered and forgotten,
// refused by the backend, or nothing.
TEST_F(PacketScanTest, AScanIsCarriedOrCountedAndNobodyElseNotices) {
  constexpr uint32_t kFlows = 4096, kHeld = 16, kProbes = 1000000;
  OpenTable(kFlows);
  Configure();
  std::vector<Conn> held;
  for (uint32_t i = 0; i < kHeld; ++i) held.push_back(Established(false));
  std::mt19937 random(kProbes);
  uint64_t carried = 0, refused = 0;
  int mixed = 0, stopped = 0;
  const Exits before = Counted();
  for (uint32_t i = 0; i < kProbes; ++i) {
    Conn conn = Client(i);
    conn.isn = static_cast<uint32_t>(random());
    const Outcome syn = RunOnce(Build(conn.Syn()), "in0");
    if (syn.verdict != kSent) {
      ++refused;
      continue;
    }
    ++carried;
    LearnLeg(syn.frame, &conn);
    mixed += IsSyn(conn, syn.frame) ? 0 : 1;
    const Segment rst = conn.FromClient(kRst, 0, 0);
    const Segment refusal = conn.FromBackend(kRst | kAck, -1, 0);
    const auto fate = random() % 16;
    if (fate < 12) {
      mixed += Passes(conn.SynAck(), conn.ToClient(conn.SynAck(), 0), "out0")
                   ? 0
                   : 1;
    }
    if (fate < 8) mixed += Passes(rst, conn.OwnReset(rst, 0), "in0") ? 0 : 1;
    if (fate == 12 || fate == 13) {
      mixed += Passes(refusal, conn.ToClient(refusal, 0), "out0") ? 0 : 1;
    }
    if (i % 64 == 0) stopped += GoesOn(held[i / 64 % kHeld]) ? 0 : 1;
    if (i % kFlows == 0) ExpectLegsOfTheirOwn();
  }
  EXPECT_EQ(mixed, 0);
  EXPECT_EQ(stopped, 0) << "an established connection was disturbed";
  Exits exits = Since(before);
  EXPECT_EQ(exits["flow_table_full"] + exits["no_source_port"], refused);
  EXPECT_EQ(exits["failed"] + exits["malformed"] + exits["no_flow"], 0U);
  EXPECT_GE(carried, kFlows - kHeld);
  EXPECT_LE(packet().Flows().size(), kFlows);
  for (const Conn& conn : held) EXPECT_TRUE(GoesOn(conn));
  std::cout << kProbes << " SYNs: " << carried << " carried, " << refused
            << " refused, " << ::testing::PrintToString(exits) << "\n";
}

TEST_F(PacketScanTest, B17_SixtyThousandConnectionsToOneBackend) {
  constexpr uint32_t kConnections = 60000, kSources = 4;
  OpenTable(65536);
  PacketPath::Setup setup = DefaultSetup();
  setup.sources.clear();
  for (uint32_t i = 1; i <= kSources; ++i) {
    setup.sources.push_back(Parse(absl::StrCat("198.18.3.", i)));
  }
  setup.first_port = 20000;
  setup.last_port = 39999;
  Configure(setup);
  std::vector<Conn> conns;
  std::set<std::pair<PacketAddress, uint16_t>> legs;
  std::map<PacketAddress, uint32_t> by_source;
  const Exits before = Counted();
  for (uint32_t i = 0; i < kConnections; ++i) {
    Conn conn = Client(i);
    conn.isn = i * 77777;
    const Outcome syn = RunOnce(Build(conn.Syn()), "in0");
    ASSERT_EQ(syn.verdict, kSent)
        << i << ::testing::PrintToString(Since(before));
    LearnLeg(syn.frame, &conn);
    ASSERT_EQ(conn.backend, BackendAddress(1, false));
    ASSERT_TRUE(legs.insert({conn.source, conn.source_port}).second) << i;
    ++by_source[conn.source];
    conns.push_back(conn);
  }
  ASSERT_EQ(by_source.size(), kSources);
  for (const auto& [source, count] : by_source) {
    EXPECT_NEAR(count, kConnections / kSources, kConnections / kSources / 20);
  }
  // All at once, each is its own client's.
  int mixed = 0;
  for (const Conn& conn : conns) {
    const Segment ack = conn.FromClient(kAck, 0, 0);
    mixed += Passes(conn.SynAck(), conn.ToClient(conn.SynAck(), 0), "out0") &&
                     Passes(ack, conn.HeaderFor(ack), "in0")
                 ? 0
                 : 1;
  }
  EXPECT_EQ(mixed, 0);
  EXPECT_EQ(Read(datapath_->service_stats(kService4).connections_active),
            kConnections);
}

}  // namespace
}  // namespace headgate::datapath
