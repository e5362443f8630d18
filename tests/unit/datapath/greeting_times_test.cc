#include <gtest/gtest.h>

#include "datapath/datapath.h"

namespace headgate::datapath {
namespace {

TEST(CountGreetingTest, ABoundBelongsToItsBucket) {
  hg_greeting_times times{};
  CountGreeting(times, 0);
  CountGreeting(times, 1'000'000);
  CountGreeting(times, 1'000'001);
  CountGreeting(times, 10'000'000'000);
  CountGreeting(times, 3'600'000'000'000);
  EXPECT_EQ(times.counts[0], 2u);
  EXPECT_EQ(times.counts[1], 1u);
  EXPECT_EQ(times.counts[12], 1u);
  EXPECT_EQ(times.counts[13], 1u);
  EXPECT_EQ(times.sum_us, 1000u + 1000u + 10'000'000u + 3'600'000'000u);
}

}  // namespace
}  // namespace headgate::datapath
