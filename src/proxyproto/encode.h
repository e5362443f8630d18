// PROXY protocol headers, ready to be the first bytes of a TCP connection.
// Values without heap memory: safe on the accept path and from any thread.
//
// Both endpoints are announced in one family, AF_INET if both are IPv4; in a
// mixed pair the IPv4 one becomes ::ffff:a.b.c.d, as HAProxy and nginx do.
// Source: haproxy/doc/proxy-protocol.txt, 2.1 and 2.2.
#pragma once

#include <array>
#include <cstddef>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "net/address.h"
#include "proxyproto/tlv.h"
#include "proxyproto/wire.h"

namespace headgate::proxyproto {

class Header {
 public:
  // The longest that is built here: version 2, IPv6, every option.
  static constexpr size_t kCapacity = kV2FixedLength + kInet6AddressesLength +
                                      kTlvPrefixLength + kCrc32cLength +
                                      kTlvPrefixLength + kMaxUniqueIdLength;
  static_assert(kCapacity >= kMaxV1Length);
  static_assert(kCapacity <= kMaxPortableHeaderLength);

  absl::string_view bytes() const { return {data_.data(), size_}; }

 private:
  friend class HeaderWriter;

  std::array<char, kCapacity> data_{};
  size_t size_ = 0;
};

// Off by default: 28 and 52 bytes without TLVs pass every known receiver, some
// take no more than 107.
struct V2Options {
  bool crc32c = false;
  absl::string_view unique_id;  // At most 128 bytes; empty: none.
};

Header EncodeV2(const Endpoint& source, const Endpoint& destination);

// TLVs in HAProxy's order: CRC32C, UNIQUE_ID. Fails only on a long unique_id.
absl::StatusOr<Header> EncodeV2(const Endpoint& source,
                                const Endpoint& destination,
                                const V2Options& options);

// For connections of our own: the one LOCAL form that every receiver accepts,
// family UNSPEC and nothing behind it.
Header EncodeV2Local();

// "PROXY TCP4 ..." or "PROXY TCP6 ..."; never UNKNOWN, which Postfix refuses.
Header EncodeV1(const Endpoint& source, const Endpoint& destination);

}  // namespace headgate::proxyproto
