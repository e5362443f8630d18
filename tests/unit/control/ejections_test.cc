#include "control/ejections.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

namespace headgate::control {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Backends of service 1 with ids from 1 on, looked at every 100 ms.
class EjectionsTest : public ::testing::Test {
 protected:
  explicit EjectionsTest(size_t backends = 4) {
    for (uint32_t id = 1; id <= backends; ++id) {
      Ejections::Backend& backend = backends_.emplace_back();
      backend.id = id;
      backend.service = 1;
      backend.in_service = true;
    }
    Look();
  }
  Ejections::Backend& At(uint32_t id) { return backends_.at(id - 1); }
  void Fail(uint32_t id, uint64_t count = 5, Failure how = Failure::kRefused) {
    At(id).outcomes.failures[static_cast<size_t>(how)] += count;
  }
  void Succeed(uint32_t id) { ++At(id).outcomes.successes; }
  std::vector<uint32_t> Look() {
    now_ += Ejections::kBusyInterval;
    return ejections_.Look(now_, backends_);
  }
  void Pass(absl::Duration time) {
    for (const absl::Time end = now_ + time; now_ < end;) Look();
  }
  // Ids.
  std::vector<uint32_t> Ejected() const {
    std::vector<uint32_t> ids;
    for (const Ejections::Backend& backend : backends_) {
      if (ejections_.Of(backend.id).has_value()) ids.push_back(backend.id);
    }
    return ids;
  }
  // Of its next ejection, which then passes.
  absl::Duration NextLength(uint32_t id) {
    Fail(id);
    Look();
    const auto ejected = ejections_.Of(id);
    if (!ejected.has_value()) return absl::ZeroDuration();
    Pass(ejected->length - Ejections::kBusyInterval);
    EXPECT_THAT(Ejected(), ElementsAre(id));
    Look();
    EXPECT_THAT(Ejected(), IsEmpty());
    return ejected->length;
  }

