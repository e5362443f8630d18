#include "control/saved_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_replace.h"

namespace headgate::control {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using Presence = RuntimeChange::Presence;

const absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);
const Moment kSaved = {kNow, "3f1c", 7'000'000'000};

Endpoint At(const char* text) { return *Endpoint::Parse(text); }

RuntimeChange Drained(const char* address) {
  RuntimeChange change;
  change.address = At(address);
  change.admin = HG_ADMIN_DRAIN;
  change.admin_since = kNow;
  return change;
}

RuntimeChange Added(const char* name, const char* address) {
  RuntimeChange change;
  change.address = At(address);
  change.presence = Presence::kAdded;
  change.presence_since = kNow;
  change.added.name = name;
  change.added.address = change.address.address;
  change.added.port = change.address.port;
  change.added.weight = 7;
  change.added.backup = true;
  return change;
}

// One of everything.
SavedState Full() {
  SavedState state;
  state.saved = kSaved;
  state.changes[{"smtp", "a"}] = Drained("198.18.2.11:25");
  state.changes[{"smtp", "a"}].weight = {3, 1, kNow};
  state.changes[{"smtp", "n5"}] = Added("n5", "[2001:db8::5]:25");
  RuntimeChange removed;
  removed.address = At("198.18.2.12:25");
  removed.presence = Presence::kRemoved;
  removed.presence_since = kNow;
  state.changes[{"imap", "b"}] = removed;
  state.health = {{{"smtp", "a"}, At("198.18.2.11:25"), health::State::kUp},
                  {{"smtp", "b"}, At("198.18.2.12:25"), health::State::kDown}};
  return state;
}

TEST(SavedStateTest, ReadsBackWhatItWrote) {
  const auto read = ParseState(FormatState(Full()));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, Full());
  EXPECT_EQ(*ParseState(FormatState({.saved = kSaved})),
            SavedState{.saved = kSaved});
}

TEST(SavedStateTest, WhatIsCutOffAnywhereIsRefused) {
  const std::string text = FormatState(Full());
  for (size_t size = 0; size + 2 < text.size(); ++size) {
    EXPECT_FALSE(ParseState(text.substr(0, size)).ok()) << size;
  }
}

