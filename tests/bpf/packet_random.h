// Random frames: of connections that a model knows, or might, so that they mean
// something to the program.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "packet_model.h"

namespace headgate::datapath {

class RandomFrames {
 public:
  explicit RandomFrames(uint32_t seed) : random_(seed) {}

  uint32_t Below(uint32_t bound) {
    return std::uniform_int_distribution<uint32_t>(0, bound - 1)(random_);
  }
  uint32_t Any() { return static_cast<uint32_t>(random_()); }
  template <typename T>
  T OneOf(const std::vector<T>& list) {
    return list[Below(static_cast<uint32_t>(list.size()))];
  }
  uint8_t Byte() { return static_cast<uint8_t>(Any()); }

  void Forget() { old_legs_.clear(); }
  // The flow that the last frame is about, as it was then.
  const PacketModel::Flow& flow() const { return flow_; }
  void LookAt(const Conn& conn) {
    flow_ = {};
    flow_.conn = conn;
  }

  // Anything that may differ between segments, numbers aside.
  void Vary(Segment* s) {
    VaryIp(s);
    s->flags = Flags();
    s->ae = Below(9) == 0;
    s->window = static_cast<uint16_t>(Below(65536));
    s->urgent = static_cast<uint16_t>(Below(3));
    s->options = Options();
    if (Below(2) == 0) {
      const uint32_t room = 1400 - static_cast<uint32_t>(s->ip_options.size());
      s->payload = Bytes(Below(Below(4) == 0 ? room : 4), Byte());
    }
    if (s->payload.empty() && Below(8) == 0) {
      s->padding = Bytes(Below(20), 0x33);
    }
  }

  Segment FromClient(const PacketModel& model) {
    const Conn conn = AnyConn();
    const auto known = model.flows().find(
        {conn.client, conn.client_port, conn.vip, conn.vip_port});
    flow_ = known != model.flows().end() ? known->second : PacketModel::Flow();
    Segment s = conn.FromClient(0, 0, 0);
    Vary(&s);
    if (known == model.flows().end() || !flow_.has_leg) {
      if (Below(4) != 0 || known != model.flows().end()) s.flags = kSyn;
      s.seq = Below(3) == 0 ? 0xfffffff0 + Below(32) : Any();
      return s;
    }
    if (flow_.state == PacketModel::kClosed && Below(8) == 0) {
      s.flags = kSyn;
      s.seq = Any();
      return s;
    }
    // Beginnings are rare where connections are long.
    if (s.flags == kSyn && flow_.state != PacketModel::kSynSent &&
        Below(4) != 0) {
      s.flags = kAck;
    }
    // Dropped, it moves the flow to a backend that the model does not know.
    if ((s.flags & kSyn) && flow_.state == PacketModel::kSynSent) {
      s.ttl = 64;
      s.damage = 0;
      s.options = Mss(Below(65536));
    }
    if (flow_.state == PacketModel::kSynReceived && Below(2) == 0) {
      s.flags = kAck;
      s.seq = flow_.conn.isn + 1;
    } else {
      s.seq = Below(3) == 0 ? flow_.next_in : Near();
    }
    s.ack = Below(2) == 0 ? flow_.next_out : Near();
    return s;
  }

  std::optional<Segment> FromBackend(const PacketModel& model) {
    if (!LookAtAny(model)) return std::nullopt;
    Conn conn = flow_.conn;
    if (Below(50) == 0) old_legs_.push_back(conn);
    if (old_legs_.size() > 20) old_legs_.clear();
    if (!old_legs_.empty() && Below(20) == 0) conn = OneOf(old_legs_);
    Segment s = conn.FromBackend(0, 0, 0);
    Vary(&s);
    s.seq = Below(3) == 0 ? flow_.next_out : Near();
    s.ack =
        conn.shift + (Below(3) == 0 ? flow_.next_in + conn.header() : Near());
    if (flow_.state == PacketModel::kSynSent && Below(2) == 0) {
      s.flags = OneOf<uint8_t>({kSyn | kAck, kSyn | kAck, kRst | kAck});
      s.ack = conn.isn + conn.shift + 1;
    }
    if (Below(10) == 0) {  // Or from a client, who may say so.
      s.to = kIn0;
      s.from = kClientMac;
    }
    return s;
  }

