// Frames, built from their fields independently of the code under test: own
// layout, own checksums.
#pragma once

#include <arpa/inet.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "datapath/packet.h"

namespace headgate::datapath {

using Bytes = std::vector<uint8_t>;
using Mac = std::array<uint8_t, 6>;

enum TcpFlag : uint8_t {
  kFin = 1,
  kSyn = 2,
  kRst = 4,
  kPsh = 8,
  kAck = 16,
  kUrg = 32,
  kEce = 64,
  kCwr = 128,
};

inline PacketAddress Parse(const std::string& text) {
  PacketAddress address{};
  if (text.find(':') != std::string::npos) {
    inet_pton(AF_INET6, text.c_str(), address.data());
    return address;
  }
  address[10] = address[11] = 0xff;
  inet_pton(AF_INET, text.c_str(), address.data() + 12);
  return address;
}

// Numbers in host order.
struct Segment {
  bool v6 = false;
  Mac to{}, from{};
  PacketAddress source{}, destination{};
  uint16_t source_port = 0, destination_port = 0;
  uint32_t seq = 0, ack = 0;
  uint8_t flags = 0;
  bool ae = false;  // Accurate ECN, RFC 9768.
  uint16_t window = 4321, urgent = 0;
  Bytes options;
  Bytes payload;
  uint8_t ttl = 61, tos = 0;
  uint16_t id = 7, fragment = 0x4000;  // IPv4: DF.
  uint32_t label = 0x12345;            // IPv6
  Bytes ip_options;                    // IPv4
  uint8_t protocol = 6;                // IPv4
  uint8_t next_header = 6;             // IPv6
  Bytes extensions;                    // IPv6
  Bytes padding;                       // Behind the IP packet.
  // By how much the checksums are wrong (in ones' complement: 0xffff is not):
  // that of what IP carries, and IPv4's own.
  uint16_t damage = 0, ip_damage = 0;
};

inline void Put16(Bytes& to, uint32_t value) {
  to.push_back(static_cast<uint8_t>(value >> 8));
  to.push_back(static_cast<uint8_t>(value));
}
inline void Put32(Bytes& to, uint32_t value) {
  Put16(to, value >> 16);
  Put16(to, value & 0xffff);
}
inline void Append(Bytes& to, const Bytes& more) {
  to.insert(to.end(), more.begin(), more.end());
}
inline void Set16(Bytes& in, size_t at, uint32_t value) {
  in[at] = static_cast<uint8_t>(value >> 8);
  in[at + 1] = static_cast<uint8_t>(value);
}
inline uint32_t Get16(const Bytes& in, size_t at) {
  return static_cast<uint32_t>(in[at] << 8 | in[at + 1]);
}
inline uint32_t Get32(const Bytes& in, size_t at) {
  return Get16(in, at) << 16 | Get16(in, at + 2);
}

// RFC 1071.
inline uint16_t InternetChecksum(const Bytes& data) {
  uint64_t sum = 0;
  for (size_t i = 0; i < data.size(); ++i) {
    sum += i % 2 == 0 ? static_cast<uint64_t>(data[i]) << 8 : data[i];
  }
  while (sum > 0xffff) sum = (sum >> 16) + (sum & 0xffff);
  return static_cast<uint16_t>(~sum);
}

inline Bytes OnTheWire(const PacketAddress& address, bool v6) {
  return Bytes(address.begin() + (v6 ? 0 : 12), address.end());
}

inline Bytes TcpOf(const Segment& s) {
  Bytes tcp;
  Put16(tcp, s.source_port);
  Put16(tcp, s.destination_port);
  Put32(tcp, s.seq);
  Put32(tcp, s.ack);
  tcp.push_back(
      static_cast<uint8_t>((5 + s.options.size() / 4) << 4 | (s.ae ? 1 : 0)));
  tcp.push_back(s.flags);
  Put16(tcp, s.window);
  Put16(tcp, 0);
  Put16(tcp, s.urgent);
  Append(tcp, s.options);
  Append(tcp, s.payload);
  Bytes summed = OnTheWire(s.source, s.v6);
  Append(summed, OnTheWire(s.destination, s.v6));
  Put32(summed, static_cast<uint32_t>(tcp.size()));
  Put32(summed, 6);
  Put16(summed, s.damage);
  Append(summed, tcp);
  Set16(tcp, 16, InternetChecksum(summed));
  return tcp;
}

// `payload` behind the headers of `s`.
inline Bytes Framed(const Segment& s, const Bytes& payload) {
  Bytes frame(s.to.begin(), s.to.end());
  frame.insert(frame.end(), s.from.begin(), s.from.end());
  Put16(frame, s.v6 ? 0x86dd : 0x0800);
  Bytes ip;
  if (s.v6) {
    Put32(ip, 6U << 28 | static_cast<uint32_t>(s.tos) << 20 | s.label);
    Put16(ip, static_cast<uint32_t>(s.extensions.size() + payload.size()));
    ip.push_back(s.next_header);
    ip.push_back(s.ttl);
  } else {
    ip.push_back(static_cast<uint8_t>(0x45 + s.ip_options.size() / 4));
    ip.push_back(s.tos);
    Put16(ip, static_cast<uint32_t>(20 + s.ip_options.size() + payload.size()));
    Put16(ip, s.id);
    Put16(ip, s.fragment);
    ip.push_back(s.ttl);
    ip.push_back(s.protocol);
    Put16(ip, 0);
  }
  Append(ip, OnTheWire(s.source, s.v6));
  Append(ip, OnTheWire(s.destination, s.v6));
  Append(ip, s.v6 ? s.extensions : s.ip_options);
  if (!s.v6) {
    Bytes summed = ip;
    Put16(summed, s.ip_damage);
    Set16(ip, 10, InternetChecksum(summed));
  }
  Append(frame, ip);
  Append(frame, payload);
  Append(frame, s.padding);
  return frame;
}

inline Bytes Build(const Segment& s) { return Framed(s, TcpOf(s)); }

inline size_t TcpAt(bool v6) { return v6 ? 54 : 34; }

// With the pseudo-header's sum only: the hardware is to complete it
// (CHECKSUM_PARTIAL).
inline Bytes Incomplete(const Segment& s) {
  Bytes frame = Build(s);
  Bytes pseudo = OnTheWire(s.source, s.v6);
  Append(pseudo, OnTheWire(s.destination, s.v6));
  Put32(pseudo,
        static_cast<uint32_t>(20 + s.options.size() + s.payload.size()));
  Put32(pseudo, 6);
  Set16(frame, TcpAt(s.v6) + 16,
        static_cast<uint16_t>(~InternetChecksum(pseudo)));
  return frame;
}

// ---- TCP options ------------------------------------------------------------

inline Bytes Nops(size_t count) { return Bytes(count, 1); }
inline Bytes Mss(uint32_t mss) {
  Bytes option = {2, 4};
  Put16(option, mss);
  return option;
}
inline Bytes Timestamps(uint32_t value = 0x01020304, uint32_t echo = 0x0a0b) {
  Bytes option = {1, 1, 8, 10};
  Put32(option, value);
  Put32(option, echo);
  return option;
}
using Edges = std::vector<std::pair<uint32_t, uint32_t>>;
inline Bytes Sack(const Edges& blocks) {
  Bytes option = {1, 1, 5, static_cast<uint8_t>(2 + 8 * blocks.size())};
  for (const auto& [left, right] : blocks) {
    Put32(option, left);
    Put32(option, right);
  }
  return option;
}
inline Bytes Concat(std::initializer_list<Bytes> parts) {
  Bytes all;
  for (const Bytes& part : parts) Append(all, part);
  return all;
}

// As much of what usual stacks send as `size` has room for, NOPs for the rest.
// SACK edges begin at `edge`.
inline Bytes OptionsOf(size_t size, uint32_t edge = 1000) {
  Bytes options;
  if (size >= 12) options = Timestamps();
  Edges blocks;
  while (options.size() + 4 + 8 * (blocks.size() + 1) <= size) {
    const auto n = static_cast<uint32_t>(blocks.size());
    blocks.push_back({edge + 100 * n, edge + 100 * n + 50});
  }
  if (!blocks.empty()) Append(options, Sack(blocks));
  Append(options, Nops(size - options.size()));
  return options;
}

inline Bytes Text(const std::string& text) {
  return Bytes(text.begin(), text.end());
}

// ---- connections ------------------------------------------------------------

// Of the interfaces towards clients and backends, and of these.
inline constexpr Mac kIn0 = {2, 0, 0, 0, 0, 1};
inline constexpr Mac kOut0 = {2, 0, 0, 0, 0, 2};
inline constexpr Mac kClientMac = {2, 0, 0, 0, 0, 0x0a};
inline constexpr Mac kBackendMac = {2, 0, 0, 0, 0, 0x0b};

// Of the services without PROXY header.
inline constexpr uint16_t kPlainPort = 26;

// One connection, in the words of its ends.
struct Conn {
  bool v6 = false;
  PacketAddress client{}, vip{}, source{}, backend{};
  uint16_t client_port = 0, vip_port = 25;
  uint16_t source_port = 0, backend_port = 30125;
  uint32_t isn = 0x11223344, server_isn = 0x55667788;
  uint32_t shift = 0;  // Of the client's numbers, as the backend sees them.

