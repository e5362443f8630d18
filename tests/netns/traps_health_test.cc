// The traps of health checks that forwarders have fallen into, by their number
// in the survey of peers: what goes out, what answers mean, and who is asked.
// (D1: black_hole_test.cc; D2: tests/mail.)
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "support/bpf_map.h"
#include "support/daemon.h"
#include "support/header.h"
#include "support/lab.h"
#include "support/receiver.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kGreeting[] = "220 ready\r\n";
constexpr char kQuit[] = "QUIT\r\n";

Endpoint NodePort(int port) { return At(absl::StrCat("198.18.2.11:", port)); }

// A greeting, QUIT and its answer.
void ExpectServed(const Endpoint& vip) {
  TcpSocket client = TcpSocket::Connect(kClient, vip);
  ASSERT_TRUE(client.valid()) << vip.ToString();
  EXPECT_EQ(client.Receive(11), kGreeting);
  EXPECT_TRUE(client.Send(kQuit));
  EXPECT_EQ(client.Receive(15), "221 2.0.0 Bye\r\n");
  EXPECT_TRUE(client.ReceivesEnd());
}

bool WaitGone(const Receiver& receiver, size_t count) {
  return WaitUntil(kTcpTimeout,
                   [&] { return receiver.gone().size() >= count; });
}

constexpr char kHeaderConfig[] = R"(
pools:
  nodes:
    backends: [{name: one, address: 198.18.2.11}]
services:
  checked-only:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    proxy_protocol: none
    health: {type: smtp, port: 30145, proxy_protocol: local, interval: 100ms}
  clients-only:
    listen: [198.18.1.1:587]
    pool: nodes
    backend_port: 30127
    proxy_protocol: v2
    health: {type: smtp, port: 30147, proxy_protocol: none, interval: 100ms}
)";

TEST(HealthTraps, D3_HeadersOfChecksAndOfClientsAreSwitchesOfTheirOwn) {
  const Lab lab;
  const Receiver plain(NodePort(30125), Smtp(kGreeting));
  const Receiver local_check(NodePort(30145), Smtp(kGreeting, 16));
  const Receiver proxied(NodePort(30127), Smtp(kGreeting, 28));
  const Receiver plain_check(NodePort(30147), Smtp(kGreeting));
  const Daemon daemon(kHeaderConfig);
  for (const char* service : {"checked-only", "clients-only"}) {
    ASSERT_TRUE(daemon.WaitBackendState(service, "one", "up"));
  }
  ExpectServed(At("198.18.1.1:25"));
  ExpectServed(At("198.18.1.1:587"));

  ASSERT_TRUE(WaitGone(local_check, 3));
  for (const Receiver::Seen& check : local_check.gone()) {
    EXPECT_EQ(HeaderSize(HeaderKind::kV2, check.heard), 16u);
    EXPECT_EQ(check.heard.substr(16), kQuit);
    EXPECT_EQ(check.end, "FIN");
  }
  ASSERT_TRUE(WaitGone(plain_check, 3));
  for (const Receiver::Seen& check : plain_check.gone()) {
    EXPECT_EQ(check.heard, kQuit);
    EXPECT_EQ(check.end, "FIN");
  }
  // Where clients are served nobody else has been.
  ASSERT_TRUE(WaitGone(plain, 1) && WaitGone(proxied, 1));
  EXPECT_EQ(plain.arrived(), 1u);
  EXPECT_EQ(plain.gone()[0].heard, kQuit);
  EXPECT_EQ(proxied.arrived(), 1u);
  const std::string heard = proxied.gone()[0].heard;
  EXPECT_EQ(HeaderSource(heard.substr(0, 28)).address,
            At("198.18.0.2:1").address);
  EXPECT_EQ(heard.substr(28), kQuit);
}

// ---- what servers answer ---------------------------------------------------

struct Answer {
  const char* name;
  const char* health;  // Besides type and intervals.
  Receiver::Script script;
  const char* result;
  const char* detail;  // What it begins with.
  const char* state;
  const char* heard;  // What the check says to it, in all.
};

