// The daemon without what it needs, descriptors or memory: nothing is lost, it
// says so, and it goes on when there is enough again.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <optional>

#include "absl/strings/str_split.h"
#include "netns/splice_traps.h"
#include "support/edge.h"
#include "support/injection.h"
#include "support/stream.h"

namespace headgate::testing {
namespace {

// Of the half second that each of them looks at. Waiting takes less than 2 ms;
// spinning takes 50 where a busy machine and a tracer leave it that little.
constexpr double kSpinning = 0.025;

class ShortageTest : public SpliceTraps {
 protected:
  void TakeDescriptors() const { daemon_->LimitFiles(1); }
  void GiveDescriptors() const { daemon_->LimitFiles(1024); }
  size_t Said(const char* text) const {
    return std::vector<std::string>(absl::StrSplit(daemon_->Log(), text))
               .size() -
           1;
  }
  double CpuSeconds() const { return CpuTimeOf(daemon_->pid()).total(); }
};

// Somebody else has used them up: the daemon's own count says there are some.
TEST_F(ShortageTest, WhenAcceptFailsClientsWaitAndItSaysSoOnce) {
  Start({.workers = 1});
  ListenAtNode();
  Session old = Spliced();
  for (size_t round = 1; round <= 2; ++round) {
    TakeDescriptors();
    std::vector<TcpSocket> clients;
    for (int i = 0; i < 5; ++i) {
      clients.push_back(TcpSocket::Connect(kClient, vip_));
      ASSERT_TRUE(clients.back().valid());
    }
    ASSERT_TRUE(
        WaitUntil(kSoon, [&] { return Said("clients wait") == round; }));
    const double cpu = CpuSeconds();
    for (int i = 0; i < 10; ++i) {
      ASSERT_TRUE(old.Exchange());
      ASSERT_TRUE(clients.front().Quiet(absl::Milliseconds(50)));
    }
    EXPECT_LT(CpuSeconds() - cpu, kSpinning) << "it spins";
    EXPECT_EQ(Said("clients wait"), round) << daemon_->Log();
    GiveDescriptors();
    for (TcpSocket& client : clients) {
      Session session = AcceptSession(std::move(client), node_);
      EXPECT_TRUE(session.Exchange());
    }
  }
}

class AcceptRefused : public ShortageTest,
                      public ::testing::WithParamInterface<const char*> {};

TEST_P(AcceptRefused, ClientsWaitAndItSaysSoOnce) {
  Start({.workers = 1});
  ListenAtNode();
  Session old = Spliced();
  std::optional<Injection> fault(std::in_place, daemon_->pid(),
                                 absl::StrCat("accept4:error=", GetParam()));
  std::vector<TcpSocket> clients;
  for (int i = 0; i < 5; ++i) {
    clients.push_back(TcpSocket::Connect(kClient, vip_));
    ASSERT_TRUE(clients.back().valid());
  }
  ASSERT_TRUE(WaitUntil(kSoon, [&] { return Said("clients wait") == 1; }));
  const double cpu = CpuSeconds();
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(old.Exchange());
    ASSERT_TRUE(clients.front().Quiet(absl::Milliseconds(50)));
  }
  EXPECT_LT(CpuSeconds() - cpu, kSpinning) << "it spins";
  EXPECT_EQ(Said("clients wait"), 1u) << daemon_->Log();
  fault.reset();
  for (TcpSocket& client : clients) {
    Session session = AcceptSession(std::move(client), node_);
    EXPECT_TRUE(session.Exchange());
  }
}

INSTANTIATE_TEST_SUITE_P(Errors, AcceptRefused,
                         ::testing::Values("ENFILE", "ENOBUFS", "ENOMEM"),
                         [](const auto& tested) {
                           return std::string(tested.param);
                         });

// What makes a connection faster may fail at any time: it is slower then.
struct Fault {
  const char* name;
  const char* inject;
};
class FasterRefused : public ShortageTest,
                      public ::testing::WithParamInterface<Fault> {};

TEST_P(FasterRefused, NoByteIsLost) {
  Start({.mode = "auto"});
  std::optional<Injection> fault(std::in_place, daemon_->pid(),
                                 GetParam().inject);
  const StreamReport report = RunStreams({.seed = 7,
                                          .listen = {At("198.18.2.11:30125")},
                                          .target = vip_,
                                          .count = Soak() ? 400u : 40u,
                                          .large = 2,
                                          .max_size = 1U << 20,
                                          .patience = absl::Seconds(30)});
  EXPECT_EQ(report.first_error, "");
  EXPECT_EQ(report.lost, 0u);
  fault.reset();
  EXPECT_TRUE(NothingIsLeft());
}

INSTANTIATE_TEST_SUITE_P(
    Calls, FasterRefused,
    ::testing::Values(Fault{"Pipes", "pipe2:error=ENFILE"},
                      Fault{"Splice", "splice:error=ENOMEM:when=3+3"},
                      Fault{"Options", "setsockopt:error=ENOMEM:when=5+5"},
                      Fault{"PipeSizes", "fcntl:error=EPERM"}),
    [](const auto& tested) { return std::string(tested.param.name); });

// What it cannot do without ends that connection, and no other.
class NeededRefused : public ShortageTest,
                      public ::testing::WithParamInterface<Fault> {};

TEST_P(NeededRefused, TheOthersGoOnAndNothingIsLeft) {
  Start({.workers = 1});
  ListenAtNode();
  Session old = Spliced();
  std::optional<Injection> fault(std::in_place, daemon_->pid(),
                                 GetParam().inject);
  for (int i = 0; i < 20; ++i) {
    TcpSocket client = TcpSocket::Connect(kClient, vip_);
    ASSERT_TRUE(old.Exchange());
    EXPECT_TRUE(client.ReceivesReset()) << "neither served nor told";
  }
  fault.reset();
  EXPECT_TRUE(old.Exchange());
  EXPECT_TRUE(OpenSession(vip_, node_).Exchange());
  { const Session last = std::move(old); }
  EXPECT_TRUE(NothingIsLeft());
}

INSTANTIATE_TEST_SUITE_P(
    Calls, NeededRefused,
    ::testing::Values(Fault{"Sockets", "socket:error=ENFILE"},
                      Fault{"Connects", "connect:error=ENOBUFS"},
                      Fault{"Epoll", "epoll_ctl:error=ENOMEM"},
                      Fault{"Selection", "bpf:error=ENOMEM"}),
    [](const auto& tested) { return std::string(tested.param.name); });

// A request that comes when there is no descriptor for it is served later.
TEST_F(ShortageTest, TheAdminApiIsBackAsSoonAsThereAreDescriptors) {
  Start({.workers = 1});
  TakeDescriptors();
  Process status({Program("headgatectl"),
                  absl::StrCat("--socket=", daemon_->socket_path()), "status"});
  const double cpu = CpuSeconds();
  EXPECT_FALSE(status.Wait(absl::Milliseconds(500)).has_value())
      << status.err();
  EXPECT_LT(CpuSeconds() - cpu, kSpinning) << "it spins";
  GiveDescriptors();
  EXPECT_EQ(status.Wait(kSoon).value_or(-1), 0) << status.err();
}

// The daemon in a memory control group (version 1) whose TCP sockets may have
// very little.
class TcpMemoryTest : public SpliceTraps,
                      public ::testing::WithParamInterface<const char*> {
 protected:
  static constexpr char kGroup[] = "/sys/fs/cgroup/memory/headgate-test";

  void SetUp() override {
    if (!std::filesystem::exists(
            "/sys/fs/cgroup/memory/memory.kmem.tcp.limit_in_bytes")) {
      GTEST_SKIP() << "no control group of this kind";
    }
    std::filesystem::create_directory(kGroup);
    Shell(absl::StrCat("echo 1M >", kGroup, "/memory.kmem.tcp.limit_in_bytes"));
  }
  void TearDown() override {
    daemon_.reset();
    std::error_code ignored;
    std::filesystem::remove(kGroup, ignored);
  }
  static int64_t MostUsed() {
    int64_t bytes = -1;
    std::ifstream(
        absl::StrCat(kGroup, "/memory.kmem.tcp.max_usage_in_bytes")) >>
        bytes;
    return bytes;
  }
};

TEST_P(TcpMemoryTest, NoByteIsLostUnderPressure) {
  daemon_ = std::make_unique<Daemon>(
      Config({.mode = GetParam()}),
      DaemonOptions{.wrapper = {"sh", "-c",
                                absl::StrCat("echo $$ >", kGroup,
                                             "/cgroup.procs; exec \"$@\""),
                                "sh"}});
  files_ = daemon_->OpenFiles();
  const StreamReport report =
      RunStreams({.seed = 4,
                  .listen = {At("198.18.2.11:30125")},
                  .target = vip_,
                  .count = Soak() ? 1000u : 60u,
                  .large = 2,
                  .max_size = Soak() ? 8U << 20 : 2U << 20,
                  .chaos = {.slow = 0.2},
                  .patience = absl::Seconds(30)});
  EXPECT_EQ(report.first_error, "");
  EXPECT_GE(MostUsed(), 1 << 20) << "there was no pressure";
  EXPECT_TRUE(NothingIsLeft());
}

INSTANTIATE_TEST_SUITE_P(Mode, TcpMemoryTest,
                         ::testing::Values("auto", "always", "off"),
                         [](const auto& tested) {
                           return std::string(tested.param);
                         });

}  // namespace
}  // namespace headgate::testing
