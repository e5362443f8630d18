// What checks cost the daemon, beside the least that a program can pay for the
// same connections: one that connects, says what a check says, and closes, with
// blocking calls and nothing else. Both run against the same servers, at about
// 1,000 a second, in the same run.
//
// System time is the kernel's work for the handshake above all, the server's
// half included, as everything is on one machine.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <cstdio>
#include <functional>

#include "absl/strings/str_cat.h"
#include "net/event_loop.h"
#include "net/socket.h"
#include "support/daemon.h"
#include "support/edge.h"
#include "support/lab.h"
#include "support/server.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr int kPools = 2;
constexpr int kBackendsPerPool = 500;
constexpr int kPerSecond = kPools * kBackendsPerPool;  // The interval is 1 s.

bool Soak() { return std::getenv("HG_SOAK") != nullptr; }
int Checks() { return Soak() ? 8 * kPerSecond : 3 * kPerSecond; }

// Of 198.18.8.0/21, which the backend namespace has as a whole.
Endpoint BackendAt(int i) {
  return At(
      absl::StrCat("198.18.", 8 + i / 250 % 4, ".", i % 250 + 1, ":30125"));
}

std::string Config(const std::string& health) {
  std::string pools = "pools:\n", services = "services:\n";
  for (int pool = 0; pool < kPools; ++pool) {
    absl::StrAppend(&pools, "  p", pool, ":\n    backends:\n");
    for (int i = 0; i < kBackendsPerPool; ++i) {
      absl::StrAppend(&pools, "      - {name: b", i, ", address: \"",
                      BackendAt(pool * kBackendsPerPool + i).ToString(),
                      "\"}\n");
    }
    absl::StrAppend(&services, "  s", pool,
                    ":\n    listen: [\"198.18.1.1:", 1000 + pool,
                    "\"]\n    pool: p", pool, "\n    health: {", health,
                    ", interval: 1s, timeout: 900ms}\n");
  }
  return pools + services;
}

// Of one check.
struct Cost {
  double user_ns = 0;
  double system_ns = 0;
  // Of a core, at 1,000 checks a second.
  double percent() const { return (user_ns + system_ns) / 1e4; }
};

Cost Print(const std::string& what, const Cost& cost) {
  std::printf("%-20s user %5.2f %%  system %5.2f %%  together %5.2f %%\n",
              what.c_str(), cost.user_ns / 1e4, cost.system_ns / 1e4,
              cost.percent());
  return cost;
}

Cost CostOfDaemon(pid_t pid) {
  const int64_t begun = ConnectsBegun();
  const CpuTime before = CpuTimeOf(pid);
  EXPECT_TRUE(WaitUntil(absl::Seconds(120),
                        [&] { return ConnectsBegun() - begun >= Checks(); }));
  const CpuTime after = CpuTimeOf(pid);
  const auto checks = static_cast<double>(ConnectsBegun() - begun);
  return {(after.user_seconds - before.user_seconds) * 1e9 / checks,
          (after.system_seconds - before.system_seconds) * 1e9 / checks};
}

double NanosecondsOf(const timeval& time) {
  return static_cast<double>(time.tv_sec) * 1e9 +
         static_cast<double>(time.tv_usec) * 1e3;
}

// `check` at the pace of the daemon's checks, by the calling thread.
Cost CostOf(const std::function<void(const Endpoint&)>& check) {
  const ScopedNetns inside(kEdge);
  rusage before{}, after{};
  timespec next{};
  getrusage(RUSAGE_THREAD, &before);
  clock_gettime(CLOCK_MONOTONIC, &next);
  for (int i = 0; i < Checks(); ++i) {
    check(BackendAt(i % kPerSecond));
    next.tv_nsec += 1'000'000'000 / kPerSecond;
    if (next.tv_nsec >= 1'000'000'000) {
      next.tv_nsec -= 1'000'000'000;
      ++next.tv_sec;
    }
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, nullptr);
  }
  getrusage(RUSAGE_THREAD, &after);
  const auto per_check = [](const timeval& from, const timeval& to) {
    return (NanosecondsOf(to) - NanosecondsOf(from)) / Checks();
  };
  return {per_check(before.ru_utime, after.ru_utime),
          per_check(before.ru_stime, after.ru_stime)};
}

UniqueFd Connected(const Endpoint& target) {
  sockaddr_storage address{};
  const socklen_t size = target.ToSockaddr(&address);
  UniqueFd fd(::socket(target.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), size),
      0);
  return fd;
}

// Connect and close.
void LeastTcpCheck(const Endpoint& target) {
  headgate::ResetOnClose(Connected(target).get());
}

// Connect, read, QUIT, read, close.
void LeastSmtpCheck(const Endpoint& target) {
  const UniqueFd fd = Connected(target);
  char buffer[512];
  EXPECT_GT(::recv(fd.get(), buffer, sizeof buffer, 0), 0);
  EXPECT_EQ(::send(fd.get(), "QUIT\r\n", 6, MSG_NOSIGNAL), 6);
  EXPECT_GT(::recv(fd.get(), buffer, sizeof buffer, 0), 0);
}

class CheckCostTest : public ::testing::Test {
 protected:
  CheckCostTest() {
    Shell(
        "ip -n backend route add local 198.18.8.0/21 dev lo\n"
        "ip -n edge route add 198.18.8.0/21 via 198.18.2.11\n");
  }

  // `health` against `least`, by turns: the machine's speed changes.
  void Compare(const std::string& health,
               const std::function<void(const Endpoint&)>& least,
               double most_of_least) {
    const Server server({At("0.0.0.0:30125")},
                        {.header = HeaderKind::kNone,
                         .greeting = "220 mail.test ESMTP\r\n",
                         .answer = "221 bye\r\n"});
    Daemon daemon(Config(health));
    // The first interval is shorter.
    const int64_t begun = ConnectsBegun();
    ASSERT_TRUE(WaitUntil(absl::Seconds(60), [&] {
      return ConnectsBegun() - begun >= kPerSecond;
    }));
    const Cost cost = Print(health, CostOfDaemon(daemon.pid()));
    daemon.Stop();
    const Cost floor = Print("  the least", CostOf(least));
    EXPECT_LT(cost.percent(), most_of_least * floor.percent());
  }

  Lab lab_;
};

TEST_F(CheckCostTest, Tcp) { Compare("type: tcp", LeastTcpCheck, 2); }

// 1.9 times the least on a busy machine.
TEST_F(CheckCostTest, Smtp) {
  Compare("type: smtp", LeastSmtpCheck, Soak() ? 2 : 3);
}

}  // namespace
}  // namespace headgate::testing
