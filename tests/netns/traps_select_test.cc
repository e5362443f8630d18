// The traps of selection that forwarders have fallen into, by their number in
// the survey of peers: backends that go, come back, flap and are many.
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "bpf/abi/types.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kGreeting[] = "220 ready\r\n";

std::unique_ptr<Server> Node(int host) {
  return std::make_unique<Server>(
      std::vector<Endpoint>{At(absl::StrCat("198.18.2.", host, ":30125"))},
      ServerOptions{.greeting = kGreeting, .echo = true});
}
std::unique_ptr<Server> CheckPort(int host) {
  return std::make_unique<Server>(
      std::vector<Endpoint>{At(absl::StrCat("198.18.2.", host, ":30145"))},
      ServerOptions{.header = HeaderKind::kNone});
}
Endpoint Vip(int port) { return At(absl::StrCat("198.18.1.1:", port)); }

LoadReport Load(size_t total, int port = 25) {
  return RunLoad({.target = Vip(port), .total = total, .expect = kGreeting});
}
// A connection that is greeted; `port` of the client.
TcpSocket Greeted(int vip_port = 25, uint16_t port = 0) {
  TcpSocket client = TcpSocket::Connect(kClient, Vip(vip_port), port);
  EXPECT_EQ(client.Receive(11), kGreeting) << client.error();
  return client;
}
void ExpectAlive(TcpSocket& client) {
  EXPECT_TRUE(client.Send("NOOP"));
  EXPECT_EQ(client.Receive(4), "NOOP") << client.error();
}
void ExpectBackend(const Daemon& daemon, std::vector<std::string> args) {
  args.insert(args.begin(), "backend");
  const ProcessResult result = daemon.Ctl(args);
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

// ---- D5: nobody left -------------------------------------------------------

constexpr char kNobodyConfig[] = R"(
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: two, address: 198.18.2.12}
services:
)";
// $0: name, $1: port, $2: more keys. Checks of ports that are closed.
constexpr char kDownService[] = R"(
  $0:
    listen: ["198.18.1.1:$1"]
    pool: nodes
    backend_port: 30125
    health: {type: tcp, port: 30145, interval: 100ms}
    $2
)";
constexpr char kUncheckedService[] = R"(
  $0:
    listen: ["198.18.1.1:$1"]
    pool: nodes
    backend_port: 30125
    health: {type: none}
    $2
)";

TEST(SelectTraps, D5_WhatClientsGetWhenNobodyIsLeft) {
  constexpr const char* kBalances[] = {"round_robin", "least_connections",
                                       "maglev", "source", "first"};
  const Lab lab;
  const auto one = Node(11), two = Node(12);
  std::string config = absl::StrCat(
      kNobodyConfig,
      absl::Substitute(kDownService, "reset", 2001, "on_no_backend: reset"),
      absl::Substitute(kDownService, "smtp", 2002, "on_no_backend: smtp_421"),
      absl::Substitute(kDownService, "imap", 2003, "on_no_backend: imap_bye"),
      absl::Substitute(kDownService, "panic", 2004, "panic_threshold: 50"),
      absl::Substitute(kUncheckedService, "last", 2005,
                       "last_resort: draining"),
      absl::Substitute(kUncheckedService, "ended", 2006, ""));
  int port = 2010;
  for (const char* balance : kBalances) {
    absl::StrAppend(
        &config,
        absl::Substitute(kUncheckedService, absl::StrCat("none-", balance),
                         ++port, absl::StrCat("balance: ", balance)));
  }
  const Daemon daemon(config);
  for (const char* service : {"reset", "smtp", "imap", "panic"}) {
    ASSERT_TRUE(daemon.WaitBackendState(service, "one", "down"));
    ASSERT_TRUE(daemon.WaitBackendState(service, "two", "down"));
  }
  const auto connect = [](int to) {
    return TcpSocket::Connect(kClient, Vip(to));
  };
  EXPECT_TRUE(connect(2001).ReceivesReset());
  EXPECT_EQ(connect(2002).Receive(10), "421 4.3.2 ");
  EXPECT_EQ(connect(2003).Receive(6), "* BYE ");
  EXPECT_EQ(Load(10, 2004).ok, 10u);
  // The last ones end, and serve on where that is allowed.
  for (const char* service : {"last", "ended"}) {
    ExpectBackend(daemon, {"drain", absl::StrCat(service, "/one")});
    ExpectBackend(daemon, {"drain", absl::StrCat(service, "/two")});
  }
  EXPECT_EQ(Load(10, 2005).ok, 10u);
  EXPECT_TRUE(connect(2006).ReceivesReset());
  // No backends at all: nothing is divided by how many there are.
  port = 2010;
  for (const char* balance : kBalances) {
    SCOPED_TRACE(balance);
    ++port;
    EXPECT_EQ(Load(4, port).ok, 4u);
    ExpectBackend(daemon, {"del", absl::StrCat("none-", balance, "/one")});
    ExpectBackend(daemon, {"del", absl::StrCat("none-", balance, "/two")});
    EXPECT_TRUE(connect(port).ReceivesReset());
    EXPECT_TRUE(daemon.Service(absl::StrCat("none-", balance)).is_object());
  }
}

