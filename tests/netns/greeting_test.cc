// Servers that speak first, and backends that do not: what the client of a
// service with `timeouts.greeting` never notices.
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/session.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: spare, address: 198.18.2.12, backup: true}
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
    timeouts: {greeting: 1s}
    on_no_backend: smtp_421
  plain:
    listen: [198.18.1.1:26]
    pool: nodes
    backend_port: 30125
    health: {type: none}
)";
constexpr char kGreeting[] = "220 ready\r\n";
constexpr char kLine[] = "421 4.3.2 Service not available, try again later\r\n";
constexpr absl::Duration kMoment = absl::Milliseconds(50);

bool HasConnection(const UniqueFd& listener) {
  pollfd entry{listener.get(), POLLIN, 0};
  return ::poll(&entry, 1, 0) == 1;
}

class GreetingTest : public ::testing::Test {
 protected:
  static UniqueFd ListenAt(const char* node) {
    return RunIn(kBackend, [&] { return Listen(At(node)); });
  }
  double EarlyCloses(const char* service, const char* reason) const {
    return daemon_.Metrics()[absl::StrCat(
        "headgate_backend_early_closes_total{backend=\"one\",reason=\"", reason,
        "\",service=\"", service, "\"}")];
  }
  // The spare one greets, and the client's first words arrive whole.
  void ServedBySpare(TcpSocket client, const UniqueFd& spare,
                     const std::string& first_words) {
    Session session = AcceptSession(std::move(client), spare);
    ASSERT_TRUE(session.valid());
    EXPECT_TRUE(session.backend.Quiet(kMoment)) << "not before the greeting";
    ASSERT_TRUE(session.backend.Send(kGreeting));
    EXPECT_EQ(session.client.Receive(sizeof kGreeting - 1), kGreeting);
    EXPECT_EQ(session.backend.Receive(first_words.size()), first_words);
    EXPECT_TRUE(session.Exchange());
  }

  Lab lab_;
  Daemon daemon_{kConfig};
  const Endpoint vip_ = At("198.18.1.1:25");
  const Endpoint plain_vip_ = At("198.18.1.1:26");
};

TEST_F(GreetingTest, ABackendThatClosesUnheardIsReplaced) {
  const UniqueFd one = ListenAt("198.18.2.11:30125");
  const UniqueFd spare = ListenAt("198.18.2.12:30125");
  Session first = OpenSession(vip_, one);
  ASSERT_TRUE(first.client.Send("EHLO early\r\n"));
  EXPECT_TRUE(first.backend.Quiet(kMoment));
  first.backend.Close();
  ServedBySpare(std::move(first.client), spare, "EHLO early\r\n");
  EXPECT_EQ(EarlyCloses("mail", "closed"), 1);
}

