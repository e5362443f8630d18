// The test bed alone, over the direct route from client to backend: a failure
// elsewhere is then the daemon's.
#include <gtest/gtest.h>

#include "support/header.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/stream.h"
#include "support/tcp.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kV4[] = "198.18.2.11:30125";
constexpr char kV6[] = "[2001:db8:2::11]:30125";

class HarnessTest : public ::testing::Test {
 protected:
  Lab lab_;
};

TEST_F(HarnessTest, ServersEchoWhatClientsSend) {
  Server server(
      {At(kV4), At(kV6)},
      {.header = HeaderKind::kNone, .greeting = "220 hi\r\n", .echo = true});
  for (const char* target : {kV4, kV6}) {
    const LoadReport report = RunLoad({.target = At(target),
                                       .total = 1000,
                                       .send = "EHLO\r\n",
                                       .expect = "220 hi\r\nEHLO\r\n"});
    EXPECT_EQ(report.ok, 1000u) << report.ToString();
    EXPECT_EQ(report.answered.size(), 1000u);
  }
  EXPECT_EQ(server.TakeAccepted().size(), 2000u);
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] { return server.open() == 0; }));
}

TEST_F(HarnessTest, ServersSeeTheHeaderAndWhetherItWasSplit) {
  Server server({At(kV4)}, {.greeting = "220 hi\r\n"});
  const std::string header = ExpectedHeader(
      HeaderKind::kV2, At("192.0.2.1:1025"), At("198.18.1.1:25"));
  ASSERT_EQ(header.size(), 28u);
  EXPECT_EQ(HeaderSource(header), At("192.0.2.1:1025"));
  TcpSocket whole = TcpSocket::Connect(kClient, At(kV4));
  ASSERT_TRUE(whole.Send(header));
  EXPECT_EQ(whole.Receive(8), "220 hi\r\n");
  TcpSocket split = TcpSocket::Connect(kClient, At(kV4));
  ASSERT_TRUE(split.Send(header.substr(0, 20)));
  EXPECT_TRUE(split.Quiet(absl::Milliseconds(100)));
  ASSERT_TRUE(split.Send(header.substr(20)));
  EXPECT_EQ(split.Receive(8), "220 hi\r\n");

  const std::vector<Accepted> accepted = server.TakeAccepted();
  ASSERT_EQ(accepted.size(), 2u);
  EXPECT_EQ(accepted[0].header, header);
  EXPECT_TRUE(accepted[0].in_one_recv);
  EXPECT_EQ(accepted[1].header, header);
  EXPECT_FALSE(accepted[1].in_one_recv);
}

TEST_F(HarnessTest, KilledServersResetAndPausedOnesKeepSilent) {
  Server server({At(kV4)},
                {.header = HeaderKind::kNone, .greeting = "220 hi\r\n"});
  TcpSocket served = TcpSocket::Connect(kClient, At(kV4));
  EXPECT_EQ(served.Receive(8), "220 hi\r\n");
  server.Pause();
  TcpSocket waiting = TcpSocket::Connect(kClient, At(kV4));
  EXPECT_TRUE(waiting.Quiet(absl::Milliseconds(200)));
  server.Resume();
  EXPECT_EQ(waiting.Receive(8), "220 hi\r\n");
  EXPECT_EQ(server.Kill(), 2u);
  EXPECT_TRUE(served.ReceivesReset());
  EXPECT_EQ(TcpSocket::Connect(kClient, At(kV4)).error(), ECONNREFUSED);
}

TEST_F(HarnessTest, BlackHolesSwallowAndHeal) {
  Server server({At(kV4)},
                {.header = HeaderKind::kNone, .greeting = "220 hi\r\n"});
  lab_.BlackHole("198.18.2.11");
  const LoadReport lost = RunLoad({.target = At(kV4),
                                   .expect = "220 hi\r\n",
                                   .timeout = absl::Milliseconds(300)});
  EXPECT_EQ(lost.errors.count("connect: time-out"), 1u) << lost.ToString();
  lab_.Heal("198.18.2.11");
  const LoadReport found = RunLoad({.target = At(kV4), .expect = "220 hi\r\n"});
  EXPECT_EQ(found.ok, 1u) << found.ToString();
}

TEST_F(HarnessTest, StreamsArriveUnchanged) {
  for (const char* target : {kV4, kV6}) {
    const StreamReport report = RunStreams({.listen = {At(target)},
                                            .target = At(target),
                                            .header = HeaderKind::kNone,
                                            .count = 100,
                                            .large = 1});
    EXPECT_EQ(report.first_error, "");
    EXPECT_EQ(report.equal, 100u);
    EXPECT_GT(report.bytes, uint64_t{100} << 20);
  }
}

TEST_F(HarnessTest, StreamsNoticeAServerThatIsNotThere) {
  const StreamReport report =
      RunStreams({.target = At(kV4), .header = HeaderKind::kNone, .count = 1});
  EXPECT_NE(report.first_error, "");
  EXPECT_EQ(report.equal, 0u);
}

}  // namespace
}  // namespace headgate::testing
