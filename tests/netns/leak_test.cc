// After many short connections nothing of them is left.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "support/bpf_map.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kConfig[] = R"(
splice: {mode: always, promote_after: $0}
pools:
  nodes:
    backends: [{name: one, address: 198.18.2.11}]
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
)";

constexpr int64_t kAllowedGrowthKib = 16 << 10;

size_t OpenFiles(pid_t pid) {
  const std::filesystem::directory_iterator files(
      absl::StrCat("/proc/", pid, "/fd"));
  return static_cast<size_t>(std::distance(begin(files), end(files)));
}

int64_t ResidentKib(pid_t pid) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string word; status >> word;) {
    int64_t kib = 0;
    if (word == "VmRSS:" && status >> kib) return kib;
  }
  return -1;
}

class LeakTest : public ::testing::TestWithParam<const char*> {
 protected:
  static LoadReport Load(size_t total, bool resets) {
    return RunLoad({.target = At("198.18.1.1:25"),
                    .total = total,
                    .send = "QUIT\r\n",
                    .expect = "220 ok\r\nQUIT\r\n",
                    .resets = resets});
  }

  Lab lab_;
  Server server_{{At("198.18.2.11:30125")},
                 {.greeting = "220 ok\r\n", .echo = true}};
  Daemon daemon_{absl::Substitute(kConfig, GetParam())};
};

TEST_P(LeakTest, NothingIsLeftOfShortConnections) {
  const size_t total = std::getenv("HG_SOAK") != nullptr ? 50000 : 10000;
  // Buffers and pools reach their size; what grows after this is a leak.
  const size_t files_before = OpenFiles(daemon_.pid());
  ASSERT_EQ(Load(1000, false).ok, 1000u);
  const int64_t resident_before = ResidentKib(daemon_.pid());
  for (bool resets : {false, true}) {
    const LoadReport report = Load(total, resets);
    EXPECT_EQ(report.ok, total) << report.ToString();
  }
  EXPECT_TRUE(WaitUntil(absl::Seconds(10),
                        [&] {
                          return daemon_.ActiveConnections() == 0 &&
                                 OpenFiles(daemon_.pid()) == files_before;
                        }))
      << daemon_.ActiveConnections() << " connections, "
      << OpenFiles(daemon_.pid()) << " files, " << files_before << " before";
  EXPECT_LT(ResidentKib(daemon_.pid()), resident_before + kAllowedGrowthKib);
  EXPECT_TRUE(DumpMapOf(daemon_.pid(), "splice_index").empty());
  EXPECT_EQ(daemon_.Service("mail")["connections_total"], 1000 + 2 * total);
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] { return server_.open() == 0; }));
}

TEST_P(LeakTest, NothingIsLeftOfRefusedConnections) {
  const size_t files_before = OpenFiles(daemon_.pid());
  server_.Kill();
  EXPECT_EQ(Load(2000, false).failed(), 2000u);
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    return daemon_.ActiveConnections() == 0 &&
           OpenFiles(daemon_.pid()) == files_before;
  }));
}

// Too short to be spliced, and spliced from the first byte on.
INSTANTIATE_TEST_SUITE_P(PromoteAfter, LeakTest,
                         ::testing::Values("256KiB", "0"),
                         [](const auto& tested) {
                           return std::string("Bytes") + tested.param;
                         });

}  // namespace
}  // namespace headgate::testing
