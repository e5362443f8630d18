// When the monitor checks, with checks that end as the test says. "Never" is an
// hour here, and nothing waits for a time to pass, only for checks to be made.
#include "tests/unit/health/monitor_fixture.h"

namespace headgate::health {
namespace {

TEST_F(MonitorTest, ChecksAtOnceAndThenAtIntervals) {
  monitor_.Put(1, Target(1, absl::Milliseconds(20)));
  RunUntilSeen(1, 4);
  EXPECT_EQ(seen_[1].substr(0, 4), "Uuuu");
  // The first interval may be any shorter, the others 10 %.
  EXPECT_GE(started_[3].since_begin, absl::Milliseconds(18 + 18));
}

TEST_F(MonitorTest, FastWhileUpWithAFailureSince) {
  const Monitor::Target target = Target(1, kSoon, absl::Milliseconds(20));
  Script(target, "++-+--+");
  monitor_.Put(1, target);
  RunUntilSeen(1, 8);
  EXPECT_EQ(seen_[1].substr(0, 8), "Uuuuuuuu");
  // One after the third result, two after the fifth.
  EXPECT_GE(started_[3].since_begin, absl::Milliseconds(18));
  EXPECT_GE(started_[6].since_begin, absl::Milliseconds(3 * 18));
}

TEST_F(MonitorTest, UpAndUndisputedTakesTheInterval) {
  const Monitor::Target idle = Target(1, kNever, kSoon, kSoon);
  monitor_.Put(1, idle);
  monitor_.Put(2, Target(2, kSoon));
  RunUntilSeen(2, 50);
  EXPECT_EQ(seen_[1], "U");
}

TEST_F(MonitorTest, DownTakesTheDownInterval) {
  const Monitor::Target target = Target(1, kNever, kNever, kSoon);
  Script(target, "---+-");
  monitor_.Put(1, target);
  monitor_.Put(2, Target(2, kSoon));
  RunUntilSeen(1, 4);
  const size_t others = seen_[2].size();
  RunUntilSeen(2, others + 50);
  // The success makes it a transition, which would take the fast interval.
  EXPECT_EQ(seen_[1], "Dddd");
}

TEST_F(MonitorTest, FastWhileDownWithASuccessSinceAndThenUp) {
  const Monitor::Target target = Target(1, kNever, kSoon, kSoon);
  Script(target, "-+-++");
  monitor_.Put(1, target);
  monitor_.Put(2, Target(2, kSoon));
  RunUntilSeen(1, 5);
  const size_t others = seen_[2].size();
  RunUntilSeen(2, others + 50);
  EXPECT_EQ(seen_[1], "DdddU");
}

TEST_F(MonitorTest, FastWhileStarting) {
  const Monitor::Target target = Target(1, kNever, kSoon);
  Script(target, "eel+");
  monitor_.Put(1, target);
  RunUntilSeen(1, 3);
  EXPECT_EQ(seen_[1], "ssU") << "alive is enough to start with";
}

TEST_F(MonitorTest, TargetsThatAreCheckedAlikeShareTheChecks) {
  Monitor::Target strict = Target(1, kSoon, kSoon, kSoon);
  Monitor::Target patient = strict;
  strict.health.fall = 1;
  strict.health.rise = 3;
  patient.health.fall = 4;
  patient.health.rise = 1;
  Script(strict, "+---+++----+");
  monitor_.Put(1, strict);
  monitor_.Put(2, patient);
  RunUntilSeen(1, 12);
  EXPECT_EQ(seen_[1].substr(0, 12), "UDddddUDdddd");
  EXPECT_EQ(seen_[2].substr(0, 12), "UuuuuuuuuuDU");
  EXPECT_EQ(seen_[2].size(), seen_[1].size());
  EXPECT_LE(started_.size(), seen_[1].size() + 1) << "one may be under way";
}

TEST_F(MonitorTest, WhoeverWantsTheNextResultSoonerHasIt) {
  Monitor::Target target = Target(1, kNever, kSoon);
  Script(target, "+-");
  target.health.fall = 1;
  target.health.rise = 1;
  Monitor::Target patient = target;
  patient.health.fall = 3;
  monitor_.Put(1, target);
  monitor_.Put(2, patient);
  RunUntilSeen(1, 1);
  monitor_.Put(3, target);  // A newcomer brings the next check.
  RunUntilSeen(2, 4);
  EXPECT_EQ(seen_[1], "UDdd");
  EXPECT_EQ(seen_[2], "UuuD");
  EXPECT_EQ(seen_[3], "Ddd");
}

TEST_F(MonitorTest, AnyDifferenceInTheCheckItselfIsAnotherCheck) {
  const Monitor::Target target = Target(1, kNever);
  std::vector<Monitor::Target> others(7, target);
  others[0].endpoint.port = 587;
  others[1].health.type = config::HealthType::kSmtp;
  others[2].health.proxy_protocol = config::CheckHeader::kLocal;
  others[3].health.interval = absl::Minutes(59);
  others[4].health.server_name = "mail.test";
  others[5].sources = {*IpAddress::Parse("198.18.2.1")};
  others[6].health.down_interval = absl::Minutes(59);
  monitor_.Put(0, target);
  for (uint32_t i = 0; i < others.size(); ++i) monitor_.Put(i + 1, others[i]);
  RunUntil([&] { return seen_.size() == others.size() + 1; });
  EXPECT_EQ(started_.size(), others.size() + 1);
}

TEST_F(MonitorTest, ThoseWhoStayAreCheckedOn) {
  const Monitor::Target target = Target(1, kSoon);
  monitor_.Put(1, target);
  monitor_.Put(2, target);
  RunUntilSeen(1, 2);
  monitor_.Remove(1);
  const std::string last = seen_[1];
  RunUntilSeen(2, last.size() + 5);
  EXPECT_EQ(seen_[1], last);
  monitor_.Remove(2);
  const size_t checks = started_.size();
  monitor_.Put(3, Target(3, kSoon));
  RunUntilSeen(3, 20);
  EXPECT_LE(started_.size(), checks + seen_[3].size() + 1);
}

TEST_F(MonitorTest, ACheckUnderWayIsLeftAndTellsNobody) {
  monitor_.Put(1, Target(1, kNever));
  monitor_.Put(2, Target(1, kNever));
  RunUntil([&] { return !started_.empty(); });
  ASSERT_EQ(seen_[1], "");
  monitor_.Remove(1);
  EXPECT_TRUE(left_.empty()) << "another wants its result";
  monitor_.RemoveAll();
  EXPECT_EQ(left_.size(), 1u);
  monitor_.Put(3, Target(3, kSoon));
  RunUntilSeen(3, 5);
  EXPECT_EQ(seen_[1] + seen_[2], "");
}

TEST_F(MonitorTest, ResultsMayPutAndRemove) {
  const Monitor::Target target = Target(1, kSoon);
  meanwhile_ = [&](uint32_t id) {
    if (id == 1) {
      for (const uint32_t other : {1u, 2u, 3u}) monitor_.Remove(other);
      monitor_.Put(4, target);
    }
  };
  for (const uint32_t id : {1u, 2u, 3u}) monitor_.Put(id, target);
  RunUntilSeen(4, 5);
  EXPECT_EQ(seen_[1], "U");
  EXPECT_EQ(seen_[2], "");
  EXPECT_EQ(seen_[3], "");
}

TEST_F(MonitorTest, ANewWayToCheckAServerKeepsItsState) {
  Monitor::Target target = Target(1, kNever);
  monitor_.Put(1, target);
  RunUntilSeen(1, 1);
  Script(target, "-");
  target.health.type = config::HealthType::kSmtp;
  target.health.fast_interval = kSoon;
  monitor_.Put(1, target);
  RunUntilSeen(1, 4);
  EXPECT_EQ(seen_[1], "UuuD");
  // The counting alone needs no new check.
  target.health.rise = 5;
  monitor_.Put(1, target);
  monitor_.Put(2, Target(2, kSoon));
  RunUntilSeen(2, 20);
  EXPECT_EQ(seen_[1], "UuuD");
}

TEST_F(MonitorTest, ARememberedStateGoesOn) {
  Monitor::Target target = Target(1, kSoon, kSoon, kSoon);
  target.health.rise = 3;
  Script(target, "-+");
  monitor_.Put(1, target, State::kDown);
  monitor_.Put(2, Target(2, kSoon), State::kDown);
  RunUntilSeen(1, 4);
  RunUntilSeen(2, 1);
  EXPECT_EQ(seen_[1].substr(0, 4), "dddU");
  EXPECT_EQ(seen_[2].substr(0, 1), "U");
}

TEST_F(MonitorTest, NeverMoreThanFiveThousandStartsASecond) {
  for (uint32_t id = 0; id < 300; ++id) {
    monitor_.Put(id, Target(static_cast<int>(id), kSoon));
  }
  RunUntil([&] { return started_.size() >= 1200; });
  for (size_t i = 0; i < started_.size(); ++i) {
    ASSERT_GE(started_[i].since_begin, i * absl::Microseconds(200)) << i;
  }
  EXPECT_EQ(seen_.size(), 300u) << "none starves";
}

}  // namespace
}  // namespace headgate::health
