// CRC32C (Castagnoli), as RFC 4960 appendix B; the check value of "123456789"
// is 0xe3069283. A table is enough: a header has a few dozen bytes.
#pragma once

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace headgate::proxyproto {

inline constexpr std::array<uint32_t, 256> kCrc32cTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0u);
    }
    table[i] = crc;
  }
  return table;
}();

// `crc` is the result for the bytes before, so pieces can be chained.
constexpr uint32_t Crc32c(absl::string_view bytes, uint32_t crc = 0) {
  crc = ~crc;
  for (const char c : bytes) {
    crc = (crc >> 8) ^ kCrc32cTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  }
  return ~crc;
}

}  // namespace headgate::proxyproto
