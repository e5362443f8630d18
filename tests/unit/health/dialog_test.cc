// Every answer that the dialogs tell apart, and that they never speak when a
// word would be counted against them.
#include "health/dialog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace headgate::health {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

config::Health Of(config::HealthType type) {
  config::Health health;
  health.type = type;
  return health;
}
const config::Health kSmtp = Of(config::HealthType::kSmtp);
const config::Health kImap = Of(config::HealthType::kImap);

// A dialog fed line by line.
class Talk {
 public:
  explicit Talk(const config::Health& health, bool header = false)
      : dialog_(MakeDialog(health, "198.18.2.11:25", header)) {
    Take(dialog_->OnReady());
  }

  Talk& Hear(absl::string_view line) {
    EXPECT_FALSE(verdict_.has_value()) << "over before " << line;
    Take(dialog_->OnLine(line));
    return *this;
  }
  Talk& Tls() {
    EXPECT_TRUE(start_tls_);
    Take(dialog_->OnTls());
    return *this;
  }
  Verdict Eof() { return dialog_->OnEof(); }

  const std::string& said() const { return said_; }
  bool ended() const { return verdict_.has_value(); }
  Outcome outcome() const { return verdict_.value().outcome; }
  const Verdict& verdict() const { return *verdict_; }
  Dialog& dialog() { return *dialog_; }

 private:
  void Take(Move move) {
    said_ += move.say;
    start_tls_ = move.start_tls;
    verdict_ = std::move(move.verdict);
  }

  std::unique_ptr<Dialog> dialog_;
  std::string said_;
  bool start_tls_ = false;
  std::optional<Verdict> verdict_;
};

// ---- smtp ------------------------------------------------------------------

TEST(Smtp, GreetingQuitBye) {
  Talk talk(kSmtp);
  EXPECT_EQ(talk.said(), "");
  EXPECT_EQ(talk.Hear("220 mail ESMTP").said(), "QUIT\r\n");
  EXPECT_FALSE(talk.ended());
  EXPECT_EQ(talk.Hear("221 2.0.0 Bye").outcome(), Outcome::kPassed);
  EXPECT_EQ(talk.verdict().detail, "220 mail ESMTP");
}

TEST(Smtp, D4_ATeaserIsAnsweredBySilence) {
  Talk talk(kSmtp);
  EXPECT_EQ(talk.Hear("220-mail ESMTP").outcome(), Outcome::kPassed);
  EXPECT_EQ(talk.said(), "");
}

TEST(Smtp, D4_AWholeGreetingIsWaitedFor) {
  config::Health health = kSmtp;
  health.postscreen = config::Postscreen::kFull;
  Talk talk(health);
  talk.Hear("220-mail ESMTP");
  EXPECT_EQ(talk.said(), "");
  EXPECT_FALSE(talk.ended());
  EXPECT_EQ(talk.Eof().outcome, Outcome::kWrongAnswer);
  EXPECT_EQ(talk.Hear("220 mail ESMTP").said(), "QUIT\r\n");
  EXPECT_EQ(talk.Hear("221 Bye").outcome(), Outcome::kPassed);
}

TEST(Smtp, ARefusalBehindATeaserIsAnsweredBySilence) {
  config::Health health = kSmtp;
  health.postscreen = config::Postscreen::kFull;
  Talk talk(health);
  talk.Hear("220-mail ESMTP").Hear("550 5.7.1 no");
  EXPECT_EQ(talk.outcome(), Outcome::kWrongAnswer);
  EXPECT_EQ(talk.said(), "");
}

TEST(Smtp, D4_RateLimited) {
  Talk talk(kSmtp, true);
  talk.Hear("421 4.7.0 mail Error: too many connections from 198.18.2.1");
  EXPECT_EQ(talk.outcome(), Outcome::kRateLimited);
  EXPECT_EQ(talk.verdict().code, 421);
  EXPECT_THAT(talk.verdict().hint,
              HasSubstr("smtpd_client_event_limit_exceptions"));
  EXPECT_EQ(talk.said(), "");
}

