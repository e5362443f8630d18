// Packets that need what the maps do not have are dropped, and counted as what
// failed.
#include <utility>

#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

class PacketFailedTest : public PacketFamilyTest {
 protected:
  // While the flow has this in place of what it had. It goes on behind that.
  template <typename Id, typename Check>
  static void With(Id hg_flow::*id, uint32_t unknown, const Conn& conn,
                   const Check& check) {
    auto other = static_cast<Id>(unknown);
    const auto swap = [&](hg_flow& flow) { std::swap(flow.*id, other); };
    Change(conn, swap);
    check();
    Change(conn, swap);
  }
  static void ExpectFailed(const Segment& in) {
    ExpectDropped(in, HG_PACKET_FAILED);
  }
  static void ExpectFailed(const IcmpError& error) {
    const Outcome outcome =
        Run(Build(error), error.ip.to == kIn0 ? "in0" : "out0");
    EXPECT_EQ(outcome.verdict, kDropped);
    EXPECT_EQ(outcome.exits, Once(HG_PACKET_FAILED));
  }
};
INSTANTIATE_TEST_SUITE_P(Both, PacketFailedTest, ::testing::Bool(), FamilyName);

TEST_P(PacketFailedTest, AServiceWithoutCounters) {
  PacketPath::Setup setup = DefaultSetup();
  for (PacketPath::Listener& listener : setup.listeners) {
    listener.value.service = HG_MAX_SERVICES;
  }
  Configure(setup);
  const Conn conn = NewConn(v6());
  ExpectFailed(conn.Syn());
  EXPECT_FALSE(IsLive(conn));
  Configure();
  Established(v6());
}

TEST_P(PacketFailedTest, ABackendWithoutCounters) {
  const Conn conn = Answered(v6());
  const auto& stats = datapath_->service_stats(v6() ? kService6 : kService4);
  const Segment ack = conn.FromClient(kAck, 0, 0);
  With(&hg_flow::backend, HG_MAX_BACKENDS, conn, [&] {
    ExpectFailed(ack);
    ExpectFailed(conn.FromClient(kAck, 0, 0, Text("EHLO")));
  });
  EXPECT_EQ(Read(stats.connections_active), 0U);
  ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  EXPECT_EQ(Read(stats.connections_active), 1U);
}

// Whoever sends is known by the other one.
TEST_P(PacketFailedTest, AnAddressThatIsNotThere) {
  const Conn conn = Greeted(v6());
  const uint32_t n = conn.header();
  const Segment ack = conn.FromClient(kAck, 0, 0);
  const Segment data = conn.FromClient(kAck, 0, 0, Text("x"));
  const Segment answer = conn.FromBackend(kAck, 0, n, Text("y"));
  With(&hg_flow::source, HG_MAX_PACKET_ADDRESSES, conn, [&] {
    ExpectFailed(ack);  // That is to carry the header.
    ExpectFailed(TooBig(conn.ToClient(answer, n), 1300));
  });
  ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  With(&hg_flow::listen, HG_MAX_PACKET_ADDRESSES, conn, [&] {
    ExpectFailed(answer);
    ExpectFailed(TooBig(conn.ToBackend(data, n), 1300));
  });
  ExpectFromBackend(conn, answer);
  With(&hg_flow::source, HG_MAX_PACKET_ADDRESSES, conn,
       [&] { ExpectFailed(data); });
  ExpectFromClient(conn, data);
}

}  // namespace
}  // namespace headgate::datapath