TEST_F(GreetingTest, ABackendThatResetsUnheardIsReplaced) {
  const UniqueFd one = ListenAt("198.18.2.11:30125");
  const UniqueFd spare = ListenAt("198.18.2.12:30125");
  Session first = OpenSession(vip_, one);
  const std::string much(60'000, 'e');
  ASSERT_TRUE(first.client.Send(much));
  first.backend.Reset();
  ServedBySpare(std::move(first.client), spare, much);
  EXPECT_EQ(EarlyCloses("mail", "reset"), 1);
}

TEST_F(GreetingTest, ASilentBackendIsReplacedInTime) {
  const UniqueFd one = ListenAt("198.18.2.11:30125");
  const UniqueFd spare = ListenAt("198.18.2.12:30125");
  const absl::Time start = absl::Now();
  Session first = OpenSession(vip_, one);
  EXPECT_TRUE(first.backend.ReceivesReset());
  const absl::Duration waited = absl::Now() - start;
  EXPECT_GE(waited, absl::Seconds(1));
  EXPECT_LT(waited, absl::Milliseconds(2700));
  ServedBySpare(std::move(first.client), spare, "");
  EXPECT_EQ(EarlyCloses("mail", "greeting_timeout"), 1);
}

TEST_F(GreetingTest, NobodyNoticesABackendThatHangsUpOnAll) {
  Server one({At("198.18.2.11:30125")}, {.hangs_up = true});
  Server spare({At("198.18.2.12:30125")},
               {.greeting = kGreeting, .echo = true});
  const LoadReport report =
      RunLoad({.target = vip_,
               .total = 500,
               .send = "NOOP\r\n",
               .expect = absl::StrCat(kGreeting, "NOOP\r\n")});
  EXPECT_EQ(report.ok, 500u) << report.ToString();
  EXPECT_EQ(one.accepted(), 500u);
  EXPECT_EQ(spare.TakeAccepted().size(), 500u);
  EXPECT_EQ(EarlyCloses("mail", "closed"), 500);
  EXPECT_TRUE(
      WaitUntil(kTcpTimeout, [&] { return daemon_.ActiveConnections() == 0; }));
}

TEST_F(GreetingTest, TheFirstByteMakesTheChoiceFinal) {
  const UniqueFd one = ListenAt("198.18.2.11:30125");
  const UniqueFd spare = ListenAt("198.18.2.12:30125");
  Session session = OpenSession(vip_, one);
  ASSERT_TRUE(session.backend.Send("2"));
  ASSERT_EQ(session.client.Receive(1), "2");
  session.backend.Reset();
  EXPECT_TRUE(session.client.ReceivesReset());
  // And so do last words before a RST.
  Session refused = OpenSession(vip_, one);
  ASSERT_TRUE(refused.backend.Send("421 busy\r\n"));
  refused.backend.Reset();
  EXPECT_EQ(refused.client.Receive(10), "421 busy\r\n");
  EXPECT_FALSE(HasConnection(spare));
  EXPECT_EQ(EarlyCloses("mail", "reset"), 0);
}

TEST_F(GreetingTest, AClientThatEndsItsStreamEarlyIsServed) {
  const UniqueFd one = ListenAt("198.18.2.11:30125");
  Session session = OpenSession(vip_, one);
  ASSERT_TRUE(session.client.Send("QUIT\r\n"));
  session.client.ShutdownWrite();
  EXPECT_TRUE(session.backend.Quiet(kMoment));
  ASSERT_TRUE(session.backend.Send(kGreeting));
  EXPECT_EQ(session.backend.Receive(6), "QUIT\r\n");
  EXPECT_TRUE(session.backend.ReceivesEnd());
  session.backend.Close();
  EXPECT_EQ(session.client.Receive(sizeof kGreeting - 1), kGreeting);
  EXPECT_TRUE(session.client.ReceivesEnd());
}

TEST_F(GreetingTest, AClientThatLeavesTakesTheBackendsConnectionAlong) {
  const UniqueFd one = ListenAt("198.18.2.11:30125");
  Session session = OpenSession(vip_, one);
  session.client.Reset();
  EXPECT_TRUE(session.backend.ReceivesReset());
  EXPECT_TRUE(
      WaitUntil(kTcpTimeout, [&] { return daemon_.ActiveConnections() == 0; }));
  EXPECT_EQ(daemon_.Backend("mail", "one")["connections_active"], 0);
}

TEST_F(GreetingTest, WithNobodyLeftTheClientIsTold) {
  Server one({At("198.18.2.11:30125")}, {.hangs_up = true});
  const UniqueFd silent = ListenAt("198.18.2.12:30125");
  TcpSocket client = TcpSocket::Connect(kClient, vip_);
  ASSERT_TRUE(client.Send("EHLO early\r\n"));
  EXPECT_EQ(client.Receive(sizeof kLine - 1), kLine);
  EXPECT_TRUE(client.ReceivesEnd());
}

TEST_F(GreetingTest, WithoutTheKeyNothingIsReplacedButCounted) {
  const UniqueFd one = ListenAt("198.18.2.11:30125");
  const UniqueFd spare = ListenAt("198.18.2.12:30125");
  Session closed = OpenSession(plain_vip_, one);
  closed.backend.Close();
  EXPECT_TRUE(closed.client.ReceivesEnd());
  Session reset = OpenSession(plain_vip_, one);
  reset.backend.Reset();
  EXPECT_TRUE(reset.client.ReceivesReset());
  // The client's own end is nobody's fault.
  Session left = OpenSession(plain_vip_, one);
  left.client.ShutdownWrite();
  EXPECT_TRUE(left.backend.ReceivesEnd());
  left.backend.Close();
  EXPECT_TRUE(left.client.ReceivesEnd());
  EXPECT_FALSE(HasConnection(spare));
  EXPECT_TRUE(WaitUntil(kTcpTimeout, [&] {
    return EarlyCloses("plain", "closed") == 1 &&
           EarlyCloses("plain", "reset") == 1;
  }));
}

TEST_F(GreetingTest, TheTimeToTheFirstByteIsMeasured) {
  const UniqueFd one = ListenAt("198.18.2.11:30125");
  for (const Endpoint& vip : {vip_, plain_vip_}) {
    Session session = OpenSession(vip, one);
    EXPECT_TRUE(session.backend.Quiet(absl::Milliseconds(60)));
    ASSERT_TRUE(session.backend.Send(kGreeting));
    ASSERT_EQ(session.client.Receive(sizeof kGreeting - 1), kGreeting);
    EXPECT_TRUE(session.Exchange()) << "only the first byte counts";
  }
  MetricMap metrics = daemon_.Metrics();
  for (const char* service : {"mail", "plain"}) {
    const auto value = [&](const char* suffix, const char* more) {
      return metrics[absl::StrCat("headgate_backend_greeting_seconds", suffix,
                                  "{backend=\"one\",", more, "service=\"",
                                  service, "\"}")];
    };
    EXPECT_EQ(value("_count", ""), 1) << daemon_.MetricsText();
    EXPECT_GE(value("_sum", ""), 0.06);
    EXPECT_LT(value("_sum", ""), 2);
    EXPECT_EQ(value("_bucket", "le=\"0.05\","), 0);
    EXPECT_EQ(value("_bucket", "le=\"10\","), 1);
  }
}

}  // namespace
}  // namespace headgate::testing
