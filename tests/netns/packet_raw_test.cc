// Ends that no kernel plays: segments in odd orders, made by hand, and compared
// whole with what the other end gets.
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>

#include "bpf/packet_frames.h"
#include "packet_fixture.h"

namespace headgate::testing {
namespace {

using namespace headgate::datapath;  // NOLINT(google-build-using-namespace)

// An address of a namespace whose kernel does not see what comes for it.
class RawEnd {
 public:
  RawEnd(const std::string& netns, const char* device, const char* edge_device)
      : edge_(MacOf(kEdge, edge_device)),
        fd_(OpenCapture(netns, device, SOCK_RAW)) {}
  void Send(const Segment& segment) const { SendTo(edge_, segment); }
  void SendTo(const Mac& mac, Segment segment) const {
    segment.to = mac;
    const Bytes frame = Build(segment);
    EXPECT_EQ(::send(fd_.get(), frame.data(), frame.size(), 0),
              static_cast<ssize_t>(frame.size()));
  }
  // The IP packet of the next segment; nothing after kTcpTimeout.
  std::optional<Bytes> Receive() const {
    std::optional<Bytes> packet;
    WaitUntil(kTcpTimeout, [&] {
      do {
        packet = TakeOne();
      } while (packet.has_value() && !IsTcp(*packet));
      return packet.has_value();
    });
    return packet;
  }

 private:
  static Mac MacOf(const std::string& netns, const char* device) {
    return RunIn(netns, [&] {
      const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      ifreq request{};
      std::strcpy(request.ifr_name, device);
      EXPECT_EQ(::ioctl(fd.get(), SIOCGIFHWADDR, &request), 0);
      Mac mac;
      std::copy_n(request.ifr_hwaddr.sa_data, mac.size(), mac.begin());
      return mac;
    });
  }
  // Empty: an outgoing frame; nothing: none is there.
  std::optional<Bytes> TakeOne() const {
    Bytes frame(65536);
    sockaddr_ll from{};
    socklen_t size = sizeof from;
    const ssize_t n = ::recvfrom(fd_.get(), frame.data(), frame.size(), 0,
                                 reinterpret_cast<sockaddr*>(&from), &size);
    if (n < ETH_HLEN) return std::nullopt;
    if (from.sll_pkttype == PACKET_OUTGOING) return Bytes();
    return Bytes(frame.begin() + ETH_HLEN, frame.begin() + n);
  }
  static bool IsTcp(const Bytes& packet) {
    if (packet.size() < 40) return false;
    return packet[0] >> 4 == 4 ? packet[9] == IPPROTO_TCP
                               : packet[6] == IPPROTO_TCP;
  }

  const Mac edge_;
  UniqueFd fd_;
};

class PacketRawTest : public PacketHookTest {
 protected:
  PacketRawTest() {
    Nft(kClient, "input", "meta l4proto tcp drop");
    Start({.health = "{type: none}"});
  }
  // `body` with each family's `conn_`.
  void ForBoth(const std::function<void()>& body) {
    for (const bool v6 : {false, true}) {
      SCOPED_TRACE(v6 ? "IPv6" : "IPv4");
      conn_ = NewConn(v6);
      body();
    }
  }
  static Conn NewConn(bool v6) {
    Conn conn;
    conn.v6 = v6;
    conn.client = Parse(v6 ? "2001:db8::2" : "198.18.0.2");
    conn.vip = Parse(v6 ? "2001:db8:1::1" : "198.18.1.1");
    conn.source = Parse(v6 ? "2001:db8:2::1" : "198.18.2.1");
    conn.backend = Parse(v6 ? "2001:db8:2::11" : "198.18.2.11");
    conn.backend_port = 25;
    conn.client_port = conn.source_port = 20000;  // It keeps it.
    return conn;
  }
  bool v6() const { return conn_.v6; }
  uint32_t header() const { return conn_.header(); }