  absl::Time now_ = absl::UnixEpoch();
  std::vector<Ejections::Backend> backends_;
  Ejections ejections_;
};

TEST_F(EjectionsTest, SoManyFailuresInARowEject) {
  Fail(2, 4);
  Look();
  EXPECT_THAT(Ejected(), IsEmpty());
  Fail(2, 1, Failure::kTimeout);
  Look();
  EXPECT_THAT(Ejected(), ElementsAre(2));
  EXPECT_EQ(ejections_.Of(2)->until, now_ + absl::Seconds(10));
  EXPECT_EQ(ejections_.Of(2)->last, Failure::kTimeout);
}

TEST_F(EjectionsTest, ASuccessInBetweenStartsAnew) {
  for (int i = 0; i < 10; ++i) {
    Fail(2, 4);
    Look();
    Succeed(2);
    Look();
  }
  // Of one look, the success may have been the last.
  Fail(2, 100);
  Succeed(2);
  Look();
  EXPECT_THAT(Ejected(), IsEmpty());
  Fail(2, 5);
  Look();
  EXPECT_THAT(Ejected(), ElementsAre(2));
}

TEST_F(EjectionsTest, TheReasonIsWhatFailedMost) {
  Fail(2, 2, Failure::kRefused);
  Fail(2, 3, Failure::kOvertaken);
  Look();
  EXPECT_EQ(ejections_.Of(2)->last, Failure::kOvertaken);
}

TEST_F(EjectionsTest, ASuccessDoesNotEndAnEjection) {
  Fail(2);
  Look();
  Succeed(2);
  Pass(absl::Seconds(9));
  EXPECT_THAT(Ejected(), ElementsAre(2));
}

TEST_F(EjectionsTest, WhatFailsDuringAnEjectionBeganBefore) {
  Fail(2);
  Look();
  Fail(2, 100);
  Pass(absl::Milliseconds(9900));
  EXPECT_THAT(Ejected(), ElementsAre(2));
  Fail(2, 100);
  Look();
  EXPECT_THAT(Ejected(), IsEmpty());
  Fail(2, 4);
  Look();
  EXPECT_THAT(Ejected(), IsEmpty());
}

TEST_F(EjectionsTest, EachIsTwiceAsLongUpToFiveMinutes) {
  for (const int seconds : {10, 20, 40, 80, 160, 300, 300}) {
    EXPECT_EQ(NextLength(2), absl::Seconds(seconds));
  }
  Pass(absl::Minutes(5) - absl::Seconds(1));
  EXPECT_EQ(NextLength(2), absl::Seconds(300));
  Pass(absl::Minutes(5));
  EXPECT_EQ(NextLength(2), absl::Seconds(10));
}

TEST_F(EjectionsTest, ATimeAboveFiveMinutesIsNeverShortened) {
  At(2).rule.time = absl::Minutes(6);
  EXPECT_EQ(NextLength(2), absl::Minutes(6));
  EXPECT_EQ(NextLength(2), absl::Minutes(6));
}

TEST_F(EjectionsTest, NoMoreThanMaxPercentAtOnce) {
  for (uint32_t id = 1; id <= 4; ++id) Fail(id);
  Look();
  EXPECT_THAT(Ejected(), ElementsAre(1, 2));
  // The others' turn comes when these are back.
  Pass(absl::Seconds(10));
  EXPECT_THAT(Ejected(), ElementsAre(3, 4));
}

TEST_F(EjectionsTest, PercentAreNotRoundedUp) {
  backends_.resize(3);
  for (uint32_t id = 1; id <= 3; ++id) Fail(id);
  Look();
  EXPECT_THAT(Ejected(), ElementsAre(1));
}

TEST_F(EjectionsTest, NeverTheLastOne) {
  for (uint32_t id = 1; id <= 4; ++id) {
    At(id).rule.max_percent = 100;
    Fail(id);
  }
  Look();
  EXPECT_THAT(Ejected(), ElementsAre(1, 2, 3));
}

TEST_F(EjectionsTest, NeverTheOneThatChecksHaveLeft) {
  At(1).down = At(3).down = At(4).down = true;
  Fail(2);
  Look();
  EXPECT_THAT(Ejected(), IsEmpty());
}

TEST_F(EjectionsTest, WhenTheOthersGoTheFirstComesBack) {
  for (const uint32_t id : {2u, 1u}) {
    Fail(id);
    Look();
  }
  ASSERT_THAT(Ejected(), ElementsAre(1, 2));
  At(3).down = At(4).down = true;
  Look();
  EXPECT_THAT(Ejected(), ElementsAre(1));
  // It is the last one now, whatever it does.
  Fail(2);
  Pass(absl::Seconds(5));
  EXPECT_THAT(Ejected(), ElementsAre(1));
}

TEST_F(EjectionsTest, WhenThePoolShrinksThePercentHold) {
  Fail(1);
  Fail(2);
  Look();
  At(4).in_service = false;
  Look();
  EXPECT_THAT(Ejected(), ElementsAre(2));
}

TEST_F(EjectionsTest, BackupsAreCountedApart) {
  At(3).backup = At(4).backup = true;
  for (uint32_t id = 1; id <= 4; ++id) Fail(id);
  Look();
  EXPECT_THAT(Ejected(), ElementsAre(1, 3));
}

TEST_F(EjectionsTest, ABackupIsEnoughToEjectTheOnlyOther) {
  backends_.resize(2);
  At(2).backup = true;
  At(1).rule.max_percent = At(2).rule.max_percent = 100;
  Fail(1);
  Fail(2);
  Look();
  EXPECT_THAT(Ejected(), ElementsAre(1));
}

TEST_F(EjectionsTest, ServicesAreCountedApart) {
  At(3).service = At(4).service = 2;
  for (uint32_t id = 1; id <= 4; ++id) Fail(id);
  Look();
  EXPECT_THAT(Ejected(), ElementsAre(1, 3));
}

TEST_F(EjectionsTest, DownByChecksAndOutOfServiceEndIt) {
  Fail(1);
  Look();
  At(1).down = true;
  Look();
  EXPECT_THAT(Ejected(), IsEmpty());
  At(1).down = false;
  Look();
  EXPECT_THAT(Ejected(), IsEmpty());
  // It was soon again.
  Fail(1);
  Look();
  EXPECT_EQ(ejections_.Of(1)->length, absl::Seconds(20));
  At(1).in_service = false;
  Look();
  EXPECT_THAT(Ejected(), IsEmpty());
}

TEST_F(EjectionsTest, AFailureAsksForACheckAtMostOnceASecond) {
  EXPECT_THAT(Look(), IsEmpty());
  Fail(3, 1);
  EXPECT_THAT(Look(), ElementsAre(3));
  for (int i = 0; i < 9; ++i) {
    Fail(3, 1);
    Succeed(3);
    EXPECT_THAT(Look(), IsEmpty());
  }
  Fail(3, 1);
  EXPECT_THAT(Look(), ElementsAre(3));
  Pass(absl::Seconds(2));
  Fail(3, 5);
  EXPECT_THAT(Look(), ElementsAre(3));
  Pass(absl::Seconds(2));
  Fail(3, 1);
  EXPECT_THAT(Look(), IsEmpty()) << "it is ejected";
}

TEST_F(EjectionsTest, LooksOftenOnlyWhileConnectionsAreMade) {
  Pass(absl::Seconds(2));
  EXPECT_EQ(ejections_.Wait(now_), Ejections::kIdleInterval);
  Succeed(1);
  Look();
  EXPECT_EQ(ejections_.Wait(now_), Ejections::kBusyInterval);
  Pass(absl::Seconds(1));
  EXPECT_EQ(ejections_.Wait(now_), Ejections::kIdleInterval);
  // ... but not too late to end an ejection.
  Fail(1);
  Look();
  Pass(absl::Milliseconds(9600));
  EXPECT_EQ(ejections_.Wait(now_), absl::Milliseconds(400));
  EXPECT_EQ(ejections_.Wait(now_ + absl::Seconds(1)), absl::ZeroDuration());
}

TEST_F(EjectionsTest, AnIdThatIsUsedAgainStartsAnew) {
  Fail(1);
  Look();
  At(1).outcomes = {};
  Look();
  EXPECT_THAT(Ejected(), IsEmpty());
  Fail(1);
  Look();
  EXPECT_EQ(ejections_.Of(1)->length, absl::Seconds(10));
  const auto all = std::exchange(backends_, {});
  Look();
  EXPECT_EQ(ejections_.Of(1), std::nullopt);
  backends_ = all;
  Look();
  EXPECT_THAT(Ejected(), IsEmpty()) << "what failed before is old";
}

TEST(CountOutcomesTest, BeingConnectedIsASuccess) {
  hg_backend_stats stats{};
  stats.connections_total = 7;
  stats.connect_refused = 1;
  stats.connect_timeout = 2;
  stats.connect_unreachable = 3;
  stats.connect_reset = 4;
  stats.connect_overtaken = 5;
  const Outcomes plain = CountOutcomes(stats, {}, false);
  // Our own failures, and what a client can bring about.
  stats.connect_error = stats.connect_no_source_port = 100;
  stats.connect_no_source_address = 100;
  stats.early_closed = stats.early_reset = stats.greeting_timeout = 100;
  const Outcomes outcomes = CountOutcomes(stats, {}, false);
  EXPECT_EQ(outcomes.successes, 7u);
  EXPECT_THAT(outcomes.failures, ElementsAre(1, 2, 3, 4, 5, 0, 0));
  EXPECT_EQ(outcomes.failures, plain.failures);
}

TEST(CountOutcomesTest, OrBeingGreetedWhereTheServerSpeaksFirst) {
  hg_backend_stats stats{};
  stats.connections_total = 7;
  stats.connect_reset = 4;
  stats.early_reset = 10;
  stats.early_closed = 20;
  stats.greeting_timeout = 30;
  hg_greeting_times greetings{};
  greetings.counts[0] = 1;
  greetings.counts[13] = 2;
  const Outcomes outcomes = CountOutcomes(stats, greetings, true);
  EXPECT_EQ(outcomes.successes, 3u);
  EXPECT_THAT(outcomes.failures, ElementsAre(0, 0, 0, 14, 0, 20, 30));
}

}  // namespace
}  // namespace headgate::control
