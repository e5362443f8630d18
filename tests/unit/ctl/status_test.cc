#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/ctl/fake_api.h"

namespace headgate::ctl {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr char kKey[] = "GET /v1/status";
constexpr char kReady[] =
    R"({"version":"0.1.0","ready":true,"services":4,"backends_up":3,)"
    R"("backends_total":4,"connections_active":12,)"
    R"("datapaths":{"splice":true,"packet":false},"of_tomorrow":[1]})";
constexpr char kNotReady[] = R"({"version":"0.1.0","ready":false})";

TEST(Status, Ready) {
  FakeApi api;
  api.On(kKey, 200, kReady);
  const Outcome outcome = RunCtl(api, "status");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out,
            "headgated    0.1.0, ready\n"
            "services     4\n"
            "backends     3 of 4 up\n"
            "connections  12 active\n"
            "datapaths    packet off, splice on\n");
}

TEST(Status, WhereThePacketPathIs) {
  FakeApi api;
  api.On(kKey, 200, R"({"version":"0.1.0","ready":true,"packet_hooks":[
    {"interface":"e0","hook":"tc","mode":"tcx","reason":""},
    {"interface":"e0","hook":"xdp","mode":"native","reason":""},
    {"interface":"e1","hook":"tc","mode":"clsact","reason":""},
    {"interface":"e1","hook":"xdp","mode":"","reason":"no driver"}]})");
  EXPECT_THAT(RunCtl(api, "status").out,
              HasSubstr("packet at    e0: tc (tcx), xdp (native); "
                        "e1: tc (clsact)\n"));
}

TEST(Status, NotReadyIsANegativeAnswer) {
  FakeApi api;
  api.On(kKey, 200, kNotReady);
  const Outcome outcome = RunCtl(api, "status --color=always");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.out,
            "headgated    0.1.0, \033[31mnot ready\033[0m\n"
            "services     -\n"
            "backends     - of - up\n"
            "connections  - active\n"
            "datapaths    -\n");
  EXPECT_THAT(outcome.err, IsEmpty());
}

TEST(Status, JsonIsTheApisOwn) {
  FakeApi api;
  api.On(kKey, 200, kReady);
  const Outcome outcome = RunCtl(api, "status -o json");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, std::string(kReady) + "\n");
  FakeApi starting;
  starting.On(kKey, 200, std::string(kNotReady) + "\n");
  const Outcome not_ready = RunCtl(starting, "-o json status");
  EXPECT_EQ(not_ready.code, 1);
  EXPECT_EQ(not_ready.out, std::string(kNotReady) + "\n");
}

TEST(StatusWait, AStartIsWaitedOut) {
  FakeApi api;
  api.OnRaw(kKey, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{");
  api.On(kKey, 503, R"({"error":"starting"})");
  api.On(kKey, 200, kNotReady);
  api.On(kKey, 200, kReady);
  const Outcome outcome = RunCtl(api, "status --wait -o json");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, std::string(kReady) + "\n");
  EXPECT_THAT(outcome.err, IsEmpty());
  EXPECT_EQ(api.requests().size(), 4U);
}

TEST(StatusWait, EndsWhenTimeIsUp) {
  FakeApi api;
  api.On(kKey, 200, kNotReady);
  const Outcome outcome = RunCtl(api, "status --wait --timeout=500ms");
  EXPECT_EQ(outcome.code, 6);
  EXPECT_EQ(outcome.err, "headgatectl: wait timed out: daemon is not ready\n");
}

TEST(StatusWait, ReconnectsUntilTimeIsUp) {
  const Outcome outcome = RunCtl({"status", "--wait", "--timeout=50ms",
                                  "--socket=/nonexistent/headgate.sock"});
  EXPECT_EQ(outcome.code, 6);
  EXPECT_THAT(outcome.err, StartsWith("headgatectl: wait timed out: daemon not "
                                      "reachable: connect /nonexistent"));
}

TEST(StatusWait, AMuteDaemonDoesNotOutlastTheTimeout) {
  FakeApi api;
  api.OnSilence(kKey);
  const Outcome outcome = RunCtl(api, "status --wait --timeout=50ms");
  EXPECT_EQ(outcome.code, 6);
  EXPECT_THAT(outcome.err, HasSubstr("timed out"));
}

TEST(StatusWait, ARefusalIsFinal) {
  FakeApi api;
  api.On(kKey, 403, R"({"error":"not you"})");
  const Outcome outcome = RunCtl(api, "status --wait");
  EXPECT_EQ(outcome.code, 5);
  EXPECT_EQ(outcome.err, "headgatectl: not you\n");
}

}  // namespace
}  // namespace headgate::ctl
