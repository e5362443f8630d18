// Backends whose checks pass while connections to them fail.
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "packet_fixture.h"
#include "support/bpf_map.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

// $0: the service's ejection, $1: health, $2: timeouts.
constexpr char kConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: two, address: 198.18.2.12}
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    $0
    health: {type: tcp, $1}
    timeouts: {connect: 1s, try_next: 100ms$2}
)";
constexpr char kEjection[] = "ejection: {time: 5s}";
constexpr char kLong[] = "ejection: {time: 1h}";
constexpr char kCheckPort[] = "port: 30145, interval: 1h";
constexpr char kGreeting[] = "220 ready\r\n";
// Less than to wait for anything that takes its time, a second.
constexpr absl::Duration kPrompt = absl::Milliseconds(500);

class EjectionTest : public ::testing::Test {
 protected:
  void Start(const char* ejection, const char* health = kCheckPort,
             const char* timeouts = "") {
    daemon_ = std::make_unique<Daemon>(
        absl::Substitute(kConfig, ejection, health, timeouts));
    ASSERT_TRUE(daemon_->WaitBackendState("mail", "one", "up"));
    ASSERT_TRUE(daemon_->WaitBackendState("mail", "two", "up"));
  }
  static std::unique_ptr<Server> Node(const char* address,
                                      ServerOptions options = {
                                          .greeting = kGreeting,
                                          .echo = true}) {
    return std::make_unique<Server>(
        std::vector<Endpoint>{At(absl::StrCat(address, ":30125"))}, options);
  }
  static std::unique_ptr<Server> CheckPort(const char* address) {
    return std::make_unique<Server>(
        std::vector<Endpoint>{At(absl::StrCat(address, ":30145"))},
        ServerOptions{.header = HeaderKind::kNone});
  }
  // At 100 new connections a second.
  static LoadReport Load(size_t total) {
    return RunLoad({.target = At("198.18.1.1:25"),
                    .total = total,
                    .concurrency = 1000,
                    .per_second = 100,
                    .send = "NOOP\r\n",
                    .expect = absl::StrCat(kGreeting, "NOOP\r\n")});
  }
  bool WaitEjected(const char* backend, bool ejected) const {
    return WaitUntil(kTcpTimeout, [&] {
      return daemon_->Backend("mail", backend)["ejected"].is_object() ==
             ejected;
    });
  }
  // Connections that have failed may share a look with one that has not:
  // there must be more. True if all of them were served.
  bool LoadUntilEjected(const char* backend) const {
    bool served = true;
    EXPECT_TRUE(WaitUntil(kTcpTimeout, [&] {
      const LoadReport report = Load(10);
      served &= report.ok == 10;
      return daemon_->Backend("mail", backend)["ejected"].is_object();
    })) << daemon_->Log();
    return served;
  }
  double Ejections(const char* backend, const char* reason) const {
    return daemon_->Metrics()[absl::StrCat(
        "headgate_backend_ejections_total{backend=\"", backend, "\",reason=\"",
        reason, "\",service=\"mail\"}")];
  }
  double Overtaken(const char* backend) const {
    return daemon_->Metrics()[absl::StrCat(
        "headgate_connect_failures_total{backend=\"", backend,
        "\",reason=\"overtaken\",service=\"mail\"}")];
  }
  std::string InMap(const char* backend) const {
    for (const auto& value : DumpMap(daemon_->pin_dir(), "backends")) {
      if (value.at("name") == backend) return value.at("health");
    }
    return "";
  }

  Lab lab_;
  std::unique_ptr<Server> one_ = Node("198.18.2.11");
  std::unique_ptr<Server> two_ = Node("198.18.2.12");
  std::unique_ptr<Server> check_one_ = CheckPort("198.18.2.11");
  std::unique_ptr<Server> check_two_ = CheckPort("198.18.2.12");
  std::unique_ptr<Daemon> daemon_;
};

