#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <vector>

#include "datapath/packet.h"

namespace headgate::datapath {
namespace {

// Puts keys where bpf/lib/packet_keys.h puts them.
class Table {
 public:
  explicit Table(uint32_t flows) : buckets_(PacketPath::KeyBuckets(flows)) {}

  bool Put(const hg_flow_key& key, uint32_t value) {
    const uint64_t hash = hg_hash_key(&key, kSeed);
    for (const uint32_t which : {0U, 1U}) {
      hg_key_bucket& bucket = buckets_[hg_bucket_of(
          hash, which, static_cast<uint32_t>(buckets_.size()))];
      __u32* const room =
          std::find(std::begin(bucket.entries), std::end(bucket.entries), 0U);
      if (room == std::end(bucket.entries)) continue;
      *room = static_cast<__u32>(hg_entry(hash, value));
      in_second_ += which;
      return true;
    }
    return false;
  }
  uint32_t in_second() const { return in_second_; }

 private:
  static constexpr uint64_t kSeed = 0x9e3779b97f4a7c15;
  std::vector<hg_key_bucket> buckets_;
  uint32_t in_second_ = 0;
};

hg_flow_key Key(uint32_t client, uint16_t port, bool v6) {
  hg_flow_key key{};
  if (v6) {
    key.remote[0] = 0x20;
  } else {
    key.remote[10] = key.remote[11] = 0xff;
  }
  std::memcpy(key.remote + 12, &client, sizeof client);
  key.local = 1;
  key.remote_port = port;
  key.local_port = 25;
  return key;
}

// A full table, as neighbours and their next ports fill it.
TEST(FlowKeysTest, NoKeyOfAFullTableFindsBothBucketsFull) {
  constexpr uint32_t kFlows = 1 << 20;
  for (const bool v6 : {false, true}) {
    Table table(kFlows);
    uint32_t refused = 0;
    for (uint32_t i = 0; i < kFlows; ++i) {
      for (const uint32_t side : {HG_FROM_CLIENT, HG_FROM_BACKEND}) {
        const auto port = static_cast<uint16_t>(i % 1024 + side * 1024);
        if (!table.Put(Key(i / 1024, port, v6), i * 2 + side)) ++refused;
      }
    }
    EXPECT_EQ(refused, 0u);
    // So the first bucket alone does for nearly all lookups.
    EXPECT_LT(table.in_second(), 2 * kFlows / 1000);
  }
}

TEST(FlowKeysTest, TheLargestTableHasRoomForItsValuesInAnEntry) {
  const hg_flow_key key = Key(1, 1, false);
  constexpr uint32_t kLast = (16U << 20) * 2 - 1;  // packet.max_flows
  const uint64_t hash = hg_hash_key(&key, 1);
  EXPECT_EQ(hg_entry_value(static_cast<__u32>(hg_entry(hash, kLast))), kLast);
  EXPECT_NE(hg_entry(0, 0), 0u) << "that is room";
}

}  // namespace
}  // namespace headgate::datapath
