// The PROXY protocol on the wire: what the encoder and the decoder share.
// Integers are big endian. Source: haproxy/doc/proxy-protocol.txt, 2.1 and 2.2.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace headgate::proxyproto {

// No receiver has to take a header beyond one minimal MSS; Postfix does not.
inline constexpr size_t kMaxPortableHeaderLength = 536;

// Version 1: the longest line, CRLF included.
inline constexpr absl::string_view kV1Prefix = "PROXY ";
inline constexpr size_t kMaxV1Length = 107;

// Version 2: signature, version and command, family and transport, then the
// length of all that follows these 16 bytes.
inline constexpr absl::string_view kV2Signature("\r\n\r\n\0\r\nQUIT\n", 12);
inline constexpr size_t kV2FixedLength = 16;
inline constexpr uint8_t kV2Local = 0x20;
inline constexpr uint8_t kV2Proxy = 0x21;
inline constexpr uint8_t kTcp4 = 0x11;
inline constexpr uint8_t kTcp6 = 0x21;
inline constexpr size_t kInetAddressesLength = 12;
inline constexpr size_t kInet6AddressesLength = 36;
inline constexpr size_t kUnixAddressesLength = 216;

inline uint8_t LoadByte(absl::string_view bytes, size_t offset) {
  return static_cast<uint8_t>(bytes[offset]);
}

inline uint16_t LoadBe16(absl::string_view bytes, size_t offset) {
  return static_cast<uint16_t>(LoadByte(bytes, offset) << 8 |
                               LoadByte(bytes, offset + 1));
}

inline uint32_t LoadBe32(absl::string_view bytes, size_t offset) {
  return uint32_t{LoadBe16(bytes, offset)} << 16 | LoadBe16(bytes, offset + 2);
}

}  // namespace headgate::proxyproto
