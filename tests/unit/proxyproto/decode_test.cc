#include "proxyproto/decode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proxyproto/crc32c.h"
#include "vectors.h"

namespace headgate::proxyproto {
namespace {

// Where the decoder means to differ from the vectors' strict reader.
const std::map<std::string, Outcome>& Deviations() {
  static const std::map<std::string, Outcome> deviations = {
      // LOCAL is skipped unread: the text says to discard the block.
      {"v2-local-crc-bad", Outcome::kLocal},
      {"v2-local-unspec-addrs", Outcome::kLocal},
      // Lengths above kMaxV2Length are refused, not waited for.
      {"v2-len-65535-truncated", Outcome::kInvalid},
      {"v2-huge-crlf", Outcome::kInvalid},
      {"v2-size-4113", Outcome::kInvalid},
  };
  return deviations;
}

Outcome Stated(const Vector& vector) {
  static const std::map<std::string, Outcome> outcomes = {
      {"proxy", Outcome::kProxy},           {"local", Outcome::kLocal},
      {"unknown", Outcome::kUnknown},       {"unspec", Outcome::kUnspec},
      {"incomplete", Outcome::kIncomplete}, {"reject", Outcome::kInvalid},
  };
  if (vector.family == "UNIX") return Outcome::kUnix;
  return outcomes.at(vector.verdict);
}

Outcome Expected(const Vector& vector) {
  const auto deviation = Deviations().find(vector.name);
  return deviation == Deviations().end() ? Stated(vector) : deviation->second;
}

bool Accepted(Outcome outcome) {
  return outcome != Outcome::kInvalid && outcome != Outcome::kIncomplete;
}

// Decodes a copy without a byte to spare, so that AddressSanitizer sees any
// read past the end.
Outcome DecodeExact(absl::string_view bytes) {
  const std::vector<char> copy(bytes.begin(), bytes.end());
  return Decode(absl::string_view(copy.data(), copy.size())).outcome;
}

std::string HeaderV2(absl::string_view command_to_end) {
  return absl::StrCat(kV2Signature, absl::HexStringToBytes(command_to_end));
}

std::vector<std::pair<uint8_t, std::string>> Collect(TlvReader reader) {
  std::vector<std::pair<uint8_t, std::string>> tlvs;
  while (const std::optional<Tlv> tlv = reader.Next()) {
    tlvs.emplace_back(tlv->type, std::string(tlv->value));
  }
  return tlvs;
}

Family FamilyNamed(const std::string& name) {
  if (name == "INET") return Family::kInet;
  return name == "INET6" ? Family::kInet6 : Family::kUnix;
}

void ExpectProxied(const Vector& vector, const DecodeResult& result) {
  EXPECT_EQ(result.family, FamilyNamed(vector.family));
  EXPECT_EQ(result.transport, vector.transport == "STREAM"
                                  ? Transport::kStream
                                  : Transport::kDatagram);
  EXPECT_EQ(result.source, vector.source);
  EXPECT_EQ(result.destination, vector.destination);
  EXPECT_EQ(Collect(result.tlvs), vector.tlvs);
}

TEST(DecodeTest, JudgesEveryVector) {
  ASSERT_EQ(AllVectors().size(), 150u);
  for (const Vector& vector : AllVectors()) {
    SCOPED_TRACE(vector.name);
    const DecodeResult result = Decode(vector.bytes);
    ASSERT_EQ(result.outcome, Expected(vector)) << result.error;
    EXPECT_EQ(result.error.empty(), result.outcome != Outcome::kInvalid);
    if (!Accepted(result.outcome)) {
      EXPECT_EQ(result.header_length, 0u);
      EXPECT_EQ(result.version, 0);
    } else if (!Deviations().contains(vector.name)) {
      EXPECT_EQ(result.header_length, vector.header_length);
      EXPECT_EQ(result.version, vector.version);
    }
    if (vector.verdict == "proxy" && Accepted(result.outcome)) {
      ExpectProxied(vector, result);
    }
  }
}

TEST(DecodeTest, DeviatesWhereItSaysSo) {
  for (const auto& [name, outcome] : Deviations()) {
    EXPECT_NE(outcome, Stated(VectorNamed(name))) << name;
  }
}

TEST(DecodeTest, WaitsForTheRestOfEveryAcceptedVector) {
  for (const Vector& vector : AllVectors()) {
    SCOPED_TRACE(vector.name);
    const size_t length = Decode(vector.bytes).header_length;
    for (size_t size = 0; size < length; ++size) {
      ASSERT_EQ(DecodeExact(vector.bytes.substr(0, size)), Outcome::kIncomplete)
          << size;
    }
  }
}

TEST(DecodeTest, NeverTakesBackARefusal) {
  for (const Vector& vector : AllVectors()) {
    SCOPED_TRACE(vector.name);
    bool refused = false;
    for (size_t size = 0; size <= vector.bytes.size(); ++size) {
      const Outcome outcome = DecodeExact(vector.bytes.substr(0, size));
      ASSERT_TRUE(!refused || outcome == Outcome::kInvalid) << size;
      refused = outcome == Outcome::kInvalid;
    }
  }
}

TEST(DecodeTest, LeavesThePayloadAlone) {
  for (const Vector& vector : AllVectors()) {
    SCOPED_TRACE(vector.name);
    const DecodeResult alone = Decode(vector.bytes);
    if (!Accepted(alone.outcome)) continue;
    const std::string followed =
        vector.bytes.substr(0, alone.header_length) + vector.bytes;
    const DecodeResult result = Decode(followed);
    EXPECT_EQ(result.outcome, alone.outcome);
    EXPECT_EQ(result.header_length, alone.header_length);
    EXPECT_EQ(result.source, alone.source);
    EXPECT_EQ(Collect(result.tlvs), Collect(alone.tlvs));
  }
}

TEST(DecodeTest, RefusesWhatCannotBecomeAHeaderAtOnce) {
  for (const std::string& bytes :
       {std::string("E"), std::string("PROXYT"), std::string("\r\n\r\n\r"),
        HeaderV2("22"), HeaderV2("10"), HeaderV2("21111001"),
        HeaderV2("2111000b"), HeaderV2("21410000"), HeaderV2("20001001")}) {
    EXPECT_EQ(DecodeExact(bytes), Outcome::kInvalid) << absl::CHexEscape(bytes);
  }
}

TEST(DecodeTest, TakesTheLongestLengthItAllows) {
  const std::string header =
      HeaderV2("20001000") + std::string(kMaxV2Length, 'x');
  EXPECT_EQ(Decode(header).outcome, Outcome::kLocal);
  EXPECT_EQ(Decode(header).header_length, kV2FixedLength + kMaxV2Length);
}

TEST(DecodeTest, SeesEveryFlippedBitUnderCrc32c) {
  const std::string& header = VectorNamed("v2-crc-ok-tcp6-authority").bytes;
  ASSERT_EQ(Decode(header).outcome, Outcome::kProxy);
  for (size_t bit = 8 * kV2FixedLength; bit < 8 * header.size(); ++bit) {
    std::string flipped = header;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    const DecodeResult result = Decode(flipped);
    // Only a flip that turns the CRC32C into another type goes unseen.
    const auto tlvs = Collect(result.tlvs);
    const bool has_crc =
        std::any_of(tlvs.begin(), tlvs.end(),
                    [](const auto& tlv) { return tlv.first == kCrc32c; });
    EXPECT_FALSE(result.outcome == Outcome::kProxy && has_crc) << bit;
  }
}

TEST(DecodeTest, RefusesASecondCrc32c) {
  const std::string tlv = absl::HexStringToBytes("03000400000000");
  std::string header = HeaderV2("2111001ac0000201c0000202007b162e") + tlv + tlv;
  const uint32_t crc = Crc32c(header);  // The first one is right.
  for (size_t i = 0; i < kCrc32cLength; ++i) {
    header[31 + i] = static_cast<char>(crc >> (24 - 8 * i));
  }
  EXPECT_EQ(Decode(header).error, "more than one CRC32C");
}

TEST(DecodeTest, RefusesANulInV1Fields) {
  for (const absl::string_view line :
       {absl::string_view("PROXY TCP4 1.2.3.4\0x 5.6.7.8 1 2\r\n", 34),
        absl::string_view("PROXY TCP6 ::1\0x ::2 1 2\r\n", 26),
        absl::string_view("PROXY TCP4 1.2.3.4 5.6.7.8 1\0 2\r\n", 33)}) {
    EXPECT_EQ(Decode(line).outcome, Outcome::kInvalid)
        << absl::CHexEscape(line);
  }
}

TEST(DecodeTest, RefusesV1LinesThatOnlyLookRight) {
  for (const absl::string_view line :
       {"PROXY UNKNOWNX\r\n", "PROXY UNKNOWN x\ry\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rx"}) {
    EXPECT_EQ(Decode(line).outcome, Outcome::kInvalid)
        << absl::CHexEscape(line);
  }
}

TEST(DecodeTest, SkipsAFamilyWithoutATransport) {
  const DecodeResult result = Decode(HeaderV2("21100003") + "abc");
  EXPECT_EQ(result.outcome, Outcome::kUnspec);
  EXPECT_EQ(result.header_length, kV2FixedLength + 3);
}

TEST(DecodeTest, RefusesV1AddressesThatAreNotPlain) {
  for (const absl::string_view addresses :
       {"::1%lo ::2", "[::1] [::2]", "::1/64 ::2", "1.2.3.4 ::2", " ::2"}) {
    const std::string line = absl::StrCat("PROXY TCP6 ", addresses, " 1 2\r\n");
    EXPECT_EQ(Decode(line).outcome, Outcome::kInvalid) << line;
  }
}

TEST(TlvReaderTest, TellsTheEndFromATornTlv) {
  const std::string block = absl::HexStringToBytes("0400010004");
  TlvReader torn(block);
  ASSERT_TRUE(torn.Next().has_value());
  EXPECT_FALSE(torn.Next().has_value());
  EXPECT_FALSE(torn.at_end());

  TlvReader whole(absl::string_view(block).substr(0, 4));
  ASSERT_TRUE(whole.Next().has_value());
  EXPECT_FALSE(whole.Next().has_value());
  EXPECT_TRUE(whole.at_end());
}

}  // namespace
}  // namespace headgate::proxyproto