TEST(Smtp, AHeaderThatDidNotCome) {
  for (const char* line :
       {"421 4.3.0 mail Server local error", "421 4.3.2 No system resources"}) {
    EXPECT_EQ(Talk(kSmtp).Hear(line).outcome(), Outcome::kHeaderRefused);
    EXPECT_THAT(Talk(kSmtp).Hear(line).verdict().hint,
                HasSubstr("expects a PROXY header that the check does not"));
    EXPECT_THAT(Talk(kSmtp, true).Hear(line).verdict().hint,
                HasSubstr("did not get or did not like"));
  }
}

TEST(Smtp, AHeaderThatNobodyWanted) {
  Talk talk(kSmtp, true);
  talk.Hear("220 mail ESMTP").Hear("500 5.5.2 Error: command not recognized");
  EXPECT_EQ(talk.outcome(), Outcome::kHeaderRefused);
  EXPECT_THAT(talk.verdict().hint, HasSubstr("does not expect the PROXY"));
}

// Exim (4.96) without PIPECONNECT takes the header for a client that talks too
// early; in want of one it greets, and then refuses all but QUIT.
TEST(Smtp, EximAndTheHeader) {
  Talk unwanted(kSmtp, true);
  unwanted.Hear("554 SMTP synchronization error");
  EXPECT_EQ(unwanted.outcome(), Outcome::kHeaderRefused);
  EXPECT_THAT(unwanted.verdict().hint, HasSubstr("does not expect the PROXY"));
  config::Health ehlo = kSmtp;
  ehlo.ehlo = "edge.example.com";
  Talk missing(ehlo);
  missing.Hear("220 exim ESMTP")
      .Hear("503 Command refused, required Proxy negotiation failed");
  EXPECT_EQ(missing.outcome(), Outcome::kHeaderRefused);
  EXPECT_THAT(missing.verdict().hint, HasSubstr("does not send"));
  EXPECT_THAT(missing.said(), testing::EndsWith("QUIT\r\n"));
}

TEST(Smtp, ASynchronizationErrorWithoutHeaderIsNotAboutIt) {
  EXPECT_EQ(Talk(kSmtp).Hear("554 SMTP synchronization error").outcome(),
            Outcome::kWrongAnswer);
}

TEST(Smtp, OverloadIsNotAMisconfiguration) {
  Talk talk(kSmtp, true);
  talk.Hear("421 4.3.2 All server ports are busy");
  EXPECT_EQ(talk.outcome(), Outcome::kWrongAnswer);
  EXPECT_EQ(talk.verdict().code, 421);
}

TEST(Smtp, D4_ARefusedClientSaysQuit) {
  Talk talk(kSmtp);
  talk.Hear("554 5.7.1 no service");
  EXPECT_EQ(talk.outcome(), Outcome::kWrongAnswer);
  EXPECT_EQ(talk.verdict().code, 554);
  EXPECT_EQ(talk.said(), "QUIT\r\n");
}

TEST(Smtp, WhatIsNotSmtp) {
  for (const char* line : {"", "* OK", "SSH-2.0-x", "22", "220x", "+OK"}) {
    Talk talk(kSmtp);
    EXPECT_EQ(talk.Hear(line).outcome(), Outcome::kWrongAnswer) << line;
    EXPECT_EQ(talk.said(), "") << line;
  }
}

TEST(Smtp, SilenceHintsAtTheHeader) {
  EXPECT_THAT(Talk(kSmtp).Eof().hint, HasSubstr("expects a PROXY header"));
  EXPECT_THAT(Talk(kSmtp, true).Eof().hint, HasSubstr("does not expect"));
}

TEST(Smtp, AServerThatClosesAfterQuitHasPassed) {
  EXPECT_EQ(Talk(kSmtp).Hear("220 mail").Eof().outcome, Outcome::kPassed);
}