  static void ExpectArrives(const RawEnd& end, const Segment& wanted) {
    const std::optional<Bytes> got = end.Receive();
    ASSERT_TRUE(got.has_value());
    const Bytes frame = Build(wanted);
    EXPECT_EQ(*got, Bytes(frame.begin() + ETH_HLEN, frame.end()));
  }

  // The TCP segment of the next that comes to the client with that flag.
  std::optional<Bytes> NextWith(uint8_t flag) const {
    const size_t tcp = TcpAt(v6()) - ETH_HLEN;
    std::optional<Bytes> got;
    do {
      got = client_.Receive();
    } while (got.has_value() &&
             (got->size() < tcp + 20 || ((*got)[tcp + 13] & flag) == 0));
    if (got.has_value()) {
      got->erase(got->begin(), got->begin() + static_cast<long>(tcp));
    }
    return got;
  }
  // Its sequence number. Others may still come for earlier connections.
  uint32_t WaitSynAck() const {
    std::optional<Bytes> got;
    do {
      got = NextWith(kSyn);
    } while (got.has_value() && Get16(*got, 2) != conn_.client_port);
    if (!got.has_value()) {
      ADD_FAILURE() << "no SYN-ACK";
      return 0;
    }
    return Get32(*got, 4);
  }

  // Whatever came before, the next connection that the backend has is this one,
  // and begins with its header.
  TcpSocket ExpectHonest(const UniqueFd& listener) const {
    client_.Send(conn_.FromClient(kAck, 0, 0));
    client_.Send(conn_.FromClient(kAck | kPsh, 0, 0, Text("honest")));
    TcpSocket backend = TcpSocket::Accept(listener);
    EXPECT_TRUE(backend.valid());
    const Bytes wanted = Concat({conn_.Header(), Text("honest")});
    EXPECT_EQ(backend.Receive(wanted.size()),
              std::string(wanted.begin(), wanted.end()));
    return backend;
  }

  Conn conn_;
  const RawEnd client_{kClient, "c0", "e0"};
};

class PacketRawEndsTest : public PacketRawTest {
 protected:
  PacketRawEndsTest() { Nft(kBackend, "input", "meta l4proto tcp drop"); }
  // `body` with each family's `conn_`, whose SYN is answered.
  void ForBoth(const std::function<void()>& body) {
    PacketRawTest::ForBoth([&] {
      Open();
      body();
    });
  }
  void Open() {
    client_.Send(conn_.Syn());
    const std::optional<Bytes> got = backend_.Receive();
    ASSERT_TRUE(got.has_value());
    conn_.shift = Get32(*got, TcpAt(v6()) - ETH_HLEN + 4) - conn_.isn;
    const Bytes syn = Build(conn_.ToBackend(conn_.Syn(), 0));
    EXPECT_EQ(*got, Bytes(syn.begin() + ETH_HLEN, syn.end()));
    FromBackend(conn_.SynAck(), 0);
  }
  // It arrives at the other end, moved by `shift`.
  void FromClient(const Segment& s, uint32_t shift) const {
    client_.Send(s);
    ExpectArrives(backend_, conn_.ToBackend(s, shift));
  }
  void FromBackend(const Segment& s, uint32_t shift) const {
    backend_.Send(s);
    ExpectArrives(client_, conn_.ToClient(s, shift));
  }
  // The header arrives ahead of it.
  void FromClientBehindHeader(const Segment& s) const {
    client_.Send(s);
    ExpectArrives(backend_, conn_.HeaderFor(s));
    ExpectArrives(backend_, conn_.ToBackend(s, header()));
  }
  void Greet() const {
    const Segment ack = conn_.FromClient(kAck, 0, 0);
    client_.Send(ack);
    ExpectArrives(backend_, conn_.HeaderFor(ack));
  }
  void Establish() const {
    Greet();
    const Segment ack = conn_.FromBackend(kAck, 0, header());
    backend_.Send(ack);  // The edge's own.
    FromBackend(ack, header());
  }

