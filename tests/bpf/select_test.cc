// The selection program, run by BPF_PROG_RUN as the workers run it.

#include <gtest/gtest.h>

#include <cstring>

#include "tests/bpf/select_fixture.h"

namespace headgate::datapath {
namespace {

TEST_F(SelectTest, EqualWeightsTakeTurns) {
  Serve({1, 1, 1});
  std::vector<uint32_t> order;
  for (int i = 0; i < 6; ++i) order.push_back(Select());
  EXPECT_EQ(order, (std::vector<uint32_t>{1, 2, 3, 1, 2, 3}));
}

TEST_F(SelectTest, SharesAreExactlyTheWeights) {
  Serve({1, 2, 5});
  EXPECT_EQ(Count(800), (Counts{{1, 100}, {2, 200}, {3, 500}}));
}

TEST_F(SelectTest, ALargeWeightDoesNotStarveASmallOne) {
  Serve({256, 1});
  EXPECT_EQ(Count(2570), (Counts{{1, 2560}, {2, 10}}));
}

TEST_F(SelectTest, D7_ABackendThatIsDownIsNotChosenFromTheNextOneOn) {
  Serve({1, 1});
  hg_backend down = MakeBackend(1);
  down.health = HG_HEALTH_DOWN;
  Put(1, down);
  EXPECT_EQ(Count(10), (Counts{{2, 10}}));
  Put(1, MakeBackend(1));
  EXPECT_EQ(Count(10), (Counts{{1, 5}, {2, 5}}));
}

TEST_F(SelectTest, TheShareOfADownBackendGoesToAllOthersAlike) {
  Serve({1, 1, 1, 1});
  hg_backend down = MakeBackend(1);
  down.health = HG_HEALTH_DOWN;
  Put(2, down);
  EXPECT_EQ(Count(300), (Counts{{1, 100}, {3, 100}, {4, 100}}));
}

TEST_F(SelectTest, StartingBackendsTakeConnections) {
  Serve({1});
  hg_backend starting = MakeBackend(1);
  starting.health = HG_HEALTH_STARTING;
  Put(1, starting);
  EXPECT_EQ(Select(), 1U);
}

TEST_F(SelectTest, DrainMaintAndWeightZeroTakeNone) {
  Serve({1, 1, 0, 1});
  hg_backend drain = MakeBackend(1);
  drain.admin = HG_ADMIN_DRAIN;
  Put(1, drain);
  hg_backend maint = MakeBackend(1);
  maint.admin = HG_ADMIN_MAINT;
  Put(2, maint);
  EXPECT_EQ(Count(20), (Counts{{4, 20}}));
}

TEST_F(SelectTest, BackupsOnlyWhenNobodyElseIsEligible) {
  Serve({1, 1, 1});
  hg_backend backup = MakeBackend(1);
  backup.backup = 1;
  Put(2, backup);
  Put(3, backup);
  EXPECT_EQ(Count(10), (Counts{{1, 10}}));
  hg_backend down = MakeBackend(1);
  down.health = HG_HEALTH_DOWN;
  Put(1, down);
  EXPECT_EQ(Count(10), (Counts{{2, 5}, {3, 5}}));
}

TEST_F(SelectTest, ABackupIsTheNextToTryWhenThePrimaryWasTried) {
  Serve({1, 1});
  hg_backend backup = MakeBackend(1);
  backup.backup = 1;
  Put(2, backup);
  EXPECT_EQ(Select({0}), 2U);
}

TEST_F(SelectTest, TriedOnesAreLeftOutUntilNobodyIsLeft) {
  Serve({1, 1, 1});
  EXPECT_EQ(Select({0, 2}), 2U);
  EXPECT_EQ(Select({0, 1, 2}), 0U);
}

TEST_F(SelectTest, D5_NobodyWithoutBackendsOrService) {
  EXPECT_EQ(Select(), 0U);
  Serve({});
  EXPECT_EQ(Select(), 0U);
}

TEST_F(SelectTest, ABackendWithoutEntryIsSkipped) {
  Serve({1, 1});
  ASSERT_TRUE(datapath_->EraseBackend(1).ok());
  EXPECT_EQ(Count(5), (Counts{{2, 5}}));
}

TEST_F(SelectTest, AnswersWithAddressPortAndSlot) {
  Serve({0, 1});
  hg_backend backend = MakeBackend(1);
  for (uint8_t i = 0; i < 16; ++i) backend.address[i] = i;
  backend.port = 30125;
  Put(2, backend);
  hg_select request{};
  request.service = kService;
  ASSERT_TRUE(datapath_->Select(&request).ok());
  EXPECT_EQ(request.backend, 2U);
  EXPECT_EQ(request.slot, 1U);
  EXPECT_EQ(request.port, 30125U);
  EXPECT_EQ(std::memcmp(request.address, backend.address, 16), 0);
}

TEST_F(SelectTest, D8_AsManyBackendsAsAServiceMayHave) {
  Serve(std::vector<uint32_t>(HG_MAX_SERVICE_BACKENDS, 1));
  const Counts counts = Count(2 * HG_MAX_SERVICE_BACKENDS);
  EXPECT_EQ(counts.size(), size_t{HG_MAX_SERVICE_BACKENDS});
  for (const auto& [backend, count] : counts) EXPECT_EQ(count, 2) << backend;
}

TEST_F(SelectTest, SharesAreExactUnderConcurrency) {
  Serve({1, 2, 3, 4});
  EXPECT_EQ(CountInThreads(100'000),
            (Counts{{1, 10'000}, {2, 20'000}, {3, 30'000}, {4, 40'000}}));
}

}  // namespace
}  // namespace headgate::datapath
