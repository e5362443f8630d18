#include "support/header.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace headgate::testing {
namespace {

constexpr absl::string_view kSignature("\r\n\r\n\0\r\nQUIT\n", 12);
constexpr size_t kV2FixedSize = 16;

std::string AddressBytes(const IpAddress& address) {
  const auto& bytes = address.bytes();
  const size_t skipped = address.is_v4() ? 12 : 0;
  return std::string(reinterpret_cast<const char*>(bytes.data()) + skipped,
                     bytes.size() - skipped);
}

std::string PortBytes(uint16_t port) {
  return {static_cast<char>(port >> 8), static_cast<char>(port & 0xff)};
}

uint16_t ReadU16(absl::string_view bytes) {
  return static_cast<uint16_t>(static_cast<uint8_t>(bytes[0]) << 8 |
                               static_cast<uint8_t>(bytes[1]));
}

}  // namespace

std::string ExpectedHeader(HeaderKind kind, const Endpoint& source,
                           const Endpoint& destination) {
  const bool v4 = source.address.is_v4();
  switch (kind) {
    case HeaderKind::kNone:
      return "";
    case HeaderKind::kV1:
      return absl::StrCat("PROXY ", v4 ? "TCP4 " : "TCP6 ",
                          source.address.ToString(), " ",
                          destination.address.ToString(), " ", source.port, " ",
                          destination.port, "\r\n");
    case HeaderKind::kV2:
      return absl::StrCat(kSignature, v4 ? "\x21\x11" : "\x21\x21",
                          PortBytes(v4 ? 12 : 36), AddressBytes(source.address),
                          AddressBytes(destination.address),
                          PortBytes(source.port), PortBytes(destination.port));
  }
  return "";
}

std::optional<size_t> HeaderSize(HeaderKind kind, absl::string_view bytes) {
  if (kind == HeaderKind::kNone) return 0;
  if (kind == HeaderKind::kV1) {
    const size_t end = bytes.find("\r\n");
    if (end == absl::string_view::npos) return std::nullopt;
    return end + 2;
  }
  if (bytes.size() < kV2FixedSize) return std::nullopt;
  const size_t size = kV2FixedSize + ReadU16(bytes.substr(14));
  if (bytes.size() < size) return std::nullopt;
  return size;
}

Endpoint HeaderSource(absl::string_view header) {
  Endpoint result;
  std::array<uint8_t, 16> bytes{};
  if (header.size() == 28) {
    in_addr v4{};
    std::memcpy(&v4, header.data() + 16, sizeof v4);
    result.address = IpAddress::FromV4(v4);
    result.port = ReadU16(header.substr(24));
  } else if (header.size() == 52) {
    std::memcpy(bytes.data(), header.data() + 16, bytes.size());
    result.address = IpAddress::FromBytes(bytes);
    result.port = ReadU16(header.substr(48));
  }
  return result;
}

}  // namespace headgate::testing
