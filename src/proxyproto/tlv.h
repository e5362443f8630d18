// The type-length-value fields behind the addresses of a version 2 header.
// Views only: a Tlv lives as long as the bytes that were decoded.
// Source: haproxy/doc/proxy-protocol.txt, 2.2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "proxyproto/wire.h"

namespace headgate::proxyproto {

inline constexpr uint8_t kAlpn = 0x01;
inline constexpr uint8_t kAuthority = 0x02;
inline constexpr uint8_t kCrc32c = 0x03;
inline constexpr uint8_t kNoop = 0x04;
inline constexpr uint8_t kUniqueId = 0x05;
inline constexpr uint8_t kSsl = 0x20;
inline constexpr uint8_t kNetns = 0x30;

inline constexpr size_t kTlvPrefixLength = 3;
inline constexpr size_t kCrc32cLength = 4;
inline constexpr size_t kMaxUniqueIdLength = 128;
inline constexpr size_t kSslPrefixLength = 5;  // Flags and verify result.

struct Tlv {
  uint8_t type = 0;
  absl::string_view value;
};

// while (std::optional<Tlv> tlv = reader.Next()) ...
class TlvReader {
 public:
  TlvReader() = default;
  explicit TlvReader(absl::string_view block) : rest_(block) {}

  // Nothing at the end, and nothing when a TLV would cross the end.
  std::optional<Tlv> Next() {
    if (rest_.size() < kTlvPrefixLength) return std::nullopt;
    const size_t length = LoadBe16(rest_, 1);
    if (rest_.size() - kTlvPrefixLength < length) return std::nullopt;
    const Tlv tlv{LoadByte(rest_, 0), rest_.substr(kTlvPrefixLength, length)};
    rest_.remove_prefix(kTlvPrefixLength + length);
    return tlv;
  }

  // After Next() gave nothing: whether the block ended with its last TLV.
  bool at_end() const { return rest_.empty(); }

 private:
  absl::string_view rest_;
};

}  // namespace headgate::proxyproto
