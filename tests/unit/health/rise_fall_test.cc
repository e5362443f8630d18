#include "health/rise_fall.h"

#include <gtest/gtest.h>

#include <string>

namespace headgate::health {
namespace {

// Plays results ("+" passed, "-" failed) and returns the state after each:
// U, D, and lower case where it did not change.
std::string Play(int rise, int fall, const std::string& results) {
  RiseFall machine(rise, fall);
  std::string states;
  for (const char result : results) {
    const bool changed = machine.OnResult(result == '+');
    const char letter = machine.state() == State::kUp ? 'U' : 'D';
    states += changed ? letter : static_cast<char>(letter + ('a' - 'A'));
  }
  return states;
}

TEST(RiseFallTest, StartsUndecided) {
  EXPECT_EQ(RiseFall(2, 3).state(), State::kStarting);
}

TEST(RiseFallTest, TheFirstResultDecides) {
  EXPECT_EQ(Play(2, 3, "+"), "U");
  EXPECT_EQ(Play(2, 3, "-"), "D");
}

TEST(RiseFallTest, FallFailuresInARowTakeItDown) {
  EXPECT_EQ(Play(2, 3, "+---"), "UuuD");
}

TEST(RiseFallTest, ASuccessRestoresFullCredit) {
  EXPECT_EQ(Play(2, 3, "+--+--+---"), "UuuuuuuuuD");
}

TEST(RiseFallTest, RiseSuccessesInARowBringItBack) {
  EXPECT_EQ(Play(2, 3, "-+-++"), "DdddU");
}

TEST(RiseFallTest, OneIsEnoughWhenOneIsAskedFor) {
  EXPECT_EQ(Play(1, 1, "+-+-"), "UDUD");
}

}  // namespace
}  // namespace headgate::health
