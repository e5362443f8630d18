#include "balance/maglev.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace headgate::balance {
namespace {

std::vector<Member> Nodes(int count, uint32_t weight = 1) {
  std::vector<Member> members;
  for (int i = 0; i < count; ++i) {
    members.push_back({absl::StrCat("node-", i), weight});
  }
  return members;
}

std::vector<int> Shares(const std::vector<Member>& members) {
  std::vector<int> shares(members.size());
  for (const uint16_t index : BuildTable(members)) ++shares.at(index);
  return shares;
}

// Which name each entry leads to: what does not depend on indices.
std::vector<std::string> Names(const std::vector<Member>& members) {
  std::vector<std::string> names;
  for (const uint16_t index : BuildTable(members)) {
    names.push_back(members.at(index).name);
  }
  return names;
}

constexpr double kSize = static_cast<double>(HG_TABLE_SIZE);

// The share of the entries that lead elsewhere.
double Moved(const std::vector<std::string>& a,
             const std::vector<std::string>& b) {
  int moved = 0;
  for (size_t i = 0; i < a.size(); ++i) moved += a[i] != b[i] ? 1 : 0;
  return moved / kSize;
}

TEST(MaglevTest, NobodyWithAWeightMakesNoTable) {
  EXPECT_TRUE(BuildTable({}).empty());
  EXPECT_TRUE(BuildTable(Nodes(3, 0)).empty());
}

TEST(MaglevTest, EqualWeightsDifferByOneEntryAtMost) {
  for (const int count : {1, 2, 3, 7, 64, 512}) {
    const std::vector<int> shares = Shares(Nodes(count));
    const auto [least, most] =
        std::minmax_element(shares.begin(), shares.end());
    EXPECT_LE(*most - *least, 1) << count;
    EXPECT_EQ(*least, static_cast<int>(HG_TABLE_SIZE) / count) << count;
  }
}

TEST(MaglevTest, SharesAreTheWeightsToOneEntry) {
  const std::vector<Member> members = {
      {"a", 1}, {"b", 2}, {"c", 0}, {"d", 5}, {"e", 256}};
  const std::vector<int> shares = Shares(members);
  for (size_t i = 0; i < members.size(); ++i) {
    const double ideal = kSize * members[i].weight / 264;
    EXPECT_NEAR(shares[i], ideal, 2) << members[i].name;
  }
}

TEST(MaglevTest, ALightOneAmongManyHeavyOnesHasAnEntry) {
  std::vector<Member> members = Nodes(512, 256);
  members[100].weight = 1;
  EXPECT_EQ(Shares(members)[100], 1);
}

TEST(MaglevTest, TheOrderOfTheListDoesNotMatter) {
  std::vector<Member> members = Nodes(20);
  members[3].weight = 7;
  const std::vector<std::string> names = Names(members);
  std::reverse(members.begin(), members.end());
  EXPECT_EQ(Names(members), names);
}

// Known entries: a build that hashes differently would move every client.
TEST(MaglevTest, TheTableIsTheSameInEveryBuild) {
  const std::vector<uint16_t> table = BuildTable(Nodes(5));
  uint64_t digest = 0;
  for (const uint16_t index : table) digest = digest * 31 + index;
  EXPECT_EQ(digest, 15760384624461169928u);
}

// Removing one of N moves its own entries, 1/N of all. Maglev moves a few
// others besides (section 5.3 of the paper): at most a fiftieth here.
TEST(MaglevTest, OneThatComesOrGoesMovesLittleElse) {
  for (const int count : {3, 10, 100, 512}) {
    const std::vector<Member> members = Nodes(count);
    const std::vector<std::string> names = Names(members);
    std::vector<Member> fewer = members;
    fewer.erase(fewer.begin() + count / 2);
    const double moved = Moved(names, Names(fewer));
    EXPECT_GE(moved, 0.99 / count);
    EXPECT_LE(moved, 1.01 / count + 0.02) << count;
  }
}

}  // namespace
}  // namespace headgate::balance
