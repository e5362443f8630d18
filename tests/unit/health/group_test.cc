// Targets that are addresses of one process.
#include "health/group.h"

#include <set>

#include "tests/unit/health/monitor_fixture.h"

namespace headgate::health {
namespace {

class GroupTest : public MonitorTest {
 protected:
  static constexpr int kMembers = 4;

  // Member 1 to 4.
  static Monitor::Target Member(int host, absl::Duration interval = kSoon) {
    Monitor::Target target = Target(host, interval, kSoon, kSoon);
    target.health.type = config::HealthType::kSmtp;
    target.health.proxy_protocol = config::CheckHeader::kLocal;
    target.health.rise = 1;
    target.health.fall = 1;
    target.group = "nodes";
    return target;
  }
  void PutAll(absl::Duration interval = kSoon) {
    for (int id = 1; id <= kMembers; ++id) {
      monitor_.Put(static_cast<uint32_t>(id), Member(id, interval));
    }
  }
  static bool IsDeep(const Started& started) {
    return started.request.health.type == config::HealthType::kSmtp;
  }
  // Of the checks so far.
  std::vector<Endpoint> Deep() const {
    std::vector<Endpoint> result;
    for (const Started& each : started_) {
      if (IsDeep(each)) result.push_back(each.request.target);
    }
    return result;
  }
  size_t Light(int host) const {
    return static_cast<size_t>(
        std::count_if(started_.begin(), started_.end(), [&](const auto& each) {
          return !IsDeep(each) && each.request.target == Member(host).endpoint;
        }));
  }
  void RunUntilLight(int host, size_t checks) {
    RunUntil([=, this] { return Light(host) >= checks; });
  }
  void RunUntilTurned(uint32_t id, char state) {
    RunUntil([=, this] { return seen_[id].find(state) != std::string::npos; });
  }
};

TEST_F(GroupTest, OneDeepCheckInTurnAndALightOneEach) {
  PutAll();
  for (int id = 1; id <= kMembers; ++id) RunUntilLight(id, 30);
  const std::vector<Endpoint> deep = Deep();
  ASSERT_EQ(deep.size(), 2u) << "the pace lets no more begin so soon";
  EXPECT_NE(deep[0], deep[1]);
  for (const Started& each : started_) {
    if (IsDeep(each)) continue;
    EXPECT_EQ(each.request.health.type, config::HealthType::kTcp);
    EXPECT_EQ(each.request.health.proxy_protocol, config::CheckHeader::kNone);
  }
}

TEST_F(GroupTest, ServicesOfOnePoolAreOneGroup) {
  PutAll();
  for (int id = 1; id <= kMembers; ++id) {
    monitor_.Put(static_cast<uint32_t>(100 + id), Member(id));
  }
  RunUntilLight(1, 30);
  EXPECT_EQ(Deep().size(), 2u);
  EXPECT_LE(Light(1), 32u) << "they share the light ones, too";
}

TEST_F(GroupTest, AnotherPortPoolOrKindIsAnotherGroup) {
  std::vector<Monitor::Target> targets(4, Member(1, kNever));
  targets[1].endpoint.port = 587;
  targets[2].group = "others";
  targets[3].health.ehlo = "a.test";
  for (uint32_t id = 0; id < targets.size(); ++id) {
    monitor_.Put(id, targets[id]);
  }
  RunUntil([&] { return Deep().size() == targets.size(); });
}

TEST_F(GroupTest, UpOnceBothAre) {
  PutAll(kNever);
  for (uint32_t id = 1; id <= kMembers; ++id) RunUntilTurned(id, 'U');
}

TEST_F(GroupTest, ADeepFailureIsOfAllMembers) {
  deep_script_ = "+x";
  PutAll();
  for (uint32_t id = 1; id <= kMembers; ++id) RunUntilTurned(id, 'D');
  // The first light result of each is told, and may come only now.
  for (int id = 1; id <= kMembers; ++id) RunUntilLight(id, 2);
  // What passes lightly from then on changes nothing, and nobody is told.
  const auto before = seen_;
  for (int id = 1; id <= kMembers; ++id) RunUntilLight(id, Light(id) + 20);
  EXPECT_EQ(seen_, before);
}

TEST_F(GroupTest, ALightFailureIsOfThatMember) {
  deep_script_ = "+";
  Script(Member(2), "++-");
  PutAll();
  RunUntilSeen(2, 9);
  EXPECT_EQ(seen_[2].back(), 'd');
  RunUntilLight(1, Light(1) + 20);
  for (const uint32_t id : {1u, 3u, 4u}) {
    EXPECT_EQ(seen_[id].find_first_of("Dd"), std::string::npos) << id;
  }
}

TEST_F(GroupTest, AMemberThatAnswersAgainIsUpAtOnceIfTheProcessIs) {
  deep_script_ = "+";
  Script(Member(2), "---+");
  PutAll();
  RunUntilTurned(2, 'D');
  RunUntilTurned(2, 'U');
}

TEST_F(GroupTest, ADeepCheckThatDoesNotConnectSaysNothingOfTheProcess) {
  deep_script_ = "+";
  PutAll(kNever);
  for (uint32_t id = 1; id <= kMembers; ++id) RunUntilTurned(id, 'U');
  // Those that have turned since the first deep check may have had another.
  deep_script_ = "-";
  const size_t deep = Deep().size();
  std::map<IpAddress, size_t> light;
  for (int id = 1; id <= kMembers; ++id) {
    light[Member(id).endpoint.address] = Light(id);
  }
  monitor_.CheckNow(1);
  RunUntil([&] { return Deep().size() > deep; });
  const IpAddress asked = Deep().back().address;
  RunUntil([&] {
    for (int id = 1; id <= kMembers; ++id) {
      if (Member(id).endpoint.address != asked) continue;
      return Light(id) > light.at(asked);
    }
    return false;
  });
  for (const auto& [id, seen] : seen_) {
    EXPECT_EQ(seen.find_first_of("Dd"), std::string::npos) << id << seen;
  }
}

TEST_F(GroupTest, WhereNobodyAnswersNobodyIsAskedMore) {
  for (int id = 1; id <= kMembers; ++id) Script(Member(id), "-");
  for (int id = 1; id <= kMembers; ++id) {
    monitor_.Put(static_cast<uint32_t>(id), Member(id), State::kDown);
  }
  for (int id = 1; id <= kMembers; ++id) RunUntilLight(id, 20);
  EXPECT_TRUE(Deep().empty());
}

TEST_F(GroupTest, ANewcomerStartsWithWhatIsKnownOfTheProcess) {
  deep_script_ = "x";
  PutAll(kNever);
  RunUntilTurned(1, 'D');
  monitor_.Put(5, Member(5, kNever));
  RunUntilSeen(5, 1);
  EXPECT_EQ(seen_[5].find_first_of("SsUu"), std::string::npos) << seen_[5];
}

TEST_F(GroupTest, WhoJoinsAGroupKeepsItsStateAndWhoLeavesTakesItAlong) {
  Monitor::Target alone = Member(1, kNever);
  alone.group.clear();
  monitor_.Put(1, alone);
  RunUntilTurned(1, 'U');
  monitor_.Put(1, Member(1, kNever));
  RunUntilLight(1, 1);
  monitor_.Put(1, alone);
  RunUntil([&] { return Deep().size() >= 3; });
  EXPECT_EQ(seen_[1].find_first_not_of("Uu"), std::string::npos) << seen_[1];
}

TEST_F(GroupTest, TheLastToLeaveEndsTheChecks) {
  PutAll();
  RunUntilLight(1, 2);
  for (uint32_t id = 1; id <= kMembers; ++id) monitor_.Remove(id);
  const size_t checks = started_.size();
  monitor_.Put(9, Target(9, kSoon));
  RunUntilSeen(9, 20);
  EXPECT_LE(started_.size(), checks + seen_[9].size() + 1);
}

TEST(DeepPaceTest, NoMoreThanNineInAnyMinute) {
  constexpr int64_t kSecond = 1'000'000'000;
  DeepPace pace;
  int64_t now_ns = 1000 * kSecond;
  std::deque<int64_t> starts;
  for (int i = 0; i < 200; ++i) {
    const int64_t start_ns =
        now_ns + absl::ToInt64Nanoseconds(pace.Take(now_ns));
    starts.push_back(start_ns);
    if (starts.size() > 9) {
      EXPECT_GT(start_ns - starts[starts.size() - 10], 60 * kSecond);
    }
    // Asked for every 5 s, but for a rest now and then.
    now_ns = std::max(start_ns, now_ns) + (i % 13 == 12 ? 100 : 5) * kSecond;
  }
}

TEST(DeepPaceTest, IntervalsOfEightSecondsAreKept) {
  constexpr int64_t kSecond = 1'000'000'000;
  DeepPace pace;
  for (int64_t i = 100; i < 200; ++i) {
    EXPECT_EQ(pace.Take(i * 8 * kSecond), absl::ZeroDuration());
  }
}

}  // namespace
}  // namespace headgate::health
