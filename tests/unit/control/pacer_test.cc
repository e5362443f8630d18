#include "control/pacer.h"

#include <gtest/gtest.h>

#include "control/slow_start.h"

namespace headgate::control {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

TEST(PacerTest, ClosesTenThousandEvenlyOverTenMinutes) {
  Pacer pacer(0, 600 * kSecond);
  size_t left = 10'000;
  for (int minute = 1; minute <= 10; ++minute) {
    const size_t before = left;
    for (int64_t ms = 0; ms < 60'000; ms += 10) {
      const int64_t now = (minute - 1) * 60 * kSecond + (ms + 10) * 1'000'000;
      const size_t due = pacer.Due(now, left);
      EXPECT_LE(due, 2u) << now;  // No herd.
      left -= due;
    }
    EXPECT_NEAR(static_cast<double>(before - left), 1000, 2) << minute;
  }
  EXPECT_EQ(left, 0u);
}

TEST(PacerTest, TheLastOneEndsWhenTimeIsUp) {
  Pacer pacer(0, 10 * kSecond);
  EXPECT_EQ(pacer.Due(5 * kSecond - 1, 2), 0u);
  EXPECT_EQ(pacer.Due(5 * kSecond, 2), 1u);
  EXPECT_EQ(pacer.Due(10 * kSecond - 1, 1), 0u);
  EXPECT_EQ(pacer.Due(10 * kSecond, 1), 1u);
}

TEST(PacerTest, ThoseThatEndByThemselvesSlowTheOthersDown) {
  Pacer pacer(0, 100 * kSecond);
  EXPECT_EQ(pacer.Due(50 * kSecond, 100), 50u);
  // 40 of the 50 have gone meanwhile: 10 are left for 50 seconds.
  EXPECT_EQ(pacer.Due(50 * kSecond + 4 * kSecond, 10), 0u);
  EXPECT_EQ(pacer.Due(50 * kSecond + 5 * kSecond, 10), 1u);
}

TEST(PacerTest, NothingLeftIsNothingDue) {
  Pacer pacer(0, kSecond);
  EXPECT_EQ(pacer.Due(kSecond / 2, 0), 0u);
  EXPECT_EQ(pacer.Due(2 * kSecond, 0), 0u);
  EXPECT_EQ(pacer.Due(2 * kSecond, 3), 3u);  // Came late.
}

TEST(SlowStartTest, GrowsFromATenthToAll) {
  const absl::Duration over = absl::Seconds(30);
  EXPECT_DOUBLE_EQ(WarmShare(absl::ZeroDuration(), over), 0.1);
  EXPECT_DOUBLE_EQ(WarmShare(absl::Seconds(15), over), 0.55);
  EXPECT_DOUBLE_EQ(WarmShare(absl::Seconds(30), over), 1);
  EXPECT_DOUBLE_EQ(WarmShare(absl::Seconds(99), over), 1);
}

TEST(SlowStartTest, ScaledWeightsFitTheMapAndKeepTheirProportions) {
  for (uint32_t max = 0; max <= 256; ++max) {
    const uint32_t scale = WeightScale(max);
    EXPECT_GE(scale, 1u);
    EXPECT_LE(ScaledWeight(max, scale, 1), 256u) << max;
  }
  EXPECT_EQ(ScaledWeight(1, WeightScale(1), 0.1), 2u);
  EXPECT_EQ(ScaledWeight(1, WeightScale(1), 1), 20u);
  EXPECT_EQ(ScaledWeight(0, 20, 1), 0u);
  EXPECT_EQ(ScaledWeight(1, 1, 0.1), 1u);  // Never none at all.
  EXPECT_EQ(ScaledWeight(256, 1, 0.1), 26u);
}

}  // namespace
}  // namespace headgate::control
