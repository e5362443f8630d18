// Keys for which there is no room in their first buckets.
#include <algorithm>

#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

class PacketKeysTest : public PacketFamilyTest {
 protected:
  struct Buckets {
    uint32_t first, second;
  };

  void SetUp() override {
    PacketFamilyTest::SetUp();
    OpenTable(4096);
    pattern_ = packet().At(NumberOf(Established(v6())));
  }
  void TearDown() override {
    PacketFamilyTest::TearDown();
    OpenTable(4096);
  }

  static uint32_t NumberOf(const Conn& conn) {
    for (const PacketPath::Flow& flow : packet().Flows()) {
      if (flow.state.client_port == conn.client_port) return flow.number;
    }
    ADD_FAILURE() << "no such flow";
    return 0;
  }
  // As the flow's that a SYN from this port of our client's opens: the backend
  // sees the same port, which is in the range.
  hg_flow_key KeyOf(uint16_t port, hg_side side) const {
    hg_flow_key key = pattern_.keys[side];
    (side == HG_FROM_CLIENT ? key.remote_port : key.local_port) = port;
    return key;
  }
  static Buckets BucketsOf(const hg_flow_key& key) {
    const int configs = Pinned("packet_config");
    const uint32_t zero = 0;
    hg_packet_config config{};
    EXPECT_EQ(bpf_map_lookup_elem(configs, &zero, &config), 0);
    close(configs);
    const uint64_t hash = hg_hash_key(&key, config.seed);
    return {static_cast<uint32_t>(hg_bucket_of(hash, 0, config.buckets)),
            static_cast<uint32_t>(hg_bucket_of(hash, 1, config.buckets))};
  }
  static hg_key_bucket At(uint32_t bucket) {
    const int keys = Pinned("packet_keys");
    hg_key_bucket content{};
    EXPECT_EQ(bpf_map_lookup_elem(keys, &bucket, &content), 0);
    close(keys);
    return content;
  }
  static void FillUp(uint32_t bucket) {
    const int keys = Pinned("packet_keys");
    hg_key_bucket content = At(bucket);
    // Of the last number that a flow gets, which has no key yet.
    std::replace(std::begin(content.entries), std::end(content.entries), 0U,
                 static_cast<__u32>(hg_entry(0, 2 * 4095)));
    ASSERT_EQ(bpf_map_update_elem(keys, &bucket, &content, BPF_ANY), 0);
    close(keys);
  }
  // A client none of whose flow's buckets is another one of them.
  Conn Crowded() const {
    Conn conn = NewConn(v6());
    for (conn.client_port = kFirstPort;; ++conn.client_port) {
      const Buckets in = BucketsOf(KeyOf(conn.client_port, HG_FROM_CLIENT));
      const Buckets out = BucketsOf(KeyOf(conn.client_port, HG_FROM_BACKEND));
      if (std::set{in.first, in.second, out.first, out.second}.size() == 4) {
        return conn;
      }
    }
  }
  uint32_t Spilled(const Conn& conn, hg_side side) const {
    return At(BucketsOf(KeyOf(conn.client_port, side)).first).spilled;
  }
  void ExpectSpilled(const Conn& conn, uint32_t count) const {
    EXPECT_EQ(Spilled(conn, HG_FROM_CLIENT), count);
    EXPECT_EQ(Spilled(conn, HG_FROM_BACKEND), count);
  }
  static void Establish(Conn* conn) {
    Open(conn);
    EXPECT_EQ(conn->source_port, conn->client_port);
    ExpectSent(conn->SynAck(), conn->ToClient(conn->SynAck(), 0));
    const Segment ack = conn->FromClient(kAck, 0, 0);
    ExpectSent(ack, conn->HeaderFor(ack), HG_PACKET_HEADER);
    ExpectFromBackend(
        *conn, conn->FromBackend(kAck, 0, conn->header(), Text("220\r\n")));
  }

  hg_flow pattern_{};
};

INSTANTIATE_TEST_SUITE_P(Both, PacketKeysTest, ::testing::Bool(), FamilyName);

TEST_P(PacketKeysTest, WithoutRoomInTheFirstBucketTheyAreFoundInTheSecond) {
  Conn conn = Crowded();
  for (const hg_side side : {HG_FROM_CLIENT, HG_FROM_BACKEND}) {
    FillUp(BucketsOf(KeyOf(conn.client_port, side)).first);
  }
  Establish(&conn);
  ExpectSpilled(conn, 1);
  // The program erases them, and puts them there again.
  CloseInOrder(conn);
  conn.isn += 1000000;
  Establish(&conn);
  ExpectSpilled(conn, 1);
  // And so does the daemon.
  EXPECT_TRUE(packet().Kill(NumberOf(conn)));
  ExpectSpilled(conn, 0);
  ExpectReset(conn.FromClient(kAck, 0, 0), HG_PACKET_NO_FLOW);
  ExpectReset(conn.FromBackend(kAck, 0, 0), HG_PACKET_NO_FLOW);
}

TEST_P(PacketKeysTest, WithoutRoomInEitherASynIsRefusedAndNothingIsLeft) {
  const Conn conn = Crowded();
  const Buckets in = BucketsOf(KeyOf(conn.client_port, HG_FROM_CLIENT));
  FillUp(in.first);
  FillUp(in.second);
  const hg_key_bucket of_backend =
      At(BucketsOf(KeyOf(conn.client_port, HG_FROM_BACKEND)).first);
  ExpectDropped(conn.Syn(), HG_PACKET_TABLE_FULL);
  ExpectSpilled(conn, 0);
  const hg_key_bucket after =
      At(BucketsOf(KeyOf(conn.client_port, HG_FROM_BACKEND)).first);
  EXPECT_TRUE(std::equal(std::begin(after.entries), std::end(after.entries),
                         std::begin(of_backend.entries)));
  EXPECT_FALSE(IsLive(conn));
}

}  // namespace
}  // namespace headgate::datapath
