#include "health/tcp_check.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <optional>

#include "net/socket.h"

namespace headgate::health {
namespace {

class TcpCheckTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto loop = EventLoop::Make();
    ASSERT_TRUE(loop.ok());
    loop_ = *std::move(loop);
    farewells_ = std::make_unique<Farewells>(loop_.get());
    listener_.reset(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address),
                   sizeof address),
              0);
    ASSERT_EQ(listen(listener_.get(), 1), 0);
    target_ = LocalEndpoint(listener_.get());
  }

  CheckRequest Request(config::CheckHeader header, absl::Duration timeout) {
    CheckRequest request{target_, {}, false};
    request.health.type = config::HealthType::kTcp;
    request.health.proxy_protocol = header;
    request.health.timeout = timeout;
    return request;
  }

  CheckResult Run(config::CheckHeader header,
                  absl::Duration timeout = absl::Seconds(5)) {
    return RunFrom({}, header, timeout);
  }
  CheckResult RunFrom(const std::vector<IpAddress>& sources,
                      config::CheckHeader header,
                      absl::Duration timeout = absl::Seconds(5)) {
    std::optional<CheckResult> result;
    CheckRequest request = Request(header, timeout);
    request.sources = sources;
    TcpCheck check(loop_.get(), farewells_.get(), request,
                   [&](const CheckResult& got) {
                     result = got;
                     loop_->Stop();
                   });
    loop_->Run();
    return *result;
  }

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Farewells> farewells_;
  UniqueFd listener_;
  Endpoint target_;
};

TEST_F(TcpCheckTest, AnOpenPortPasses) {
  const CheckResult result = Run(config::CheckHeader::kNone);
  EXPECT_EQ(result.outcome, Outcome::kPassed);
  EXPECT_EQ(result.detail, "");
  EXPECT_GT(result.duration, absl::ZeroDuration());
}

TEST_F(TcpCheckTest, WithoutAHeaderTheServerIsNeverBothered) {
  EXPECT_EQ(Run(config::CheckHeader::kNone).outcome, Outcome::kPassed);
  pollfd waiting{listener_.get(), POLLIN, 0};
  EXPECT_EQ(poll(&waiting, 1, 50), 0) << "there is something to accept";
}

TEST_F(TcpCheckTest, AClosedPortIsRefused) {
  listener_.reset();
  const CheckResult result = Run(config::CheckHeader::kNone);
  EXPECT_EQ(result.outcome, Outcome::kRefused);
  EXPECT_EQ(result.detail, "Connection refused");
}

TEST_F(TcpCheckTest, ComesFromTheFirstSourceThatTheMachineHas) {
  const IpAddress missing = *IpAddress::Parse("198.18.0.99");
  const IpAddress loopback = *IpAddress::Parse("127.0.0.5");
  EXPECT_EQ(RunFrom({missing, loopback}, config::CheckHeader::kNone).outcome,
            Outcome::kPassed);
  const CheckResult none = RunFrom({missing}, config::CheckHeader::kNone);
  EXPECT_EQ(none.outcome, Outcome::kError);
  EXPECT_EQ(none.detail, "This machine has no source address");
}

TEST_F(TcpCheckTest, SilenceIsATimeout) {
  // A full accept queue drops further SYNs.
  std::vector<UniqueFd> fill;
  for (int i = 0; i < 4; ++i) {
    int error = 0;
    fill.push_back(ConnectTcp(target_, &error));
  }
  const CheckResult result =
      Run(config::CheckHeader::kNone, absl::Milliseconds(50));
  EXPECT_EQ(result.outcome, Outcome::kTimeout);
  EXPECT_EQ(result.detail, "no answer within 50ms");
}

TEST_F(TcpCheckTest, AHeaderIsSentWholeAndEndsInOrder) {
  std::optional<CheckResult> result;
  TcpCheck check(loop_.get(), farewells_.get(),
                 Request(config::CheckHeader::kLocal, absl::Seconds(5)),
                 [&](const CheckResult& got) {
                   result = got;
                   loop_->Stop();
                 });
  std::string received;
  ssize_t last = -1;
  // The server: reads to the end, closes then.
  Timer serve(loop_.get(), [&] {
    UniqueFd server(accept(listener_.get(), nullptr, nullptr));
    if (!server.valid()) {
      serve.Set(absl::Milliseconds(1));
      return;
    }
    std::array<char, 64> buffer{};
    while ((last = recv(server.get(), buffer.data(), buffer.size(), 0)) > 0) {
      received.append(buffer.data(), static_cast<size_t>(last));
    }
  });
  serve.Set(absl::Milliseconds(1));
  loop_->Run();
  EXPECT_EQ(result->outcome, Outcome::kPassed);
  EXPECT_EQ(received, std::string("\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", 16));
  EXPECT_EQ(last, 0) << "a FIN, not a RST";
}

}  // namespace
}  // namespace headgate::health
