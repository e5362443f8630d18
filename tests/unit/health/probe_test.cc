// Probes against servers on loopback that do what servers should not.
#include "health/probe.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <future>
#include <thread>

#include "net/socket.h"

namespace headgate::health {
namespace {

using ::testing::HasSubstr;

class ProbeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    farewells_.reset();
    request_ = {};
    loop_ = *EventLoop::Make();
    farewells_ = std::make_unique<Farewells>(loop_.get());
    listener_.reset(socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address),
                   sizeof address),
              0);
    ASSERT_EQ(listen(listener_.get(), 1), 0);
    request_.target = LocalEndpoint(listener_.get());
    request_.health.type = config::HealthType::kSmtp;
    request_.health.timeout = absl::Seconds(5);
  }

  // Runs the probe against `serve`, which has a thread of its own.
  CheckResult Run(absl::AnyInvocable<void(int fd)> serve) {
    int running = 2;
    const auto end = [&] {
      if (--running == 0) loop_->Stop();
    };
    std::thread server([&] {
      UniqueFd fd(accept(listener_.get(), nullptr, nullptr));
      serve(fd.get());
      loop_->Post(end);
    });
    CheckResult result;
    const auto check =
        StartCheck(loop_.get(), farewells_.get(), request_, [&](auto got) {
          result = std::move(got);
          end();
        });
    loop_->Run();
    server.join();
    return result;
  }

  static void Say(int fd, absl::string_view text) {
    EXPECT_EQ(send(fd, text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  // Until the peer's FIN; "RST" for another end.
  static std::string HearAll(int fd) {
    std::string all;
    char c = 0;
    ssize_t got = 0;
    while ((got = recv(fd, &c, 1, 0)) > 0) all += c;
    return got == 0 ? all : "RST";
  }

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Farewells> farewells_;
  UniqueFd listener_;
  CheckRequest request_;
};

TEST_F(ProbeTest, AGreetingInPiecesAndAGoodbye) {
  std::string heard;
  const CheckResult result = Run([&](int fd) {
    for (const char c : std::string("220 mail\r\n")) Say(fd, {&c, 1});
    char quit[6];
    EXPECT_EQ(recv(fd, quit, 6, MSG_WAITALL), 6);
    Say(fd, "221 bye\r\n");
    heard = HearAll(fd);
  });
  EXPECT_EQ(result.outcome, Outcome::kPassed) << result.detail;
  EXPECT_EQ(StatusName(result), "L7OK");
  EXPECT_EQ(heard, "") << "a FIN and nothing else";
}

TEST_F(ProbeTest, TheHeaderComesFirstAndATeaserIsAnsweredByFin) {
  request_.health.proxy_protocol = config::CheckHeader::kLocal;
  request_.explain = true;
  std::string heard;
  const CheckResult result = Run([&](int fd) {
    char header[100];
    EXPECT_EQ(recv(fd, header, sizeof header, 0), 16) << "one segment";
    Say(fd, "220-mail\r\n");
    heard = HearAll(fd);
  });
  EXPECT_EQ(result.outcome, Outcome::kPassed) << result.detail;
  EXPECT_EQ(heard, "");
  ASSERT_GE(result.steps.size(), 4u);
  EXPECT_THAT(result.steps[2].what, HasSubstr("0d0a0d0a000d0a515549540a"));
}

TEST_F(ProbeTest, SilenceIsATimeoutThatEndsInOrder) {
  request_.health.timeout = absl::Milliseconds(100);
  request_.health.proxy_protocol = config::CheckHeader::kLocal;
  std::string heard;
  const CheckResult result = Run([&](int fd) {
    heard = HearAll(fd);
    // Late words must not meet a closed socket.
    Say(fd, "220 late\r\n");
    EXPECT_EQ(HearAll(fd), "");
  });
  EXPECT_EQ(result.outcome, Outcome::kTimeout);
  EXPECT_EQ(StatusName(result), "L7TOUT");
  EXPECT_THAT(result.detail, HasSubstr("waited for a greeting"));
  EXPECT_EQ(heard.size(), 16u);
}

TEST_F(ProbeTest, ADripIsATimeout) {
  request_.health.timeout = absl::Milliseconds(100);
  const CheckResult result = Run([](int fd) {
    pollfd peer{fd, POLLIN, 0};
    while (poll(&peer, 1, 5) == 0) Say(fd, "2");
  });
  EXPECT_EQ(result.outcome, Outcome::kTimeout);
}

TEST_F(ProbeTest, EndlessLinesAndEndlessTalkEnd) {
  for (const std::string& piece :
       {std::string(1024, 'x'), std::string("220-x\r\n")}) {
    SetUp();
    request_.health.postscreen = config::Postscreen::kFull;
    const CheckResult result = Run([&](int fd) {
      while (send(fd, piece.data(), piece.size(), MSG_NOSIGNAL) > 0) {
        pollfd peer{fd, POLLIN, 0};
        if (poll(&peer, 1, 0) != 0) break;  // Its FIN.
      }
    });
    EXPECT_EQ(result.outcome, Outcome::kWrongAnswer);
    EXPECT_THAT(result.detail, HasSubstr("talks without end"));
  }
}

TEST_F(ProbeTest, AnEarlyCloseAndAReset) {
  CheckResult result = Run([](int) {});
  EXPECT_EQ(result.outcome, Outcome::kWrongAnswer);
  EXPECT_THAT(result.detail, HasSubstr("closed by the server"));
  SetUp();
  request_.health.proxy_protocol = config::CheckHeader::kLocal;
  result = Run([](int fd) {
    // It has seen the connection established when its header is here.
    char header[16];
    EXPECT_EQ(recv(fd, header, sizeof header, MSG_WAITALL), 16);
    ResetOnClose(fd);
  });
  EXPECT_EQ(result.outcome, Outcome::kWrongAnswer);
  EXPECT_THAT(result.detail, HasSubstr("Connection reset by peer"));
}

TEST_F(ProbeTest, ALastLineWithoutAnEndCounts) {
  const CheckResult result =
      Run([](int fd) { Say(fd, "421 4.3.0 mail Server local error"); });
  EXPECT_EQ(result.outcome, Outcome::kHeaderRefused);
}

TEST_F(ProbeTest, ClearTextWhereTlsIsExpected) {
  request_.health.tls = true;
  CheckResult result =
      Run([](int fd) { Say(fd, "421 4.3.0 mail Server local error\r\n"); });
  EXPECT_EQ(result.outcome, Outcome::kHeaderRefused);
  EXPECT_EQ(StatusName(result), "L6RSP");
  SetUp();
  request_.health.tls = true;
  result = Run([](int fd) { Say(fd, "220 mail\r\n"); });
  EXPECT_EQ(result.outcome, Outcome::kTls);
  EXPECT_THAT(result.hint, HasSubstr("starttls"));
}

TEST_F(ProbeTest, AClosedPortIsRefused) {
  listener_.reset();
  CheckResult result;
  const auto check =
      StartCheck(loop_.get(), farewells_.get(), request_, [&](auto got) {
        result = std::move(got);
        loop_->Stop();
      });
  loop_->Run();
  EXPECT_EQ(result.outcome, Outcome::kRefused);
  EXPECT_EQ(Reason(result),
            "Layer4 connection problem, info: \"Connection refused\"");
}

// ---- checks that nobody waits for any more ----

class LeftProbeTest : public ProbeTest {
 protected:
  void SetUp() override {
    ProbeTest::SetUp();
    request_.health.proxy_protocol = config::CheckHeader::kLocal;
  }
  void Start() {
    check_ = StartCheck(loop_.get(), farewells_.get(), request_,
                        [](auto) { ADD_FAILURE() << "nobody is told"; });
  }
  UniqueFd Accept() {
    return UniqueFd(accept(listener_.get(), nullptr, nullptr));
  }
  void Leave(absl::Duration patience) {
    farewells_->Add(std::move(check_));
    farewells_->Finish(patience, [this] {
      ended_ = true;
      loop_->Stop();
    });
  }
  static void HearHeader(int fd) {
    char header[16];
    EXPECT_EQ(recv(fd, header, sizeof header, MSG_WAITALL), 16);
  }
  static void GreetAndPart(int fd) {
    Say(fd, "220 mail\r\n");
    char quit[6];
    EXPECT_EQ(recv(fd, quit, sizeof quit, MSG_WAITALL), 6);
    Say(fd, "221 bye\r\n");
    EXPECT_EQ(HearAll(fd), "");
  }

  std::unique_ptr<Check> check_;
  bool ended_ = false;
};

TEST_F(LeftProbeTest, SaysGoodbyeAllTheSame) {
  Start();
  std::thread server([&] {
    const UniqueFd fd = Accept();
    HearHeader(fd.get());
    std::promise<void> left;
    loop_->Post([&] {
      Leave(absl::Minutes(1));
      left.set_value();
    });
    left.get_future().wait();
    GreetAndPart(fd.get());
  });
  loop_->Run();
  server.join();
  EXPECT_TRUE(ended_);
}

TEST_F(LeftProbeTest, SoDoesOneThatTheServerHasAcceptedAndTheLoopNotSeen) {
  Start();
  std::thread server([&, fd = Accept()] {
    HearHeader(fd.get());
    GreetAndPart(fd.get());
    // Its own end: the loop waits for it.
    shutdown(fd.get(), SHUT_RDWR);
  });
  Leave(absl::Minutes(1));
  EXPECT_FALSE(ended_);
  loop_->Run();
  server.join();
  EXPECT_TRUE(ended_);
}

TEST_F(LeftProbeTest, ASilentServerIsWaitedForAsLongAsToldAndHearsAFin) {
  Start();
  const UniqueFd fd = Accept();
  Leave(absl::Milliseconds(200));
  loop_->Run();
  EXPECT_TRUE(ended_);
  EXPECT_EQ(farewells_->size(), 1u) << "it has not closed yet";
  EXPECT_EQ(HearAll(fd.get()).size(), 16u) << "the header, whole";
}

TEST_F(LeftProbeTest, OneThatNobodyHasHeardOfEndsAtOnce) {
  listener_.reset();
  Start();
  Leave(absl::Minutes(1));
  EXPECT_TRUE(ended_);
}

}  // namespace
}  // namespace headgate::health
