// The packet path's rules once more, in userspace and in other words: what must
// become of a segment, given all that came before. Random choices (backend,
// source port) are read from what the program did and checked for sense.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "packet_fixture.h"
#include "packet_options.h"
#include "packet_quotation.h"

namespace headgate::datapath {

struct Prediction {
  Verdict verdict = kDropped;
  Exits exits;
  std::optional<Bytes> out;   // The frame itself.
  std::vector<Bytes> behind;  // Sent after it.
  // Of what is dropped: what its sender is told, as far as its allowance goes.
  std::optional<Bytes> told;
  // The program chooses the backend's side: tell it what left.
  std::function<std::string(const Bytes& frame)> learn;
};

class PacketModel {
 public:
  enum State { kSynSent = 1, kSynReceived, kEstablished, kClosed };
  struct Flow {
    Conn conn;  // Whose `isn` is the client's.
    State state = kSynSent;
    bool has_leg = false;
    bool sent = false, acked = false;  // The header.
    bool another = false;              // Its client has begun one.
    bool refused = false;              // By the backend asked last,
    bool silent = false;               // which has had its time.
    bool fin_in_acked = false, fin_out_acked = false;
    bool one_side = false;  // The SYN was answered where it came by.
    uint32_t next_in = 0, next_out = 0;       // SND.NXT of either end, and
    uint32_t acked_in = 0, acked_out = 0;     // SND.UNA (RFC 9293, 3.4).
    std::optional<uint32_t> answer;           // The backend's first number.
    std::optional<uint32_t> fin_in, fin_out;  // Where they end.
    uint64_t bytes_in = 0;
    bool lapped = false;  // The backend has had a quarter of all numbers.
    std::set<PacketAddress> tried;  // That did not take it; conn's besides.
  };
  using Key = std::tuple<PacketAddress, uint16_t, PacketAddress, uint16_t>;

  // Of services with so many backends.
  PacketModel(uint32_t mtu, size_t backends) : mtu_(mtu), backends_(backends) {}

  // Of a flow whose backend it does not know, for its SYN was dropped, it can
  // tell what becomes of SYNs only.

  Prediction FromClient(const Segment& s) {
    if (const auto odd = Odd(s)) return *odd;
    if (IsSenseless(s) || IsDamagedSyn(s)) return Drop("malformed");
    const Key key{s.source, s.source_port, s.destination, s.destination_port};
    const bool opens = (s.flags & (kSyn | kAck | kRst)) == kSyn;
    auto found = flows_.find(key);
    if (found != flows_.end() && opens) {
      const Flow& flow = found->second;
      if (flow.state == kClosed ||
          (flow.state != kEstablished && s.seq != flow.conn.isn)) {
        if (s.ttl <= 1) return TooFar(s);
        flows_.erase(found);
        found = flows_.end();
      }
    }
    if (found != flows_.end()) return ClientOf(found->second, s);
    if (!opens) return Refuse(s, "no_flow");
    if (s.ttl <= 1) return TooFar(s);
    Flow& flow = flows_[key];
    ++opened_;
    flow.conn.v6 = s.v6;
    flow.conn.client = s.source;
    flow.conn.client_port = s.source_port;
    flow.conn.vip = s.destination;
    flow.conn.vip_port = s.destination_port;
    flow.conn.isn = s.seq;
    flow.next_in = s.seq + 1;
    Prediction syn = SynOf(flow, s, 0);
    if (syn.verdict == kDropped) flow.state = kClosed;
    return syn;
  }

  Prediction FromBackend(const Segment& s) {
    if (const auto odd = Odd(s)) return *odd;
    if (IsSenseless(s) || IsDamagedSyn(s)) return Drop("malformed");
    for (auto& [key, flow] : flows_) {
      if (flow.has_leg && flow.conn.backend == s.source &&
          flow.conn.backend_port == s.source_port &&
          flow.conn.source == s.destination &&
          flow.conn.source_port == s.destination_port) {
        return BackendOf(flow, s);
      }
    }
    return Refuse(s, "no_flow");
  }