// ---- D6: weights and removals ----------------------------------------------

// $0: further backends, $1: more of the service.
constexpr char kWeightConfig[] = R"(
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      $0
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
    $1
)";
constexpr char kIdleTwo[] = "- {name: two, address: 198.18.2.12, weight: 0}";

TEST(SelectTraps, D6_WeightZeroAndRemovalKeepFlows) {
  const Lab lab;
  const auto one = Node(11), two = Node(12);
  Daemon daemon(absl::Substitute(kWeightConfig, kIdleTwo, ""));
  const auto reloaded = [&](const char* backends, const char* more) {
    const auto before = daemon.Json({"status"})["generation"].get<int>();
    daemon.Reload(absl::Substitute(kWeightConfig, backends, more));
    ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] {
      return daemon.Json({"status"})["generation"] == before + 1;
    }));
  };
  EXPECT_EQ(daemon.Backend("mail", "two")["weight"], 0);
  EXPECT_EQ(Load(20).ok, 20u);
  EXPECT_EQ(two->accepted(), 0u) << "0 means 0 at the start";

  ExpectBackend(daemon, {"weight", "mail/one", "0"});
  ExpectBackend(daemon, {"weight", "mail/two", "1"});
  TcpSocket held = Greeted(), other = Greeted();
  ASSERT_EQ(two->open(), 2u);
  ExpectBackend(daemon, {"weight", "mail/one", "1"});
  ExpectBackend(daemon, {"weight", "mail/two", "0"});
  ExpectAlive(held);
  reloaded(kIdleTwo, "max_connections: 1000");
  ASSERT_EQ(daemon.Ctl({"config", "reload"}).exit_code, 0);
  EXPECT_EQ(daemon.Backend("mail", "two")["weight"], 0);
  EXPECT_EQ(Load(20).ok, 20u);
  EXPECT_EQ(two->accepted(), 2u) << "0 stays 0";
  ExpectAlive(held);

  reloaded("", "");
  EXPECT_TRUE(daemon.Backend("mail", "two").is_null());
  ExpectAlive(held);
  ExpectAlive(other);
  // Asked for, they end.
  const std::string local = LocalEndpoint(held.fd()).ToString();
  const nlohmann::json open = daemon.Json({"conn", "list"});
  for (const auto& conn : open["connections"]) {
    if (conn["client"] != local) continue;
    const std::string id = absl::StrCat(conn["id"].get<uint64_t>());
    EXPECT_EQ(daemon.Ctl({"conn", "kill", id}).exit_code, 0);
  }
  EXPECT_TRUE(held.ReceivesReset());
  ExpectAlive(other);
}

// ---- D7: flapping ----------------------------------------------------------

constexpr char kFlapConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: two, address: 198.18.2.12}
      - {name: three, address: 198.18.2.13}
services:
  calm:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    balance: maglev
    health: {type: tcp, port: 30145, interval: 400ms, rise: 2, fall: 5}
  nervous:
    listen: [198.18.1.1:26]
    pool: nodes
    backend_port: 30125
    balance: maglev
    health: {type: tcp, port: 30145, interval: 100ms, rise: 1, fall: 1}
)";

// The health by which the kernel selects; of the first backend of that name.
class HealthInMap {
 public:
  HealthInMap(const Daemon& daemon, const std::string& name)
      : path_(daemon.pin_dir() + "/backends") {
    bpf_attr attr{};
    attr.pathname = reinterpret_cast<uint64_t>(path_.c_str());
    fd_.reset(Bpf(BPF_OBJ_GET, attr));
    for (id_ = 1; id_ < HG_MAX_BACKENDS; ++id_) {
      if (Read() && name == value_.name) return;
    }
    ADD_FAILURE() << name << " is not in " << path_;
  }
  hg_health Get() {
    EXPECT_TRUE(Read());
    return value_.health;
  }

 private:
  static int Bpf(int command, bpf_attr& attr) {
    return static_cast<int>(syscall(SYS_bpf, command, &attr, sizeof attr));
  }
  bool Read() {
    bpf_attr attr{};
    attr.map_fd = static_cast<uint32_t>(fd_.get());
    attr.key = reinterpret_cast<uint64_t>(&id_);
    attr.value = reinterpret_cast<uint64_t>(&value_);
    return Bpf(BPF_MAP_LOOKUP_ELEM, attr) == 0;
  }

