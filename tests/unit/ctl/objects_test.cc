// service, backend and conn.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/ctl/fake_api.h"

namespace headgate::ctl {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

TEST(Service, List) {
  FakeApi api;
  const std::string body =
      R"({"services":[{"name":"smtp","listen":["198.18.1.1:25",)"
      R"("[2001:db8:1::1]:25"],"pool":"mail","datapath":"splice",)"
      R"("balance":"round_robin","backends_up":2,"backends_total":3,)"
      R"("connections_active":7,"connections_total":1200,"queue_length":5,)"
      R"("bytes_in_total":2048,"bytes_out_total":5368709120},)"
      R"({"name":"imap","later":{}}]})";
  api.On("GET /v1/services", 200, body);
  const Outcome table = RunCtl(api, "service list");
  EXPECT_EQ(table.code, 0);
  EXPECT_EQ(
      table.out,
      "NAME  LISTEN                            POOL  DATAPATH  BALANCE      "
      "UP   ACTIVE  QUEUE  TOTAL       IN      OUT\n"
      "smtp  198.18.1.1:25,[2001:db8:1::1]:25  mail  splice    round_robin  "
      "2/3       7      5   1200  2.0 KiB  5.0 GiB\n"
      "imap  -                                 -     -         -            "
      "-/-       -      -      -        -        -\n");
  EXPECT_EQ(RunCtl(api, "service list -o json").out, body + "\n");
}

constexpr char kBackends[] =
    R"({"backends":[{"service":"smtp","name":"node1",)"
    R"("address":"198.18.2.11:30125","state":"up","admin":"ready","weight":1,)"
    R"("connections_active":3,"connections_total":40,"last_check":)"
    R"({"result":"ok","detail":"","duration_seconds":0.0008,)"
    R"("time":"2024-01-01T00:00:00Z"}},{"service":"smtp","name":"node2",)"
    R"("address":"198.18.2.12:30125","state":"down","admin":"ready",)"
    R"("weight":256,"connections_active":0,"connections_total":0,)"
    R"("last_check":{"result":"failed","duration_seconds":2,)"
    R"("detail":"greeting \u001b]0;owned\u0007"}},)"
    R"({"name":"new","last_check":null}]})";

TEST(Backend, List) {
  FakeApi api;
  api.On("GET /v1/backends", 200, kBackends);
  const Outcome table = RunCtl(api, "backend list");
  EXPECT_EQ(table.code, 0);
  EXPECT_EQ(table.out,
            "SERVICE  NAME   ADDRESS            STATE  ADMIN  WEIGHT  ACTIVE  "
            "TOTAL  LAST CHECK\n"
            "smtp     node1  198.18.2.11:30125  up     ready       1       3  "
            "   40  ok in 0.8ms\n"
            "smtp     node2  198.18.2.12:30125  down   ready     256       0  "
            "    0  failed in 2s: greeting ]0;owned\n"
            "-        new    -                  -      -           -       -  "
            "    -  -\n");
  EXPECT_EQ(RunCtl(api, "backend list -o json").out,
            std::string(kBackends) + "\n");
}

TEST(Backend, ListSaysWhoIsEjected) {
  FakeApi api;
  api.On("GET /v1/backends", 200,
         R"({"backends":[{"name":"n1","state":"down","ejected":)"
         R"({"until":"2024-01-01T00:00:10.000Z","reason":"refused"},)"
         R"("last_check":{"result":"passed","duration_seconds":0.001}}]})");
  EXPECT_THAT(RunCtl(api, "backend list").out,
              HasSubstr("ejected until 2024-01-01T00:00:10.000Z: refused; "
                        "passed in 1.0ms\n"));
}

TEST(Backend, ListOfOneService) {
  FakeApi api;
  api.On("GET /v1/backends?service=a%26b", 200, R"({"backends":[]})");
  const Outcome outcome = RunCtl(api, "backend list --service=a&b");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out,
            "SERVICE  NAME  ADDRESS  STATE  ADMIN  WEIGHT  ACTIVE  TOTAL  "
            "LAST CHECK\n");
  EXPECT_EQ(RunCtl(api, "backend list --service=none").code, 4);
}

TEST(Backend, AdminState) {
  for (const std::string verb : {"drain", "ready", "maint"}) {
    FakeApi api;
    const std::string body =
        R"({"service":"smtp","name":"a","admin":")" + verb + "\"}";
    api.On("POST /v1/backends/smtp/a%2Fb/" + verb, 200, body);
    const Outcome table = RunCtl(api, "backend " + verb + " smtp/a/b");
    EXPECT_EQ(table.code, 0);
    EXPECT_EQ(table.out, "smtp/a/b: " + verb + "\n");
    EXPECT_EQ(RunCtl(api, "backend " + verb + " smtp/a/b -o json").out,
              body + "\n");
    EXPECT_EQ(RunCtl(api, "backend " + verb + " smtp/c").code, 4);
  }
}

