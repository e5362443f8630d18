// The algorithms: who gets how much.

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/bpf/select_fixture.h"

namespace headgate::datapath {
namespace {

class BalanceTest : public SelectTest {
 protected:
  // Backend i + 1 has had its share by weights[i] to within `tolerance`.
  static void ExpectShares(const Counts& counts,
                           const std::vector<uint32_t>& weights,
                           double tolerance) {
    double selections = 0, sum = 0;
    for (const auto& [backend, count] : counts) selections += count;
    for (const uint32_t weight : weights) sum += weight;
    for (uint32_t i = 0; i < weights.size(); ++i) {
      const auto found = counts.find(i + 1);
      const double count = found == counts.end() ? 0 : found->second;
      const double ideal = selections * weights[i] / sum;
      EXPECT_NEAR(count, ideal, ideal * tolerance) << "backend " << i + 1;
    }
    EXPECT_EQ(counts.count(0), 0u);
  }
};

constexpr uint32_t kMillion = 1'000'000;

TEST_F(BalanceTest, RoundRobinInThreads) {
  const std::vector<uint32_t> weights = {1, 2, 3, 4};
  Serve(weights);
  ExpectShares(CountInThreads(kMillion), weights, 0.0001);
}

TEST_F(BalanceTest, LeastConnectionsInThreads) {
  const std::vector<uint32_t> weights = {1, 2, 3, 4};
  Serve(weights, HG_BALANCE_LEAST_CONNECTIONS);
  ExpectShares(CountInThreads(kMillion, [&](uint32_t i) { return Connect(i); }),
               weights, 0.01);
}

TEST_F(BalanceTest, MaglevInThreads) {
  const std::vector<uint32_t> weights = {1, 2, 3, 4};
  Serve(weights, HG_BALANCE_MAGLEV);
  ExpectShares(CountInThreads(kMillion), weights, 0.01);
}

TEST_F(BalanceTest, SourceInThreads) {
  const std::vector<uint32_t> weights = {1, 2, 3, 4};
  Serve(weights, HG_BALANCE_SOURCE);
  // One client for each /64.
  ExpectShares(CountInThreads(kMillion,
                              [&](uint32_t i) {
                                Client client{{0x20, 0x01, 0x0d, 0xb8}, 25};
                                std::memcpy(client.address + 4, &i, sizeof i);
                                return Select({}, client);
                              }),
               weights, 0.01);
}

TEST_F(BalanceTest, FirstInThreads) {
  Serve({1, 1, 1}, HG_BALANCE_FIRST);
  Put(1, Limited(kMillion / 4));
  const Counts counts =
      CountInThreads(kMillion, [&](uint32_t i) { return Connect(i); });
  // Threads that select at once may each take the last place.
  EXPECT_GE(counts.at(1), static_cast<int>(kMillion) / 4);
  EXPECT_LT(counts.at(1), static_cast<int>(kMillion / 4 + Threads()));
  EXPECT_EQ(counts.count(3), 0u);
}

// ---- least connections ----

TEST_F(BalanceTest, OfTwoTheOneWithFewerConnections) {
  Serve({1, 1}, HG_BALANCE_LEAST_CONNECTIONS);
  SetActive(1, 5);
  EXPECT_EQ(Count(50), (Counts{{2, 50}}));
  SetActive(2, 6);
  EXPECT_EQ(Count(50), (Counts{{1, 50}}));
}

TEST_F(BalanceTest, ConnectionsCountForTheirWeight) {
  Serve({1, 100}, HG_BALANCE_LEAST_CONNECTIONS);
  SetActive(1, 1);
  SetActive(2, 99);
  EXPECT_EQ(Count(50), (Counts{{2, 50}}));
  SetActive(2, 101);
  EXPECT_EQ(Count(50), (Counts{{1, 50}}));
}

TEST_F(BalanceTest, TheBusiestOfManyGetsNothing) {
  Serve({1, 1, 1, 1, 1}, HG_BALANCE_LEAST_CONNECTIONS);
  SetActive(3, 1);
  const Counts counts = Count(2'000);
  EXPECT_EQ(counts.count(3), 0u);
  EXPECT_EQ(counts.size(), 4u);
}

TEST_F(BalanceTest, TiesAreSharedByWeight) {
  const std::vector<uint32_t> weights = {1, 1, 2};
  Serve(weights, HG_BALANCE_LEAST_CONNECTIONS);
  // 2 % of a quarter is 5.8 standard deviations.
  ExpectShares(CountInThreads(250'000), weights, 0.02);
}

TEST_F(BalanceTest, FiveHundredAndTwelveStayLevel) {
  const std::vector<uint32_t> weights(HG_MAX_SERVICE_BACKENDS, 1);
  Serve(weights, HG_BALANCE_LEAST_CONNECTIONS);
  for (int i = 0; i < 10 * HG_MAX_SERVICE_BACKENDS; ++i) Connect();
  uint64_t most = 0;
  for (uint32_t id = 1; id <= HG_MAX_SERVICE_BACKENDS; ++id) {
    most = std::max<uint64_t>(most,
                              datapath_->backend_stats(id).connections_active);
  }
  // By chance alone the busiest of them would have some 20; two choices keep
  // it within ln ln n of the mean (Mitzenmacher 2001).
  EXPECT_LE(most, 14u);
}

TEST_F(BalanceTest, LeastConnectionsOfOne) {
  Serve({0, 3}, HG_BALANCE_LEAST_CONNECTIONS);
  EXPECT_EQ(Count(5), (Counts{{2, 5}}));
  EXPECT_EQ(Select({1}), 0u);
}

// ---- first ----

TEST_F(BalanceTest, FirstFillsOneAfterTheOther) {
  Serve({1, 1, 1}, HG_BALANCE_FIRST);
  Put(1, Limited(2));
  Put(2, Limited(3));
  std::vector<uint32_t> order;
  for (int i = 0; i < 7; ++i) order.push_back(Connect());
  EXPECT_EQ(order, (std::vector<uint32_t>{1, 1, 2, 2, 2, 3, 3}));
  SetActive(1, 1);
  EXPECT_EQ(Connect(), 1u);
}

TEST_F(BalanceTest, FirstStepsOverWhoIsDownOrTried) {
  Serve({1, 1, 1, 1}, HG_BALANCE_FIRST);
  Put(1, Down());
  EXPECT_EQ(Select(), 2u);
  EXPECT_EQ(Select({1}), 3u);
}

// ---- full ones, for every algorithm ----

class FullTest : public SelectTest,
                 public ::testing::WithParamInterface<hg_balance> {};

TEST_P(FullTest, AFullBackendTakesNoneUntilOneEnds) {
  Serve({1, 1}, GetParam());
  Put(1, Limited(3));
  SetActive(1, 3);
  SetActive(2, 3);
  EXPECT_EQ(CountInThreads(100), (Counts{{2, 100}}));
  SetActive(1, 2);
  EXPECT_GT(CountInThreads(100)[1], 0);
}

TEST_P(FullTest, NobodyWhenAllAreFull) {
  Serve({1, 1}, GetParam());
  Put(1, Limited(1));
  Put(2, Limited(1));
  EXPECT_NE(Connect(), Connect());
  EXPECT_EQ(Select(), 0u);
}

TEST_P(FullTest, FullIsToldFromNobody) {
  Serve({1, 1}, GetParam());
  EXPECT_FALSE(AllAreFull());
  EXPECT_FALSE(AllAreFull({0, 1})) << "tried, and that was all";
  Put(1, Limited(1));
  SetActive(1, 1);
  EXPECT_FALSE(AllAreFull()) << "one has room";
  EXPECT_TRUE(AllAreFull({1}));
  EXPECT_FALSE(AllAreFull({0, 1}));
  Put(2, Down());
  EXPECT_TRUE(AllAreFull());
  SetActive(1, 0);
  EXPECT_FALSE(AllAreFull());
}

TEST_P(FullTest, WhoWouldNotBeChosenIsNotWaitedFor) {
  Serve({1, 1, 1}, GetParam());
  hg_backend down = Limited(1), draining = Limited(1), idle = Limited(1);
  down.health = HG_HEALTH_DOWN;
  draining.admin = HG_ADMIN_DRAIN;
  idle.weight = 0;
  Put(1, down);
  Put(2, draining);
  Put(3, idle);
  for (const uint32_t backend : {1U, 2U, 3U}) SetActive(backend, 1);
  EXPECT_FALSE(AllAreFull());
  service_.panic_threshold = 50;
  PutService();
  EXPECT_TRUE(AllAreFull()) << "in panic health does not count";
  EXPECT_FALSE(AllAreFull({0}));
  service_.use_draining = 1;
  PutService();
  EXPECT_TRUE(AllAreFull({0})) << "the last resort";
}

TEST_P(FullTest, TheBackupTakesWhatIsTooMuch) {
  Serve({1, 1}, GetParam());
  Put(1, Limited(1));
  Put(2, Backup());
  EXPECT_EQ(Connect(), 1u);
  EXPECT_EQ(Connect(), 2u);
}

TEST_P(FullTest, WorkersOvershootByOneEachAtMost) {
  Serve({1, 1}, GetParam());
  Put(1, Limited(100));
  Put(2, Limited(100));
  const Counts counts =
      CountInThreads(1'000, [&](uint32_t i) { return Connect(i); });
  for (const uint32_t backend : {1U, 2U}) {
    EXPECT_GE(counts.at(backend), 100);
    EXPECT_LT(counts.at(backend), 100 + static_cast<int>(Threads()));
  }
}

INSTANTIATE_TEST_SUITE_P(Each, FullTest, ::testing::ValuesIn(kBalances),
                         BalanceName);

}  // namespace
}  // namespace headgate::datapath
