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

TEST(RiseFallTest, InTransitionUntilTheLastResultAgreesWithTheState) {
  RiseFall state(2, 3);
  EXPECT_TRUE(state.in_transition());
  std::string seen;
  for (const char result : std::string("+-+---+-++")) {
    state.OnResult(result == '+');
    seen += state.in_transition() ? '?' : '.';
  }
  EXPECT_EQ(seen, ".?.??.?.?.");
}

TEST(RiseFallTest, RememberedDownEndsWithOneSuccess) {
  RiseFall state = RiseFall::Remembered(3, 2, State::kDown);
  EXPECT_EQ(state.state(), State::kDown);
  EXPECT_TRUE(state.OnResult(true));
  EXPECT_EQ(state.state(), State::kUp);
}

TEST(RiseFallTest, RememberedDownThatFailsAgainRisesAsEver) {
  RiseFall state = RiseFall::Remembered(2, 2, State::kDown);
  EXPECT_FALSE(state.OnResult(false));
  EXPECT_FALSE(state.OnResult(true));
  EXPECT_TRUE(state.OnResult(true));
}

TEST(RiseFallTest, RememberedUpFallsAsEver) {
  RiseFall state = RiseFall::Remembered(2, 2, State::kUp);
  EXPECT_FALSE(state.OnResult(false));
  EXPECT_TRUE(state.OnResult(false));
  EXPECT_EQ(state.state(), State::kDown);
}

}  // namespace
}  // namespace headgate::health
