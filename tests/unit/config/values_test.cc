#include "config/values.h"

#include <gtest/gtest.h>

#include <limits>

namespace headgate::config {
namespace {

constexpr uint64_t kAny = std::numeric_limits<uint64_t>::max();

TEST(ValuesTest, DurationsFormatInTheLargestUnit) {
  EXPECT_EQ(DurationText(absl::ZeroDuration()), "0ms");
  EXPECT_EQ(DurationText(absl::Milliseconds(1500)), "1500ms");
  EXPECT_EQ(DurationText(absl::Seconds(90)), "90s");
  EXPECT_EQ(DurationText(absl::Minutes(90)), "90m");
  EXPECT_EQ(DurationText(absl::Hours(168)), "168h");
}

TEST(ValuesTest, DurationsOfOneLengthAreEqual) {
  for (const char* text : {"1h", "60m", "3600s", "3600000ms"}) {
    EXPECT_EQ(ParseDuration(text, absl::ZeroDuration(), absl::Hours(1)).value(),
              absl::Hours(1))
        << text;
  }
}

TEST(ValuesTest, NoDuration) {
  for (const char* text : {"", "s", "5S", "5 s", " 5s", "-5s", "+5s", "05s",
                           "5sec", "1h30m", "5", "0x5s"}) {
    EXPECT_FALSE(
        ParseDuration(text, absl::ZeroDuration(), absl::Hours(999)).ok())
        << text;
  }
}

TEST(ValuesTest, SizesFormatInTheLargestUnit) {
  EXPECT_EQ(SizeText(0), "0");
  EXPECT_EQ(SizeText(1000), "1000");
  EXPECT_EQ(SizeText(256 * 1024), "256KiB");
  EXPECT_EQ(SizeText(uint64_t{3} << 30), "3GiB");
}

TEST(ValuesTest, SizesParse) {
  EXPECT_EQ(ParseSize("1000", 0, kAny).value(), 1000u);
  EXPECT_EQ(ParseSize("1024KiB", 0, kAny).value(), 1u << 20);
  EXPECT_EQ(ParseSize("2GiB", 0, kAny).value(), uint64_t{2} << 30);
  for (const char* text : {"", "KiB", "1K", "1kib", "1 KiB", "-1", "1.5MiB"}) {
    EXPECT_FALSE(ParseSize(text, 0, kAny).ok()) << text;
  }
}

TEST(ValuesTest, SizeThatOverflowsIsOutOfRange) {
  // 2^34 GiB is 2^64 bytes: 0, if nobody looked.
  EXPECT_FALSE(ParseSize("17179869184GiB", 0, 1024).ok());
}

TEST(ValuesTest, Booleans) {
  EXPECT_TRUE(ParseBool("true").value());
  EXPECT_FALSE(ParseBool("false").value());
  for (const char* text : {"", "True", "yes", "1", "on"}) {
    EXPECT_FALSE(ParseBool(text).ok()) << text;
  }
}

TEST(ValuesTest, Names) {
  const std::string longest(63, 'x');
  for (const std::string& text :
       {std::string("a"), std::string("K8s_node-1.example"), std::string("_"),
        std::string("25"), longest}) {
    EXPECT_TRUE(ParseName(text).ok()) << text;
  }
  for (const std::string& text :
       {std::string(), std::string("-a"), std::string(".a"), std::string("a b"),
        std::string("a/b"), std::string("\xc3\xa4"), longest + "x"}) {
    EXPECT_FALSE(ParseName(text).ok()) << text;
  }
}

TEST(ValuesTest, Targets) {
  const IpAddress v6 = IpAddress::Parse("2001:db8::9").value();
  for (const char* text : {"2001:db8::9", "[2001:db8::9]"}) {
    const Target target = ParseTarget(text).value();
    EXPECT_EQ(target.address, v6) << text;
    EXPECT_EQ(target.port, std::nullopt) << text;
  }
  const Target with_port = ParseTarget("[2001:db8::9]:25").value();
  EXPECT_EQ(with_port.address, v6);
  EXPECT_EQ(with_port.port, 25);
  EXPECT_EQ(ParseTarget("198.18.2.1:25").value().port, 25);
  EXPECT_EQ(ParseTarget("198.18.2.1").value().port, std::nullopt);
}

TEST(ValuesTest, NoTargets) {
  for (const char* text :
       {"", "[]", "[198.18.2.1]", "198.18.2", "198.18.2.1:", "198.18.2.1:0",
        "198.18.2.0/24", "mx.example.org", "::", "0.0.0.0", "[::]:25"}) {
    EXPECT_FALSE(ParseTarget(text).ok()) << text;
  }
}

}  // namespace
}  // namespace headgate::config
