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
    const auto entry = static_cast<__u32>(hg_entry(hash, value));
    hg_key_bucket& first = Bucket(hash, 0);
    hg_key_bucket& second = Bucket(hash, 1);
    const int64_t room = Room(first);
    if ((room > HG_BUCKET_SPARE || Room(second) <= room) && Add(first, entry)) {
      return true;
    }
    if (!Add(second, entry)) return Add(first, entry);
    ++in_second_;
    return true;
  }
  uint32_t in_second() const { return in_second_; }

 private:
  hg_key_bucket& Bucket(uint64_t hash, uint32_t which) {
    return buckets_[hg_bucket_of(hash, which,
                                 static_cast<uint32_t>(buckets_.size()))];
  }
  static int64_t Room(const hg_key_bucket& bucket) {
    return std::count(std::begin(bucket.entries), std::end(bucket.entries), 0U);
  }
  static bool Add(hg_key_bucket& bucket, __u32 entry) {
    __u32* const room =
        std::find(std::begin(bucket.entries), std::end(bucket.entries), 0U);
    if (room == std::end(bucket.entries)) return false;
    *room = entry;
    return true;
  }

  static constexpr uint64_t kSeed = 0x9e3779b97f4a7c15;
  std::vector<hg_key_bucket> buckets_;
  uint32_t in_second_ = 0;
};

hg_flow_key Key(uint32_t client, uint16_t port, bool v6, uint32_t local) {
  hg_flow_key key{};
  if (v6) {
    key.remote[0] = 0x20;
  } else {
    key.remote[10] = key.remote[11] = 0xff;
  }
  std::memcpy(key.remote + 12, &client, sizeof client);
  key.local = local;
  key.remote_port = port;
  key.local_port = 25;
  return key;
}

constexpr uint32_t kFlows = 1 << 20;

// Fills a table with flows of clients that have so many each, from ports in a
// row. How many of the keys are in their second buckets; of them all, none is
// refused.
double FullTable(uint32_t of_each, bool v6) {
  Table table(kFlows);
  uint32_t refused = 0;
  for (uint32_t i = 0; i < kFlows; ++i) {
    for (const uint32_t side : {HG_FROM_CLIENT, HG_FROM_BACKEND}) {
      const auto port = static_cast<uint16_t>(i % of_each);
      const hg_flow_key key = Key(i / of_each, port, v6, side);
      if (!table.Put(key, i * 2 + side)) ++refused;
    }
  }
  EXPECT_EQ(refused, 0u) << of_each;
  return table.in_second() / (2.0 * kFlows);
}

TEST(FlowKeysTest, AFullTableHasRoomForAllKeys) {
  for (const bool v6 : {false, true}) {
    // So the first bucket alone does for nearly all lookups.
    EXPECT_LT(FullTable(1, v6), 0.001);
    // Where eight keys have one first bucket, for fewer.
    EXPECT_LT(FullTable(1024, v6), 0.15);
    EXPECT_LT(FullTable(32768, v6), 0.15);
  }
}

TEST(FlowKeysTest, TheLargestTableHasRoomForItsValuesInAnEntry) {
  const hg_flow_key key = Key(1, 1, false, 1);
  constexpr uint32_t kLast = (16U << 20) * 2 - 1;  // packet.max_flows
  const uint64_t hash = hg_hash_key(&key, 1);
  EXPECT_EQ(hg_entry_value(static_cast<__u32>(hg_entry(hash, kLast))), kLast);
  EXPECT_NE(hg_entry(0, 0), 0u) << "that is room";
}

}  // namespace
}  // namespace headgate::datapath
