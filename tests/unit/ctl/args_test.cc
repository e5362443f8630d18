#include "ctl/args.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/ctl/fake_api.h"

namespace headgate::ctl {
namespace {

using Words = std::vector<std::string>;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

TEST(Args, FlagsStandAnywhere) {
  const auto args = ParseArgs({"--socket", "/run/a", "backend", "-o", "json",
                               "drain", "--wait", "smtp/a", "--timeout=90s"});
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_THAT(args->words, ElementsAre("backend", "drain", "smtp/a"));
  EXPECT_EQ(args->options.socket, "/run/a");
  EXPECT_EQ(args->options.output, Output::kJson);
  EXPECT_TRUE(args->options.wait);
  EXPECT_EQ(args->options.timeout, absl::Seconds(90));
}

TEST(Args, EveryWayToGiveTheOutput) {
  for (const Words& words : {Words{"-o=json"},
                             Words{"-o", "json"},
                             Words{"--output=json"},
                             {"--output", "json"}}) {
    const auto args = ParseArgs(words);
    ASSERT_TRUE(args.ok()) << args.status();
    EXPECT_EQ(args->options.output, Output::kJson) << words[0];
  }
}

TEST(Args, TheRestIsWords) {
  const auto args = ParseArgs({"config", "check", "-", "--", "--wait"});
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_THAT(args->words, ElementsAre("config", "check", "-", "--wait"));
  EXPECT_FALSE(args->options.wait);
}

TEST(Args, Durations) {
  const std::pair<const char*, absl::Duration> good[] = {
      {"500ms", absl::Milliseconds(500)},
      {"5s", absl::Seconds(5)},
      {"10m", absl::Minutes(10)},
      {"1h", absl::Hours(1)}};
  for (const auto& [text, duration] : good) {
    const auto args = ParseArgs({"--timeout", text});
    ASSERT_TRUE(args.ok()) << text;
    EXPECT_EQ(args->options.timeout, duration);
  }
  for (const char* text : {"5", "0s", "-5s", "inf", "soon", "5 s"}) {
    EXPECT_FALSE(ParseArgs({"--timeout", text}).ok()) << text;
  }
}

TEST(Args, ErrorsSayWhatWasMeant) {
  const std::pair<Words, const char*> bad[] = {
      {{"--wiat"}, "unknown flag --wiat; did you mean \"--wait\"?"},
      {{"--socket"}, "flag --socket: PATH is missing"},
      {{"--socket="}, "flag --socket: PATH is missing"},
      {{"--wait=1"}, "flag --wait: takes no value"},
      {{"-o", "xml"}, "flag --output: \"xml\" is not table or json"},
      {{"--color=red"}, "\"red\" is not auto, always or never"}};
  for (const auto& [args, message] : bad) {
    const absl::Status status = ParseArgs(args).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(Usage, NothingToDoIsAnErrorWithHelp) {
  for (const Words& args : {Words{}, {"backend"}, {"service"}}) {
    const Outcome outcome = RunCtl(args);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_THAT(outcome.out, IsEmpty());
    EXPECT_THAT(outcome.err, StartsWith("usage: headgatectl"));
  }
}

TEST(Usage, HelpNarrowsToWhatWasNamed) {
  const Outcome all = RunCtl(Words{"--help"});
  EXPECT_EQ(all.code, 0);
  EXPECT_THAT(all.out, HasSubstr("  config reload\n"));
  EXPECT_THAT(all.out, HasSubstr("--timeout=DURATION"));
  const Outcome noun = RunCtl(Words{"backend", "-h"});
  EXPECT_EQ(noun.code, 0);
  EXPECT_THAT(noun.out, HasSubstr("  backend weight SERVICE/NAME N\n"));
  EXPECT_THAT(noun.out, testing::Not(HasSubstr("  config reload\n")));
  const Outcome verb = RunCtl({"help", "backend", "list"});
  EXPECT_EQ(verb.code, 0);
  EXPECT_THAT(verb.out, HasSubstr("  backend list [--service=SERVICE]\n"));
  EXPECT_THAT(verb.out, testing::Not(HasSubstr("backend weight")));
}

TEST(Usage, Version) {
  const Outcome outcome = RunCtl(Words{"--version"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out,
              testing::MatchesRegex("headgatectl [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST(Usage, OneClearLineForAMistake) {
  const std::pair<Words, const char*> bad[] = {
      {{"backnd", "list"},
       "unknown noun \"backnd\"; did you mean \"backend\"?"},
      {{"x"},
       "unknown noun \"x\"; one of: status, service, backend, conn, flow, "
       "config"},
      {{"backend", "drian", "a/b"},
       "unknown verb \"drian\"; did you mean \"drain\"?"},
      {{"backend", "drain"},
       "SERVICE/NAME is missing; usage: headgatectl backend drain "
       "SERVICE/NAME [--over=DURATION] [--order=oldest|idle] [--wait] "
       "[--timeout=DURATION]"},
      {{"backend", "list", "--over=5s"},
       "takes no --over; usage: headgatectl backend list "
       "[--service=SERVICE]"},
      {{"backend", "drain", "a/b", "--order=idle"},
       "--order needs --over; usage: headgatectl backend drain SERVICE/NAME "
       "[--over=DURATION] [--order=oldest|idle] [--wait] "
       "[--timeout=DURATION]"},
      {{"backend", "add", "a/b", "198.18.2.1", "--weight=many"},
       "flag --weight: \"many\" is not a number from 0 to 256"},
      {{"conn", "count", "now"},
       "unexpected \"now\"; usage: headgatectl conn count"},
      {{"conn", "count", "--wait"},
       "takes no --wait; usage: headgatectl conn count"},
      {{"config", "show", "--service=a"},
       "takes no --service; usage: headgatectl config show"},
      {{"backend", "drain", "smtp"}, "backend \"smtp\": not SERVICE/NAME"},
      {{"backend", "drain", "smtp/"}, "backend \"smtp/\": not SERVICE/NAME"},
      {{"backend", "weight", "a/b", "many"},
       "weight \"many\": not a number from 0 to 256"}};
  for (const auto& [args, message] : bad) {
    const Outcome outcome = RunCtl(args);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.err, std::string("headgatectl: ") + message + "\n");
    EXPECT_THAT(outcome.out, IsEmpty());
  }
}

}  // namespace
}  // namespace headgate::ctl
