// What an ICMP error quotes of the segment that it is about: IP's header and 8
// bytes of TCP at least (RFC 792, RFC 4443), ports and sequence number.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>

#include "packet_errors.h"

namespace headgate::datapath {

struct Quotation {
  PacketAddress source{}, destination{};
  uint16_t source_port = 0, destination_port = 0;
  uint32_t seq = 0;
};

// Where things are in it.
inline size_t QuotedAddressesAt(bool v6) { return v6 ? 8 : 12; }
inline size_t QuotedTcpAt(bool v6, const Bytes& quoted) {
  return v6 ? 40 : 4 * (quoted[0] & 15U);
}

// Nothing: it is no segment's, or none that can be told.
inline std::optional<Quotation> ReadQuotation(bool v6, const Bytes& quoted) {
  if (quoted.size() < (v6 ? 40 : 20)) return std::nullopt;
  const size_t tcp = QuotedTcpAt(v6, quoted);
  if (tcp < 20 || quoted.size() < tcp + 8) return std::nullopt;
  if (quoted.size() == tcp + 17) return std::nullopt;  // Half a checksum.
  if (quoted[v6 ? 6 : 9] != 6) return std::nullopt;
  const bool later_fragment = !v6 && (Get16(quoted, 6) & 0x1fff) != 0;
  if (later_fragment) return std::nullopt;
  const size_t at = QuotedAddressesAt(v6), size = v6 ? 16 : 4;
  const auto from = quoted.begin() + static_cast<long>(at);
  const auto to = from + static_cast<long>(size);
  Quotation about;
  about.source = about.destination = Parse(v6 ? "::" : "0.0.0.0");
  std::copy(from, to, about.source.end() - static_cast<long>(size));
  std::copy(to, to + static_cast<long>(size),
            about.destination.end() - static_cast<long>(size));
  about.source_port = static_cast<uint16_t>(Get16(quoted, tcp));
  about.destination_port = static_cast<uint16_t>(Get16(quoted, tcp + 2));
  about.seq = Get32(quoted, tcp + 4);
  return about;
}

// As `sent` has it. IPv4's own checksum is as right as it was; TCP's would tell
// the one what the other's numbers are.
inline void WriteQuotation(const Segment& sent, Bytes* quoted) {
  const size_t tcp = QuotedTcpAt(sent.v6, *quoted);
  const auto head = quoted->begin() + static_cast<long>(tcp);
  const uint16_t was_wrong_by = InternetChecksum({quoted->begin(), head});
  Bytes addresses = OnTheWire(sent.source, sent.v6);
  Append(addresses, OnTheWire(sent.destination, sent.v6));
  std::copy(addresses.begin(), addresses.end(),
            quoted->begin() + static_cast<long>(QuotedAddressesAt(sent.v6)));
  const Bytes numbers = TcpOf(sent);
  std::copy_n(numbers.begin(), 8, head);
  if (quoted->size() >= tcp + 18) Set16(*quoted, tcp + 16, 0);
  if (sent.v6) return;
  Set16(*quoted, 10, 0);
  Bytes summed(quoted->begin(), head);
  Put16(summed, was_wrong_by);
  Set16(*quoted, 10, InternetChecksum(summed));
}

}  // namespace headgate::datapath
