#include "net/frame.h"

#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <cstring>

namespace headgate {
namespace {

using Bytes = absl::Span<const uint8_t>;

// The header at `at`, if all of it is there.
template <typename Header>
std::optional<Header> At(Bytes bytes, size_t at) {
  Header header;
  if (bytes.size() < at || bytes.size() - at < sizeof header) {
    return std::nullopt;
  }
  std::memcpy(&header, bytes.data() + at, sizeof header);
  return header;
}

IpAddress FromV6(const in6_addr& address) {
  std::array<uint8_t, 16> bytes{};
  std::copy(std::begin(address.s6_addr), std::end(address.s6_addr),
            bytes.begin());
  return IpAddress::FromBytes(bytes);
}

std::string Flags(uint8_t flags) {
  std::string text;
  for (const auto& [bit, name] : {std::pair{TH_FIN, 'F'},
                                  {TH_SYN, 'S'},
                                  {TH_RST, 'R'},
                                  {TH_PUSH, 'P'},
                                  {TH_ACK, '.'},
                                  {TH_URG, 'U'},
                                  {0x40, 'E'},
                                  {0x80, 'W'}}) {
    if ((flags & bit) != 0) text += name;
  }
  return text;
}

// Fills in what lies at `at`, up to the packet's `end`.
void ParseTcp(Bytes bytes, size_t at, uint32_t end, Frame& frame) {
  const auto tcp = At<tcphdr>(bytes, at);
  if (!tcp.has_value()) return;
  frame.source.port = ntohs(tcp->th_sport);
  frame.destination.port = ntohs(tcp->th_dport);
  const size_t payload = at + tcp->th_off * size_t{4};
  frame.tcp = {ntohl(tcp->th_seq), ntohl(tcp->th_ack), Flags(tcp->th_flags),
               static_cast<uint32_t>(end > payload ? end - payload : 0)};
}

void ParseIcmp(Bytes bytes, size_t at, Frame& frame) {
  // The same two bytes in both families.
  const auto icmp = At<Frame::Icmp>(bytes, at);
  if (icmp.has_value()) frame.icmp = *icmp;
}

std::optional<Frame> ParseV4(Bytes bytes, uint32_t size) {
  const auto ip = At<iphdr>(bytes, ETH_HLEN);
  if (!ip.has_value()) return std::nullopt;
  Frame frame;
  frame.source.address = IpAddress::FromV4({ip->saddr});
  frame.destination.address = IpAddress::FromV4({ip->daddr});
  const size_t at = ETH_HLEN + ip->ihl * size_t{4};
  const uint32_t length = ntohs(ip->tot_len);
  const uint32_t end = length == 0 ? size : ETH_HLEN + length;
  if ((ntohs(ip->frag_off) & IP_OFFMASK) != 0) return frame;
  if (ip->protocol == IPPROTO_TCP) ParseTcp(bytes, at, end, frame);
  if (ip->protocol == IPPROTO_ICMP) ParseIcmp(bytes, at, frame);
  return frame;
}

std::optional<Frame> ParseV6(Bytes bytes, uint32_t size) {
  const auto ip = At<ip6_hdr>(bytes, ETH_HLEN);
  if (!ip.has_value()) return std::nullopt;
  Frame frame;
  frame.source.address = FromV6(ip->ip6_src);
  frame.destination.address = FromV6(ip->ip6_dst);
  const size_t at = ETH_HLEN + sizeof(ip6_hdr);
  const uint32_t length = ntohs(ip->ip6_plen);
  const uint32_t end = length == 0 ? size : static_cast<uint32_t>(at) + length;
  if (ip->ip6_nxt == IPPROTO_TCP) ParseTcp(bytes, at, end, frame);
  if (ip->ip6_nxt == IPPROTO_ICMPV6) ParseIcmp(bytes, at, frame);
  return frame;
}

}  // namespace

std::optional<Frame> ParseFrame(Bytes bytes, uint32_t size) {
  const auto ethernet = At<ether_header>(bytes, 0);
  if (!ethernet.has_value()) return std::nullopt;
  switch (ntohs(ethernet->ether_type)) {
    case ETHERTYPE_IP:
      return ParseV4(bytes, size);
    case ETHERTYPE_IPV6:
      return ParseV6(bytes, size);
    default:
      return std::nullopt;
  }
}

}  // namespace headgate
