// conn list and flow list, which may be long.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "ctl/client.h"
#include "tests/unit/ctl/fake_api.h"

namespace headgate::ctl {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

TEST(List, ConnectionsAsATable) {
  FakeApi api;
  api.On("GET /v1/connections?limit=10000", 200,
         R"({"connections":[{"id":18446744073709551615,"service":"smtp",)"
         R"("backend":"node1","client":"[2001:db8::1]:40000",)"
         R"("datapath":"splice","age_seconds":3725.5,"idle_seconds":0.25,)"
         R"("bytes_in":100,"bytes_out":1536}],"total":1})");
  const Outcome table = RunCtl(api, "conn list");
  EXPECT_EQ(table.code, 0);
  EXPECT_EQ(table.out,
            "ID                    SERVICE  BACKEND  CLIENT               "
            "DATAPATH   AGE   IDLE     IN      OUT\n"
            "18446744073709551615  smtp     node1    [2001:db8::1]:40000  "
            "splice    1h2m  250ms  100 B  1.5 KiB\n");
  EXPECT_THAT(table.err, IsEmpty());
}

TEST(List, AsksForWhatWasAskedFor) {
  FakeApi api;
  RunCtl(api, "flow list --client=[2001:db8::1]:25 --service=a/b --limit=7");
  RunCtl(api, "conn list --service=a -o json");
  EXPECT_EQ(api.requests().at(0).key,
            "GET /v1/flows?service=a%2Fb&client=%5B2001%3Adb8%3A%3A1%5D%3A25"
            "&limit=7");
  EXPECT_EQ(api.requests().at(1).key, "GET /v1/connections?service=a");
  EXPECT_EQ(RunCtl(api, "flow list --limit=some").code, 2);
  EXPECT_EQ(RunCtl(api, "backend list --limit=7").code, 2);
}

TEST(List, SaysHowManyThereAreBesides) {
  FakeApi api;
  api.On("GET /v1/flows?limit=2", 200,
         R"({"flows":[{"id":1},{"id":2}],"total":1000000})");
  const Outcome some = RunCtl(api, "flow list --limit=2");
  EXPECT_EQ(some.code, 0);
  EXPECT_EQ(some.err,
            "2 of 1000000; --service and --client make them fewer, --limit=N "
            "and -o json list more\n");
}

// Of what does not fit into one reply.
TEST(List, JsonHasAllOfThem) {
  FakeApi api;
  std::string body = "{\"flows\":[\n";
  const std::string row = absl::StrCat("{\"id\":", std::string(4000, '1'), "}");
  while (body.size() < (65 << 20)) absl::StrAppend(&body, row, ",\n");
  absl::StrAppend(&body, row, "\n],\"total\":1}\n");
  api.On("GET /v1/flows", 200, body);
  const Outcome all = RunCtl(api, "flow list -o json");
  EXPECT_EQ(all.code, 0) << all.err;
  EXPECT_TRUE(all.out == body);
}

TEST(List, TheDaemonMayRefuseOrBreakOff) {
  FakeApi api;
  api.On("GET /v1/flows?service=none", 404, R"({"error":"no service none"})");
  api.OnRaw("GET /v1/flows",
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"flows\":[\n");
  EXPECT_EQ(RunCtl(api, "flow list --service=none -o json").code, 4);
  const Outcome broken = RunCtl(api, "flow list -o json");
  EXPECT_EQ(broken.code, 1);
  EXPECT_THAT(broken.err, HasSubstr("connection closed early"));
}

TEST(List, IsNotWaitedForInSilence) {
  FakeApi api;
  api.OnSilence("GET /v1/flows");
  const auto reply = StreamHttp(api.socket(), {"GET", "/v1/flows", ""},
                                {absl::InfiniteDuration(), absl::Seconds(1)},
                                [](const std::string&) { return true; });
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace headgate::ctl