  const std::string path_;
  UniqueFd fd_;
  uint32_t id_ = 0;
  hg_backend value_{};
};

class FlapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* service : {"calm", "nervous"}) {
      for (const char* name : {"one", "two", "three"}) {
        ASSERT_TRUE(daemon_.WaitBackendState(service, name, "up"));
      }
    }
  }
  double Falls(const char* service) const {
    return daemon_.Metrics()[absl::StrCat(
        "headgate_backend_transitions_total{backend=\"one\",service=\"",
        service, "\",to=\"down\"}")];
  }
  // By the client's port, the backend: 0 to 2.
  std::map<uint16_t, int> Placed(int vip_port) const {
    std::map<uint16_t, int> placed;
    for (uint16_t port = 20000; port < 20060; ++port) {
      size_t before[3];
      for (int i = 0; i < 3; ++i) before[i] = nodes_[i]->accepted();
      Greeted(vip_port, port).Reset();
      for (int i = 0; i < 3; ++i) {
        if (nodes_[i]->accepted() > before[i]) placed[port] = i;
      }
    }
    return placed;
  }

  const Lab lab_;
  const std::unique_ptr<Server> nodes_[3] = {Node(11), Node(12), Node(13)};
  std::unique_ptr<Server> checked_[3] = {CheckPort(11), CheckPort(12),
                                         CheckPort(13)};
  const Daemon daemon_{kFlapConfig};
};

TEST_F(FlapTest, D7_OnceASecondIsDampenedAndMovesNobodyElse) {
  constexpr int kFlaps = 4;
  const auto before = Placed(25);
  ASSERT_EQ(before.size(), 60u);
  absl::Time next = absl::Now();
  const auto half_a_second = [&] {
    next += absl::Milliseconds(500);
    ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] { return absl::Now() >= next; }));
  };
  for (int i = 0; i < kFlaps; ++i) {
    checked_[0].reset();
    half_a_second();
    checked_[0] = CheckPort(11);
    half_a_second();
  }
  EXPECT_EQ(Falls("calm"), 0);
  EXPECT_EQ(daemon_.Backend("calm", "one")["state"], "up");
  EXPECT_EQ(Placed(25), before);
  // It could be seen: who is not dampened has.
  EXPECT_EQ(Falls("nervous"), kFlaps);

  // One that is down for good takes its own clients along and nobody else's.
  checked_[0].reset();
  ASSERT_TRUE(daemon_.WaitBackendState("calm", "one", "down"));
  for (const auto& [port, node] : Placed(25)) {
    EXPECT_NE(node, 0) << port;
    if (before.at(port) == 0) continue;
    EXPECT_EQ(node, before.at(port)) << port;
  }
}

TEST_F(FlapTest, D7_TheKernelKnowsBeforeAnybodyIsTold) {
  const bool soak = std::getenv("HG_SOAK") != nullptr;
  HealthInMap health(daemon_, "one");
  for (int round = 1; round <= (soak ? 20 : 1); ++round) {
    ASSERT_EQ(health.Get(), HG_HEALTH_UP);
    checked_[0].reset();
    const absl::Time deadline = absl::Now() + kTcpTimeout;
    hg_health seen = HG_HEALTH_UP;
    while (seen == HG_HEALTH_UP && absl::Now() < deadline) {
      const bool told = daemon_.LogHas("Server calm/one is DOWN");
      seen = health.Get();
      EXPECT_TRUE(!told || round > 1 || seen == HG_HEALTH_DOWN);
    }
    const absl::Time when = absl::Now();
    ASSERT_EQ(seen, HG_HEALTH_DOWN);
    absl::Time decided;
    const nlohmann::json check = daemon_.Backend("calm", "one")["last_check"];
    ASSERT_TRUE(absl::ParseTime(absl::RFC3339_full,
                                check["time"].get<std::string>(), &decided,
                                nullptr));
    std::cout << "in the map within " << absl::FormatDuration(when - decided)
              << "\n";
    // The time of the verdict is told in whole milliseconds.
    EXPECT_LT(when - decided, soak ? absl::Milliseconds(1 + 1) : kTcpTimeout);
    checked_[0] = CheckPort(11);
    ASSERT_TRUE(daemon_.WaitBackendState("calm", "one", "up"));
  }
}

// ---- D8: many --------------------------------------------------------------

constexpr int kMany = 300;