  const RawEnd backend_{kBackend, "b0", "e1"};
};
INSTANTIATE_TEST_SUITE_P(At, PacketRawTest, kEitherHook, HookName);
INSTANTIATE_TEST_SUITE_P(At, PacketRawEndsTest, kEitherHook, HookName);

TEST_P(PacketRawEndsTest, B6_DataWithTheHandshakesAck) {
  ForBoth([&] {
    const Segment data = conn_.FromClient(kAck | kPsh, 0, 0, Text("EHLO\r\n"));
    FromClientBehindHeader(data);
    FromBackend(conn_.FromBackend(kAck, 0, header() + 6), header());
    FromClient(data, header());  // Once more, and the header no longer.
    FromBackend(conn_.FromBackend(kAck, 0, header() + 6, Text("250\r\n")),
                header());
  });
}

TEST_P(PacketRawEndsTest, B13_AFinWithTheHandshakesAck) {
  ForBoth([&] {
    for (const char* last_words : {"", "QUIT\r\n"}) {
      const Bytes data = Text(last_words);
      const auto end = static_cast<uint32_t>(data.size()) + 1;
      FromClientBehindHeader(conn_.FromClient(kFin | kAck, 0, 0, data));
      FromBackend(conn_.FromBackend(kFin | kAck, 0, header() + end), header());
      FromClient(conn_.FromClient(kAck, end, 1), header());
      EXPECT_TRUE(WaitActive(0));
      conn_.isn += 1000000;
      Open();
    }
  });
}

TEST_P(PacketRawEndsTest, B13_ARstInPlaceOfTheHandshakesAck) {
  ForBoth([&] {
    const Segment rst = conn_.FromClient(kRst, 0, 0);
    client_.Send(rst);
    ExpectArrives(backend_, conn_.OwnReset(rst, 0));
    EXPECT_EQ(daemon_->Service(v6() ? "mail6" : "mail")["connections_total"],
              0);
    // It has crossed the SYN-ACK's retransmission.
    backend_.Send(conn_.SynAck());
    ExpectArrives(backend_, ResetFor(conn_.SynAck()));
  });
}

TEST_P(PacketRawEndsTest, B7_RetransmissionsThatOverlap) {
  ForBoth([&] {
    FromClientBehindHeader(conn_.FromClient(kAck, 0, 0, Text("0123456789")));
    FromClientBehindHeader(conn_.FromClient(kAck, 0, 0, Text("0123")));
    FromClient(conn_.FromClient(kAck, 3, 0, Text("3456789abc")), header());
    // The backend has a part of the header.
    FromBackend(conn_.FromBackend(kAck, 0, header() - 5), header() - 5);
    FromClientBehindHeader(
        conn_.FromClient(kAck, 0, 0, Text("0123456789abcdef")));
    FromBackend(conn_.FromBackend(kAck, 0, header() + 4), header());
    FromClient(conn_.FromClient(kAck, 0, 0, Text("0123456789abcdef")),
               header());
    FromClient(conn_.FromClient(kAck, 10, 0, Text("abcdefghij")), header());
  });
}

TEST_P(PacketRawEndsTest, B13_AcknowledgementsOfWhatWasNeverSent) {
  ForBoth([&] {
    const Segment ack = conn_.FromClient(kAck, 0, 70000);
    client_.Send(ack);
    ExpectArrives(client_, ResetFor(ack));
    Establish();
    FromBackend(conn_.FromBackend(kAck, 0, header() + 5000), header());
    FromClient(conn_.FromClient(kAck, 0, 5000), header());
  });
}

TEST_P(PacketRawEndsTest, B13_BothCloseAtOnce) {
  ForBoth([&] {
    Establish();
    const Segment in = conn_.FromClient(kFin | kAck, 0, 0, Text("bye"));
    const Segment out = conn_.FromBackend(kFin | kAck, 0, header(), Text("so"));
    client_.Send(in);
    backend_.Send(out);
    ExpectArrives(backend_, conn_.ToBackend(in, header()));
    ExpectArrives(client_, conn_.ToClient(out, header()));
    FromClient(conn_.FromClient(kAck, 4, 3), header());
    FromBackend(conn_.FromBackend(kAck, 3, header() + 4), header());
    EXPECT_TRUE(WaitActive(0));
    FromBackend(out, header());  // It comes again, to TIME_WAIT's answer.
    FromClient(conn_.FromClient(kAck, 4, 3), header());
  });
}

// The kernel ignores them as well; they may be another edge's, which has the
// same addresses.
TEST_P(PacketRawTest, FramesForAnotherMacAreNotOurs) {
  Shell("ip -n edge link set e0 promisc on");
  ForBoth([&] {
    const UniqueFd listener =
        ListenAt(v6() ? "[2001:db8:2::11]:25" : "198.18.2.11:25");
    const Mac another = {2, 0, 0, 0, 0, 9};
    client_.SendTo(another, conn_.Syn());
    client_.SendTo(another, conn_.FromClient(kAck, 5, 7));
    conn_.client_port = 20001;
    client_.Send(conn_.Syn());
    const std::optional<Bytes> first = client_.Receive();
    ASSERT_TRUE(first.has_value());
    EXPECT_EQ(Get16(*first, TcpAt(v6()) - ETH_HLEN + 2), conn_.client_port);
  });
}

// Its SYN again, or one that becomes it, opens another connection at a backend
// that has forgotten the first: without header, for the edge knows of one. So
// the client does not learn the number that it would need.
TEST_P(PacketRawTest, WhatTheBackendHasForgottenIsNotOpenedAgain) {
  ForBoth([&] {
    const UniqueFd listener =
        ListenAt(v6() ? "[2001:db8:2::11]:25" : "198.18.2.11:25");
    for (const uint32_t before : {0U, header()}) {
      client_.Send(conn_.Syn());
      conn_.server_isn = WaitSynAck();
      client_.Send(conn_.FromClient(kAck, 0, 0));
      TcpSocket backend = TcpSocket::Accept(listener);
      ASSERT_TRUE(backend.valid());
      EXPECT_EQ(backend.Receive(header()).size(), header());
      ASSERT_TRUE(backend.Send("220\r\n"));
      ASSERT_TRUE(NextWith(kPsh).has_value());
      backend.Forget();
      Segment syn = conn_.Syn();
      syn.seq -= before;
      client_.Send(syn);
      ++conn_.client_port;
      client_.Send(conn_.Syn());
      const std::optional<Bytes> answer = NextWith(kSyn);
      ASSERT_TRUE(answer.has_value());
      EXPECT_EQ(Get16(*answer, 2), conn_.client_port);
      ++conn_.client_port;
    }
  });
}

// To Linux, a cookie is good for whatever is as far from the SYN as it is from
// the cookie: in the midst of the client's stream, if that is sent on as it is.
TEST_P(PacketRawTest, NoSynCookieOpensAConnectionWithoutHeader) {
  Shell("ip netns exec backend sysctl -qw net.ipv4.tcp_syncookies=2");
  ForBoth([&] {
    const UniqueFd listener =
        ListenAt(v6() ? "[2001:db8:2::11]:25" : "198.18.2.11:25");
    Conn liar = conn_;
    liar.client = Parse(v6() ? "2001:db8::bad" : "198.18.0.66");
    const Bytes forged = Concat({liar.Header(), Text("forged")});
    const auto answered = [&] {
      ++conn_.client_port;
      client_.Send(conn_.Syn());
      conn_.server_isn = WaitSynAck();
    };
    // Before the handshake's end, by the first data or later ones.
    for (const uint32_t at : {0U, 1U, 100U}) {
      SCOPED_TRACE(at);
      answered();
      client_.Send(
          conn_.FromClient(kAck | kPsh, at, int64_t{header()} + at, forged));
      ExpectHonest(listener);
    }
    // The probe's byte, by the cookie of the next MSS.
    answered();
    client_.Send(conn_.FromClient(kAck, -1, 0, Text("X")));
    ExpectHonest(listener);
    // Once the backend has forgotten it.
    answered();
    TcpSocket backend = ExpectHonest(listener);
    ASSERT_TRUE(backend.Send(std::string(200, 's')));
    ASSERT_TRUE(NextWith(kPsh).has_value());
    backend.Forget();
    for (const int64_t at : {0L, 6L, 20L}) {
      client_.Send(conn_.FromClient(kAck | kPsh, at, header() + at, forged));
    }
    answered();
    ExpectHonest(listener);
  });
}

// Who could end it at the edge alone would have more than max_connections.
TEST_P(PacketRawTest, ARstThatEndsTheFlowEndsTheBackendsConnection) {
  ForBoth([&] {
    const UniqueFd listener =
        ListenAt(v6() ? "[2001:db8:2::11]:25" : "198.18.2.11:25");
    const auto connected = [&] {
      ++conn_.client_port;
      client_.Send(conn_.Syn());
      conn_.server_isn = WaitSynAck();
      return ExpectHonest(listener);
    };
    TcpSocket far = connected();
    constexpr uint32_t kJunk = 1 << 30;  // No window was open for it.
    client_.Send(conn_.FromClient(kAck, kJunk, 0, Text("x")));
    client_.Send(conn_.FromClient(kRst, kJunk + 1, 0));
    EXPECT_TRUE(far.ReceivesReset());
    TcpSocket signs = connected();
    Segment rst = conn_.FromClient(kRst, 6, 0);
    rst.options = Concat({{19, 18}, Bytes(16, 7), Nops(2)});  // RFC 2385.
    client_.Send(rst);
    EXPECT_TRUE(signs.ReceivesReset());
    EXPECT_TRUE(WaitActive(0));
    // What it has acknowledged is old to it, if its acknowledgment got lost.
    for (const bool by_client : {true, false}) {
      TcpSocket unheard = connected();
      Nft(kBackend, "output",
          absl::StrCat(v6() ? "ip6 daddr 2001:db8:2::1" : "ip daddr 198.18.2.1",
                       " tcp dport ", conn_.client_port, " drop"));
      client_.Send(conn_.FromClient(kAck | kPsh, 6, 0, Text("more")));
      EXPECT_EQ(unheard.Receive(4), "more");
      if (by_client) {
        client_.Send(conn_.FromClient(kRst, 10, 0));
      } else {
        const auto list = daemon_->Json({"conn", "list"}).at("connections");
        ASSERT_EQ(list.size(), 1U) << list;
        daemon_->Ctl({"conn", "kill", list[0]["id"].dump()});
      }
      EXPECT_TRUE(unheard.ReceivesReset());
      EXPECT_TRUE(WaitActive(0));
    }
  });
}

// Bytes ahead of the first one would be where the backend expects the header.
TEST_P(PacketRawTest, AForgedHeaderIsNoneOfTheBackends) {
  ForBoth([&] {
    const UniqueFd listener =
        ListenAt(v6() ? "[2001:db8:2::11]:25" : "198.18.2.11:25");
    Conn liar = conn_;
    liar.client = Parse(v6() ? "2001:db8::bad" : "198.18.0.66");
    for (const uint32_t ahead :
         {1U, 5U, header() - 1, header(), header() + 9}) {
      SCOPED_TRACE(ahead);
      ++conn_.client_port;
      ++conn_.isn;
      client_.Send(conn_.Syn());
      conn_.server_isn = WaitSynAck();
      Bytes forged = Concat({Bytes(ahead, 'x'), liar.Header(), Text("forged")});
      client_.Send(conn_.FromClient(kAck, -int64_t{ahead}, 0, forged));
      // Of which the header is the whole of it, once moved on.
      forged = Concat({liar.Header(), Text("forged")});
      client_.Send(conn_.FromClient(kAck, -int64_t{ahead}, 0, forged));
      ExpectHonest(listener);
    }
  });
}

}  // namespace
}  // namespace headgate::testing