TEST(SavedStateTest, ForeignAndDamagedFilesAreRefusedWithTheReason) {
  const std::string good = FormatState(Full());
  const std::pair<std::string, std::string> edits[] = {
      {"\"headgate state\"", "\"another\""},
      {"\"version\": 1", "\"version\": 2"},
      {"\"version\": 1", "\"version\": \"1\""},
      {"\"drain\"", "\"asleep\""},
      {"\"drain\"", "7"},
      {"198.18.2.11:25", "198.18.2.11"},
      {"\"weight\": 3", "\"weight\": 257"},
      {"\"weight\": 3", "\"weight\": -1"},
      {"\"service\": \"smtp\"", "\"service\": \"../smtp\""},
      {"\"down\"", "\"sideways\""},
      {"\"backup\": true", "\"backup\": 1"},
      {"\"admin_since\"", "\"admin_sinse\""},
      {"\"health\"", "\"wealth\""},
      {"\"3f1c\"", "3"},
      {"7000000000", "\"7\""},
  };
  for (const auto& [from, to] : edits) {
    const std::string bad = absl::StrReplaceAll(good, {{from, to}});
    ASSERT_NE(bad, good) << from;
    EXPECT_FALSE(ParseState(bad).ok()) << to;
  }
  EXPECT_FALSE(ParseState(std::string(100'000, '[')).ok());
  EXPECT_FALSE(ParseState("[1, 2]").ok());
  EXPECT_THAT(ParseState("{\"format\":\"headgate state\",\"version\":9}")
                  .status()
                  .message(),
              HasSubstr("version 9"));
}

// As versions wrote them that knew the wall clock only.
TEST(SavedStateTest, OlderFilesAreRead) {
  const std::string text = FormatState(Full());
  const size_t boot = text.find(" \"boot\": {");
  const size_t end = text.find("},\n", boot) + 3;
  const auto read = ParseState(text.substr(0, boot) + text.substr(end));
  ASSERT_TRUE(read.ok()) << read.status();
  SavedState expected = Full();
  expected.saved = {.wall = kNow};
  EXPECT_EQ(*read, expected);
}

const BackendKey kDown = {"smtp", "b"};
const Endpoint kDownAt = At("198.18.2.12:25");

// Of what was saved at `saved`, by who reads it at `now`.
bool Remembers(const Moment& saved, const Moment& now) {
  SavedState state = Full();
  state.saved = saved;
  ForgetStale(state, now);
  const health::State known = RememberedHealth(state, kDown, kDownAt);
  EXPECT_THAT(known, AnyOf(health::State::kDown, health::State::kStarting));
  return known == health::State::kDown;
}

Moment After(absl::Duration time, absl::Duration clock_set_by,
             const Moment& then = kSaved) {
  return {then.wall + time + clock_set_by, then.boot,
          then.since_boot_ns + absl::ToInt64Nanoseconds(time)};
}

TEST(SavedStateTest, HealthLastsFiveMinutesWhateverTheWallClockSays) {
  for (const absl::Duration set_by :
       {absl::ZeroDuration(), absl::Hours(24), -absl::Hours(24 * 365)}) {
    EXPECT_TRUE(Remembers(kSaved, After(absl::ZeroDuration(), set_by)));
    EXPECT_TRUE(Remembers(kSaved, After(absl::Minutes(5), set_by)));
    EXPECT_FALSE(Remembers(
        kSaved, After(absl::Minutes(5) + absl::Nanoseconds(1), set_by)));
    EXPECT_FALSE(Remembers(kSaved, After(-absl::Nanoseconds(1), set_by)));
  }
}

TEST(SavedStateTest, AfterARebootTheWallClockSaysHowOldHealthIs) {
  // The clock of a boot that is not known says nothing either.
  for (const char* boot : {"77aa", ""}) {
    const auto remembers = [&](absl::Duration after) {
      return Remembers(kSaved, {kNow + after, boot, 1'000'000'000});
    };
    EXPECT_TRUE(remembers(absl::ZeroDuration()));
    EXPECT_TRUE(remembers(absl::Minutes(5)));
    EXPECT_FALSE(remembers(absl::Minutes(5) + absl::Seconds(1)));
    EXPECT_FALSE(remembers(-absl::Seconds(1)));
  }
  const Moment old_file = {kNow};
  EXPECT_TRUE(Remembers(old_file, {kNow, "", 1}));
  EXPECT_FALSE(Remembers(old_file, {kNow + absl::Hours(1), "", 1}));
}

TEST(SavedStateTest, HealthIsRememberedOfTheSameServerOnly) {
  const SavedState state = Full();
  EXPECT_EQ(RememberedHealth(state, kDown, kDownAt), health::State::kDown);
  EXPECT_EQ(RememberedHealth(state, kDown, At("198.18.2.13:25")),
            health::State::kStarting);
  EXPECT_EQ(RememberedHealth(state, {"imap", "b"}, kDownAt),
            health::State::kStarting);
}

TEST(MomentTest, GoesOnWithinOneBoot) {
  const Moment before = CurrentMoment();
  const Moment after = CurrentMoment();
  EXPECT_EQ(before.boot.size(), 36u);
  EXPECT_EQ(before.boot, after.boot);
  EXPECT_GT(before.since_boot_ns, 0);
  EXPECT_GE(after.since_boot_ns, before.since_boot_ns);
}

TEST(StateFileTest, IsReplacedWholeAndOnlyForItsOwner) {
  const std::string folder = ::testing::TempDir() + "headgate_state_test";
  std::filesystem::remove_all(folder);
  const std::string path = folder + "/deep/state.json";
  EXPECT_TRUE(absl::IsNotFound(ReadStateFile(path).status()));
  ASSERT_TRUE(WriteStateFile(path, "one").ok());
  EXPECT_EQ(*ReadStateFile(path), "one");
  // What a crash in the middle of a write leaves.
  std::ofstream(path + ".new") << "half of it, and longer than the next";
  EXPECT_EQ(*ReadStateFile(path), "one");
  ASSERT_TRUE(WriteStateFile(path, "two").ok());
  EXPECT_EQ(*ReadStateFile(path), "two");
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_FALSE(ReadStateFile(folder).ok());  // A folder.
  EXPECT_FALSE(WriteStateFile(path + "/below", "x").ok());
  std::filesystem::remove_all(folder);
}

class SettleTest : public ::testing::Test {
 protected:
  SettleTest() {
    config::Backend a;
    a.name = "a";
    a.address = *IpAddress::Parse("198.18.2.11");
    config_.pools["nodes"] = {.name = "nodes", .backends = {a}, .source = {}};
    config::Service smtp;
    smtp.name = "smtp";
    smtp.pool = "nodes";
    smtp.backend_port = 25;
    config_.services["smtp"] = smtp;
  }
  config::Backend& a() { return config_.pools["nodes"].backends[0]; }
  size_t Names() {
    return Overlaid(config_.services["smtp"], config_.pools["nodes"], changes_)
        .backends.size();
  }

  config::Config config_;
  RuntimeChanges changes_;
};

TEST_F(SettleTest, ChangesStandUntilTheServerIsAnother) {
  changes_[{"smtp", "a"}] = Drained("198.18.2.11:25");
  Settle(config_, changes_);
  EXPECT_EQ(changes_.size(), 1u);
  a().port = 26;
  Settle(config_, changes_);
  EXPECT_TRUE(changes_.empty());
}

TEST_F(SettleTest, OfServicesAndBackendsThatAreGoneNothingIsKept) {
  changes_[{"smtp", "b"}] = Drained("198.18.2.11:25");
  changes_[{"imap", "a"}] = Drained("198.18.2.11:25");
  changes_[{"imap", "n5"}] = Added("n5", "198.18.2.15:25");
  Settle(config_, changes_);
  EXPECT_TRUE(changes_.empty());
}

TEST_F(SettleTest, AWeightThatChangedInTheFileWins) {
  RuntimeChange change = Drained("198.18.2.11:25");
  change.weight = {3, 1, kNow};
  changes_[{"smtp", "a"}] = change;
  Settle(config_, changes_);
  EXPECT_TRUE((changes_[{"smtp", "a"}].weight.has_value()));
  a().weight = 2;
  Settle(config_, changes_);
  EXPECT_FALSE((changes_[{"smtp", "a"}].weight.has_value()));
  EXPECT_EQ((changes_[{"smtp", "a"}].admin), HG_ADMIN_DRAIN);
}

TEST_F(SettleTest, AddedOnesStayUntilTheFileHasThem) {
  changes_[{"smtp", "n5"}] = Added("n5", "198.18.2.15:25");
  Settle(config_, changes_);
  EXPECT_EQ(Names(), 2u);
  config::Backend n5;
  n5.name = "n5";
  n5.address = *IpAddress::Parse("198.18.2.15");
  config_.pools["nodes"].backends.push_back(n5);
  Settle(config_, changes_);
  EXPECT_TRUE(changes_.empty());
  EXPECT_EQ(Names(), 2u);
}

TEST_F(SettleTest, RemovedOnesStayAwayWhileTheFileHasThem) {
  RuntimeChange removed;
  removed.address = At("198.18.2.11:25");
  removed.presence = Presence::kRemoved;
  changes_[{"smtp", "a"}] = removed;
  Settle(config_, changes_);
  EXPECT_EQ(Names(), 0u);
  config_.pools["nodes"].backends.clear();
  Settle(config_, changes_);
  EXPECT_TRUE(changes_.empty());
}

TEST(DescribeTest, SaysWhatWasDoneAndSinceWhen) {
  const std::vector<std::string> lines = Describe(Full().changes);
  EXPECT_EQ(lines,
            (std::vector<std::string>{
                "imap/b (198.18.2.12:25) was removed by the operator at "
                "2023-11-14T22:13:20Z, the configuration still has it",
                "smtp/a is drained by the operator since "
                "2023-11-14T22:13:20Z",
                "smtp/a has weight 3 by the operator since "
                "2023-11-14T22:13:20Z, configured 1",
                "smtp/n5 ([2001:db8::5]:25) was added by the operator at "
                "2023-11-14T22:13:20Z, the configuration has no such "
                "backend"}));
}

}  // namespace
}  // namespace headgate::control
