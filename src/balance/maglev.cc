#include "balance/maglev.h"

#include <algorithm>
#include <cstring>

#include "bpf/abi/hash.h"

namespace headgate::balance {
namespace {

constexpr uint32_t kSize = HG_TABLE_SIZE;
constexpr uint16_t kFree = UINT16_MAX;

uint64_t HashName(const std::string& name) {
  uint64_t hash = hg_mix(HG_HASH_SEED ^ name.size());
  for (size_t at = 0; at < name.size(); at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, name.data() + at,
                std::min(sizeof word, name.size() - at));
    hash = hg_mix(hash ^ word);
  }
  return hash;
}

// A member's way through all entries, a permutation because the size is prime.
class Walk {
 public:
  Walk(const Member& member, uint16_t index)
      : index_(index), weight_(member.weight) {
    const uint64_t hash = HashName(member.name);
    next_ = static_cast<uint32_t>(hg_scale(hg_rehash(hash, 1), kSize));
    skip_ = static_cast<uint32_t>(hg_scale(hg_rehash(hash, 2), kSize - 1)) + 1;
  }

  // Whether it has had less than its share of `rounds` rounds, in which the
  // heaviest takes one entry each.
  bool IsBehind(uint64_t rounds, uint32_t heaviest) const {
    return taken_ * heaviest < rounds * weight_;
  }

  void TakeNextFree(std::vector<uint16_t>& table) {
    while (table[next_] != kFree) Step();
    table[next_] = index_;
    Step();
    ++taken_;
  }

 private:
  void Step() {
    next_ += skip_;
    if (next_ >= kSize) next_ -= kSize;
  }

  uint16_t index_;
  uint64_t weight_;
  uint64_t taken_ = 0;
  uint32_t next_;
  uint32_t skip_;
};

// In order of names: whoever comes first in a round is served first.
std::vector<Walk> WalksByName(const std::vector<Member>& members) {
  std::vector<uint16_t> order;
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].weight > 0) order.push_back(static_cast<uint16_t>(i));
  }
  std::sort(order.begin(), order.end(), [&](uint16_t a, uint16_t b) {
    return members[a].name < members[b].name;
  });
  std::vector<Walk> walks;
  for (const uint16_t index : order) walks.emplace_back(members[index], index);
  return walks;
}

}  // namespace

std::vector<uint16_t> BuildTable(const std::vector<Member>& members) {
  std::vector<Walk> walks = WalksByName(members);
  if (walks.empty()) return {};
  uint32_t heaviest = 0;
  for (const Member& member : members) {
    heaviest = std::max(heaviest, member.weight);
  }
  std::vector<uint16_t> table(kSize, kFree);
  uint32_t filled = 0;
  for (uint64_t rounds = 1; filled < kSize; ++rounds) {
    for (Walk& walk : walks) {
      if (filled == kSize || !walk.IsBehind(rounds, heaviest)) continue;
      walk.TakeNextFree(table);
      ++filled;
    }
  }
  return table;
}

}  // namespace headgate::balance