  // About what one end of a flow has sent, or could have; or, if something is
  // wrong about it, about nothing at all.
  std::optional<IcmpError> Error(const PacketModel& model) {
    if (!LookAtAny(model)) return std::nullopt;
    return Error();
  }
  // The same, about the flow that is looked at.
  IcmpError Error() {
    const Conn& conn = flow_.conn;
    Segment sent = OfEither();
    sent.seq = Below(3) == 0 ? conn.isn : Near();
    Segment left =
        sent.to == kIn0 ? conn.ToBackend(sent, 0) : conn.ToClient(sent, 0);
    const bool usual = Below(8) != 0;
    IcmpError error =
        ErrorAbout(left, usual ? ErrorType(left.v6) : Byte(),
                   usual ? static_cast<uint8_t>(Below(6)) : Byte(), Any());
    VaryAround(&error);
    if (Below(6) == 0) Misquote(&left);
    error.quoted = Quote(left, Below(2) == 0 ? 8 : Below(60));
    return error;
  }

  // A frame about the flow that is looked at, of which not much is left.
  Bytes Garbled() {
    Bytes frame = Below(4) == 0 ? Build(Error()) : Build(OfEither());
    const auto end = static_cast<uint32_t>(frame.size());
    for (uint32_t i = Below(6); i > 0; --i) {
      frame[14 + Below(end - 14)] = Byte();
    }
    // Of less than an IPv6 header, BPF_PROG_RUN makes no packet.
    if (Below(4) == 0) frame.resize(54 + Below(end));
    if (Below(10) == 0) {
      const size_t from = OneOf<size_t>({14, 34, 54});
      frame.resize(std::max<size_t>(frame.size(), 54));
      for (size_t at = from; at < frame.size(); ++at) frame[at] = Byte();
    }
    return frame;
  }

 private:
  Segment OfEither() {
    const Conn& conn = flow_.conn;
    Segment s =
        Below(2) == 0 ? conn.FromClient(0, 0, 0) : conn.FromBackend(0, 0, 0);
    Vary(&s);
    return s;
  }
  // A flow whose backend is known.
  bool LookAtAny(const PacketModel& model) {
    std::vector<PacketModel::Flow> live;
    for (const auto& [key, flow] : model.flows()) {
      if (flow.has_leg) live.push_back(flow);
    }
    if (live.empty()) return false;
    flow_ = OneOf(live);
    return true;
  }

  void VaryIp(Segment* s) {
    s->ttl = Below(30) == 0 ? static_cast<uint8_t>(Below(3)) : 64;
    s->tos = Byte();
    s->id = static_cast<uint16_t>(Any());
    s->label = Below(1 << 20);
    if (Below(20) == 0) s->damage = static_cast<uint16_t>(1 + Below(0xfffe));
    if (s->v6) {
      if (Below(40) == 0) {
        for (uint32_t i = 1 + Below(4); i > 0; --i) Extend(s);
      }
      return;
    }
    if (Below(20) == 0) s->ip_damage = static_cast<uint16_t>(1 + Below(0xfffe));
    if (Below(8) == 0) {
      s->ip_options.resize(4 * (1 + Below(10)));
      for (uint8_t& byte : s->ip_options) byte = Byte();
    }
    if (Below(40) == 0) s->fragment = 0x2000;  // The first.
  }
  // Any header that IPv6 may have before what it has now.
  void Extend(Segment* s) {
    const auto kind = OneOf<uint8_t>({0, 43, 44, 60});
    Bytes header(8 + 8 * Below(4));
    for (uint8_t& byte : header) byte = Byte();
    header[0] = s->next_header;
    header[1] = static_cast<uint8_t>(header.size() / 8 - 1);
    if (kind == 44) {
      const uint8_t more = Below(2) == 0 ? 1 : 0;
      header = {s->next_header, 0, 0, more, 1, 2, 3, 4};
    }
    s->next_header = kind;
    s->extensions = Concat({header, s->extensions});
  }

