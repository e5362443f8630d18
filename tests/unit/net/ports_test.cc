#include "net/ports.h"

#include <gtest/gtest.h>

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

TEST(PortsTest, ThisMachineHasSome) {
  EXPECT_GT(CountSourcePorts(), 0u);
  EXPECT_LE(CountSourcePorts(), 65535u);
}

}  // namespace
}  // namespace headgate