// $0: name, $1: the last of the listen address, $2: port, $3: health.
constexpr char kAnswerService[] = R"(
  $0:
    listen: ["198.18.1.1:$1"]
    pool: nodes
    backend_port: $2
    proxy_protocol: none
    health: {type: smtp, interval: 200ms$3}
)";

Receiver::Script Dripping(const char* greeting) {
  return [greeting](Visit& visit) {
    visit.Drip(greeting);
    if (visit.Hear(kQuit)) visit.Say("221 bye\r\n");
    visit.Leave();
  };
}

Receiver::Script Late(absl::Duration duration) {
  return [duration](Visit& visit) {
    if (visit.Tarpit(duration)) Smtp(kGreeting)(visit);
  };
}

TEST(HealthTraps, D4_EveryGreetingHasItsVerdict) {
  const bool soak = std::getenv("HG_SOAK") != nullptr;
  const absl::Duration tarpit = soak ? absl::Seconds(10) : absl::Seconds(1);
  const char* patience = soak ? ", timeout: 15s" : ", timeout: 6s";
  std::atomic<bool> too_early = false;
  const Receiver::Script teasing = [&](Visit& visit) {
    visit.Drip("220-mail\r\n220-and more\r\n");
    too_early = too_early || !visit.Tarpit(absl::Milliseconds(100));
    Dripping("220 mail\r\n")(visit);
  };
  const std::vector<Answer> answers = {
      {"in-pieces", "", Dripping("220 mail\r\n"), "passed", "220 mail", "up",
       kQuit},
      {"teaser", "", Smtp("220-mail\r\n"), "passed", "220-mail", "up", ""},
      {"multiline", ", postscreen: full", teasing, "passed", "220-mail", "up",
       kQuit},
      {"never-whole", ", postscreen: full, timeout: 500ms",
       Smtp("220-mail\r\n"), "timeout",
       "no end within 500ms; waited for the rest of the greeting", "down", ""},
      {"tarpit", patience, Late(tarpit), "passed", "220 ready", "up", kQuit},
      {"long-tarpit", ", timeout: 500ms", Late(tarpit), "timeout",
       "no end within 500ms; waited for a greeting", "down", ""},
      {"too-many", "", Smtp("421 4.7.0 Error: too many connections\r\n"),
       "rate_limited", "421 4.7.0", "up", ""},
      {"busy", "", Smtp("421 4.3.2 All server ports are busy\r\n"),
       "wrong_answer", "421 4.3.2", "down", ""},
      {"refused", "", Smtp("554 5.7.1 No SMTP service here\r\n"),
       "wrong_answer", "554 5.7.1", "down", kQuit},
  };
  std::string config =
      "pools: {nodes: {backends: [{name: one, address: 198.18.2.11}]}}\n"
      "services:\n";
  const Lab lab;
  std::vector<std::unique_ptr<Receiver>> receivers;
  int n = 0;
  for (const Answer& answer : answers) {
    const int port = 30200 + ++n;
    absl::StrAppend(&config, absl::Substitute(kAnswerService, answer.name,
                                              2000 + n, port, answer.health));
    receivers.push_back(
        std::make_unique<Receiver>(NodePort(port), answer.script));
  }
  const Daemon daemon(config);
  for (size_t i = 0; i < answers.size(); ++i) {
    const Answer& answer = answers[i];
    SCOPED_TRACE(answer.name);
    EXPECT_TRUE(daemon.WaitBackendState(answer.name, "one", answer.state));
    const nlohmann::json check =
        daemon.Backend(answer.name, "one")["last_check"];
    EXPECT_EQ(check["result"], answer.result) << check;
    EXPECT_TRUE(
        absl::StartsWith(check["detail"].get<std::string>(), answer.detail))
        << check;
    ASSERT_TRUE(WaitGone(*receivers[i], 1));
    for (const Receiver::Seen& seen : receivers[i]->gone()) {
      EXPECT_EQ(seen.heard, answer.heard);
      EXPECT_EQ(seen.end, "FIN");
    }
  }
  EXPECT_FALSE(too_early) << "it talked before the greeting was whole";
}