TEST_F(EjectionTest, OneThatRefusesIsOutForItsTime) {
  Start(kEjection);
  one_->Kill();
  const LoadReport report = Load(30);
  EXPECT_EQ(report.ok, 30u) << report.ToString();
  EXPECT_LT(report.Percentile(1), kPrompt) << report.ToString();
  EXPECT_TRUE(LoadUntilEjected("one"));
  const nlohmann::json backend = daemon_->Backend("mail", "one");
  EXPECT_EQ(backend["state"], "down");
  EXPECT_EQ(backend["ejected"]["reason"], "refused") << backend;
  EXPECT_EQ(backend["last_check"]["result"], "passed") << backend;
  EXPECT_EQ(InMap("one"), "HG_HEALTH_DOWN");
  EXPECT_EQ(InMap("two"), "HG_HEALTH_UP");
  EXPECT_EQ(Ejections("one", "refused"), 1);
  MetricMap metrics = daemon_->Metrics();
  EXPECT_EQ((metrics["headgate_backend_ejected{backend=\"one\","
                     "service=\"mail\"}"]),
            1);
  EXPECT_EQ((metrics["headgate_backend_up{backend=\"one\",service=\"mail\"}"]),
            0);
  EXPECT_TRUE(daemon_->LogHas(
      "Server mail/one is DOWN, reason: Health analyze, info: \"Detected 5 "
      "consecutive errors, last one was: refused\", ejected for 5s. 1 active "
      "and 0 backup servers left."))
      << daemon_->Log();

  one_ = Node("198.18.2.11");
  EXPECT_TRUE(WaitEjected("one", false));
  EXPECT_EQ(daemon_->Backend("mail", "one")["state"], "up");
  EXPECT_EQ(InMap("one"), "HG_HEALTH_UP");
  EXPECT_TRUE(
      daemon_->LogHas("Server mail/one is UP, reason: its ejection is "
                      "over. 2 active"))
      << daemon_->Log();
  EXPECT_EQ(Load(20).ok, 20u);
  EXPECT_EQ(one_->accepted(), 10u);
}

TEST_F(EjectionTest, ItsConnectionsStay) {
  Start(kLong);
  TcpSocket held[2];
  for (TcpSocket& socket : held) {
    socket = TcpSocket::Connect(kClient, At("198.18.1.1:25"));
    ASSERT_EQ(socket.Receive(11), kGreeting);
  }
  // New connections to the first backend are refused, by a firewall say.
  Shell(R"(ip netns exec backend nft 'table ip refuse {
             chain in { type filter hook input priority 0
               ip daddr 198.18.2.11 tcp dport 30125 \
                 tcp flags & (syn | ack) == syn reject with tcp reset
             }; }')");
  EXPECT_TRUE(LoadUntilEjected("one"));
  for (TcpSocket& socket : held) {
    ASSERT_TRUE(socket.Send("NOOP"));
    EXPECT_EQ(socket.Receive(4), "NOOP");
  }
}

TEST_F(EjectionTest, D1_OneThatAnswersNothingIsOvertakenAndThenOut) {
  Start(kLong);
  // Only the service's port, so that the check goes on passing.
  Shell(R"(ip netns exec backend nft 'table ip silence {
             chain in { type filter hook input priority 0
               ip daddr 198.18.2.11 tcp dport 30125 drop
             }; }')");
  const LoadReport first = Load(40);
  EXPECT_EQ(first.ok, 40u) << first.ToString();
  EXPECT_LT(first.Percentile(1), absl::Milliseconds(100) + kPrompt)
      << first.ToString();
  EXPECT_TRUE(LoadUntilEjected("one"));
  EXPECT_EQ(Ejections("one", "overtaken"), 1);
  const double overtaken = Overtaken("one");
  const LoadReport second = Load(40);
  EXPECT_EQ(second.ok, 40u) << second.ToString();
  EXPECT_EQ(Overtaken("one"), overtaken) << "somebody waited for it";
}

TEST_F(EjectionTest, OneThatFailsAgainIsOutForTwiceTheTime) {
  Start("ejection: {time: 1s, failures: 1}");
  one_->Kill();
  for (const char* length : {"ejected for 1s.", "ejected for 2s."}) {
    ASSERT_TRUE(WaitEjected("one", false));
    EXPECT_EQ(Load(10).ok, 10u);
    EXPECT_TRUE(WaitUntil(kTcpTimeout, [&] { return daemon_->LogHas(length); }))
        << daemon_->Log();
  }
}

TEST_F(EjectionTest, D9_ThePoolNeverEmpties) {
  Start(kLong);
  one_->Kill();
  two_->Kill();
  EXPECT_EQ(Load(50).ok, 0u);
  ASSERT_TRUE(WaitUntil(
      kTcpTimeout, [&] { return daemon_->LogHas("reason: Health analyze"); }));
  EXPECT_EQ(daemon_->Backend("mail", "one")["ejected"].is_object() +
                daemon_->Backend("mail", "two")["ejected"].is_object(),
            1);
  // The one that is left is tried by everybody: it serves as soon as it can.
  one_ = Node("198.18.2.11");
  two_ = Node("198.18.2.12");
  EXPECT_EQ(Load(20).ok, 20u);
}

