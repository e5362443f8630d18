#include "net/address.h"

#include <gtest/gtest.h>

namespace headgate {
namespace {

std::string Canonical(absl::string_view text) {
  const std::optional<IpAddress> address = IpAddress::Parse(text);
  return address.has_value() ? address->ToString() : "refused";
}

TEST(IpAddressTest, ParsesAndPrintsBothFamilies) {
  EXPECT_EQ(Canonical("192.0.2.1"), "192.0.2.1");
  EXPECT_EQ(Canonical("2001:DB8:0:0::1"), "2001:db8::1");
  EXPECT_EQ(Canonical("::"), "::");
}

TEST(IpAddressTest, AMappedAddressIsTheIpv4Address) {
  EXPECT_EQ(Canonical("::ffff:192.0.2.1"), "192.0.2.1");
  EXPECT_EQ(IpAddress::Parse("::ffff:192.0.2.1"),
            IpAddress::Parse("192.0.2.1"));
  EXPECT_TRUE(IpAddress::Parse("::ffff:192.0.2.1")->is_v4());
}

TEST(IpAddressTest, RefusesWhatIsNoAddress) {
  for (const char* text : {"", "192.0.2", "192.0.2.256", "192.0.2.1 ", "::g",
                           "fe80::1%eth0", "example.org", "[::1]", "1"}) {
    EXPECT_EQ(Canonical(text), "refused") << text;
  }
  EXPECT_EQ(Canonical(absl::string_view("192.0.2.1\0x", 11)), "refused");
}

TEST(IpAddressTest, UnspecifiedInBothFamilies) {
  EXPECT_TRUE(IpAddress::Parse("0.0.0.0")->is_unspecified());
  EXPECT_TRUE(IpAddress::Parse("::")->is_unspecified());
  EXPECT_FALSE(IpAddress::Parse("::1")->is_unspecified());
}

TEST(EndpointTest, ParsesAndPrints) {
  for (const char* text :
       {"192.0.2.1:25", "[2001:db8::1]:993", "0.0.0.0:1", "[::]:65535"}) {
    const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
    ASSERT_TRUE(endpoint.ok()) << endpoint.status();
    EXPECT_EQ(endpoint->ToString(), text);
  }
}

TEST(EndpointTest, SaysWhatIsWrong) {
  const auto why = [](absl::string_view text) {
    return std::string(Endpoint::Parse(text).status().message());
  };
  EXPECT_NE(why("192.0.2.1").find("has no port"), std::string::npos);
  EXPECT_NE(why("2001:db8::1:25").find("without brackets"), std::string::npos);
  EXPECT_NE(why("[192.0.2.1]:25").find("does not begin with an IP address"),
            std::string::npos);
  for (const char* text : {"192.0.2.1:0", "192.0.2.1:65536",
                           "192.0.2.1:", "192.0.2.1:+25", "192.0.2.1:25x"}) {
    EXPECT_NE(why(text).find("has a port outside 1 to 65535"),
              std::string::npos)
        << text;
  }
}

TEST(EndpointTest, RoundTripsThroughSockaddr) {
  for (const char* text : {"192.0.2.1:25", "[2001:db8::1]:993"}) {
    const Endpoint endpoint = *Endpoint::Parse(text);
    sockaddr_storage storage{};
    const socklen_t size = endpoint.ToSockaddr(&storage);
    EXPECT_EQ(storage.ss_family, endpoint.family());
    EXPECT_EQ(size, endpoint.family() == AF_INET ? sizeof(sockaddr_in)
                                                 : sizeof(sockaddr_in6));
    EXPECT_EQ(Endpoint::FromSockaddr(storage), endpoint);
  }
}

TEST(EndpointTest, AMappedSockaddrBecomesIpv4) {
  sockaddr_in6 mapped{};
  mapped.sin6_family = AF_INET6;
  mapped.sin6_port = htons(25);
  const std::array<uint8_t, 16> bytes = {0, 0, 0,    0,    0,   0, 0, 0,
                                         0, 0, 0xff, 0xff, 192, 0, 2, 7};
  std::copy(bytes.begin(), bytes.end(), mapped.sin6_addr.s6_addr);
  sockaddr_storage storage{};
  *reinterpret_cast<sockaddr_in6*>(&storage) = mapped;
  EXPECT_EQ(Endpoint::FromSockaddr(storage).ToString(), "192.0.2.7:25");
}

}  // namespace
}  // namespace headgate