TEST(SelectTraps, D8_ManyBackendsKeepTheirStatistics) {
  const Lab lab;
  std::string config = "pools:\n  nodes:\n    backends:\n";
  std::vector<Endpoint> endpoints;
  for (int i = 0; i < kMany; ++i) {
    endpoints.push_back(At(absl::StrCat("198.18.2.11:", 31000 + i)));
    absl::StrAppend(&config, "      - {name: b", i, ", address: \"",
                    endpoints.back().ToString(), "\"}\n");
  }
  absl::StrAppend(&config, R"(
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    health: {type: none}
  sticky:
    listen: [198.18.1.1:26]
    pool: nodes
    balance: source
    health: {type: none}
)");
  const Server servers(endpoints, {.greeting = kGreeting, .echo = true});
  const Daemon daemon(config);
  const auto totals = [&] {
    std::map<std::string, int> result;
    const nlohmann::json list =
        daemon.Json({"backend", "list", "--service=mail"});
    for (const auto& row : list["backends"]) {
      result[row["name"]] = row["connections_total"];
    }
    return result;
  };
  std::map<std::string, int> expected;
  for (int i = 0; i < kMany; ++i) expected[absl::StrCat("b", i)] = 1;
  EXPECT_EQ(Load(kMany).ok, size_t{kMany});
  EXPECT_EQ(totals(), expected);

  // One goes, with a connection open, and comes back.
  TcpSocket held;
  std::string gone;
  held = Greeted();
  for (const auto& [name, total] : totals()) {
    if (total == 2) gone = name;
  }
  ASSERT_FALSE(gone.empty());
  ExpectBackend(daemon, {"del", absl::StrCat("mail/", gone)});
  expected.erase(gone);
  EXPECT_EQ(totals(), expected) << "without " << gone;
  const std::string address =
      endpoints.at(std::stoul(gone.substr(1))).ToString();
  ExpectBackend(daemon, {"add", absl::StrCat("mail/", gone), address});
  expected[gone] = 0;
  EXPECT_EQ(totals(), expected) << "with " << gone << " again";
  EXPECT_EQ(daemon.Backend("mail", gone)["connections_active"], 0);
  EXPECT_EQ(Load(kMany).ok, size_t{kMany});
  for (auto& [name, total] : expected) ++total;
  EXPECT_EQ(totals(), expected);
  ExpectAlive(held);

  // Who is drained is not chosen, whoever was used to it.
  TcpSocket used = Greeted(26);
  std::string sticky;
  const nlohmann::json list =
      daemon.Json({"backend", "list", "--service=sticky"});
  for (const auto& row : list["backends"]) {
    if (row["connections_active"] == 1) sticky = row["name"];
  }
  ASSERT_FALSE(sticky.empty());
  ExpectBackend(daemon, {"drain", absl::StrCat("sticky/", sticky)});
  EXPECT_EQ(Load(20, 26).ok, 20u);
  EXPECT_EQ(daemon.Backend("sticky", sticky)["connections_total"], 1);
  ExpectAlive(used);
}

// ---- D9: ejection ----------------------------------------------------------

constexpr char kEjectConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: two, address: 198.18.2.12}
      - {name: three, address: 198.18.2.13}
      - {name: four, address: 198.18.2.14}
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
    ejection: {failures: 1, time: 1h, max_percent: 50}
)";

size_t Ejected(const Daemon& daemon) {
  size_t count = 0;
  const nlohmann::json list = daemon.Json({"backend", "list"});
  for (const auto& row : list["backends"]) {
    if (row["ejected"].is_object()) ++count;
  }
  return count;
}

TEST(SelectTraps, D9_HalfStaysAndOneWayTrafficIsNoFailure) {
  const Lab lab;
  std::unique_ptr<Server> mute[4];
  for (int i = 0; i < 4; ++i) {
    mute[i] = std::make_unique<Server>(
        std::vector<Endpoint>{At(absl::StrCat("198.18.2.", 11 + i, ":30125"))},
        ServerOptions{});  // Takes, and never says a word.
  }
  const Daemon daemon(kEjectConfig);
  std::vector<TcpSocket> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(TcpSocket::Connect(kClient, Vip(25)));
    ASSERT_TRUE(clients.back().valid());
    EXPECT_TRUE(clients.back().Send(std::string(10'000, 'x')));
  }
  ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] {
    return daemon.Service("mail")["bytes_in_total"] == 80'000;
  }));
  for (TcpSocket& client : clients) client.Close();
  ASSERT_TRUE(
      WaitUntil(kTcpTimeout, [&] { return daemon.ActiveConnections() == 0; }));
  // All fail from here on, and what failed is seen before what came later: had
  // the others been failures, they would be known by the first ejection.
  EXPECT_EQ(Ejected(daemon), 0u);
  for (auto& server : mute) server.reset();
  ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] {
    EXPECT_EQ(Load(10).ok, 0u);
    EXPECT_LE(Ejected(daemon), 2u);
    return Ejected(daemon) == 2;
  }));
  EXPECT_EQ(Load(100).ok, 0u);
  EXPECT_EQ(Ejected(daemon), 2u) << "half of them stay, whatever they do";
}

}  // namespace
}  // namespace headgate::testing