TEST(Backend, DotsAreNames) {
  const FakeApi api;
  EXPECT_EQ(RunCtl(api, "backend drain ../..").code, 4);
  ASSERT_EQ(api.requests().size(), 1U);
  EXPECT_EQ(api.requests()[0].key, "POST /v1/backends/../../drain");
}

TEST(Backend, Weight) {
  FakeApi api;
  const std::string key = "POST /v1/backends/smtp/a/weight";
  api.On(key, 200, R"({"service":"smtp","name":"a","weight":12})");
  api.On(key, 400, R"({"error":"weight 300: not 0 to 256"})");
  const Outcome good = RunCtl(api, "backend weight smtp/a 12");
  EXPECT_EQ(good.code, 0);
  EXPECT_EQ(good.out, "smtp/a: weight 12\n");
  EXPECT_EQ(api.requests()[0].body, R"({"weight":12})");
  const Outcome bad = RunCtl(api, "backend weight smtp/a 300");
  EXPECT_EQ(bad.code, 2);
  EXPECT_EQ(bad.err, "headgatectl: weight 300: not 0 to 256\n");
}

TEST(Backend, Check) {
  FakeApi api;
  const std::string key = "POST /v1/backends/smtp/a/check";
  api.On(key, 200,
         R"({"result":"passed","detail":"220 mail","duration_seconds":0.0008,)"
         R"("steps":[{"at_seconds":0.0001,"what":"connected"}]})");
  api.On(key, 200,
         R"({"result":"header_refused","detail":"421","hint":"set it"})");
  const Outcome good = RunCtl(api, "backend check smtp/a --explain");
  EXPECT_EQ(good.code, 0);
  EXPECT_EQ(good.out, "0.1ms  connected\nsmtp/a: passed in 0.8ms: 220 mail\n");
  EXPECT_EQ(api.requests()[0].body, R"({"explain":true})");
  const Outcome bad = RunCtl(api, "backend check smtp/a");
  EXPECT_EQ(bad.code, 1);
  EXPECT_EQ(bad.out, "smtp/a: header_refused: 421\n  hint: set it\n");
  EXPECT_EQ(RunCtl(api, "backend check smtp/none").code, 4);
  EXPECT_EQ(RunCtl(api, "backend list --explain").code, 2);
}

class BackendWait : public testing::Test {
 protected:
  BackendWait() {
    api_.On("POST /v1/backends/smtp/a/drain", 200, R"({"admin":"drain"})");
    api_.On("POST /v1/backends/smtp/a/ready", 200, R"({"admin":"ready"})");
  }

  void Listed(const std::string& fields) {
    api_.On("GET /v1/backends?service=smtp", 200,
            R"({"backends":[{"name":"b","admin":"ready"},{"name":"a",)" +
                fields + "}]}");
  }

  FakeApi api_;
};

TEST_F(BackendWait, DrainUntilTheLastConnectionEnds) {
  Listed(R"("admin":"drain","connections_active":2)");
  Listed(R"("admin":"drain","connections_active":1)");
  Listed(R"("admin":"drain","connections_active":0)");
  const Outcome outcome = RunCtl(api_, "backend drain smtp/a --wait");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "smtp/a: drain\n");
  EXPECT_EQ(outcome.err,
            "smtp/a: 2 connections left\nsmtp/a: 1 connections left\n");
}

TEST_F(BackendWait, DrainGivesUpWhenTimeIsUp) {
  Listed(R"("admin":"drain","connections_active":2)");
  const Outcome outcome =
      RunCtl(api_, "backend drain smtp/a --wait --timeout=500ms");
  EXPECT_EQ(outcome.code, 6);
  EXPECT_THAT(outcome.err, HasSubstr("wait for backend smtp/a timed out: 2 "
                                     "connections left\n"));
}

TEST_F(BackendWait, APacedDrainSaysWhenItEnds) {
  Listed(R"("admin":"drain","connections_active":2,"draining":)"
         R"({"left":2,"ends":"2024-01-02T03:04:05.000Z"})");
  Listed(R"("admin":"drain","connections_active":0,"draining":null)");
  const Outcome outcome =
      RunCtl(api_, "backend drain smtp/a --over=10m --order=idle --wait");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(api_.requests()[0].body, R"({"over_seconds":600,"order":"idle"})");
  EXPECT_EQ(outcome.err,
            "smtp/a: 2 connections left, the last one ends at "
            "2024-01-02T03:04:05.000Z\n");
}

TEST(Backend, PaceIsForDrainOnly) {
  const FakeApi api;
  EXPECT_EQ(RunCtl(api, "backend maint smtp/a --over=10m").code, 2);
  EXPECT_EQ(RunCtl(api, "backend drain smtp/a --order=idle").code, 2);
  EXPECT_EQ(RunCtl(api, "backend drain smtp/a --over=10m --order=x").code, 2);
  EXPECT_THAT(api.requests(), IsEmpty());
}