  // An error that says what became of a segment which left here goes to who has
  // sent that; all others are this machine's own.
  Prediction FromAnybody(const IcmpError& error) {
    const auto about = ReadQuotation(error.ip.v6, error.quoted);
    if (!SaysWhatBecame(error) || !about ||
        about->source != error.ip.destination) {
      return NotOurs();
    }
    for (auto& [key, flow] : flows_) {
      if (!flow.has_leg) continue;
      const Conn& conn = flow.conn;
      const Segment to_backend = conn.ToBackend(conn.FromClient(0, 0, 0), 0);
      const Segment to_client = conn.ToClient(conn.FromBackend(0, 0, 0), 0);
      if (IsOf(to_backend, *about)) return ErrorToClient(flow, error, *about);
      if (IsOf(to_client, *about)) {
        return ErrorToBackend(flow, error, *about);
      }
    }
    return NotOurs();
  }

  const std::map<Key, Flow>& flows() const { return flows_; }
  void SetSilent(const Conn& conn, bool silent) {
    flows_.at({conn.client, conn.client_port, conn.vip, conn.vip_port}).silent =
        silent;
  }
  uint64_t opened() const { return opened_; }
  uint64_t connections() const { return connections_; }

 private:
  static Prediction Drop(const std::string& exit) {
    return {kDropped, {{exit, 1}}, {}, {}, {}, {}};
  }
  static Prediction NotOurs() { return {kNotOurs, {}, {}, {}, {}, {}}; }
  static bool IsSenseless(const Segment& s) {
    if (s.flags & kSyn) return (s.flags & (kRst | kFin)) != 0;
    return (s.flags & (kAck | kRst)) == 0;
  }
  // Nothing is to begin by what nobody has sent.
  static bool IsDamagedSyn(const Segment& s) {
    return (s.flags & kSyn) != 0 && s.damage != 0;
  }
  static Prediction TooFar(const Segment& s, uint64_t times = 1) {
    Prediction drop = Drop("ttl");
    drop.exits["ttl"] = times;
    // Nobody is told of what no router takes (RFC 1812, 4.3.2.7 and 5.2.2).
    if (s.v6 || s.ip_damage == 0) drop.told = Build(TooFarFor(s));
    return drop;
  }
  static Prediction Send(const Segment& out,
                         const std::string& exit = "forwarded") {
    return {kSent, {{exit, 1}}, Build(out), {}, {}, {}};
  }
  static Prediction Refuse(const Segment& s, const std::string& exit) {
    if (s.flags & kRst) return Drop("stray_rst");
    if (s.damage != 0) return Drop("malformed");  // It may be anybody's.
    return Send(ResetFor(s), exit);
  }
  // What cannot be put together here, or may go another way than it seems to.
  static std::optional<Prediction> Odd(const Segment& ip) {
    const std::set<uint8_t> extensions = ExtensionsOf(ip);
    if (ip.v6 ? extensions.contains(44) : (ip.fragment & 0x3fff) != 0) {
      return Drop("fragment");
    }
    if (!extensions.empty()) return Drop("extension_header");
    return std::nullopt;
  }
  static std::set<uint8_t> ExtensionsOf(const Segment& ip) {
    std::set<uint8_t> kinds;
    uint8_t next = ip.next_header;
    for (size_t at = 0; at < ip.extensions.size();) {
      kinds.insert(next);
      const size_t units = next == 44 ? 0 : ip.extensions[at + 1];
      next = ip.extensions[at];
      at += 8 + 8 * units;
    }
    return kinds;
  }
  static bool Less(uint32_t a, uint32_t b) { return b - a - 1 < 0x7fffffff; }
  static uint32_t End(const Segment& s) {
    return static_cast<uint32_t>(s.seq + s.payload.size() +
                                 ((s.flags & kFin) ? 1 : 0));
  }

