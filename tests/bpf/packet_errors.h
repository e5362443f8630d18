// ICMP errors, built as packet_frames.h builds segments.
#pragma once

#include <algorithm>

#include "packet_frames.h"

namespace headgate::datapath {

struct IcmpError {
  Segment ip;  // Of which only Ethernet's and IP's fields count.
  uint8_t type = 0, code = 0;
  uint32_t rest = 0;  // The MTU, say.
  Bytes quoted;       // An IP packet's beginning.
};

inline Bytes Build(const IcmpError& error) {
  const bool v6 = error.ip.v6;
  Bytes icmp = {error.type, error.code, 0, 0};
  Put32(icmp, error.rest);
  Append(icmp, error.quoted);
  Bytes summed;
  if (v6) {
    Append(summed, OnTheWire(error.ip.source, true));
    Append(summed, OnTheWire(error.ip.destination, true));
    Put32(summed, static_cast<uint32_t>(icmp.size()));
    Put32(summed, 58);
  }
  Put16(summed, error.ip.damage);
  Append(summed, icmp);
  Set16(icmp, 2, InternetChecksum(summed));
  return Framed(error.ip, icmp);
}

// IP's header, and so many bytes of TCP.
inline Bytes Quote(const Segment& s, size_t tcp_bytes = 8) {
  Segment bare = s;
  bare.padding.clear();
  const Bytes frame = Build(bare);
  const size_t size = (s.v6 ? 40 : 20) + s.ip_options.size() + tcp_bytes;
  return Bytes(frame.begin() + 14,
               frame.begin() + 14 +
                   static_cast<long>(std::min(size, frame.size() - 14)));
}

// From a router on the way, say, to who has sent `about`.
inline IcmpError ErrorAbout(const Segment& about, uint8_t type, uint8_t code,
                            uint32_t rest = 0, size_t tcp_bytes = 8) {
  IcmpError error;
  error.ip.v6 = about.v6;
  error.ip.protocol = 1;
  error.ip.next_header = 58;
  error.ip.to = about.from;
  error.ip.from = about.to;
  error.ip.source = about.destination;
  error.ip.destination = about.source;
  error.type = type;
  error.code = code;
  error.rest = rest;
  error.quoted = Quote(about, tcp_bytes);
  return error;
}

inline IcmpError TooBig(const Segment& about, uint32_t mtu,
                        size_t tcp_bytes = 8) {
  return about.v6 ? ErrorAbout(about, 2, 0, mtu, tcp_bytes)
                  : ErrorAbout(about, 3, 4, mtu, tcp_bytes);
}

// What answers `in` when that goes no further.
inline IcmpError AsOurs(IcmpError error) {
  error.ip.ttl = 64;
  error.ip.tos = error.ip.v6 ? 0 : 0xc0;
  error.ip.id = 0;
  error.ip.label = 0;
  return error;
}
inline IcmpError TooBigFor(const Segment& in, uint32_t mtu) {
  return AsOurs(TooBig(in, mtu));
}
inline IcmpError TooFarFor(const Segment& in) {
  return AsOurs(in.v6 ? ErrorAbout(in, 3, 0) : ErrorAbout(in, 11, 0));
}

}  // namespace headgate::datapath