TEST(Backend, Add) {
  FakeApi api;
  const std::string key = "POST /v1/backends/smtp/n5/add";
  api.On(key, 200, R"({"service":"smtp","name":"n5","done":"added"})");
  api.On(key, 409, R"({"error":"backend smtp/n5 exists"})");
  const Outcome good =
      RunCtl(api, "backend add smtp/n5 [2001:db8::5]:25 --weight=3 --backup");
  EXPECT_EQ(good.code, 0);
  EXPECT_EQ(good.out, "smtp/n5: added\n");
  EXPECT_EQ(api.requests()[0].body,
            R"({"address":"[2001:db8::5]:25","weight":3,"backup":true})");
  EXPECT_EQ(RunCtl(api, "backend add smtp/n5 198.18.2.15").code, 7);
  EXPECT_EQ(api.requests()[1].body,
            R"({"address":"198.18.2.15","weight":1,"backup":false})");
}

TEST(Backend, DeleteWaitsForItsConnections) {
  FakeApi api;
  api.On("DELETE /v1/backends/smtp/a", 200, R"({"done":"removed"})");
  const std::string list = "GET /v1/backends?service=smtp";
  api.On(list, 200,
         R"({"backends":[],"leaving":[{"name":"a","connections_active":2},)"
         R"({"name":"b","connections_active":5}]})");
  api.On(list, 200, R"({"backends":[],"leaving":[]})");
  const Outcome outcome = RunCtl(api, "backend del smtp/a --wait");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "smtp/a: removed\n");
  EXPECT_EQ(outcome.err, "smtp/a: 2 connections left\n");
}

TEST(Backend, DeleteGivesUpWhenTimeIsUp) {
  FakeApi api;
  api.On("DELETE /v1/backends/smtp/a", 200, R"({"done":"removed"})");
  api.On("GET /v1/backends?service=smtp", 200,
         R"({"leaving":[{"name":"a","connections_active":2}]})");
  const Outcome outcome =
      RunCtl(api, "backend del smtp/a --wait --timeout=500ms");
  EXPECT_EQ(outcome.code, 6);
  EXPECT_THAT(outcome.err, HasSubstr("timed out: 2 connections left\n"));
}

TEST_F(BackendWait, DrainUndoneBySomebodyElseIsAConflict) {
  Listed(R"("admin":"drain","connections_active":2)");
  Listed(R"("admin":"ready","connections_active":2)");
  const Outcome outcome = RunCtl(api_, "backend drain smtp/a --wait");
  EXPECT_EQ(outcome.code, 7);
  EXPECT_THAT(outcome.err, HasSubstr("backend smtp/a: was set to ready by "
                                     "somebody else\n"));
}

TEST_F(BackendWait, ABackendThatIsGoneIsNotDrained) {
  api_.On("GET /v1/backends?service=smtp", 200, R"({"backends":[]})");
  const Outcome outcome = RunCtl(api_, "backend drain smtp/a --wait");
  EXPECT_EQ(outcome.code, 4);
  EXPECT_EQ(outcome.err, "headgatectl: backend smtp/a: is gone\n");
}

TEST_F(BackendWait, ACountThatIsMissingIsNotZero) {
  Listed(R"("admin":"drain")");
  const Outcome outcome = RunCtl(api_, "backend drain smtp/a --wait");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "headgatectl: reply has no connections_active\n");
}

TEST_F(BackendWait, ReadyUntilItIsUp) {
  Listed(R"("admin":"ready","state":"starting","connections_active":0)");
  Listed(R"("admin":"ready","state":"up","connections_active":0)");
  const Outcome outcome = RunCtl(api_, "backend ready smtp/a --wait -o json");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "{\"admin\":\"ready\"}\n");
  EXPECT_EQ(outcome.err, "smtp/a: state is starting\n");
}

TEST(Conn, Count) {
  FakeApi api;
  api.On("GET /v1/connections/count", 200, R"({"connections_active":42})");
  EXPECT_EQ(RunCtl(api, "conn count").out, "42\n");
  EXPECT_EQ(RunCtl(api, "conn count -o json").out,
            "{\"connections_active\":42}\n");
}

TEST(Conn, Kill) {
  FakeApi api;
  api.On("DELETE /v1/connections/7", 200, R"({"id":7})");
  const Outcome table = RunCtl(api, "conn kill 7");
  EXPECT_EQ(table.code, 0);
  EXPECT_EQ(table.out, "connection 7: closed\n");
  EXPECT_EQ(RunCtl(api, "conn kill 7 -o json").out, "{\"id\":7}\n");
  const Outcome none = RunCtl(api, "conn kill 8");
  EXPECT_EQ(none.code, 4);
  EXPECT_THAT(none.out, IsEmpty());
}

}  // namespace
}  // namespace headgate::ctl