  // A SYN goes on without its data. Answers the exit to take.
  std::string EditSyn(Segment* s) const {
    if (IsSigned(s->options)) return "tcp_signature";
    s->options = SynOptions(s->options, mtu_ - (s->v6 ? 60 : 40));
    s->payload.clear();
    return "";
  }
  // Nothing: it is signed.
  static std::optional<Bytes> AckOptionsOf(const Flow& flow, const Segment& s) {
    if (IsSigned(s.options)) return std::nullopt;
    return MoveEdges(s.options,
                     [&](uint32_t edge) { return AckOf(flow, edge); });
  }
  static uint32_t AckOf(const Flow& flow, uint32_t ack) {
    const uint32_t first = flow.conn.isn + 1;
    ack -= flow.conn.shift;
    if (flow.lapped) return ack - flow.conn.header();
    if (Less(ack, first)) return ack;
    return Less(ack, first + flow.conn.header()) ? first
                                                 : ack - flow.conn.header();
  }

  // The SYN of a flow whose backend is to be chosen, anew or for the first
  // time.
  Prediction SynOf(Flow& flow, const Segment& s, uint32_t shift) {
    const std::optional<PacketAddress> old =
        flow.has_leg ? std::optional(flow.conn.backend) : std::nullopt;
    flow.has_leg = flow.refused = flow.silent = false;
    flow.answer.reset();
    if (s.ttl <= 1) return TooFar(s);
    Segment out = s;
    const std::string wrong = EditSyn(&out);
    if (!wrong.empty()) return Drop(wrong);
    Prediction syn{kSent, {{"forwarded", 1}}, {}, {}, {}, {}};
    out.seq += shift;
    syn.learn = [this, &flow, out, old](const Bytes& frame) {
      return Learn(flow, out, old, frame);
    };
    return syn;
  }
  std::string Learn(Flow& flow, const Segment& out,
                    const std::optional<PacketAddress>& old,
                    const Bytes& frame) {
    const size_t size = flow.conn.v6 ? 16 : 4;
    const size_t at = flow.conn.v6 ? 22 : 26;
    const size_t tcp = at + 2 * size + out.ip_options.size();
    if (frame.size() < tcp + 20) return "too short";
    Conn leg = flow.conn;
    leg.source = leg.backend = Parse(flow.conn.v6 ? "::" : "0.0.0.0");
    std::copy_n(frame.begin() + static_cast<long>(at), size,
                leg.source.end() - static_cast<long>(size));
    std::copy_n(frame.begin() + static_cast<long>(at + size), size,
                leg.backend.end() - static_cast<long>(size));
    leg.source_port = static_cast<uint16_t>(Get16(frame, tcp));
    leg.backend_port = static_cast<uint16_t>(Get16(frame, tcp + 2));
    leg.shift = Get32(frame, tcp + 4) - out.seq;
    if (old && leg.shift != flow.conn.shift) return "the numbers moved";
    if (old) {
      flow.tried.insert(*old);
      if (flow.tried.size() == backends_) flow.tried = {*old};
      if (flow.tried.contains(leg.backend)) return "it was tried already";
    }
    for (const auto& [key, other] : flows_) {
      if (&other != &flow && other.has_leg &&
          other.conn.backend == leg.backend &&
          other.conn.source == leg.source &&
          other.conn.source_port == leg.source_port) {
        return "the port is another's";
      }
    }
    flow.conn = leg;
    flow.has_leg = true;
    if (Build(leg.ToBackend(out, 0)) == frame) return "";
    return "not the SYN that was to leave";
  }

