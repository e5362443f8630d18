#include "net/address.h"

#include <arpa/inet.h>

#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace headgate {
namespace {

constexpr std::array<uint8_t, 12> kMappedPrefix = {0, 0, 0, 0, 0,    0,
                                                   0, 0, 0, 0, 0xff, 0xff};

std::optional<uint16_t> ParsePort(absl::string_view text) {
  // Strict: SimpleAtoi accepts signs and spaces.
  if (text.empty() || text.size() > 5) return std::nullopt;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
  }
  uint32_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value == 0 || value > 65535) {
    return std::nullopt;
  }
  return static_cast<uint16_t>(value);
}

}  // namespace

IpAddress IpAddress::FromBytes(const std::array<uint8_t, 16>& bytes) {
  IpAddress result;
  result.bytes_ = bytes;
  return result;
}

IpAddress IpAddress::FromV4(in_addr address) {
  IpAddress result;
  std::memcpy(result.bytes_.data(), kMappedPrefix.data(), 12);
  std::memcpy(result.bytes_.data() + 12, &address.s_addr, 4);
  return result;
}

std::optional<IpAddress> IpAddress::Parse(absl::string_view text) {
  // inet_pton would stop there and ignore the rest.
  if (text.find('\0') != absl::string_view::npos) return std::nullopt;
  const std::string zero_terminated(text);
  in_addr v4{};
  if (inet_pton(AF_INET, zero_terminated.c_str(), &v4) == 1) return FromV4(v4);
  IpAddress result;
  if (inet_pton(AF_INET6, zero_terminated.c_str(), result.bytes_.data()) == 1) {
    return result;
  }
  return std::nullopt;
}

bool IpAddress::is_v4() const {
  return std::memcmp(bytes_.data(), kMappedPrefix.data(), 12) == 0;
}

bool IpAddress::is_unspecified() const {
  return is_v4() ? v4().s_addr == 0 : *this == IpAddress();
}

bool IpAddress::is_multicast() const {
  return is_v4() ? (bytes_[12] & 0xf0) == 0xe0 : bytes_[0] == 0xff;
}

bool IpAddress::is_link_local_v6() const {
  return bytes_[0] == 0xfe && (bytes_[1] & 0xc0) == 0x80;
}

in_addr IpAddress::v4() const {
  in_addr result{};
  std::memcpy(&result.s_addr, bytes_.data() + 12, 4);
  return result;
}

std::string IpAddress::ToString() const {
  char text[INET6_ADDRSTRLEN];
  if (is_v4()) {
    const in_addr address = v4();
    inet_ntop(AF_INET, &address, text, sizeof text);
  } else {
    inet_ntop(AF_INET6, bytes_.data(), text, sizeof text);
  }
  return text;
}

absl::StatusOr<Endpoint> Endpoint::Parse(absl::string_view text) {
  const auto invalid = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", text, "\" ", why, "; use 192.0.2.1:25 or \"[2001:db8::1]:25\""));
  };
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return invalid("has no port");
  absl::string_view host = text.substr(0, colon);
  const bool bracketed =
      host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const std::optional<IpAddress> address = IpAddress::Parse(host);
  const bool has_colon = host.find(':') != absl::string_view::npos;
  if (!address.has_value() || has_colon != bracketed) {
    return invalid(has_colon && !bracketed
                       ? "has an IPv6 address without brackets"
                       : "does not begin with an IP address");
  }
  const std::optional<uint16_t> port = ParsePort(text.substr(colon + 1));
  if (!port.has_value()) return invalid("has a port outside 1 to 65535");
  return Endpoint{*address, *port};
}

Endpoint Endpoint::FromSockaddr(const sockaddr_storage& storage) {
  Endpoint result;
  if (storage.ss_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, &storage, sizeof v4);
    result.address = IpAddress::FromV4(v4.sin_addr);
    result.port = ntohs(v4.sin_port);
  } else if (storage.ss_family == AF_INET6) {
    sockaddr_in6 v6{};
    std::memcpy(&v6, &storage, sizeof v6);
    std::array<uint8_t, 16> bytes{};
    std::memcpy(bytes.data(), &v6.sin6_addr, bytes.size());
    result.address = IpAddress::FromBytes(bytes);
    result.port = ntohs(v6.sin6_port);
  }
  return result;
}

socklen_t Endpoint::ToSockaddr(sockaddr_storage* storage) const {
  std::memset(storage, 0, sizeof *storage);
  if (address.is_v4()) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_addr = address.v4();
    v4.sin_port = htons(port);
    std::memcpy(storage, &v4, sizeof v4);
    return sizeof v4;
  }
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  std::memcpy(&v6.sin6_addr, address.bytes().data(), 16);
  v6.sin6_port = htons(port);
  std::memcpy(storage, &v6, sizeof v6);
  return sizeof v6;
}

std::string Endpoint::ToString() const {
  return address.is_v4() ? absl::StrCat(address.ToString(), ":", port)
                         : absl::StrCat("[", address.ToString(), "]:", port);
}

}  // namespace headgate
