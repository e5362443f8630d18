// IP addresses and endpoints as values. Ports are host byte order; addresses
// are stored as 16 bytes in network order, IPv4 as ::ffff:a.b.c.d, which is
// also how the BPF maps hold them. An IPv4-mapped IPv6 address *is* the IPv4
// address here: every receiver that keeps "::ffff:" apart from the IPv4 form
// makes bans and access lists miss (Dovecot does).
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace headgate {

class IpAddress {
 public:
  IpAddress() = default;  // ::, the unspecified address

  // Network byte order.
  static IpAddress FromBytes(const std::array<uint8_t, 16>& bytes);
  static IpAddress FromV4(in_addr address);
  // "192.0.2.1", "2001:db8::1"; no brackets, no scope, no names.
  static std::optional<IpAddress> Parse(absl::string_view text);

  bool is_v4() const;
  bool is_unspecified() const;
  bool is_multicast() const;
  bool is_link_local_v6() const;  // fe80::/10
  const std::array<uint8_t, 16>& bytes() const { return bytes_; }
  in_addr v4() const;  // Only if is_v4().
  std::string ToString() const;

  auto operator<=>(const IpAddress&) const = default;

  template <typename H>
  friend H AbslHashValue(H h, const IpAddress& a) {
    return H::combine(std::move(h), a.bytes_);
  }

 private:
  std::array<uint8_t, 16> bytes_{};
};

struct Endpoint {
  IpAddress address;
  uint16_t port = 0;

  // "192.0.2.1:25" or "[2001:db8::1]:25"; port 1 to 65535.
  static absl::StatusOr<Endpoint> Parse(absl::string_view text);
  static Endpoint FromSockaddr(const sockaddr_storage& storage);

  // Fills `storage` and returns the length to hand to the kernel.
  socklen_t ToSockaddr(sockaddr_storage* storage) const;
  int family() const { return address.is_v4() ? AF_INET : AF_INET6; }
  std::string ToString() const;

  auto operator<=>(const Endpoint&) const = default;

  template <typename H>
  friend H AbslHashValue(H h, const Endpoint& e) {
    return H::combine(std::move(h), e.address, e.port);
  }
};

}  // namespace headgate