  uint32_t header() const {
    if (vip_port == kPlainPort) return 0;
    return v6 ? 52 : 28;
  }

  // At this distance from the first byte of either stream.
  Segment FromClient(uint8_t flags, int64_t seq, int64_t ack,
                     const Bytes& payload = {}) const {
    Segment s;
    s.v6 = v6;
    s.to = kIn0;
    s.from = kClientMac;
    s.source = client;
    s.destination = vip;
    s.source_port = client_port;
    s.destination_port = vip_port;
    s.seq = static_cast<uint32_t>(isn + 1 + seq);
    s.ack = static_cast<uint32_t>(server_isn + 1 + ack);
    s.flags = flags;
    s.payload = payload;
    return s;
  }
  // `ack` from the first byte of the header.
  Segment FromBackend(uint8_t flags, int64_t seq, int64_t ack,
                      const Bytes& payload = {}) const {
    Segment s = FromClient(flags, 0, 0, payload);
    s.to = kOut0;
    s.from = kBackendMac;
    s.source = backend;
    s.destination = source;
    s.source_port = backend_port;
    s.destination_port = source_port;
    s.seq = static_cast<uint32_t>(server_isn + 1 + seq);
    s.ack = static_cast<uint32_t>(isn + shift + 1 + ack);
    return s;
  }
  Segment Syn(const Bytes& options = Mss(1400)) const {
    Segment s = FromClient(kSyn, -1, 0);
    s.ack = 0;
    s.options = options;
    return s;
  }
  Segment SynAck(const Bytes& options = Mss(1400)) const {
    Segment s = FromBackend(kSyn | kAck, -1, 0);
    s.options = options;
    return s;
  }

