// The packet path without its daemon: connections go on, new ones are made as
// health was last known, and the next daemon adopts them.
#include <bpf/bpf.h>
#include <signal.h>
#include <unistd.h>

#include "packet_fixture.h"
#include "support/bpf_map.h"

namespace headgate::testing {
namespace {

class PacketOutliveTest : public PacketLab {
 protected:
  // The daemon ends by `signal`, with `status`.
  void End(int signal, int status) const {
    ::kill(daemon_->pid(), signal);
    EXPECT_EQ(daemon_->WaitExit(), status) << daemon_->Log();
  }
  void Kill() const { End(SIGKILL, 128 + SIGKILL); }
  void ExpectFrozen() const {
    const ProcessResult status = daemon_->Ctl({"status"});
    EXPECT_EQ(status.exit_code, 3);
    const std::string frozen = absl::StrCat(
        "; the packet path of ", daemon_->pin_dir(),
        " goes on without its daemon; backends that go down now are not "
        "noticed");
    EXPECT_NE(status.err.find(frozen), std::string::npos) << status.err;
  }
  void ExpectAdoption(int signal, int status) {
    const auto server = Node();
    Start();
    std::vector<TcpSocket> held;
    for (int i = 0; i < 20; ++i) {
      held.push_back(TcpSocket::Connect(kClient, vip_));
      ASSERT_EQ(held.back().Receive(11), kGreeting);
    }
    End(signal, status);
    for (TcpSocket& socket : held) {
      EXPECT_TRUE(socket.Send("x") && socket.Receive(1) == "x");
    }
    EXPECT_EQ(Load(20).ok, 20u) << "new ones, without a daemon";
    ExpectFrozen();
    daemon_ = std::make_unique<Daemon>(PacketConfig(),
                                       DaemonOptions{.keep_state = true});
    EXPECT_TRUE(daemon_->LogHas("goes on with 20 connections"));
    EXPECT_TRUE(WaitActive(20));
    for (TcpSocket& socket : held) {
      EXPECT_TRUE(socket.Send("y") && socket.Receive(1) == "y");
    }
    EXPECT_EQ(daemon_->Backend("mail", "one")["connections_active"], 20);
    held.clear();
    EXPECT_TRUE(WaitActive(0));
    EXPECT_EQ(Load(20).ok, 20u);
  }
  void StartWithTwo() {
    Start({.backends = R"(      - {name: one, address: "198.18.2.11:25"}
      - {name: two, address: "198.18.2.12:25"})"});
    ASSERT_TRUE(daemon_->WaitBackendState("mail", "two", "up"));
  }
};

TEST_F(PacketOutliveTest, TheNextDaemonAdoptsWhatAKilledOneLeft) {
  ExpectAdoption(SIGKILL, 128 + SIGKILL);
}

TEST_F(PacketOutliveTest, TheNextDaemonAdoptsWhatIsHandedOver) {
  ExpectAdoption(SIGUSR2, 0);
}

// Whose counters are fewer than the next version's.
TEST_F(PacketOutliveTest, WhatElseIsCountedEndsNoConnection) {
  const auto server = Node();
  Start();
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  Kill();
  const std::string pin = daemon_->pin_dir() + "/packet_exits";
  ASSERT_EQ(::unlink(pin.c_str()), 0);
  const UniqueFd fewer(bpf_map_create(BPF_MAP_TYPE_PERCPU_ARRAY, "packet_exits",
                                      sizeof(uint32_t), sizeof(uint64_t), 3,
                                      nullptr));
  ASSERT_EQ(bpf_obj_pin(fewer.get(), pin.c_str()), 0);
  daemon_ = std::make_unique<Daemon>(PacketConfig(),
                                     DaemonOptions{.keep_state = true});
  EXPECT_TRUE(daemon_->LogHas("goes on with 1 connections"));
  EXPECT_TRUE(held.Send("y") && held.Receive(1) == "y");
  EXPECT_EQ(Load(1).ok, 1u);
  EXPECT_EQ(Metric("headgate_packets_forwarded_total{as=\"header\"}"), 1);
  // And is pinned for the one after.
  EXPECT_GT(DumpMap(daemon_->pin_dir(), "packet_exits").size(), 3u);
}

TEST_F(PacketOutliveTest, OneThatWasDownGetsNothingUntilTheNextDaemon) {
  const auto two = Node("198.18.2.12");
  StartWithTwo();
  ASSERT_TRUE(daemon_->WaitBackendState("mail", "one", "down"));
  Kill();
  ExpectFrozen();
  const auto one = Node();  // It is back, and nobody looks.
  const LoadReport report = Load(20);
  EXPECT_EQ(report.ok, 20u) << report.ToString();
  EXPECT_LT(report.Percentile(1), absl::Milliseconds(900))
      << "somebody waited for his SYN's retransmission";
  EXPECT_EQ(two->accepted(), 20u);
  EXPECT_EQ(one->accepted(), 0u);
}

// It is asked, and the SYN's retransmission goes to the other.
TEST_F(PacketOutliveTest, OneThatDiesAfterwardsCostsASecond) {
  auto one = Node();
  const auto two = Node("198.18.2.12");
  StartWithTwo();
  ASSERT_TRUE(daemon_->WaitBackendState("mail", "one", "up"));
  Kill();
  one.reset();
  const auto expect_replaced = [&](const char* how) {
    SCOPED_TRACE(how);
    const LoadReport report = Load(8);
    EXPECT_EQ(report.ok, 8u) << report.ToString();
    EXPECT_LT(report.Percentile(0.25), absl::Milliseconds(900));
    EXPECT_GE(report.Percentile(1), absl::Milliseconds(900));
    EXPECT_LT(report.Percentile(1), absl::Seconds(2));
  };
  expect_replaced("it refuses");
  lab_.BlackHole("198.18.2.11");
  expect_replaced("it is silent");
  EXPECT_EQ(two->accepted(), 16u);
}

}  // namespace
}  // namespace headgate::testing
