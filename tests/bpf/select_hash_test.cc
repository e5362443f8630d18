// maglev and source: who stays with whom.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tests/bpf/select_fixture.h"

namespace headgate::datapath {
namespace {

class HashTest : public SelectTest {
 protected:
  static constexpr uint32_t kClients = 20'000;

  static std::vector<std::string> Names(uint32_t count) {
    std::vector<std::string> names;
    for (uint32_t i = 0; i < count; ++i) {
      names.push_back(absl::StrCat("node-", i));
    }
    return names;
  }

  // The service by these names, of weight 1, with ids from `first_id` on.
  void ServeNames(const std::vector<std::string>& names,
                  uint32_t first_id = 1) {
    names_ = names;
    first_id_ = first_id;
    service_.balance = HG_BALANCE_MAGLEV;
    service_.backend_count = static_cast<uint32_t>(names.size());
    std::vector<balance::Member> members;
    for (uint32_t i = 0; i < names.size(); ++i) {
      service_.backends[i] = first_id + i;
      Put(first_id + i, MakeBackend(1));
      members.push_back({names[i], 1});
    }
    PutTable(members);
    PutService();
  }

  // For each client, its backend's name.
  std::vector<std::string> Map() const {
    std::vector<std::string> map;
    for (uint32_t i = 0; i < kClients; ++i) {
      const uint32_t backend = SelectFor(i);
      map.push_back(backend == 0 ? "none" : names_.at(backend - first_id_));
    }
    return map;
  }

