// Many backends that go and come back together, again and again, and many that
// say nothing at all: the daemon keeps up, and neither spins nor grows.
#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "net/event_loop.h"
#include "support/bpf_map.h"
#include "support/daemon.h"
#include "support/edge.h"
#include "support/lab.h"
#include "support/server.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr int kServices = 64;
constexpr int kPerService = 8;
constexpr int kBackends = kServices * kPerService;

int Flaps() { return std::getenv("HG_SOAK") != nullptr ? 120 : 5; }

// Of 198.18.8.0/21, which the backend namespace has as a whole.
std::string AddressOf(int i) {
  return absl::StrCat("198.18.", 8 + i / 250, ".", i % 250 + 1);
}

std::string Config(const std::string& service) {
  std::string pools = "pools:\n", services = "services:\n";
  for (int s = 0; s < kServices; ++s) {
    absl::StrAppend(&pools, "  p", s, ":\n    backends:\n");
    for (int i = 0; i < kPerService; ++i) {
      absl::StrAppend(&pools, "      - {name: b", i, ", address: \"",
                      AddressOf(s * kPerService + i), ":30125\"}\n");
    }
    absl::StrAppend(&services, "  s", s,
                    ":\n    listen: [\"198.18.1.1:", 1000 + s,
                    "\"]\n    pool: p", s, "\n", service);
  }
  return absl::StrCat("metrics: {listen: 127.0.0.1:9140}\n", pools, services);
}

class FlappingTest : public ::testing::Test {
 protected:
  FlappingTest() {
    Shell(
        "ip -n backend route add local 198.18.8.0/21 dev lo\n"
        "ip -n edge route add 198.18.8.0/21 via 198.18.2.11\n");
  }

  static std::unique_ptr<Server> AllNodes() {
    return std::make_unique<Server>(std::vector<Endpoint>{At("0.0.0.0:30125")},
                                    ServerOptions{.header = HeaderKind::kNone,
                                                  .greeting = "220 ready\r\n",
                                                  .answer = "221 bye\r\n"});
  }
  // How many backends have this health, as selection sees it.
  static int Count(const Daemon& daemon, const char* health) {
    int count = 0;
    for (const nlohmann::json& backend :
         DumpMap(daemon.pin_dir(), "backends")) {
      count += backend["health"] == health ? 1 : 0;
    }
    return count;
  }
  static bool WaitAll(const Daemon& daemon, const char* state,
                      absl::Duration patience) {
    return WaitUntil(patience,
                     [&] { return Count(daemon, state) == kBackends; });
  }

  Lab lab_;
};

// What the daemon has used, and what it was for.
class Usage {
 public:
  explicit Usage(const Daemon& daemon) : pid_(daemon.pid()) {}

  void Print(const char* what) const {
    std::printf("%s: %.0f checks/s, %.1f %% of a core\n", what,
                checks_per_second(), 100 * cores());
  }
  double checks_per_second() const {
    return static_cast<double>(ConnectsBegun() - checks_) / seconds();
  }
  double cores() const {
    return (CpuTimeOf(pid_).total() - cpu_.total()) / seconds();
  }

 private:
  double seconds() const {
    return static_cast<double>(MonotonicNs() - begun_ns_) / 1e9;
  }

  pid_t pid_;
  int64_t begun_ns_ = MonotonicNs();
  int64_t checks_ = ConnectsBegun();
  CpuTime cpu_ = CpuTimeOf(pid_);
};

TEST_F(FlappingTest, AllTogetherOnceASecond) {
  std::unique_ptr<Server> nodes = AllNodes();
  Daemon daemon(Config(R"(
    balance: maglev
    slow_start: 5s
    ejection: {}
    on_backend_down: reset
    health: {type: tcp, interval: 250ms, timeout: 200ms, rise: 1, fall: 1}
)"));
  ASSERT_TRUE(WaitAll(daemon, "HG_HEALTH_UP", absl::Seconds(20)));
  const Usage usage(daemon);
  int64_t resident = 0;
  for (int flap = 0; flap < Flaps(); ++flap) {
    nodes->Kill();
    EXPECT_TRUE(WaitAll(daemon, "HG_HEALTH_DOWN", absl::Seconds(3)));
    nodes = AllNodes();
    EXPECT_TRUE(WaitAll(daemon, "HG_HEALTH_UP", absl::Seconds(3)));
    if (flap == Flaps() / 2) resident = ResidentBytes(daemon.pid());
  }
  usage.Print("flapping");
  EXPECT_LT(usage.cores(), 0.5) << "it spins";
  EXPECT_LT(ResidentBytes(daemon.pid()), resident + (4 << 20)) << "it grows";
  daemon.Stop();
}

// A slow start goes by steps of a second here.
TEST_F(FlappingTest, OneThatFlapsDoesNotHoldBackTheSlowStartsOfOthers) {
  const Daemon daemon(Config(R"(
    slow_start: 20s
    health: {type: none}
)"));
  const auto back = [&](const char* backend) {
    for (const char* verb : {"maint", "ready"}) {
      ASSERT_EQ(daemon.Ctl({"backend", verb, backend}).exit_code, 0);
    }
  };
  // Of the first service.
  const auto least_weight = [&] {
    int least = INT_MAX;
    for (const nlohmann::json& backend :
         DumpMap(daemon.pin_dir(), "backends")) {
      if (backend["service"] != 1) continue;
      least = std::min(least, backend["weight"].get<int>());
    }
    return least;
  };
  back("s0/b0");
  const int cold = least_weight();
  EXPECT_LT(cold, 20);
  EXPECT_TRUE(WaitUntil(absl::Seconds(3), [&] {
    back("s1/b0");
    return least_weight() > cold;
  }));
}

// They accept and say nothing: each check takes all of its time.
TEST_F(FlappingTest, ChecksThatHang) {
  const std::unique_ptr<Server> nodes = AllNodes();
  Daemon daemon(Config(
      "    health: {type: greeting, interval: 1s, timeout: 1s, rise: 1, fall: "
      "1}\n"));
  ASSERT_TRUE(WaitAll(daemon, "HG_HEALTH_UP", absl::Seconds(20)));
  nodes->Pause();
  // An interval and the timeout.
  EXPECT_TRUE(WaitAll(daemon, "HG_HEALTH_DOWN", absl::Seconds(3)));
  const Usage usage(daemon);
  const int64_t begun = ConnectsBegun();
  EXPECT_TRUE(WaitUntil(absl::Seconds(20), [&] {
    return ConnectsBegun() - begun >= 3 * kBackends;
  }));
  usage.Print("hanging");
  EXPECT_LT(usage.cores(), 0.2) << "it spins";
  // Those under way, and those taking leave.
  EXPECT_LT(daemon.OpenFiles(), kBackends + 1024 + 300u);
  nodes->Resume();
  EXPECT_TRUE(WaitAll(daemon, "HG_HEALTH_UP", absl::Seconds(5)));
  daemon.Stop();
}

}  // namespace
}  // namespace headgate::testing
