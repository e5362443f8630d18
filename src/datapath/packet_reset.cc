#include "datapath/packet_reset.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cstring>

namespace headgate::datapath {
namespace {

constexpr uint8_t kTtl = 64;
// A few hundred at once, each of which takes 1 kB until it has left.
constexpr int kSendBuffer = 1 << 20;

// Of 16-bit words in memory order.
uint64_t Sum(const void* data, size_t size) {
  uint64_t sum = 0;
  for (size_t i = 0; i + 2 <= size; i += 2) {
    uint16_t word = 0;
    std::memcpy(&word, static_cast<const uint8_t*>(data) + i, sizeof word);
    sum += word;
  }
  return sum;
}

uint16_t Fold(uint64_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

tcphdr MakeTcp(const ResetSegment& segment) {
  tcphdr tcp{};
  tcp.source = htons(segment.source_port);
  tcp.dest = htons(segment.destination_port);
  tcp.seq = htonl(segment.seq);
  tcp.ack_seq = htonl(segment.ack);
  tcp.doff = sizeof tcp / 4;
  tcp.rst = 1;
  tcp.ack = 1;
  // The leading bytes of a mapped address add up to 0xffff, which is nothing.
  tcp.check = Fold(Sum(segment.source.data(), 16) +
                   Sum(segment.destination.data(), 16) + htons(sizeof tcp) +
                   htons(IPPROTO_TCP) + Sum(&tcp, sizeof tcp));
  return tcp;
}

// IPPROTO_RAW means that the IP header is ours; the kernel sums that of IPv4.
UniqueFd OpenRaw(int family) {
  UniqueFd fd(socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW));
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kSendBuffer,
             sizeof kSendBuffer);
  return fd;
}

void SendV4(int fd, const ResetSegment& segment, const tcphdr& tcp) {
  struct {
    iphdr ip;
    tcphdr tcp;
  } packet{{}, tcp};
  packet.ip.version = 4;
  packet.ip.ihl = sizeof packet.ip / 4;
  packet.ip.tot_len = htons(sizeof packet);
  packet.ip.frag_off = htons(IP_DF);
  packet.ip.ttl = kTtl;
  packet.ip.protocol = IPPROTO_TCP;
  std::memcpy(&packet.ip.saddr, segment.source.data() + 12, 4);
  std::memcpy(&packet.ip.daddr, segment.destination.data() + 12, 4);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = packet.ip.daddr;
  static_cast<void>(sendto(fd, &packet, sizeof packet, MSG_DONTWAIT,
                           reinterpret_cast<sockaddr*>(&to), sizeof to));
}

void SendV6(int fd, const ResetSegment& segment, const tcphdr& tcp) {
  struct {
    ip6_hdr ip;
    tcphdr tcp;
  } packet{{}, tcp};
  packet.ip.ip6_flow = htonl(6U << 28);
  packet.ip.ip6_plen = htons(sizeof packet.tcp);
  packet.ip.ip6_nxt = IPPROTO_TCP;
  packet.ip.ip6_hlim = kTtl;
  std::memcpy(&packet.ip.ip6_src, segment.source.data(), 16);
  std::memcpy(&packet.ip.ip6_dst, segment.destination.data(), 16);
  sockaddr_in6 to{};
  to.sin6_family = AF_INET6;
  to.sin6_addr = packet.ip.ip6_dst;
  static_cast<void>(sendto(fd, &packet, sizeof packet, MSG_DONTWAIT,
                           reinterpret_cast<sockaddr*>(&to), sizeof to));
}

}  // namespace

void ResetSender::Send(const ResetSegment& segment) {
  const tcphdr tcp = MakeTcp(segment);
  const bool v4 = IsV4(segment.destination);
  UniqueFd& fd = v4 ? v4_ : v6_;
  if (!fd.valid()) fd = OpenRaw(v4 ? AF_INET : AF_INET6);
  (v4 ? SendV4 : SendV6)(fd.get(), segment, tcp);
}

}  // namespace headgate::datapath
