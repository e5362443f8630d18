#include "control/id_pool.h"

#include <gtest/gtest.h>

namespace headgate::control {
namespace {

TEST(IdPoolTest, GoesRoundAndReusesLate) {
  IdPool pool(5);
  EXPECT_EQ(pool.Take(), 1U);
  EXPECT_EQ(pool.Take(), 2U);
  EXPECT_EQ(pool.Take(), 3U);
  pool.Return(2);
  EXPECT_EQ(pool.Take(), 4U);
  EXPECT_EQ(pool.Take(), 2U);
}

TEST(IdPoolTest, OneThatSomebodyAskedForIsReusedLateToo) {
  IdPool pool(5);
  EXPECT_TRUE(pool.TakeThis(3));
  EXPECT_TRUE(pool.TakeThis(1));
  pool.Return(1);
  EXPECT_EQ(pool.Take(), 4U);
  EXPECT_EQ(pool.Take(), 1U);
  EXPECT_EQ(pool.Take(), 2U);
  EXPECT_EQ(pool.Take(), std::nullopt);
}

TEST(IdPoolTest, IsEmptyAtItsLimit) {
  IdPool pool(3);
  EXPECT_TRUE(pool.Take().has_value());
  EXPECT_TRUE(pool.Take().has_value());
  EXPECT_EQ(pool.Take(), std::nullopt);
}

}  // namespace
}  // namespace headgate::control