  Prediction ClientOf(Flow& flow, const Segment& s) {
    const uint32_t n = flow.conn.header();
    const uint32_t first = flow.conn.isn + 1;
    if (flow.state == kClosed && !(s.flags & kRst) && !IsLastWord(flow, s)) {
      return Refuse(s, "no_flow");
    }
    if (s.flags & kSyn) {
      const uint32_t shift = s.seq == first - 1 ? 0 : ShiftOf(flow, s);
      if (flow.state != kSynSent && s.seq != first - 1) flow.another = true;
      if (!flow.has_leg ||
          (flow.state == kSynSent && (flow.refused || flow.silent))) {
        return SynOf(flow, s, shift);
      }
      if (s.ttl <= 1) return TooFar(s);
      Segment out = s;
      const std::string wrong = EditSyn(&out);
      return wrong.empty() ? Send(flow.conn.ToBackend(out, shift))
                           : Drop(wrong);
    }
    if (flow.state == kSynSent && !(s.flags & kRst)) {
      return Drop("before_handshake");
    }
    if (flow.state == kSynReceived && !(s.flags & kRst) &&
        s.ack != flow.next_out) {
      return Refuse(s, "before_handshake");
    }
    if (n != 0 && !(s.flags & kRst) && IsFromNowhere(flow, s)) {
      return Drop("malformed");
    }
    const bool due =
        n != 0 && !flow.acked && s.seq == first && !(s.flags & kRst);
    // What the edge itself goes by.
    const bool decides =
        due || (s.flags & kRst) != 0 || flow.state == kSynReceived;
    if (decides && s.damage != 0) return Drop("malformed");
    // Its receiver may, or may not.
    if ((s.flags & kRst) && !s.ip_options.empty()) return Drop("malformed");
    if (flow.state == kSynReceived && !(s.flags & kRst) && s.ttl > 1) {
      flow.state = kEstablished;
      ++connections_;
    }
    if (!due) {
      if (s.ttl <= 1) return TooFar(s);
      if (EndsFlow(flow, s)) return SendOwnReset(flow, s);
      const Segment out = flow.conn.ToBackend(s, ShiftOf(flow, s));
      if (FitsCookie(flow, out) && IsMoreThanAck(s) && IsNews(flow, s) &&
          s.damage != 0) {
        return Drop("malformed");
      }
      return SendOn(flow, out, s);
    }
    const bool alone = s.payload.empty() && !(s.flags & kFin);
    flow.sent = true;
    if (alone && s.ttl <= 1) return TooFar(s);
    if (alone) return Send(flow.conn.HeaderFor(s), "header");
    if (s.ttl <= 1) return TooFar(s, 2);
    Prediction ahead = Send(flow.conn.HeaderFor(s), "header_ahead");
    const Prediction data = SendOn(flow, flow.conn.ToBackend(s, n), s);
    ahead.exits["forwarded"] = data.exits.at("forwarded");
    ahead.behind = {*data.out};
    ahead.behind.insert(ahead.behind.end(), data.behind.begin(),
                        data.behind.end());
    return ahead;
  }
  static Prediction SendOwnReset(Flow& flow, Segment s) {
    // Where the backend is for sure, and then where it should be.
    if (flow.state != kSynSent) s.seq = flow.acked_in;
    Prediction sent = Send(flow.conn.OwnReset(s, ShiftOf(flow, s)));
    flow.state = kClosed;
    if (s.seq == flow.next_in) return sent;
    s.seq = flow.next_in;
    sent.behind = {Build(flow.conn.OwnReset(s, ShiftOf(flow, s)))};
    ++sent.exits["forwarded"];
    return sent;
  }
  static bool EndsFlow(const Flow& flow, const Segment& s) {
    const bool expected = flow.state != kSynSent && s.seq == flow.acked_in;
    return (s.flags & kRst) && flow.state != kClosed &&
           (s.seq == flow.next_in || expected);
  }
  static bool IsNews(const Flow& flow, const Segment& s) {
    const uint32_t ahead = End(s) - flow.next_in;
    return ahead != 0 && ahead <= 1U << 30;
  }
  static bool IsMoreThanAck(const Segment& s) {
    return !s.payload.empty() || (s.flags & kFin) != 0;
  }
  // `out` is what `s` is to become, but for cookies.
  static Prediction SendOn(Flow& flow, const Segment& out, const Segment& s) {
    const bool fits = FitsCookie(flow, out);
    if (!fits || !IsMoreThanAck(s)) {
      const Segment off = fits ? Aside(flow, out) : out;
      NoteClient(flow, s);
      return Send(off);
    }
    const bool news = IsNews(flow, s);
    Segment data = out;
    data.ack = *flow.answer + 1 + In(flow, out) - 8;
    NoteClient(flow, s);
    Prediction sent = Send(data);
    if (!news) return sent;
    if (flow.state == kClosed && !IsLastWord(flow, s)) {
      sent.exits["no_flow"] = 1;  // It comes too late, for once.
      return sent;
    }
    Segment ack = flow.conn.AckBehind(s, flow.next_in - flow.conn.isn - 1);
    if (FitsCookie(flow, ack)) ack = Aside(flow, ack);
    sent.behind = {Build(ack)};
    ++sent.exits["forwarded"];
    return sent;
  }
  // Of a stream that the backend has whole (RFC 9293, 3.6: it may be asked for
  // its acknowledgment again).
  static bool IsLastWord(const Flow& flow, const Segment& s) {
    const uint32_t ahead = End(s) - flow.acked_in;
    return flow.fin_in_acked && flow.fin_out_acked &&
           (ahead == 0 || ahead > 1U << 30);
  }
  // Of no stream's bytes; a keepalive's one aside (RFC 1122, 4.2.3.6). Nor is
  // what no window was open for (RFC 7323, 2.2).
  static bool IsFromNowhere(const Flow& flow, const Segment& s) {
    const uint32_t isn = flow.conn.isn;
    if (!flow.acked) return s.seq - isn - 1 > 65535;
    if (s.seq == isn && (End(s) == isn || End(s) == isn + 1)) return false;
    return Less(s.seq, flow.lapped ? flow.acked_in - (1U << 30) : isn + 1);
  }
  // From the first byte that the backend expects.
  static uint32_t In(const Flow& flow, const Segment& out) {
    return out.seq - flow.conn.shift - flow.conn.isn - 1;
  }
  // To a backend that knows the handshake by a cookie only: what is as far from
  // its own first number as from the client's, or nearly.
  static bool FitsCookie(const Flow& flow, const Segment& out) {
    if (flow.conn.header() == 0 || (out.flags & kRst)) return false;
    const uint32_t in = In(flow, out);
    const auto apart = static_cast<int32_t>(in + 1 + *flow.answer - out.ack);
    return in >= 8 && apart >= -3 && apart <= 3;
  }
  static Segment Aside(const Flow& flow, Segment ack) {
    const uint32_t seq = ack.seq - flow.conn.shift - flow.conn.header();
    ack.seq += Less(seq, flow.next_in) ? 0U - 8 : 8;
    return ack;
  }
  static uint32_t ShiftOf(const Flow& flow, const Segment& s) {
    const uint32_t isn = flow.conn.isn;
    // A RST at the first byte: where the backend is, as far as is known.
    const bool lags = !flow.acked && (!flow.sent || flow.state == kClosed);
    if ((s.flags & kRst) && s.seq == isn + 1 && lags) return 0;
    return flow.conn.header();
  }
  // SND.UNA < SEG.ACK =< SND.NXT (RFC 9293, 3.10.7.4).
  static void NoteAck(uint32_t* una, uint32_t nxt, uint32_t ack) {
    if (ack != *una && ack - *una <= nxt - *una) *una = ack;
  }
  // The nearest one ahead is it.
  static void NoteFin(std::optional<uint32_t>* fin, uint32_t una,
                      uint32_t end) {
    const uint32_t ahead = end - una;
    if (ahead == 0 || ahead > 1U << 30) return;
    if (!fin->has_value() || !Less(una, **fin) || ahead < **fin - una) {
      *fin = end;
    }
  }
  static void NoteClient(Flow& flow, const Segment& s) {
    if (s.flags & kRst) return;
    const uint32_t ahead = End(s) - flow.next_in;
    if (ahead != 0 && ahead <= 1U << 30) {
      flow.next_in = End(s);
      const uint32_t fin = (s.flags & kFin) ? 1 : 0;
      flow.bytes_in += std::min<size_t>(ahead - fin, s.payload.size());
    }
    if (s.flags & kFin) NoteFin(&flow.fin_in, flow.acked_in, End(s));
    if (s.flags & kAck) {
      NoteAck(&flow.acked_out, flow.next_out, s.ack);
      if (flow.fin_out == s.ack) flow.fin_out_acked = true;
    }
    CloseIfOver(flow);
  }
  static void CloseIfOver(Flow& flow) {
    if (flow.fin_in_acked && flow.fin_out_acked) flow.state = kClosed;
  }

