#include <gtest/gtest.h>

#include "datapath/datapath.h"

namespace headgate::datapath {
namespace {

TEST(OwnActiveTest, TheLastDaemonsEndWithIt) {
  hg_service_stats stats{};
  stats.connections_active = 5;  // Of the packet path.
  EXPECT_EQ(AddOwn(stats), 5U);
  EXPECT_EQ(AddOwn(stats), 6U);
  RemoveOwn(stats);
  RemoveAllOwn(stats);
  EXPECT_EQ(stats.connections_active, 5U);
  EXPECT_EQ(stats.own_active, 0U);
}

TEST(OwnActiveTest, NothingCountsBelowZero) {
  hg_backend_stats stats{};
  stats.own_active = 1;
  RemoveAllOwn(stats);
  EXPECT_EQ(stats.connections_active, 0U);
  EXPECT_EQ(stats.own_active, 0U);
}

}  // namespace
}  // namespace headgate::datapath
