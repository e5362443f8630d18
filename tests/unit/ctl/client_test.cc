// How headgatectl answers a daemon that is absent, mute, broken or refusing.
#include "ctl/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/ctl/fake_api.h"

namespace headgate::ctl {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kCount[] = "GET /v1/connections/count";

TEST(Daemon, NotThere) {
  const Outcome outcome =
      RunCtl({"status", "--socket=/nonexistent/headgate.sock"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_EQ(outcome.err,
            "headgatectl: daemon not reachable: connect "
            "/nonexistent/headgate.sock: No such file or directory (ENOENT); "
            "start it with: headgated --config=FILE "
            "--socket=/nonexistent/headgate.sock\n");
}

TEST(Daemon, SocketWithoutListener) {
  const FakeApi api;
  const std::string left_over = api.Path("left_over");
  ASSERT_EQ(::link(api.socket().c_str(), left_over.c_str()), 0);
  const Outcome alive = RunCtl({"conn", "count", "--socket=" + left_over});
  EXPECT_EQ(alive.code, 4);  // The same socket under another name answers.
  ASSERT_EQ(::unlink(left_over.c_str()), 0);
  ASSERT_EQ(::mknod(left_over.c_str(), S_IFSOCK | 0600, 0), 0);
  const Outcome dead = RunCtl({"conn", "count", "--socket=" + left_over});
  EXPECT_EQ(dead.code, 3);
  EXPECT_THAT(dead.err, HasSubstr("(ECONNREFUSED)"));
}

TEST(Daemon, PathTooLongForASocket) {
  const Outcome outcome =
      RunCtl({"status", "--socket=/" + std::string(200, 'a')});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("(ENAMETOOLONG)"));
}

// Another user for file access, on this thread only.
class OtherUser {
 public:
  OtherUser() { ::setfsuid(65534); }
  OtherUser(const OtherUser&) = delete;
  OtherUser& operator=(const OtherUser&) = delete;
  ~OtherUser() { ::setfsuid(::geteuid()); }
};

TEST(Daemon, SocketOfSomebodyElse) {
  const FakeApi api;
  ASSERT_EQ(::chmod(api.socket().c_str(), 0), 0);
  const OtherUser other;  // Root may open any; for others 0000 is enough.
  const Outcome outcome = RunCtl(api, "conn count");
  EXPECT_EQ(outcome.code, 5);
  EXPECT_THAT(outcome.err, HasSubstr("(EACCES)"));
  EXPECT_THAT(api.requests(), IsEmpty());
}

TEST(Daemon, Mute) {
  FakeApi api;
  api.OnSilence(kCount);
  const Outcome outcome = RunCtl(api, "conn count --timeout=50ms");
  EXPECT_EQ(outcome.code, 6);
  EXPECT_EQ(outcome.err,
            "headgatectl: read reply from " + api.socket() + ": timed out\n");
}

TEST(Daemon, BrokenReplies) {
  const std::pair<const char*, const char*> cases[] = {
      {"HTTP/1.1 200 OK\r\nContent-Le", "not a JSON object"},
      {"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"conn",
       "connection closed early"},
      {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n{\"conn",
       "not a JSON object"},
      {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "not a JSON object"},
      {"HTTP/1.1 204 No\r\n\r\n", "not a JSON object"},
      {"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"},
      {"\r\n", "not HTTP"}};
  for (const auto& [bytes, message] : cases) {
    FakeApi api;
    api.OnRaw(kCount, bytes);
    const Outcome outcome = RunCtl(api, "conn count");
    EXPECT_EQ(outcome.code, 1) << bytes;
    EXPECT_THAT(outcome.out, IsEmpty());
    EXPECT_THAT(outcome.err,
                HasSubstr("read reply from " + api.socket() + ": "));
    EXPECT_THAT(outcome.err, HasSubstr(message));
  }
}

TEST(Daemon, EndlessReplyIsCut) {
  FakeApi api;
  api.OnRaw(kCount,
            "HTTP/1.1 200 OK\r\n\r\n" + std::string((64 << 20) + 1, '['));
  const Outcome outcome = RunCtl(api, "conn count");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("too large"));
}

TEST(Daemon, RefusalsHaveTheirExitCodes) {
  const std::pair<int, int> cases[] = {{400, 2}, {403, 5}, {404, 4}, {409, 7},
                                       {422, 1}, {500, 1}, {503, 1}};
  for (const auto& [status, code] : cases) {
    FakeApi api;
    api.On(kCount, status, R"({"error":"it \u001b[31mwill\nnot"})");
    const Outcome table = RunCtl(api, "conn count");
    EXPECT_EQ(table.code, code) << status;
    EXPECT_EQ(table.err, "headgatectl: it [31mwill not\n");
    EXPECT_THAT(table.out, IsEmpty());
    const Outcome json = RunCtl(api, "conn count -o json");
    EXPECT_EQ(json.code, code) << status;
    EXPECT_EQ(json.out, "{\"error\":\"it \\u001b[31mwill\\nnot\"}\n");
  }
}

TEST(Daemon, RefusalWithoutWords) {
  FakeApi api;
  api.OnRaw(kCount, "HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\noops");
  const Outcome outcome = RunCtl(api, "conn count -o json");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "headgatectl: daemon answered HTTP 500\n");
  EXPECT_THAT(outcome.out, IsEmpty());
}

TEST(Client, ProxySettingsOfTheUserDoNotMatter) {
  ASSERT_EQ(::setenv("http_proxy", "http://127.0.0.1:1", 1), 0);
  FakeApi api;
  api.On(kCount, 200, R"({"connections_active":1})");
  EXPECT_EQ(RunCtl(api, "conn count").code, 0);
  ASSERT_EQ(::unsetenv("http_proxy"), 0);
}

TEST(Client, EscapesNames) {
  EXPECT_EQ(UrlEscape("a-b_c.d~9"), "a-b_c.d~9");
  EXPECT_EQ(UrlEscape("a/b?c=d e%\xc3\xa9"), "a%2Fb%3Fc%3Dd%20e%25%C3%A9");
  EXPECT_EQ(UrlEscape(""), "");
}

TEST(Client, LargeBodiesArriveWhole) {
  FakeApi api;
  api.On("POST /v1/x", 200, "{}");
  const std::string body(2 << 20, 'x');
  const auto reply =
      SendHttp(api.socket(), {"POST", "/v1/x", body}, absl::Seconds(10));
  ASSERT_TRUE(reply.ok()) << reply.status();
  ASSERT_EQ(api.requests().size(), 1U);
  EXPECT_EQ(api.requests()[0].body, body);
}

}  // namespace
}  // namespace headgate::ctl