  // The backend refuses, or cannot be reached: as long as another may do
  // better, that is not the client's to know. Nor will it know if what says so
  // goes no further; its next SYN goes to another all the same.
  bool IsKeptFromClient(Flow& flow) const {
    flow.refused = true;
    std::set<PacketAddress> tried = flow.tried;
    tried.insert(flow.conn.backend);
    return tried.size() < backends_;
  }
  Prediction BackendOf(Flow& flow, const Segment& s) {
    const uint32_t first = flow.conn.isn + flow.conn.shift + 1;
    // Where clients are, anybody may say what a backend would, but for what
    // only it knows.
    const bool by_client = s.to == kIn0;
    const bool knows = flow.state == kSynSent
                           ? (s.flags & kAck) && s.ack == first
                           : flow.one_side;
    if (by_client && !knows) return Drop("reverse_path");
    if ((s.flags & kRst) && s.damage != 0) return Drop("malformed");
    const bool over = flow.fin_in_acked && flow.fin_out_acked;
    if (flow.state == kClosed && !over && !(s.flags & kRst)) {
      return Refuse(s, "no_flow");
    }
    if (flow.state == kSynSent && (s.flags & kRst)) {
      if (!(s.flags & kAck) || s.ack != first) {
        return Drop("stray_rst");
      }
      if (IsKeptFromClient(flow)) return Drop("refused");
    }
    const bool answers =
        (s.flags & (kSyn | kAck)) == (kSyn | kAck) && s.ack == first;
    if (flow.state == kSynSent && !answers && !(s.flags & kRst)) {
      return Refuse(s, "before_handshake");
    }
    const bool begins = flow.another && flow.state == kEstablished &&
                        !answers && (s.flags & (kSyn | kAck)) == (kSyn | kAck);
    if (begins || (answers && flow.answer && s.seq != *flow.answer)) {
      if (s.damage == 0) flow.state = kClosed;
      return Refuse(s, "before_handshake");
    }
    // Once it has the header, it has nothing to begin.
    if (flow.conn.header() != 0 && flow.acked && (s.flags & kSyn)) {
      return Refuse(s, "before_handshake");
    }
    if (s.ttl <= 1) return TooFar(s);
    const bool is_ours = IsOfHeaderOnly(flow, s);
    const uint32_t ack = (s.flags & kAck) ? AckOf(flow, s.ack) : s.ack;
    if (s.flags & kRst) {
      const bool next = s.seq == flow.next_out || s.seq == flow.acked_out;
      if (flow.state == kSynSent || next) flow.state = kClosed;
    } else if (s.flags & kSyn) {
      if (answers && (flow.state == kSynSent || !by_client)) {
        flow.one_side = by_client;
      }
      if (flow.state == kSynSent && answers) {
        flow.state = kSynReceived;
        flow.answer = s.seq;
        flow.next_out = flow.acked_out = s.seq + 1;
        flow.acked_in = flow.conn.isn + 1;
      }
    } else {
      NoteBackend(flow, s, ack);
    }
    if (is_ours) return Drop("header_acked");
    Segment out = flow.conn.ToClient(s, 0);
    out.ack = ack;
    if (s.flags & kSyn) {
      const std::string wrong = EditSyn(&out);
      return wrong.empty() ? Send(out) : Drop(wrong);
    }
    const std::optional<Bytes> options = AckOptionsOf(flow, s);
    if (!options) return Drop("tcp_signature");
    out.options = *options;
    return Send(out);
  }
  // The first word of a backend that waits for the client's, and says no more
  // than that the header has come.
  static bool IsOfHeaderOnly(const Flow& flow, const Segment& s) {
    const uint32_t first = flow.conn.isn + 1;
    return flow.state == kEstablished && flow.sent && !flow.acked &&
           !flow.another && flow.next_in == first && s.seq == flow.next_out &&
           s.flags == kAck && s.payload.empty() &&
           s.ack == first + flow.conn.shift + flow.conn.header();
  }
  static void NoteBackend(Flow& flow, const Segment& s, uint32_t ack) {
    const uint32_t ahead = End(s) - flow.next_out;
    if (ahead != 0 && ahead <= 1U << 30) flow.next_out = End(s);
    if (s.flags & kFin) NoteFin(&flow.fin_out, flow.acked_out, End(s));
    if (s.flags & kAck) {
      const uint32_t first = flow.conn.isn + 1, n = flow.conn.header();
      // From the header's end to that of what the client has sent.
      const uint32_t moved = s.ack - flow.conn.shift;
      if (flow.sent && moved - first - n <= flow.next_in - first) {
        flow.acked = true;
      }
      NoteAck(&flow.acked_in, flow.next_in, ack);
      if (flow.state != kClosed && flow.acked_in - first >= 1U << 30) {
        flow.lapped = true;
      }
      if (flow.fin_in == ack) flow.fin_in_acked = true;
    }
    CloseIfOver(flow);
  }