TEST(Smtp, EhloThenQuit) {
  config::Health health = kSmtp;
  health.ehlo = "edge.example.com";
  Talk talk(health);
  EXPECT_EQ(talk.Hear("220 mail").said(), "EHLO edge.example.com\r\n");
  talk.Hear("250-mail").Hear("250 SMTPUTF8");
  EXPECT_THAT(talk.said(), testing::EndsWith("QUIT\r\n"));
  EXPECT_EQ(talk.Hear("221 Bye").outcome(), Outcome::kPassed);
}

TEST(Smtp, StartTls) {
  config::Health health = kSmtp;
  health.starttls = true;
  Talk talk(health);
  talk.Hear("220 mail").Hear("250-mail").Hear("250-STARTTLS").Hear("250 X");
  EXPECT_EQ(talk.said(), "EHLO headgate.invalid\r\nSTARTTLS\r\n");
  talk.Hear("220 2.0.0 Ready").Tls();
  EXPECT_THAT(talk.said(), testing::EndsWith("STARTTLS\r\nQUIT\r\n"));
  EXPECT_EQ(talk.Hear("221 Bye").outcome(), Outcome::kPassed);
}

TEST(Smtp, StartTlsIsNotOffered) {
  config::Health health = kSmtp;
  health.starttls = true;
  Talk talk(health);
  talk.Hear("220 mail").Hear("250 mail");
  EXPECT_EQ(talk.outcome(), Outcome::kTls);
  EXPECT_THAT(talk.said(), testing::EndsWith("QUIT\r\n"));
}

// ---- imap ------------------------------------------------------------------

TEST(Imap, GreetingLogoutBye) {
  Talk talk(kImap);
  EXPECT_EQ(talk.Hear("* OK [CAPABILITY IMAP4rev1] ready").said(),
            "a LOGOUT\r\n");
  talk.Hear("* BYE Logging out");
  EXPECT_FALSE(talk.ended());
  EXPECT_EQ(talk.Hear("a OK Logout completed.").outcome(), Outcome::kPassed);
}

TEST(Imap, ByeFails) {
  Talk talk(kImap);
  EXPECT_EQ(talk.Hear("* BYE too busy").outcome(), Outcome::kWrongAnswer);
  EXPECT_EQ(talk.verdict().detail, "* BYE too busy");
  EXPECT_EQ(talk.said(), "");
}

TEST(Imap, AuthIsDown) {
  Talk talk(kImap);
  talk.Hear("* OK Waiting for authentication process to respond..");
  EXPECT_EQ(talk.outcome(), Outcome::kWrongAnswer);
  EXPECT_THAT(talk.verdict().hint, HasSubstr("authentication is down"));
  EXPECT_EQ(talk.said(), "a LOGOUT\r\n");
}

TEST(Imap, AHeaderThatNobodyWanted) {
  Talk talk(kImap, true);
  talk.Hear("* OK ready").Hear("* BAD Error in IMAP command");
  EXPECT_EQ(talk.outcome(), Outcome::kHeaderRefused);
}

TEST(Imap, SilenceHintsAtTheHeader) {
  EXPECT_THAT(Talk(kImap).Eof().hint, HasSubstr("expects a PROXY header"));
  EXPECT_THAT(Talk(kImap, true).Eof().hint,
              HasSubstr("haproxy_trusted_networks"));
}

TEST(Imap, StartTls) {
  config::Health health = kImap;
  health.starttls = true;
  Talk talk(health);
  talk.Hear("* OK ready").Hear("t OK Begin TLS").Tls();
  EXPECT_EQ(talk.said(), "t STARTTLS\r\na LOGOUT\r\n");
  EXPECT_EQ(talk.Hear("a OK").outcome(), Outcome::kPassed);
  Talk refused(health);
  refused.Hear("* OK ready").Hear("t BAD no TLS");
  EXPECT_EQ(refused.outcome(), Outcome::kTls);
}

// ---- greeting --------------------------------------------------------------

