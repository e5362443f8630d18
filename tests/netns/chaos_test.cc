// Everything at once: streams that pause, read slowly, half-close and reset,
// short connections, backends that die and are drained, and the splice switch
// thrown all the while. What survives is unchanged, and of the rest nothing is
// left.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/substitute.h"
#include "support/bpf_map.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/stream.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kConfig[] = R"(
splice: {mode: $0, promote_after: 4KiB}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: two, address: 198.18.2.12}
      - {name: three, address: 198.18.2.13}
services:
  long:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
  short:
    listen: [198.18.1.1:26]
    pool: nodes
    backend_port: 30126
    health: {type: tcp, interval: 200ms, rise: 1}
)";

class ChaosTest : public ::testing::Test {
 protected:
  static bool Soak() { return std::getenv("HG_SOAK") != nullptr; }
  static uint64_t Seed() {
    uint64_t seed = 20240811;
    const char* given = std::getenv("HG_SEED");
    if (given != nullptr && !absl::SimpleAtoi(given, &seed)) {
      ADD_FAILURE() << "HG_SEED is not a number";
    }
    return seed;
  }
  static std::string Config(const char* mode) {
    return absl::Substitute(kConfig, mode);
  }

  // Until `done`: the switch every 50 ms, a drain every 400 ms.
  void Disturb(const std::atomic<int>& running) {
    static constexpr const char* kModes[] = {"off", "always", "auto"};
    for (int i = 0; running > 0; ++i) {
      daemon_.Reload(Config(kModes[i % 3]));
      if (i % 8 == 0) {
        const char* verb = i % 16 == 0 ? "drain" : "ready";
        EXPECT_EQ(daemon_.Ctl({"backend", verb, "long/one"}).exit_code, 0);
      }
      WaitUntil(absl::Milliseconds(50), [&] { return running == 0; });
    }
  }

  Lab lab_;
  Server one_{{At("198.18.2.11:30126")}, {.echo = true}};
  Server two_{{At("198.18.2.12:30126")}, {.echo = true}};
  Server three_{{At("198.18.2.13:30126")}, {.echo = true}};
  Daemon daemon_{Config("always")};
  const size_t files_ = daemon_.OpenFiles();
};

TEST_F(ChaosTest, SurvivingStreamsAreUnchangedAndNothingIsLeft) {
  StreamPlan plan;
  plan.seed = Seed();
  RecordProperty("seed", std::to_string(plan.seed));
  // With one drained and one dead there is still one for new streams.
  plan.listen = {At("198.18.2.11:30125"), At("198.18.2.12:30125"),
                 At("198.18.2.13:30125")};
  plan.target = At("198.18.1.1:25");
  plan.count = Soak() ? 2000 : 800;
  plan.max_size = 8 << 20;
  plan.concurrency = Soak() ? 200 : 64;
  plan.chaos = {.pauses = 0.1,
                .slow = 0.05,
                .resets = 0.1,
                .kill_every = Soak() ? 600U : 150U};
  LoadPlan load;
  load.target = At("198.18.1.1:26");
  load.total = Soak() ? 1000000 : 20000;
  load.concurrency = 16;
  load.send = load.expect = "EHLO client\r\nQUIT\r\n";
  LoadReport short_ones;
  StreamReport report;
  std::atomic<int> running = 2;
  std::thread streams([&] {
    report = RunStreams(plan);
    --running;
  });
  std::thread loads([&] {
    short_ones = RunLoad(load);
    --running;
  });
  Disturb(running);
  streams.join();
  loads.join();
  RecordProperty("lost", std::to_string(report.lost));
  EXPECT_EQ(report.first_error, "");
  EXPECT_EQ(report.equal + report.lost, plan.count);
  EXPECT_GT(report.equal, plan.count / 2);
  EXPECT_GT(report.lost, 0u);
  EXPECT_EQ(short_ones.ok, load.total) << short_ones.ToString();

  const auto nothing_is_left = [&] {
    return daemon_.ActiveConnections() == 0 && daemon_.OpenFiles() <= files_ &&
           DumpMapOf(daemon_.pid(), "splice_index").empty() &&
           SumMapField(DumpMap(daemon_.pin_dir(), "backend_stats"),
                       "connections_active") == 0;
  };
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), nothing_is_left))
      << daemon_.ActiveConnections() << " connections, "
      << daemon_.OpenFiles() - files_ << " files";
}

}  // namespace
}  // namespace headgate::testing