  // ---- ICMP errors ----------------------------------------------------------

  // Redirects, pings and so on are between hosts.
  static bool SaysWhatBecame(const IcmpError& error) {
    if (error.ip.v6) return error.type >= 1 && error.type <= 4;
    return error.type == 3 || error.type == 11 || error.type == 12;
  }
  static bool IsOf(const Segment& s, const Quotation& about) {
    return s.source == about.source && s.destination == about.destination &&
           s.source_port == about.source_port &&
           s.destination_port == about.destination_port;
  }
  // The backend's host, or one on the way there, says that the SYN will not be
  // answered: it quotes the very number, which others do not know (RFC 5927).
  static bool SaysUnreachable(const Flow& flow, const IcmpError& error,
                              const Quotation& about) {
    const bool unreachable =
        error.ip.v6 ? error.type == 1 : error.type == 3 && error.code != 4;
    return unreachable && flow.state == kSynSent &&
           about.seq == flow.conn.isn + flow.conn.shift;
  }
  Prediction ErrorToClient(Flow& flow, const IcmpError& error,
                           const Quotation& about) {
    if (const auto odd = Odd(error.ip)) return *odd;
    const bool knows = flow.state == kSynSent
                           ? SaysUnreachable(flow, error, about)
                           : flow.one_side;
    if (error.ip.to == kIn0 && !knows) return Drop("reverse_path");
    if (SaysUnreachable(flow, error, about)) {
      if (IsKeptFromClient(flow)) return Drop("refused");
      flow.state = kClosed;
    }
    Segment sent = flow.conn.FromClient(0, 0, 0);
    sent.seq = AckOf(flow, about.seq);
    return SendError(error, flow.conn.ToClient(error.ip, 0), sent);
  }
  static Prediction ErrorToBackend(const Flow& flow, const IcmpError& error,
                                   const Quotation& about) {
    if (const auto odd = Odd(error.ip)) return *odd;
    Segment sent = flow.conn.FromBackend(0, 0, 0);
    sent.seq = about.seq;
    return SendError(error, flow.conn.ToBackend(error.ip, 0), sent);
  }
  // About an error, nobody is told (RFC 1122, 3.2.2).
  static Prediction SendError(const IcmpError& error, const Segment& ip,
                              const Segment& sent) {
    if (error.ip.ttl <= 1) return Drop("ttl");
    IcmpError out = error;
    out.ip = ip;
    WriteQuotation(sent, &out.quoted);
    return {kSent, {{"icmp_error", 1}}, Build(out), {}, {}, {}};
  }

  const uint32_t mtu_;
  const size_t backends_;
  std::map<Key, Flow> flows_;
  uint64_t opened_ = 0;
  uint64_t connections_ = 0;
};

}  // namespace headgate::datapath
