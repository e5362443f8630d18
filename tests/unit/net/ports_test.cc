#include "net/ports.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <sstream>
#include <string>

namespace headgate {
namespace {

TEST(PortsTest, CountsTheRange) {
  EXPECT_EQ(CountSourcePorts("32768\t60999\n", "\n"), 28232u);
  EXPECT_EQ(CountSourcePorts("1024 1024", ""), 1u);
}

TEST(PortsTest, LeavesReservedOnesOut) {
  EXPECT_EQ(CountSourcePorts("1000\t1099\n", "1000,1010-1019,1099\n"), 88u);
  // Reserved ones outside the range take nothing away.
  EXPECT_EQ(CountSourcePorts("1000\t1099\n", "22,990-1009,1090-2000\n"), 80u);
  EXPECT_EQ(CountSourcePorts("1000\t1099\n", "1-65535\n"), 0u);
}

TEST(PortsTest, WhatIsNoRangeHasNoPorts) {
  for (const char* text : {"", "\n", "a\tb", "2\t1", "1\t2\t3"}) {
    EXPECT_EQ(CountSourcePorts(text, ""), 0u) << text;
  }
}

TEST(PortsTest, OursAreWhereTheKernelGivesNone) {
  const char* const kRange = "1000\t1099\n";
  EXPECT_TRUE(CheckPortsAreOurs(1100, 2000, kRange, "\n").ok());
  EXPECT_TRUE(CheckPortsAreOurs(100, 999, kRange, "\n").ok());
  EXPECT_TRUE(CheckPortsAreOurs(1010, 1019, kRange, "1010-1019\n").ok());
  // What lies outside the kernel's range need not be reserved.
  EXPECT_TRUE(CheckPortsAreOurs(1090, 2000, kRange, "1-5,1090-1099\n").ok());
  EXPECT_TRUE(CheckPortsAreOurs(1, 65535, "no range", "").ok());
}

TEST(PortsTest, WhatMendsItKeepsWhatIsReserved) {
  const auto fix = [](uint16_t first, uint16_t last, const char* reserved) {
    const std::string text(
        CheckPortsAreOurs(first, last, "1000\t1099\n", reserved).message());
    return text.substr(text.rfind('=') + 1);
  };
  EXPECT_EQ(fix(1010, 1019, "\n"), "1010-1019");
  EXPECT_EQ(fix(1090, 2000, "\n"), "1090-1099");
  EXPECT_EQ(fix(1010, 1019, "22,8080\n"), "22,8080,1010-1019");
  // With a gap, and at either end.
  EXPECT_EQ(fix(1010, 1019, "1010-1013,1015-1019\n"),
            "1010-1013,1015-1019,1010-1019");
  EXPECT_EQ(fix(1010, 1019, "1011-1019\n"), "1011-1019,1010-1019");
  EXPECT_EQ(fix(1010, 1019, "1000-1018\n"), "1000-1018,1010-1019");
}

TEST(PortsTest, ThisMachineHasSome) {
  EXPECT_GT(CountSourcePorts(), 0u);
  EXPECT_LE(CountSourcePorts(), 65535u);
}

// As on a machine that counts from the right. Sockets that share a port
// (SO_REUSEPORT) have a row each.
TEST(PortsTest, ListenersAreTheFirstRows) {
  std::istringstream table(
      "  sl  local_address rem_address   st tx_queue rx_queue\n"
      "   0: 00000000:07E8 00000000:0000 0A 00000000:00000000\n"
      "   1: 010212C6:0019 00000000:0000 0A 00000000:00000000\n"
      "   2: 010212C6:0019 00000000:0000 0A 00000000:00000000\n"
      "   3: 010212C6:C350 0B0212C6:0019 01 00000000:00000000\n");
  EXPECT_THAT(
      ListeningEndpoints(table),
      ::testing::ElementsAre(Endpoint{*IpAddress::Parse("0.0.0.0"), 2024},
                             Endpoint{*IpAddress::Parse("198.18.2.1"), 25}));
}

TEST(PortsTest, ListenersOfIpv6) {
  std::istringstream table(
      "  sl  local_address remote_address st tx_queue rx_queue\n"
      "   0: B80D0120000002000000000001000000:0019 "
      "00000000000000000000000000000000:0000 0A 00000000:00000000\n"
      "   1: 0000000000000000FFFF0000010212C6:001A "
      "00000000000000000000000000000000:0000 0A 00000000:00000000\n");
  EXPECT_THAT(
      ListeningEndpoints(table),
      ::testing::ElementsAre(Endpoint{*IpAddress::Parse("198.18.2.1"), 26},
                             Endpoint{*IpAddress::Parse("2001:db8:2::1"), 25}));
}

// Without descriptors nobody can tell whether somebody listens.
TEST(PortsTest, ListenersThatCannotBeReadAreNotNone) {
  EXPECT_TRUE(ListeningEndpoints().ok());
  rlimit had{};
  getrlimit(RLIMIT_NOFILE, &had);
  const rlimit none{0, had.rlim_max};
  setrlimit(RLIMIT_NOFILE, &none);
  const auto found = ListeningEndpoints();
  setrlimit(RLIMIT_NOFILE, &had);
  EXPECT_EQ(found.status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace headgate