  std::vector<std::string> names_;
  uint32_t first_id_ = 1;
};

// How many clients moved, and how many of them from or to `name`.
struct Moves {
  Moves(const std::vector<std::string>& before,
        const std::vector<std::string>& after, const std::string& name) {
    for (size_t i = 0; i < before.size(); ++i) {
      if (before[i] == after[i]) continue;
      ++all;
      its += before[i] == name || after[i] == name ? 1 : 0;
    }
  }
  int others() const { return all - its; }
  int all = 0;
  int its = 0;
};

class DisruptionTest : public HashTest,
                       public ::testing::WithParamInterface<uint32_t> {
 protected:
  void SetUp() override {
    HashTest::SetUp();
    ServeNames(Names(GetParam()));
    before_ = Map();
    id_ = GetParam() / 2 + 1;
    name_ = names_.at(id_ - 1);
  }

  // The theory: one of N has one in N clients.
  static void Print(const char* event, const Moves& moves, uint32_t count) {
    std::printf("%3u backends, one %-8s moved %5.2f %%, ideal %5.2f %%\n",
                count, event, 100.0 * moves.all / kClients, 100.0 / count);
  }

  // Clients of others that a new table may move, by Maglev's own disruption.
  static constexpr int kMostOthers = kClients / 50;

  std::vector<std::string> before_;
  uint32_t id_ = 0;
  std::string name_;
};

TEST_P(DisruptionTest, D7_DownMovesOnlyItsOwnClientsAndUpBringsThemBack) {
  Put(id_, Down());
  const std::vector<std::string> without = Map();
  const Moves moves(before_, without, name_);
  Print("down:", moves, GetParam());
  EXPECT_EQ(moves.all, std::count(before_.begin(), before_.end(), name_));
  EXPECT_EQ(moves.others(), 0);
  EXPECT_EQ(std::count(without.begin(), without.end(), name_), 0);
  Put(id_, MakeBackend(1));
  EXPECT_EQ(Map(), before_);
}

TEST_P(DisruptionTest, ClientsOfOneThatIsDownGoToAllOthersAlike) {
  Put(id_, Down());
  const std::vector<std::string> without = Map();
  std::map<std::string, int> gained;
  int moved = 0;
  for (size_t i = 0; i < before_.size(); ++i) {
    if (before_[i] != name_) continue;
    ++gained[without[i]];
    ++moved;
  }
  // By chance, nobody gets more than 6 standard deviations above its share.
  const double mean = static_cast<double>(moved) / (GetParam() - 1);
  for (const auto& [name, count] : gained) {
    EXPECT_LE(count, mean + 6 * std::sqrt(mean) + 3) << name;
  }
}

TEST_P(DisruptionTest, RemovedMovesFewOthers) {
  std::vector<std::string> fewer = names_;
  fewer.erase(fewer.begin() + id_ - 1);
  ServeNames(fewer);
  const Moves moves(before_, Map(), name_);
  Print("removed:", moves, GetParam());
  EXPECT_EQ(moves.its, std::count(before_.begin(), before_.end(), name_));
  EXPECT_LE(moves.others(), kMostOthers);
}

TEST_P(DisruptionTest, AddedMovesFewOthers) {
  if (GetParam() == HG_MAX_SERVICE_BACKENDS) return;  // There is no room.
  std::vector<std::string> more = names_;
  more.insert(more.begin(), "new");
  ServeNames(more);
  const Moves moves(before_, Map(), "new");
  Print("added:", moves, GetParam() + 1);
  EXPECT_GT(moves.its, 0);
  EXPECT_LE(moves.others(), kMostOthers);
}

TEST_P(DisruptionTest, ANewDaemonWithOtherIdsAndOrderMapsTheSame) {
  datapath_.reset();
  SetUpTestSuite();
  std::vector<std::string> reversed = names_;
  std::reverse(reversed.begin(), reversed.end());
  ServeNames(reversed, 1000);
  EXPECT_EQ(Map(), before_);
}

INSTANTIATE_TEST_SUITE_P(Backends, DisruptionTest,
                         ::testing::Values(3u, 10u, 100u, 511u, 512u));

TEST_F(HashTest, ManyThatAreDownAreSteppedOver) {
  ServeNames(Names(HG_MAX_SERVICE_BACKENDS));
  for (uint32_t id = 3; id <= HG_MAX_SERVICE_BACKENDS; ++id) Put(id, Down());
  const Moves none(Map(), Map(), "node-0");
  EXPECT_EQ(none.all, 0);
  const std::vector<std::string> map = Map();
  const auto first = std::count(map.begin(), map.end(), "node-0");
  const auto second = std::count(map.begin(), map.end(), "node-1");
  EXPECT_EQ(first + second, kClients);
  EXPECT_NEAR(static_cast<double>(first), kClients / 2, kClients / 50);
}

TEST_F(HashTest, WithoutATableDrawsByWeight) {
  ServeNames(Names(4));
  service_.table = 0;
  PutService();
  const std::vector<std::string> map = Map();
  EXPECT_EQ(std::set<std::string>(map.begin(), map.end()).size(), 4u);
  EXPECT_EQ(Map(), map);
}

TEST_F(HashTest, TriedOnesAreLeftOutUntilNobodyIsLeft) {
  Serve({1, 1, 1}, HG_BALANCE_MAGLEV);
  std::vector<uint32_t> tried;
  std::set<uint32_t> chosen;
  for (int i = 0; i < 3; ++i) {
    const uint32_t backend = Select(tried, Ipv4Client(1));
    chosen.insert(backend);
    tried.push_back(backend - 1);
  }
  EXPECT_EQ(chosen, (std::set<uint32_t>{1, 2, 3}));
  EXPECT_EQ(Select(tried, Ipv4Client(1)), 0u);
}

TEST_F(HashTest, MaglevTellsPortsApartAndSourceDoesNot) {
  for (const auto& [balance, backends] :
       {std::pair(HG_BALANCE_MAGLEV, 8u), std::pair(HG_BALANCE_SOURCE, 1u)}) {
    Serve(std::vector<uint32_t>(8, 1), balance);
    std::set<uint32_t> chosen;
    Client client = Ipv4Client(1);
    for (uint16_t port = 1; port < 1000; ++port) {
      client.port = port;
      chosen.insert(Select({}, client));
    }
    EXPECT_EQ(chosen.size(), backends);
  }
}

TEST_F(HashTest, SourceIsAnIpv6NetworkOf64Bits) {
  Serve(std::vector<uint32_t>(8, 1), HG_BALANCE_SOURCE);
  std::set<uint32_t> within, across;
  for (uint8_t i = 0; i < 200; ++i) {
    Client client{{0x20, 0x01, 0x0d, 0xb8}, 25};
    client.address[8] = client.address[15] = i;
    within.insert(Select({}, client));
    client.address[7] = i;
    across.insert(Select({}, client));
  }
  EXPECT_EQ(within.size(), 1u);
  EXPECT_EQ(across.size(), 8u);
}

TEST_F(HashTest, SourceTakesEachIpv4AddressForItself) {
  Serve(std::vector<uint32_t>(8, 1), HG_BALANCE_SOURCE);
  std::set<uint32_t> chosen;
  for (uint32_t i = 0; i < 200; ++i) chosen.insert(SelectFor(i));
  EXPECT_EQ(chosen.size(), 8u);
}

}  // namespace
}  // namespace headgate::datapath