  uint8_t ErrorType(bool v6) {
    return v6 ? OneOf<uint8_t>({1, 1, 2, 3, 4})
              : OneOf<uint8_t>({3, 3, 3, 11, 12});
  }
  // By whom it comes, and how.
  void VaryAround(IcmpError* error) {
    const bool v6 = error->ip.v6;
    VaryIp(&error->ip);
    if (Below(8) == 0) error->ip.to = error->ip.to == kIn0 ? kOut0 : kIn0;
    if (Below(2) == 0) {
      error->ip.source = Parse(v6 ? "2001:db8:77::7" : "198.18.77.7");
    }
    if (Below(20) == 0) {
      error->ip.destination = Parse(v6 ? "2001:db8:1::" : "198.18.1.2");
    }
    if (Below(4) == 0) error->ip.padding = Bytes(Below(20), 0x33);
  }
  void Misquote(Segment* left) {
    switch (Below(6)) {
      case 0:
        left->source = Parse(left->v6 ? "2001:db8:2::1" : "198.18.2.1");
        break;
      case 1:
        left->destination = Parse(left->v6 ? "2001:db8:77::8" : "198.18.77.8");
        break;
      case 2:
        left->source_port = static_cast<uint16_t>(100 + Below(900));
        break;
      case 3:
        left->destination_port = static_cast<uint16_t>(100 + Below(900));
        break;
      case 4:
        left->protocol = left->next_header = 17;
        break;
      default:
        left->fragment = static_cast<uint16_t>(1 + Below(0x1fff));
    }
  }

  uint8_t Flags() {
    if (Below(12) == 0) return static_cast<uint8_t>(Below(256));
    const auto flags = OneOf<uint8_t>(
        {kAck, kAck, kAck, kAck | kPsh, kAck | kPsh, kFin | kAck, kSyn,
         kSyn | kAck, kAck | kUrg, kAck | kEce, kAck | kCwr});
    return Below(40) == 0 ? static_cast<uint8_t>(flags | kRst) : flags;
  }
  Bytes Options() {
    Bytes options;
    while (Below(3) != 0) {
      switch (Below(9)) {
        case 0:
          Append(options, Mss(Below(65536)));
          break;
        case 1:
          Append(options, Timestamps(Any(), Any()));
          break;
        case 2:
          Append(options, {30, 4, 0, 1});
          break;
        case 3:
          Append(options, {34, 6, 1, 2, 3, 4});
          break;
        case 4:
          Append(options, {4, 2, 3, 3, 7});
          break;
        case 5:
          Append(options, Bytes(1 + Below(4), 1));
          break;
        case 6:
          Append(options, Sack({{Near(), Near()}, {Near(), Near()}}));
          break;
        case 7:
          if (Below(4) == 0) Append(options, Concat({{19, 18}, Bytes(16, 3)}));
          break;
        default:
          for (uint32_t i = Below(9); i > 0; --i) {
            options.push_back(Byte());
          }
      }
    }
    if (options.size() > 40) options.resize(40);
    while (options.size() % 4 != 0) options.push_back(Below(2) ? 1 : 0);
    return options;
  }
  // A number about where something happens in the flow that is looked at.
  uint32_t Near() {
    const uint32_t small = Below(4) == 0 ? Below(3000) : Below(3);
    const uint32_t base =
        OneOf<uint32_t>({flow_.conn.isn, flow_.conn.isn + 1,
                         flow_.conn.isn + 1 + flow_.conn.header(),
                         flow_.next_in, flow_.next_in + flow_.conn.header(),
                         flow_.next_out, flow_.conn.server_isn + 1});
    if (Below(200) == 0) return Any();
    return Below(2) == 0 ? base + small : base - small;
  }
  // Some clients and services; a few that are known already are looked at most.
  Conn AnyConn() {
    Conn conn;
    conn.v6 = Below(2) == 0;
    conn.client = Parse(conn.v6 ? "2001:db8::a" : "198.18.0.10");
    conn.vip = conn.v6 ? Parse(Below(2) == 0 ? "2001:db8:1::1" : "2001:db8:1::")
                       : Parse(Below(2) == 0 ? "198.18.1.1" : "198.18.1.2");
    conn.client_port = static_cast<uint16_t>(5000 + Below(3));
    if (Below(4) == 0) {
      conn.vip = Parse(conn.v6 ? "2001:db8:1::1" : "198.18.1.1");
      conn.vip_port = kPlainPort;
    }
    return conn;
  }

  std::mt19937 random_;
  PacketModel::Flow flow_;
  std::vector<Conn> old_legs_;  // Of flows that may have moved on.
};

}  // namespace headgate::datapath
