#include "proxyproto/encode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proxyproto/crc32c.h"
#include "proxyproto/decode.h"
#include "vectors.h"

namespace headgate::proxyproto {
namespace {

Endpoint At(absl::string_view address, uint16_t port) {
  return {IpAddress::Parse(address).value(), port};
}

std::string Hex(absl::string_view bytes) {
  return absl::BytesToHexString(bytes);
}

const Endpoint kNone;

TEST(EncodeV2Test, Tcp4IsByteForByteTheSpecification) {
  const Header header =
      EncodeV2(At("192.0.2.1", 0x1234), At("198.51.100.2", 25));
  EXPECT_EQ(Hex(header.bytes()),
            "0d0a0d0a000d0a515549540a"  // signature
            "2111000c"                  // PROXY, TCP4, 12 bytes
            "c0000201c6336402"          // source, destination
            "12340019");                // ports
}

TEST(EncodeV2Test, Tcp6IsByteForByteTheSpecification) {
  const Header header =
      EncodeV2(At("2001:db8::1", 0x1234), At("2001:db8::2", 25));
  EXPECT_EQ(Hex(header.bytes()),
            "0d0a0d0a000d0a515549540a21210024"
            "20010db8000000000000000000000001"
            "20010db8000000000000000000000002"
            "12340019");
}

TEST(EncodeV2Test, MixedPairBecomesIpv6) {
  const Header header = EncodeV2(At("192.0.2.1", 1), At("2001:db8::2", 2));
  EXPECT_EQ(Hex(header.bytes()),
            "0d0a0d0a000d0a515549540a21210024"
            "00000000000000000000ffffc0000201"
            "20010db8000000000000000000000002"
            "00010002");
}

TEST(EncodeV2Test, MappedPairBecomesIpv4) {
  const Header header =
      EncodeV2(At("::ffff:192.0.2.1", 1), At("::ffff:192.0.2.2", 2));
  EXPECT_EQ(Hex(header.bytes()),
            "0d0a0d0a000d0a515549540a2111000cc0000201c000020200010002");
}

TEST(EncodeV2Test, LocalIsSixteenBytes) {
  EXPECT_EQ(Hex(EncodeV2Local().bytes()), "0d0a0d0a000d0a515549540a20000000");
  EXPECT_EQ(EncodeV2Local().bytes(),
            VectorNamed("capture-haproxy-2.6.12-9108-local").bytes);
}

TEST(EncodeV2Test, RefusesALongUniqueId) {
  const std::string id(kMaxUniqueIdLength + 1, 'x');
  const absl::StatusOr<Header> header =
      EncodeV2(kNone, kNone, {.crc32c = true, .unique_id = id});
  EXPECT_EQ(header.status().message(),
            "encode unique_id: 129 bytes are more than 128");
}

TEST(EncodeV2Test, LongestHeaderFillsTheBufferExactly) {
  const std::string id(kMaxUniqueIdLength, 'x');
  const absl::StatusOr<Header> header =
      EncodeV2(kNone, kNone, {.crc32c = true, .unique_id = id});
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->bytes().size(), Header::kCapacity);
  EXPECT_EQ(Decode(header->bytes()).outcome, Outcome::kProxy);
}

// What other senders put on the wire for the same endpoints and options.
TEST(EncodeV2Test, EqualsTheCapturesOfOtherSenders) {
  for (const char* name :
       {"capture-haproxy-2.6.12-9102-inet", "capture-haproxy-2.6.12-9102-inet6",
        "capture-haproxy-2.6.12-9103-inet", "capture-haproxy-2.6.12-9103-inet6",
        "capture-haproxy-2.6.12-9104-inet", "capture-haproxy-2.6.12-9104-inet6",
        "capture-nginx-HEAD-9122-inet", "capture-nginx-HEAD-9122-inet6",
        "capture-nginx-HEAD-9124-inet6", "capture-varnish-7.1.1-9132-inet"}) {
    SCOPED_TRACE(name);
    const Vector& capture = VectorNamed(name);
    V2Options options;
    for (const auto& [type, value] : capture.tlvs) {
      ASSERT_TRUE(type == kCrc32c || type == kUniqueId);
      if (type == kCrc32c) options.crc32c = true;
      if (type == kUniqueId) options.unique_id = value;
    }
    const absl::StatusOr<Header> header =
        EncodeV2(capture.source, capture.destination, options);
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(Hex(header->bytes()), Hex(capture.bytes));
  }
}

TEST(EncodeV1Test, EqualsTheCapturesOfOtherSenders) {
  for (const char* name :
       {"v1-spec-example", "v1-tcp4-max56", "v1-tcp6-max104", "v1-tcp6-short",
        "v1-tcp6-any", "capture-haproxy-2.6.12-9101-inet6",
        "capture-haproxy-2.6.12-9109-inet", "capture-nginx-HEAD-9121-inet6",
        "capture-varnish-7.1.1-9131-inet"}) {
    const Vector& capture = VectorNamed(name);
    EXPECT_EQ(EncodeV1(capture.source, capture.destination).bytes(),
              capture.bytes)
        << name;
  }
}

TEST(EncodeV1Test, MixedPairBecomesIpv6InHexGroups) {
  EXPECT_EQ(EncodeV1(At("192.0.2.1", 1), At("2001:db8::2", 65535)).bytes(),
            "PROXY TCP6 ::ffff:c000:201 2001:db8::2 1 65535\r\n");
  EXPECT_EQ(EncodeV1(At("2001:db8::2", 0), At("10.0.0.1", 25)).bytes(),
            "PROXY TCP6 2001:db8::2 ::ffff:a00:1 0 25\r\n");
}

TEST(EncodeV1Test, MappedPairBecomesIpv4) {
  EXPECT_EQ(EncodeV1(At("::ffff:192.0.2.1", 1), At("192.0.2.2", 2)).bytes(),
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
}

class RoundTripTest : public testing::Test {
 protected:
  Endpoint RandomEndpoint() {
    std::array<uint8_t, 16> bytes{};
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random_());
    // A third IPv4, a third with runs of zeros, which v1 abbreviates.
    const auto kind = random_() % 3;
    if (kind == 0) {
      in_addr v4{.s_addr = static_cast<in_addr_t>(random_())};
      return {IpAddress::FromV4(v4), static_cast<uint16_t>(random_())};
    }
    if (kind == 1) std::fill_n(bytes.begin() + 2 * (random_() % 5), 8, 0);
    return {IpAddress::FromBytes(bytes), static_cast<uint16_t>(random_())};
  }

  std::string RandomId() {
    std::string id(random_() % (kMaxUniqueIdLength + 1), '\0');
    for (char& c : id) c = static_cast<char>(random_());
    return id;
  }

  std::mt19937 random_{20260427};  // A fixed seed: the same walk each time.
};

void ExpectEndpoints(const Header& header, const Endpoint& source,
                     const Endpoint& destination) {
  const DecodeResult result = Decode(header.bytes());
  ASSERT_EQ(result.outcome, Outcome::kProxy)
      << result.error << " in " << Hex(header.bytes());
  EXPECT_EQ(result.header_length, header.bytes().size());
  EXPECT_EQ(result.source, source);
  EXPECT_EQ(result.destination, destination);
  EXPECT_EQ(result.transport, Transport::kStream);
}

TEST_F(RoundTripTest, EndpointsSurvive) {
  for (int i = 0; i < 20000; ++i) {
    const Endpoint source = RandomEndpoint();
    const Endpoint destination = RandomEndpoint();
    ExpectEndpoints(EncodeV1(source, destination), source, destination);
    ExpectEndpoints(EncodeV2(source, destination), source, destination);
  }
}

TEST_F(RoundTripTest, OptionsSurvive) {
  for (int i = 0; i < 5000; ++i) {
    const Endpoint source = RandomEndpoint();
    const Endpoint destination = RandomEndpoint();
    const std::string id = RandomId();
    const bool crc32c = random_() % 2 == 0;
    const absl::StatusOr<Header> header =
        EncodeV2(source, destination, {.crc32c = crc32c, .unique_id = id});
    ASSERT_TRUE(header.ok()) << header.status();
    ExpectEndpoints(*header, source, destination);
    TlvReader tlvs = Decode(header->bytes()).tlvs;
    if (crc32c) {
      EXPECT_EQ(tlvs.Next().value().type, kCrc32c);
    }
    if (!id.empty()) {
      EXPECT_EQ(tlvs.Next().value().value, id);
    }
    EXPECT_TRUE(tlvs.at_end());
  }
}

TEST(Crc32cTest, HasTheCheckValueOfTheStandard) {
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c("56789", Crc32c("1234")), 0xe3069283u);
  EXPECT_EQ(Crc32c(""), 0u);
}

}  // namespace
}  // namespace headgate::proxyproto