  // What becomes of a client's segment that is `behind` so many bytes of
  // header.
  Segment ToBackend(Segment s, uint32_t behind) const {
    s.to = kBackendMac;
    s.from = kOut0;
    s.source = source;
    s.destination = backend;
    s.source_port = source_port;
    s.destination_port = backend_port;
    s.seq += shift + behind;
    s.ttl -= 1;
    return s;
  }
  // Likewise of a RST that ends the connection: it is the edge's own.
  Segment OwnReset(Segment s, uint32_t behind) const {
    s.flags &= kRst | kAck;
    s.ae = false;
    s.window = s.urgent = 0;
    s.ttl = 65;
    s.options.clear();
    s.payload.clear();
    s.padding.clear();
    return ToBackend(s, behind);
  }
  // What says what data, or a FIN, could not: an ACK behind all of `in` bytes.
  Segment AckBehind(Segment s, uint32_t in) const {
    s.seq = isn + 1 + in;
    s.flags = kAck | (s.flags & (kEce | kCwr));
    s.payload.clear();
    s.padding.clear();
    return ToBackend(s, header());
  }
  Segment ToClient(Segment s, uint32_t behind) const {
    s.to = kClientMac;
    s.from = kIn0;
    s.source = vip;
    s.destination = client;
    s.source_port = vip_port;
    s.destination_port = client_port;
    if (s.flags & kAck) s.ack -= shift + behind;
    s.ttl -= 1;
    return s;
  }
  // The PROXY header, by the specification's section 2.2.
  Bytes Header() const {
    Bytes header = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a,
                    0x51, 0x55, 0x49, 0x54, 0x0a, 0x21};
    header.push_back(v6 ? 0x21 : 0x11);
    Put16(header, v6 ? 36 : 12);
    Append(header, OnTheWire(client, v6));
    Append(header, OnTheWire(vip, v6));
    Put16(header, client_port);
    Put16(header, vip_port);
    return header;
  }
  // The segment that carries the header in place of what `s` carries.
  Segment HeaderFor(const Segment& s) const {
    Segment to = ToBackend(s, 0);
    to.payload = Header();
    to.padding.clear();
    to.flags = static_cast<uint8_t>((s.flags & (kEce | kCwr)) | kAck | kPsh);
    return to;
  }
};

// The RST that answers `s` (RFC 9293, 3.10.7.1).
inline Segment ResetFor(const Segment& s) {
  Segment r = s;
  std::swap(r.to, r.from);
  std::swap(r.source, r.destination);
  std::swap(r.source_port, r.destination_port);
  r.options.clear();
  r.payload.clear();
  r.padding.clear();
  r.window = 0;
  r.urgent = 0;
  r.ae = false;
  r.ttl = 64;
  if (s.flags & kAck) {
    r.flags = kRst;
    r.seq = s.ack;
    r.ack = 0;
  } else {
    r.flags = kRst | kAck;
    r.seq = 0;
    r.ack = static_cast<uint32_t>(s.seq + s.payload.size() +
                                  ((s.flags & kSyn) ? 1 : 0) +
                                  ((s.flags & kFin) ? 1 : 0));
  }
  return r;
}

}  // namespace headgate::datapath
