#include "datapath/preflight.h"

#include <gtest/gtest.h>

namespace headgate::datapath {
namespace {

TEST(KernelCarriesSockmapFixesTest, KnowsTheSeries) {
  for (const char* good : {"6.17.0", "6.18.44-amd64", "6.12.42", "6.12.48+deb",
                           "6.6.102", "7.0.0-rc1", "6.17"}) {
    EXPECT_TRUE(KernelCarriesSockmapFixes(good)) << good;
  }
  for (const char* bad : {"6.1.0-28-amd64", "6.12.41", "6.6.101", "6.16.9",
                          "5.15.0", "6.13.5", "6", "", "linux"}) {
    EXPECT_FALSE(KernelCarriesSockmapFixes(bad)) << bad;
  }
}

TEST(PreparePinDirectoryTest, RefusesWhatIsNotOnBpffs) {
  const absl::Status status = PreparePinDirectory("/tmp/headgate-pins");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("mount -t bpf bpf /sys/fs/bpf"),
            absl::string_view::npos);
}

TEST(PreparePinDirectoryTest, RefusesRelativePaths) {
  EXPECT_EQ(PreparePinDirectory("pins").code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace headgate::datapath
