// Who may be chosen at all: panic and the last resort, for every algorithm.

#include <gtest/gtest.h>

#include "tests/bpf/select_fixture.h"

namespace headgate::datapath {
namespace {

class TiersTest : public SelectTest,
                  public ::testing::WithParamInterface<hg_balance> {
 protected:
  void Serve(uint32_t backends, uint32_t panic_threshold,
             bool use_draining = false) {
    service_.panic_threshold = panic_threshold;
    service_.use_draining = use_draining ? 1 : 0;
    SelectTest::Serve(std::vector<uint32_t>(backends, 1), GetParam());
  }
  // Who is chosen by 200 clients.
  std::set<uint32_t> Chosen(const std::vector<uint32_t>& tried = {}) const {
    std::set<uint32_t> chosen;
    for (uint32_t i = 0; i < 200; ++i) {
      chosen.insert(Select(tried, Ipv4Client(i)));
    }
    return chosen;
  }
  // `first` takes the first of those.
  std::set<uint32_t> AnyOf(std::set<uint32_t> backends) const {
    if (GetParam() != HG_BALANCE_FIRST) return backends;
    return {*backends.begin()};
  }
};

using Backends = std::set<uint32_t>;

TEST_P(TiersTest, WithoutThresholdDownIsDown) {
  Serve(2, 0);
  Put(1, Down());
  EXPECT_EQ(Chosen(), Backends{2});
  Put(2, Down());
  EXPECT_EQ(Chosen(), Backends{0});
}

TEST_P(TiersTest, BelowTheThresholdHealthIsIgnored) {
  Serve(4, 50);
  Put(1, Down());
  Put(2, Down());
  EXPECT_EQ(Chosen(), AnyOf({3, 4}));  // Half of them is enough.
  Put(3, Down());
  EXPECT_EQ(Chosen(), AnyOf({1, 2, 3, 4}));
  Put(4, Down());
  EXPECT_EQ(Chosen(), AnyOf({1, 2, 3, 4}));
  Put(1, MakeBackend(1));
  Put(2, MakeBackend(1));
  EXPECT_EQ(Chosen(), AnyOf({1, 2}));
}

TEST_P(TiersTest, PanicIsOfThoseInService) {
  Serve(4, 100);
  hg_backend maint = Down();
  maint.admin = HG_ADMIN_MAINT;
  Put(1, maint);
  hg_backend weightless = Down();
  weightless.weight = 0;
  Put(2, weightless);
  EXPECT_EQ(Chosen(), AnyOf({3, 4}));  // All that count are up.
  Put(3, Down());
  EXPECT_EQ(Chosen(), AnyOf({3, 4}));
}

TEST_P(TiersTest, PanicGoesOnForRetries) {
  Serve(3, 50);
  Put(1, Down());
  Put(2, Down());
  EXPECT_EQ(Chosen({2}), AnyOf({1, 2}));
  EXPECT_EQ(Chosen({0, 2}), Backends{2});
  EXPECT_EQ(Chosen({0, 1, 2}), Backends{0});
}

TEST_P(TiersTest, TriedAndFullOnesAreNoPanic) {
  Serve(3, 100);
  Put(1, Limited(1));
  SetActive(1, 1);
  EXPECT_EQ(Chosen({1}), Backends{3});
  EXPECT_EQ(Chosen({1, 2}), Backends{0});
}

TEST_P(TiersTest, NoConnectionAboveTheLimitEvenInPanic) {
  Serve(2, 50);
  hg_backend full = Down();
  full.max_connections = 1;
  Put(1, full);
  SetActive(1, 1);
  Put(2, Down());
  EXPECT_EQ(Chosen(), Backends{2});
}

TEST_P(TiersTest, WhileSomeAreUpPanicGoesBeforeBackups) {
  Serve(4, 50);
  Put(1, Down());
  Put(2, Down());
  Put(4, Backup());
  EXPECT_EQ(Chosen(), AnyOf({1, 2, 3}));
  EXPECT_EQ(Chosen({0, 1, 2}), Backends{4});
}

TEST_P(TiersTest, WhenNoneIsUpBackupsGoBeforePanic) {
  Serve(3, 50);
  Put(1, Down());
  Put(2, Down());
  Put(3, Backup());
  EXPECT_EQ(Chosen(), Backends{3});
  EXPECT_EQ(Chosen({2}), AnyOf({1, 2}));
}

TEST_P(TiersTest, BackupsThatAreDownStayOut) {
  Serve(2, 50);
  Put(1, Down());
  hg_backend backup = Backup();
  backup.health = HG_HEALTH_DOWN;
  Put(2, backup);
  EXPECT_EQ(Chosen(), Backends{1});
}

TEST_P(TiersTest, D5_DrainingOnesAreTheLastResortIfAsked) {
  Serve(3, 0);
  Put(1, Draining());
  Put(2, Down());
  Put(3, Down());
  EXPECT_EQ(Chosen(), Backends{0});
  service_.use_draining = 1;
  PutService();
  EXPECT_EQ(Chosen(), Backends{1});
  EXPECT_EQ(Chosen({0}), Backends{0});
}

TEST_P(TiersTest, EverybodyElseGoesBeforeDrainingOnes) {
  Serve(3, 50, true);
  Put(1, Draining());
  Put(3, Backup());
  EXPECT_EQ(Chosen(), Backends{2});
  Put(2, Down());
  EXPECT_EQ(Chosen(), Backends{3});
  EXPECT_EQ(Chosen({2}), Backends{2});  // In panic.
  EXPECT_EQ(Chosen({1, 2}), Backends{1});
}

TEST_P(TiersTest, ADrainingOneThatIsDownOrInMaintIsNoResort) {
  Serve(2, 50, true);
  hg_backend draining = Draining();
  draining.health = HG_HEALTH_DOWN;
  Put(1, draining);
  hg_backend maint = MakeBackend(1);
  maint.admin = HG_ADMIN_MAINT;
  Put(2, maint);
  EXPECT_EQ(Chosen(), Backends{0});
}

INSTANTIATE_TEST_SUITE_P(Each, TiersTest, ::testing::ValuesIn(kBalances),
                         BalanceName);

}  // namespace
}  // namespace headgate::datapath
