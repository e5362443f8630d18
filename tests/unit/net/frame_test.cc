#include "net/frame.h"

#include <gtest/gtest.h>

#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace headgate {
namespace {

// Frames as tcpdump -xx printed them, or made from those.
constexpr char kMacs[] = "02000000000b020000000002";
constexpr char kV4[] =
    "0800"
    "4500004400070000"  // 68 bytes
    "3c060000c6120201c612020b";
constexpr char kTcp[] = "4e2075ad112233450a0b0c0d5018100000000000";
constexpr char kHeader[] =
    "0d0a0d0a000d0a515549540a2111000cc612000ac612010104010019";

std::optional<Frame> Parse(const std::string& hex, uint32_t size = 0,
                           size_t cut = SIZE_MAX) {
  const std::string bytes = absl::HexStringToBytes(hex).substr(0, cut);
  const std::vector<uint8_t> data(bytes.begin(), bytes.end());
  return ParseFrame(data,
                    size == 0 ? static_cast<uint32_t>(data.size()) : size);
}

TEST(FrameTest, TcpOverIpv4) {
  const auto frame = Parse(absl::StrCat(kMacs, kV4, kTcp, kHeader));
  ASSERT_TRUE(frame.has_value());
  EXPECT_EQ(frame->source.ToString(), "198.18.2.1:20000");
  EXPECT_EQ(frame->destination.ToString(), "198.18.2.11:30125");
  ASSERT_TRUE(frame->tcp.has_value());
  EXPECT_EQ(frame->tcp->seq, 0x11223345u);
  EXPECT_EQ(frame->tcp->ack, 0x0a0b0c0du);
  EXPECT_EQ(frame->tcp->flags, "P.");
  EXPECT_EQ(frame->tcp->payload, 28u);
  EXPECT_FALSE(frame->icmp.has_value());
}

// Ethernet pads, and the ring cuts: the payload is what IP says.
TEST(FrameTest, ThePayloadIsThatOfThePacket) {
  const std::string whole = absl::StrCat(kMacs, kV4, kTcp, kHeader);
  EXPECT_EQ(Parse(whole + "00000000")->tcp->payload, 28u);
  EXPECT_EQ(Parse(whole, 82, 54)->tcp->payload, 28u);
  // A length of 0 is BIG TCP's.
  std::string big = whole;
  big.replace(32, 4, "0000");
  EXPECT_EQ(Parse(big, 14 + 40 + 100000)->tcp->payload, 100000u);
}

TEST(FrameTest, EveryFlagHasItsLetter) {
  std::string frame = absl::StrCat(kMacs, kV4, kTcp, kHeader);
  frame.replace((14 + 20 + 13) * 2, 2, "ff");
  EXPECT_EQ(Parse(frame)->tcp->flags, "FSRP.UEW");
}

TEST(FrameTest, TcpOverIpv6) {
  const auto frame = Parse(absl::StrCat(
      kMacs, "86dd", "6001234500140640", "20010db800020000000000000000000a",
      "20010db800020000000000000000000b", kTcp));
  ASSERT_TRUE(frame.has_value());
  EXPECT_EQ(frame->source.ToString(), "[2001:db8:2::a]:20000");
  EXPECT_EQ(frame->destination.ToString(), "[2001:db8:2::b]:30125");
  EXPECT_EQ(frame->tcp->payload, 0u);
}

TEST(FrameTest, IcmpErrors) {
  std::string v4 = absl::StrCat(kMacs, kV4, "0304000000000578");
  v4.replace((14 + 9) * 2, 2, "01");
  ASSERT_TRUE(Parse(v4)->icmp.has_value());
  EXPECT_EQ(Parse(v4)->icmp->type, 3);
  EXPECT_EQ(Parse(v4)->icmp->code, 4);
  EXPECT_FALSE(Parse(v4)->tcp.has_value());
  EXPECT_EQ(Parse(v4)->source.port, 0);
}

TEST(FrameTest, WhatIsCutOffIsNotThere) {
  const std::string whole = absl::StrCat(kMacs, kV4, kTcp, kHeader);
  for (size_t cut = 0; cut < 34; ++cut) {
    EXPECT_FALSE(Parse(whole, 82, cut).has_value()) << cut;
  }
  for (size_t cut = 34; cut < 54; ++cut) {
    const auto frame = Parse(whole, 82, cut);
    ASSERT_TRUE(frame.has_value()) << cut;
    EXPECT_FALSE(frame->tcp.has_value()) << cut;
  }
  std::string fragment = whole;
  fragment.replace((14 + 6) * 2, 4, "0010");
  EXPECT_FALSE(Parse(fragment)->tcp.has_value());
  EXPECT_FALSE(Parse(absl::StrCat(kMacs, "0806", kTcp)).has_value()) << "ARP";
}

}  // namespace
}  // namespace headgate
