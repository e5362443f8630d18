// A daemon that finds the connections of the last run, and a configuration that
// is not the last run's.
#include <gmock/gmock.h>

#include <csignal>

#include "bpf/abi/types.h"
#include "netns/packet_fixture.h"
#include "netns/packet_hooks.h"
#include "support/bpf_map.h"

namespace headgate::testing {
namespace {

using ::testing::IsEmpty;

constexpr char kOne[] = R"(      - {name: one, address: "198.18.2.11:25"})";
constexpr char kTwo[] = R"(      - {name: two, address: "198.18.2.12:25"})";
constexpr char kNew[] = R"(      - {name: new, address: "198.18.2.13:25"})";
constexpr char kImap[] = R"(
  imap:
    listen: [198.18.1.1:143]
    datapath: packet
    pool: nodes
    health: {type: none}
)";
constexpr size_t kHeld = 12;

std::string ConfigOf(const std::string& backends,
                     const std::string& packet = "") {
  return PacketConfig({.packet = packet,
                       .service = absl::StrCat("    max_connections: ", kHeld),
                       .backends = backends,
                       .health = "{type: none}"});
}

// So its last backend has the highest id.
std::string OnlyMail(const std::string& backends) {
  const std::string config = ConfigOf(backends);
  return config.substr(0, config.find("  mail6:"));
}

std::string Replaced(std::string config, const std::string& what,
                     const std::string& by) {
  for (size_t at = config.find(what); at != std::string::npos;
       at = config.find(what, at + by.size())) {
    config.replace(at, what.size(), by);
  }
  return config;
}

class PacketRestartTest : public PacketLab,
                          public ::testing::WithParamInterface<int> {
 protected:
  // As many as the service may have, and the daemon has ended.
  void HoldAndEnd(const std::string& config) {
    daemon_ = std::make_unique<Daemon>(config);
    for (size_t i = 0; i < kHeld; ++i) {
      held_.push_back(TcpSocket::Connect(kClient, vip_));
      ASSERT_EQ(held_.back().Receive(11), kGreeting);
    }
    End();
  }
  // One with each of two backends, whose last ACK does not come before
  // ReleaseAcks(), and the daemon has ended.
  void BeginTwoAndEnd() {
    daemon_ =
        std::make_unique<Daemon>(OnlyMail(absl::StrCat(kOne, "\n", kTwo)));
    Nft(kClient, "output", "tcp dport 25 tcp flags == ack drop");
    for (int i = 0; i < 2; ++i) {
      held_.push_back(TcpSocket::Connect(kClient, vip_));
      ASSERT_TRUE(held_.back().valid());
    }
    End();
  }
  void ReleaseAcks() {
    Shell("ip netns exec client nft delete table inet lose_output");
    ExpectHeldWork(kGreeting);
  }
  void End() {
    ::kill(daemon_->pid(), GetParam());
    EXPECT_EQ(daemon_->WaitExit(), GetParam() == SIGKILL ? 128 + SIGKILL : 0);
  }
  void StartAgain(const std::string& config) {
    daemon_ =
        std::make_unique<Daemon>(config, DaemonOptions{.keep_state = true});
  }
  void ExpectRefused(const std::vector<std::string>& wrapper) {
    Daemon refused(
        ConfigOf(kOne),
        {.wrapper = wrapper, .wait_until_ready = false, .keep_state = true});
    EXPECT_EQ(refused.WaitExit(), 1);
    EXPECT_FALSE(refused.LogHas("from the last run end")) << refused.Log();
    ExpectHeldWork();
  }
  void ExpectAdopted() {
    StartAgain(ConfigOf(kOne));
    EXPECT_TRUE(
        daemon_->LogHas(absl::StrCat("goes on with ", kHeld, " connections")));
    EXPECT_EQ(ActiveOf("mail"), kHeld);
    ExpectHeldWork();
    ExpectNoneIsLeft();
    ExpectNewOnesWork({vip_});
  }
  int64_t ActiveOf(const std::string& service) const {
    return daemon_->Service(service)["connections_active"];
  }
  int64_t ActiveOf(const std::string& service,
                   const std::string& backend) const {
    return daemon_->Backend(service, backend)["connections_active"];
  }
  // `first`: what they have yet to hear.
  void ExpectHeldWork(const std::string& first = "") {
    for (TcpSocket& socket : held_) {
      EXPECT_TRUE(socket.Send("x") &&
                  socket.Receive(first.size() + 1) == first + "x");
    }
  }
  // What they counted is taken back, once.
  void ExpectNoneIsLeft() {
    held_.clear();
    EXPECT_TRUE(WaitActive(0));
    ExpectNoneIsCounted();
  }
  void ExpectNewOnesWork(const std::vector<Endpoint>& vips) {
    for (const Endpoint& vip : vips) {
      EXPECT_EQ(LoadOn(vip, 20, 4).ok, 20u) << vip.ToString();
    }
    EXPECT_TRUE(WaitActive(0));
  }

  const std::unique_ptr<Server> one_ = Node();
  const std::unique_ptr<Server> two_ = Node("198.18.2.12");
  const std::unique_ptr<Server> new_ = Node("198.18.2.13");
  const Endpoint imap_ = At("198.18.1.1:143");
  std::vector<TcpSocket> held_;
};

TEST_P(PacketRestartTest, AServiceThatIsNewCountsNobodyElses) {
  HoldAndEnd(ConfigOf(kOne));
  StartAgain(ConfigOf(kOne) + kImap);  // It comes before mail.
  EXPECT_TRUE(
      daemon_->LogHas(absl::StrCat("goes on with ", kHeld, " connections")));
  EXPECT_EQ(ActiveOf("mail"), kHeld);
  EXPECT_EQ(ActiveOf("mail", "one"), kHeld);
  EXPECT_EQ(ActiveOf("imap"), 0);
  EXPECT_EQ(ActiveOf("imap", "one"), 0);
  ExpectHeldWork();
  ExpectNoneIsLeft();
  ExpectNewOnesWork({vip_, imap_});
}

TEST_P(PacketRestartTest, ABackendThatIsNewCountsNobodyElses) {
  HoldAndEnd(ConfigOf(kOne) + kImap);
  StartAgain(ConfigOf(absl::StrCat(kNew, "\n", kOne)) + kImap);
  for (const char* service : {"imap", "mail"}) {
    EXPECT_EQ(ActiveOf(service, "new"), 0) << service;
  }
  EXPECT_EQ(ActiveOf("mail", "one"), kHeld);
  EXPECT_EQ(ActiveOf("imap", "one"), 0);
  ExpectHeldWork();
  ExpectNoneIsLeft();
  ExpectNewOnesWork({vip_, imap_});
}

TEST_P(PacketRestartTest, ABackendThatIsGoneKeepsItsConnections) {
  HoldAndEnd(ConfigOf(absl::StrCat(kOne, "\n", kTwo)));
  StartAgain(ConfigOf(absl::StrCat(kNew, "\n", kTwo)));
  EXPECT_EQ(ActiveOf("mail"), kHeld);
  EXPECT_EQ(ActiveOf("mail", "two"), kHeld / 2);
  EXPECT_EQ(ActiveOf("mail", "new"), 0);
  const nlohmann::json leaving =
      daemon_->Json({"backend", "list"}).at("leaving");
  ASSERT_EQ(leaving.size(), 1u) << leaving;
  EXPECT_EQ(leaving[0]["name"], "one");
  EXPECT_EQ(leaving[0]["connections_active"], kHeld / 2);
  // They outlive yet another daemon.
  End();
  StartAgain(ConfigOf(absl::StrCat(kNew, "\n", kTwo)));
  EXPECT_EQ(ActiveOf("mail"), kHeld);
  EXPECT_EQ(ActiveOf("mail", "two"), kHeld / 2);
  EXPECT_EQ(ActiveOf("mail", "new"), 0);
  ExpectHeldWork();
  ExpectNoneIsLeft();
  ExpectNewOnesWork({vip_});
}

// Its id has handshakes that count for it when they end.
TEST_P(PacketRestartTest, ABackendThatIsNewGetsNobodyElsesHandshakes) {
  BeginTwoAndEnd();
  StartAgain(OnlyMail(absl::StrCat(kOne, "\n", kNew)));
  ReleaseAcks();
  EXPECT_EQ(ActiveOf("mail"), 2);
  EXPECT_EQ(ActiveOf("mail", "one"), 1);
  EXPECT_EQ(ActiveOf("mail", "new"), 0);
  ExpectNoneIsLeft();
  ExpectNewOnesWork({vip_});
}

TEST_P(PacketRestartTest, ABackendThatIsAddedLaterGetsNoneEither) {
  BeginTwoAndEnd();
  StartAgain(OnlyMail(kOne));
  ReleaseAcks();
  EXPECT_EQ(
      daemon_->Ctl({"backend", "add", "mail/new", "198.18.2.13:25"}).exit_code,
      0);
  ExpectNoneIsLeft();
  ExpectNewOnesWork({vip_});
}

TEST_P(PacketRestartTest, AServiceThatIsGoneEndsItsConnections) {
  HoldAndEnd(ConfigOf(kOne));
  StartAgain(Replaced(ConfigOf(kOne), "  mail:", "  post:"));
  for (TcpSocket& socket : held_) EXPECT_TRUE(socket.ReceivesReset());
  EXPECT_EQ(ActiveOf("post"), 0);
  ExpectNoneIsLeft();
  ExpectNewOnesWork({vip_});
}

// Its id is not the next service's while they end.
TEST_P(PacketRestartTest, AServiceThatGoesLaterEndsItsConnections) {
  HoldAndEnd(ConfigOf(kOne));
  StartAgain(ConfigOf(kOne));
  daemon_->Reload(Replaced(ConfigOf(kOne), "  mail:", "  post:"));
  for (TcpSocket& socket : held_) EXPECT_TRUE(socket.ReceivesReset());
  EXPECT_EQ(ActiveOf("post"), 0);
  ExpectNoneIsLeft();
  ExpectNewOnesWork({vip_});
}

TEST_P(PacketRestartTest, AnotherTableEndsTheConnectionsOfTheLast) {
  HoldAndEnd(ConfigOf(kOne));
  StartAgain(ConfigOf(kOne, "  max_flows: 2048"));
  EXPECT_TRUE(daemon_->LogHas("connections of the packet path from the last"));
  EXPECT_EQ(ActiveOf("mail"), 0);
  ExpectNoneIsLeft();
  ExpectNewOnesWork({vip_});
}

TEST_P(PacketRestartTest, WithoutAServiceOnItThePathIsGone) {
  HoldAndEnd(ConfigOf(kOne));
  StartAgain(Replaced(ConfigOf(kOne), "datapath: packet", "datapath: splice"));
  EXPECT_THAT(HooksAt("e0"), IsEmpty());
  EXPECT_THAT(HooksAt("e1"), IsEmpty());
  EXPECT_THAT(PacketPins(daemon_->pin_dir(), "packet_"), IsEmpty());
  EXPECT_EQ(ActiveOf("mail"), 0);
  ExpectNewOnesWork({vip_});
  // And comes back.
  daemon_->Reload(ConfigOf(kOne));
  ASSERT_TRUE(WaitUntil(absl::Seconds(5), [&] { return OnPacketPath(); }));
  ExpectNewOnesWork({vip_});
  ExpectNoneIsLeft();
}

TEST_P(PacketRestartTest, AStartThatIsRefusedLeavesThePathAsItWas) {
  HoldAndEnd(ConfigOf(kOne));
  Shell("ip netns exec edge sysctl -qw net.ipv4.ip_local_reserved_ports=''");
  ExpectRefused({});
  Shell(
      "ip netns exec edge sysctl -qw "
      "net.ipv4.ip_local_reserved_ports=10240-32767");
  ExpectAdopted();
}

TEST_P(PacketRestartTest, AStartThatCannotLoadLeavesItToo) {
  HoldAndEnd(ConfigOf(kOne));
  ExpectRefused({"env", "LD_PRELOAD=" HG_NO_OBJECT_LIBRARY,
                 "HG_REFUSED_OBJECT=headgate_bpf"});
  ExpectAdopted();
}

// Packets find their backends by them until its services are published.
TEST_P(PacketRestartTest, TablesOfTheLastRunAreNeitherChangedNorLeft) {
  const auto config_of = [](int weight) {
    return Replaced(OnlyMail(absl::StrCat(kOne, "\n", kTwo)), "25\"}",
                    absl::StrCat("25\", weight: ", weight, "}")) +
           "    balance: source\n";
  };
  const auto table = [this] {
    return DumpMap(daemon_->pin_dir(), "services").at(0).at("table");
  };
  daemon_ = std::make_unique<Daemon>(config_of(1));
  EXPECT_EQ(daemon_->Ctl({"backend", "weight", "mail/two", "2"}).exit_code, 0);
  for (const int weight : {1, 3}) {
    const nlohmann::json before = table();
    End();
    StartAgain(config_of(weight));
    EXPECT_NE(table(), before) << weight;
    EXPECT_EQ(DumpMap(daemon_->pin_dir(), "tables").size(),
              size_t{HG_TABLE_CHUNKS});
  }
}

INSTANTIATE_TEST_SUITE_P(Ended, PacketRestartTest,
                         ::testing::Values(SIGKILL, SIGUSR2),
                         [](const auto& tested) {
                           return std::string(tested.param == SIGKILL
                                                  ? "Killed"
                                                  : "HandedOver");
                         });

}  // namespace
}  // namespace headgate::testing