TEST(Greeting, LeavesInTheProtocolThatItHears) {
  for (const auto& [line, goodbye, last] :
       {std::tuple{"+OK ready", "QUIT\r\n", "+OK bye"},
        {"220 ftp", "QUIT\r\n", "221 bye"},
        {"* OK imap", "a LOGOUT\r\n", "a OK"}}) {
    Talk talk(Of(config::HealthType::kGreeting));
    EXPECT_EQ(talk.Hear(line).said(), goodbye);
    EXPECT_EQ(talk.Hear(last).outcome(), Outcome::kPassed);
    EXPECT_EQ(talk.verdict().detail, line);
  }
  for (const char* line : {"SSH-2.0-OpenSSH", "220-teaser", ""}) {
    Talk talk(Of(config::HealthType::kGreeting));
    EXPECT_EQ(talk.Hear(line).outcome(), Outcome::kPassed);
    EXPECT_EQ(talk.said(), "");
  }
}

TEST(Greeting, ExpectIsARegularExpression) {
  config::Health health = Of(config::HealthType::kGreeting);
  health.expect = "^\\+OK";
  Talk bad(health);
  EXPECT_EQ(bad.Hear("-ERR busy").outcome(), Outcome::kWrongAnswer);
  EXPECT_THAT(bad.verdict().detail, HasSubstr("-ERR busy"));
  EXPECT_FALSE(Talk(health).Hear("+OK").ended());
}

// ---- http ------------------------------------------------------------------

TEST(Http, StatusAndWeight) {
  config::Health health = Of(config::HealthType::kHttp);
  health.path = "/healthz";
  health.weight_header = "X-Load-Balancing-Endpoint-Weight";
  Talk talk(health);
  EXPECT_THAT(talk.said(), StartsWith("GET /healthz HTTP/1.1\r\nHost: "
                                      "198.18.2.11:25\r\n"));
  talk.Hear("HTTP/1.1 200 OK").Hear("x-load-balancing-endpoint-weight: 3");
  EXPECT_EQ(talk.Hear("").outcome(), Outcome::kPassed);
  EXPECT_EQ(talk.dialog().weight(), 3u);
}

TEST(Http, WrongStatus) {
  Talk talk(Of(config::HealthType::kHttp));
  talk.Hear("HTTP/1.1 503 Service Unavailable").Hear("");
  EXPECT_EQ(talk.outcome(), Outcome::kWrongAnswer);
  EXPECT_EQ(talk.verdict().code, 503);
}

TEST(Http, InterimAnswersDoNotCount) {
  Talk talk(Of(config::HealthType::kHttp));
  talk.Hear("HTTP/1.1 100 Continue").Hear("").Hear("HTTP/1.1 200 OK");
  EXPECT_EQ(talk.Hear("").outcome(), Outcome::kPassed);
}

TEST(Http, LyingWeightsAreBounded) {
  for (const auto& [text, weight] :
       {std::pair<const char*, std::optional<uint32_t>>{"999999", 256},
        {"-1", std::nullopt},
        {"many", std::nullopt}}) {
    config::Health health = Of(config::HealthType::kHttp);
    health.weight_header = "W";
    Talk talk(health);
    talk.Hear("HTTP/1.0 200 OK").Hear(absl::StrCat("W: ", text)).Hear("");
    EXPECT_EQ(talk.dialog().weight(), weight) << text;
  }
}

TEST(Http, WhatIsNotHttp) {
  for (const char* line : {"220 mail", "HTTP/2 200", "HTTP/1.1 2", ""}) {
    EXPECT_EQ(Talk(Of(config::HealthType::kHttp)).Hear(line).outcome(),
              Outcome::kWrongAnswer)
        << line;
  }
}

TEST(Printable, CannotDriveATerminal) {
  EXPECT_EQ(Printable("a\x1b]0;\x07\xff z"), "a?]0;?? z");
  EXPECT_EQ(Printable(std::string(5000, 'x')).size(), 200u);
}

}  // namespace
}  // namespace headgate::health