// ---- who is asked ----------------------------------------------------------

// The last one stands on the edge itself.
constexpr char kAskedConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: live, address: 198.18.2.11}
      - {name: dead, address: 198.18.2.12}
      - {name: away, address: 198.18.2.13}
      - {name: self, address: 198.18.0.1}
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    proxy_protocol: none
    health: {type: $0, interval: 100ms, down_interval: 1h, timeout: 5s}
)";

// SYNs that came to each node.
class Syns {
 public:
  Syns() {
    Shell(R"(ip netns exec backend nft 'table ip syns {
               counter n11 {}
               counter n12 {}
               counter n13 {}
               chain in { type filter hook input priority 0
                 tcp flags & (syn | ack) == syn counter name ip daddr map {
                   198.18.2.11: "n11", 198.18.2.12: "n12", 198.18.2.13: "n13"
                 }
               }; }')");
  }
  static int64_t To(int host) {
    const ProcessResult shown =
        RunCommand({"ip", "netns", "exec", kBackend, "nft", "-j", "list",
                    "counter", "ip", "syns", absl::StrCat("n", host)});
    const nlohmann::json list = nlohmann::json::parse(shown.out);
    for (const nlohmann::json& item : list.at("nftables")) {
      if (item.contains("counter")) return item["counter"]["packets"];
    }
    return -1;
  }
};

class AskedTest : public ::testing::TestWithParam<const char*> {};

TEST_P(AskedTest, D10_NobodyIsAskedInVainAndTheEdgeMayAskItself) {
  const Lab lab;
  const Syns syns;  // From here on.
  const Receiver live(At("198.18.2.11:30125"), Smtp(kGreeting));
  auto away =
      std::make_unique<Receiver>(At("198.18.2.13:30125"), Smtp(kGreeting));
  const Receiver self(At("198.18.0.1:30125"), Smtp(kGreeting), kEdge);
  Daemon daemon(absl::Substitute(kAskedConfig, GetParam()));
  for (const char* name : {"live", "away", "self"}) {
    ASSERT_TRUE(daemon.WaitBackendState("mail", name, "up")) << name;
  }
  ASSERT_TRUE(daemon.WaitBackendState("mail", "dead", "down"));
  ASSERT_EQ(daemon.Ctl({"backend", "maint", "mail/away"}).exit_code, 0);
  const auto state_file = daemon.state_dir() + "/state.json";
  const auto generation = daemon.Json({"status"})["generation"];
  const auto saved = std::filesystem::last_write_time(state_file);
  const auto published = DumpMap(daemon.pin_dir(), "backends");
  const std::string log = daemon.Log();
  const int64_t dead = Syns::To(12), gone = Syns::To(13), before = Syns::To(11);
  // Its coming and going is nobody's business.
  for (const int64_t more : {10, 20}) {
    away.reset();
    ASSERT_TRUE(
        WaitUntil(kTcpTimeout, [&] { return Syns::To(11) >= before + more; }));
    away = std::make_unique<Receiver>(At("198.18.2.13:30125"), Smtp(kGreeting));
  }
  EXPECT_EQ(Syns::To(12), dead);
  EXPECT_EQ(Syns::To(13), gone);
  EXPECT_EQ(daemon.Json({"status"})["generation"], generation);
  EXPECT_EQ(std::filesystem::last_write_time(state_file), saved);
  EXPECT_EQ(DumpMap(daemon.pin_dir(), "backends"), published);
  EXPECT_EQ(daemon.Log(), log);
  EXPECT_EQ(daemon.Backend("mail", "self")["last_check"]["result"], "passed");
  ASSERT_EQ(daemon.Ctl({"backend", "drain", "mail/live"}).exit_code, 0);
  ExpectServed(At("198.18.1.1:25"));
}

INSTANTIATE_TEST_SUITE_P(Each, AskedTest, ::testing::Values("tcp", "greeting"));

}  // namespace
}  // namespace headgate::testing
