#include "bpf/abi/hash.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <set>
#include <string>

namespace headgate::balance {
namespace {

// Bytes of an address out of a string literal.
const uint8_t* Bytes(const char* text) {
  return reinterpret_cast<const uint8_t*>(text);
}

constexpr char kIpv4[] = "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc6\x12\0\x01";
constexpr char kOtherIpv4[] = "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc6\x12\0\x02";
constexpr char kIpv6[] = "\x20\x01\x0d\xb8\0\0\0\x01\0\0\0\0\0\0\0\x01";
constexpr char kSame64[] = "\x20\x01\x0d\xb8\0\0\0\x01\xab\xcd\0\0\0\0\0\x02";
constexpr char kOther64[] = "\x20\x01\x0d\xb8\0\0\0\x02\0\0\0\0\0\0\0\x01";

TEST(HashTest, AClientIsItsAddressAndPort) {
  EXPECT_EQ(hg_hash_client(Bytes(kIpv4), 25), hg_hash_client(Bytes(kIpv4), 25));
  const std::set<uint64_t> hashes = {
      hg_hash_client(Bytes(kIpv4), 25), hg_hash_client(Bytes(kIpv4), 26),
      hg_hash_client(Bytes(kOtherIpv4), 25), hg_hash_client(Bytes(kIpv6), 25),
      hg_hash_client(Bytes(kSame64), 25)};
  EXPECT_EQ(hashes.size(), 5u);
}

TEST(HashTest, ASourceIsAnIpv4AddressOrA64) {
  EXPECT_NE(hg_hash_source(Bytes(kIpv4)), hg_hash_source(Bytes(kOtherIpv4)));
  EXPECT_EQ(hg_hash_source(Bytes(kIpv6)), hg_hash_source(Bytes(kSame64)));
  EXPECT_NE(hg_hash_source(Bytes(kIpv6)), hg_hash_source(Bytes(kOther64)));
}

TEST(HashTest, EveryInputBitChangesHalfOfTheOutput) {
  for (int bit = 0; bit < 64; ++bit) {
    int changed = 0;
    for (uint64_t i = 1; i <= 1000; ++i) {
      changed += std::popcount(hg_mix(i) ^ hg_mix(i ^ 1ULL << bit));
    }
    EXPECT_NEAR(changed / 1000.0, 32, 1) << bit;
  }
}

TEST(HashTest, ScalesToTheWholeRange) {
  EXPECT_EQ(hg_scale(0, 10), 0u);
  EXPECT_EQ(hg_scale(UINT64_MAX, 10), 9u);
  EXPECT_EQ(hg_scale(UINT64_MAX, UINT32_MAX), UINT32_MAX - 1);
}

// Values that must not change between versions: clients would move.
TEST(HashTest, IsTheSameInEveryBuild) {
  EXPECT_EQ(hg_hash_client(Bytes(kIpv6), 25), 8655435033340439771u);
  EXPECT_EQ(hg_hash_source(Bytes(kIpv6)), 12089999234054431197u);
}

}  // namespace
}  // namespace headgate::balance