TEST_F(EjectionTest, WhenTheOtherLeavesItIsBackAtOnce) {
  Start(kLong);
  one_->Kill();
  ASSERT_TRUE(LoadUntilEjected("one"));
  one_ = Node("198.18.2.11");
  ASSERT_EQ(daemon_->Ctl({"backend", "drain", "mail/two"}).exit_code, 0);
  EXPECT_EQ(daemon_->Backend("mail", "one")["state"], "up");
  EXPECT_EQ(Load(10).ok, 10u);
  EXPECT_EQ(one_->accepted(), 10u);
}

TEST_F(EjectionTest, AFailureIsCheckedAtOnce) {
  // Checks of the service's own port, whose next turn is in an hour.
  Start("ejection: {failures: 1000}", "interval: 1h, fall: 1");
  one_->Kill();
  EXPECT_EQ(Load(2).ok, 2u);
  EXPECT_TRUE(daemon_->WaitBackendState("mail", "one", "down"));
  const nlohmann::json backend = daemon_->Backend("mail", "one");
  EXPECT_TRUE(backend["ejected"].is_null()) << backend;
  EXPECT_EQ(backend["last_check"]["result"], "refused");
}

TEST_F(EjectionTest, AServerThatDoesNotGreetIsOutWhereItOughtTo) {
  one_->Kill();
  one_ = Node("198.18.2.11", {.hangs_up = true});
  Start(kEjection, kCheckPort, ", greeting: 2s");
  EXPECT_TRUE(LoadUntilEjected("one"));
  EXPECT_EQ(Ejections("one", "closed"), 1);
}

// A client could make it so.
TEST_F(EjectionTest, ElsewhereAServerMayCloseAtOnce) {
  one_->Kill();
  one_ = Node("198.18.2.11", {.hangs_up = true});
  Start("ejection: {failures: 1}");
  const LoadReport report = Load(40);
  EXPECT_EQ(report.ok, 20u) << report.ToString();
  // What comes later has been seen, so that it has been, too.
  two_->Kill();
  EXPECT_FALSE(LoadUntilEjected("two"));
  EXPECT_TRUE(daemon_->Backend("mail", "one")["ejected"].is_null());
}

TEST_F(EjectionTest, WithoutItNobodyIsEjectedAndItCanBeSwitchedOff) {
  Start("");
  one_->Kill();
  EXPECT_EQ(Load(40).ok, 40u);
  EXPECT_EQ(daemon_->Backend("mail", "one")["state"], "up");
  daemon_->Reload(absl::Substitute(kConfig, kEjection, kCheckPort, ""));
  ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] {
    return daemon_->LogHas("ejection.time: unset -> 5s");
  }));
  EXPECT_TRUE(LoadUntilEjected("one"));
  daemon_->Reload(absl::Substitute(kConfig, "", kCheckPort, ""));
  EXPECT_TRUE(WaitEjected("one", false));
  EXPECT_EQ(daemon_->Backend("mail", "one")["state"], "up");
}

// ---- on the packet path ----

using PacketEjectionTest = PacketLab;

TEST_F(PacketEjectionTest, OneThatRefusesIsOutForItsTime) {
  const auto two = Node("198.18.2.12");
  const UniqueFd check_one = ListenAt("198.18.2.11:30145");
  const UniqueFd check_two = ListenAt("198.18.2.12:30145");
  Start({.service = "    ejection: {time: 5s}",
         .backends = R"(      - {name: one, address: "198.18.2.11:25"}
      - {name: two, address: "198.18.2.12:25"})",
         .health = "{type: tcp, port: 30145, interval: 1h}"});
  for (const char* name : {"one", "two"}) {
    ASSERT_TRUE(daemon_->WaitBackendState("mail", name, "up"));
  }
  const auto ejected = [this] {
    return daemon_->Backend("mail", "one")["ejected"].is_object();
  };
  EXPECT_TRUE(WaitUntil(kTcpTimeout, [&] {
    EXPECT_EQ(Load(20, 20).ok, 20u);
    return ejected();
  })) << daemon_->Log();
  const nlohmann::json backend = daemon_->Backend("mail", "one");
  EXPECT_EQ(backend["state"], "down");
  EXPECT_EQ(backend["ejected"]["reason"], "refused") << backend;
  EXPECT_EQ(backend["last_check"]["result"], "passed") << backend;
  // Nobody asks it any more, and waits for his SYN's retransmission.
  const LoadReport report = Load(20);
  EXPECT_EQ(report.ok, 20u) << report.ToString();
  EXPECT_LT(report.Percentile(1), absl::Milliseconds(900));
  const auto one = Node();
  EXPECT_TRUE(WaitUntil(kTcpTimeout, [&] { return !ejected(); }));
  EXPECT_EQ(daemon_->Backend("mail", "one")["state"], "up");
  EXPECT_EQ(Load(20).ok, 20u);
  EXPECT_EQ(one->accepted(), 10u);
}

}  // namespace
}  // namespace headgate::testing
