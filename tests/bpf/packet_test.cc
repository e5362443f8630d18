// The handshake and the header, frame by frame. Names B1 to B20 are those of
// the known failures of other implementations.
#include <algorithm>
#include <string>
#include <vector>

#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

using PacketTest = PacketFamilyTest;
INSTANTIATE_TEST_SUITE_P(Both, PacketTest, ::testing::Bool(), FamilyName);

// ---- SYN --------------------------------------------------------------------

TEST_P(PacketTest, ASynAndItsAnswerPass) { Answered(v6()); }

TEST_P(PacketTest, OptionsOfASynArePassedEndToEnd) {
  Conn conn = NewConn(v6());
  Open(&conn);
  Segment syn = conn.Syn(Concat(
      {Mss(1400), {4, 2}, {8, 10, 1, 2, 3, 4, 0, 0, 0, 0}, {1, 3, 3, 7}}));
  syn.flags |= kEce | kCwr;
  ExpectSent(syn, conn.ToBackend(syn, 0));
  Segment answer = conn.SynAck(syn.options);
  answer.flags |= kEce;
  ExpectSent(answer, conn.ToClient(answer, 0));
}

TEST_P(PacketTest, ASynThatIsNotAnsweredGoesToAnother) {
  Serve({1, 2});
  Conn conn = NewConn(v6());
  Open(&conn);
  const Conn first = conn;
  const uint32_t id =
      (v6() ? 20 : 10) + (conn.backend == BackendAddress(1, v6()) ? 1U : 2U);
  const uint64_t timeouts = Read(datapath_->backend_stats(id).connect_timeout);
  WaitForAnswer(conn);
  Open(&conn);
  EXPECT_NE(conn.backend, first.backend);
  EXPECT_EQ(Read(datapath_->backend_stats(id).connect_timeout), timeouts + 1);
  // The first one's answer comes too late.
  ExpectReset(first.SynAck(), HG_PACKET_NO_FLOW);
  ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
  // Once it has answered, the connection is its.
  ExpectSent(conn.Syn(), conn.ToBackend(conn.Syn(), 0));
}

// Or anybody could have backends ejected.
TEST_P(PacketTest, ASynThatMayGetLostByItselfIsNoBackendsFault) {
  Serve({1, 2});
  const auto timeouts = [] {
    const uint32_t service = v6() ? kService6 : kService4;
    return Read(datapath_->backend_stats(service * 10 + 1).connect_timeout) +
           Read(datapath_->backend_stats(service * 10 + 2).connect_timeout);
  };
  Segment odd, brief, ordinary;
  brief.ttl = 31;
  ordinary.ttl = 32;
  odd.ip_options = v6() ? Bytes() : Bytes{131, 7, 4, 198, 18, 2, 11, 0};
  for (const auto& [like, failures] :
       {std::pair(brief, 0U), std::pair(odd, v6() ? 1U : 0U),
        std::pair(ordinary, 1U)}) {
    Conn conn = NewConn(v6());
    Segment syn = conn.Syn();
    syn.ttl = like.ttl;
    syn.ip_options = like.ip_options;
    ASSERT_EQ(Run(syn).verdict, kSent);
    for (const PacketPath::Flow& flow : packet().Flows()) {
      if (flow.state.client_port != conn.client_port) continue;
      conn.source_port = flow.state.source_port;
      std::copy_n(flow.state.backend_address, 16, conn.backend.begin());
    }
    const PacketAddress first = conn.backend;
    const uint64_t before = timeouts();
    WaitForAnswer(conn);
    Open(&conn);
    EXPECT_NE(conn.backend, first);
    EXPECT_EQ(timeouts(), before + failures);
    // What a backend says of itself counts.
    const uint32_t id =
        (v6() ? 20 : 10) + (conn.backend == BackendAddress(1, v6()) ? 1U : 2U);
    const uint64_t refused = Read(datapath_->backend_stats(id).connect_refused);
    Run(conn.FromBackend(kRst | kAck, -1, 0));
    EXPECT_EQ(Read(datapath_->backend_stats(id).connect_refused), refused + 1);
  }
}

// Nor is one that it has answered, if only by what belongs to the port's
// connection before: the client's next SYN is a second away.
TEST_P(PacketTest, ABackendThatChallengesASynIsNotSilent) {
  Serve({1, 2});
  Conn conn = NewConn(v6());
  for (const uint64_t failures : {0U, 1U}) {
    Open(&conn);
    const uint32_t id =
        (v6() ? 20 : 10) + (conn.backend == BackendAddress(1, v6()) ? 1U : 2U);
    const auto timeouts = [&] {
      return Read(datapath_->backend_stats(id).connect_timeout);
    };
    const uint64_t before = timeouts();
    Segment challenge = conn.FromBackend(kAck, 5, 7);
    if (failures == 0) {
      ExpectReset(challenge, HG_PACKET_EARLY);
    } else {  // Nobody's, perhaps.
      challenge.damage = 1;
      ExpectDropped(challenge, HG_PACKET_MALFORMED);
    }
    WaitForAnswer(conn);
    ASSERT_EQ(Run(conn.Syn()).verdict, kSent);
    EXPECT_EQ(timeouts(), before + failures);
  }
}

TEST_P(PacketTest, WithOneBackendASynComesAgainToIt) {
  Conn conn = NewConn(v6());
  Open(&conn);
  ExpectSent(conn.Syn(), conn.ToBackend(conn.Syn(), 0));
}

TEST_P(PacketTest, ARefusalIsKeptWhileAnotherMayDoBetter) {
  Serve({1, 2});
  Conn conn = NewConn(v6());
  Open(&conn);
  const Conn first = conn;
  ExpectDropped(conn.FromBackend(kRst | kAck, -1, 0), HG_PACKET_REFUSED);
  Open(&conn);
  EXPECT_NE(conn.backend, first.backend);
}

TEST_P(PacketTest, TheOnlyBackendsRefusalReachesTheClient) {
  Conn conn = NewConn(v6());
  Open(&conn);
  const Segment refusal = conn.FromBackend(kRst | kAck, -1, 0);
  ExpectSent(refusal, conn.ToClient(refusal, 0));
  EXPECT_FALSE(IsLive(conn));
}

TEST_P(PacketTest, MptcpAndFastOpenAreTakenOutOfASyn) {
  Conn conn = NewConn(v6());
  Open(&conn);
  const Bytes mptcp = {30, 12, 0x81, 0, 1, 2, 3, 4, 5, 6, 7, 8};
  const Bytes cookie = {34, 10, 1, 2, 3, 4, 5, 6, 7, 8};
  const Bytes old_cookie = {254, 4, 0xf9, 0x89};
  Segment syn = conn.Syn(
      Concat({Mss(1400), mptcp, cookie, old_cookie, {4, 2}, {3, 3, 7, 1}}));
  syn.payload = Text("EHLO too early\r\n");
  Segment wanted = conn.ToBackend(syn, 0);
  wanted.options = Concat({Mss(1400), Nops(26), {4, 2}, {3, 3, 7, 1}});
  wanted.payload.clear();
  ExpectSent(syn, wanted);
  Segment answer = conn.SynAck(Concat({Mss(1400), mptcp}));
  Segment passed = conn.ToClient(answer, 0);
  passed.options = Concat({Mss(1400), Nops(12)});
  ExpectSent(answer, passed);
}

TEST_P(PacketTest, B11_TheMssIsClampedToWhatBothWaysCarry) {
  const auto set_mtu = [](const char* interface, uint32_t mtu) {
    ASSERT_TRUE(Shell(absl::StrCat("ip link set ", interface, " mtu ", mtu)));
  };
  const uint32_t headers = v6() ? 60 : 40;
  for (const uint32_t mtu : {1500U, 1492U, 1280U, 9000U}) {
    for (const char* narrow : {"in0", "out0"}) {
      for (const char* interface : {"in0", "out0"}) set_mtu(interface, 9000);
      set_mtu(narrow, mtu);
      Conn conn = NewConn(v6());
      Open(&conn, conn.Syn(Mss(536)));
      for (const uint32_t mss :
           {536U, mtu - headers, mtu - headers + 1, 9000 - headers, 65535U}) {
        const Segment syn = conn.Syn(Concat({Nops(3), Mss(mss), Nops(1)}));
        Segment wanted = conn.ToBackend(syn, 0);
        wanted.options =
            Concat({Nops(3), Mss(std::min(mss, mtu - headers)), Nops(1)});
        ExpectSent(syn, wanted);
        const Segment answer = conn.SynAck(Mss(mss));
        Segment passed = conn.ToClient(answer, 0);
        passed.options = Mss(std::min(mss, mtu - headers));
        ExpectSent(answer, passed);
      }
    }
  }
  for (const char* interface : {"in0", "out0"}) set_mtu(interface, 1500);
}

TEST_P(PacketTest, MalformedOptionsAreTheReceiversToJudge) {
  for (const Bytes& options :
       {Bytes{2, 0, 5, 0xb4}, Bytes{2, 1, 5, 0xb4}, Bytes{30, 40, 1, 1},
        Bytes{1, 1, 1, 34}, Bytes{0, 34, 4, 1}, Bytes{2, 3, 5, 1},
        Bytes{1, 1, 1, 2}}) {
    Conn conn = NewConn(v6());
    Open(&conn);
    const Segment syn = conn.Syn(options);
    ExpectSent(syn, conn.ToBackend(syn, 0));
  }
}

// ---- the header -------------------------------------------------------------

TEST_P(PacketTest, TheHandshakesAckCarriesTheHeader) {
  const Conn conn = Greeted(v6());
  EXPECT_EQ(conn.Header().size(), v6() ? 52U : 28U);
}

TEST_P(PacketTest, AServiceWithoutHeaderIsPlainTranslation) {
  Conn conn = NewPlainConn(v6());
  Open(&conn);
  ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
  for (const Segment& in :
       {conn.FromClient(kAck, 0, 0),
        conn.FromClient(kAck | kPsh, 0, 0, Text("EHLO\r\n"))}) {
    ExpectSent(in, conn.ToBackend(in, 0));
  }
  Segment answer = conn.FromBackend(kAck, 0, 6);
  const uint32_t seen = conn.isn + conn.shift;
  answer.options = Sack({{seen + 7, seen + 9}});
  Segment wanted = conn.ToClient(answer, 0);
  wanted.options = Sack({{conn.isn + 7, conn.isn + 9}});
  ExpectSent(answer, wanted);
}

TEST_P(PacketTest, B3_SignedSegmentsAreRefused) {
  const Bytes md5 = Concat({{19, 18}, Bytes(16, 9), Nops(2)});
  const Bytes ao = Concat({{29, 16}, Bytes(14, 9)});
  for (const Bytes& signature : {md5, ao}) {
    Conn conn = NewConn(v6());
    ExpectDropped(conn.Syn(Concat({Mss(1400), signature})), HG_PACKET_SIGNED);
    EXPECT_FALSE(IsLive(conn));
    Open(&conn);
    ExpectDropped(conn.SynAck(signature), HG_PACKET_SIGNED);
  }
}

TEST_P(PacketTest, B7_TheHeaderComesAgainUntilItIsAcknowledged) {
  const Conn conn = Greeted(v6());
  for (int i = 0; i < 5; ++i) {
    const Segment ack = conn.FromClient(kAck, 0, 100 * i);
    ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  }
  // All but its last byte are not enough.
  const Segment part = conn.FromBackend(kAck, 0, conn.header() - 1);
  ExpectSent(part, conn.ToClient(part, conn.header() - 1));
  const Segment ack = conn.FromClient(kAck, 0, 0);
  ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  ExpectHeaderAcked(conn);
  ExpectFromClient(conn, ack);
}

TEST_P(PacketTest, B8_ASynAckThatComesAgainKeepsItsNumbers) {
  Conn conn = Greeted(v6());
  ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
  const Segment ack = conn.FromClient(kAck, 0, 0);
  ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
}

TEST_P(PacketTest, WhatTheBackendAcknowledgesIsNeverBelowTheFirstByte) {
  const Conn conn = Greeted(v6());
  for (const uint32_t ack : {0U, 1U, conn.header() - 1}) {
    const Segment in = conn.FromBackend(kAck, 0, ack);
    ExpectSent(in, conn.ToClient(in, ack));
  }
  const Segment before = conn.FromBackend(kAck, 0, -1);
  ExpectSent(before, conn.ToClient(before, 0));
}

TEST_P(PacketTest, B10_ACongestionSignalOnTheHandshakesAckIsKept) {
  const Conn conn = Answered(v6());
  Segment ack = conn.FromClient(kAck | kEce | kCwr, 0, 0);
  ack.ae = true;
  ack.tos = 1;
  ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
}

TEST_P(PacketTest, DataBehindAHeaderThatWasAcknowledgedMeanwhilePass) {
  const Conn conn = Established(v6());
  const Segment data = conn.FromClient(kAck, 0, 0, Text("x"));
  const Outcome outcome = Run(data, HG_PACKET_MARK_BEHIND);
  EXPECT_EQ(outcome.verdict, kSent);
  EXPECT_EQ(outcome.mark, 0U) << "the mark stays within the hook";
  ExpectFrame(outcome.frame, conn.ToBackend(data, conn.header()));
}

// How the header goes ahead of one: packet_offload_test.cc.
TEST_P(PacketTest, B1_AFrameOfManySegmentsKeepsThem) {
  const Conn conn = Established(v6());
  const Segment data = conn.FromClient(kAck | kPsh, 0, 0, Bytes(3000, 0x16));
  const Outcome passed = RunOnce(Build(data), "in0", 0, 1000);
  EXPECT_EQ(passed.verdict, kSent);
  EXPECT_EQ(passed.segments, 4U);
  ExpectFrame(passed.frame, conn.ToBackend(data, conn.header()));
}

TEST_P(PacketTest, B4_WhatCameDamagedNeverLooksRight) {
  const Conn conn = Answered(v6());
  const Segment ack = conn.FromClient(kAck, 0, 0);
  Bytes damaged = Build(ack);
  damaged[damaged.size() - 9] ^= 0x10;  // Of the acknowledgement.
  const Outcome outcome = Run(damaged, "in0");
  EXPECT_EQ(outcome.verdict, kDropped);
  EXPECT_EQ(outcome.exits, Once(HG_PACKET_MALFORMED));
  ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  ExpectHeaderAcked(conn);
  const Segment data = conn.FromClient(kAck, 0, 0, Text("damaged"));
  damaged = Build(data);
  damaged.back() ^= 0x10;
  Bytes wanted = Build(conn.ToBackend(data, conn.header()));
  wanted.back() ^= 0x10;
  EXPECT_EQ(Run(damaged, "in0").frame, wanted) << "the receiver's to drop";
}

TEST_P(PacketTest, B10_NumbersWrap) {
  for (uint32_t i = 0; i < 80; ++i) {
    const uint32_t isn = 0xfffffff0 - 40 + i;
    const Conn conn = Established(v6(), isn);
    ExpectFromClient(conn, conn.FromClient(kAck, 0, 0, Bytes(100, 1)));
    Segment ack = conn.FromBackend(kAck, 0, conn.header() + 50);
    const uint32_t seen = isn + conn.shift + 1 + conn.header();
    ack.options = Sack({{seen + 60, seen + 100}});
    Segment wanted = conn.ToClient(ack, conn.header());
    wanted.options = Sack({{isn + 61, isn + 101}});
    ExpectSent(ack, wanted);
  }
}

TEST_P(PacketTest, B12_AddressesOfEveryPattern) {
  using List = std::vector<std::string>;
  const List clients = v6() ? List{"2001:db8:8000::",
                                   "2001:db8:8000::1",
                                   "2001:db8:8cea:4420:208::1",
                                   "2001:db8:ffff::1:0:0:0",
                                   "2001:db8:8000:0:ffff:ffff:ffff:ffff",
                                   "2001:db8:8000::ffff:198.18.0.10",
                                   "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"}
                            : List{"198.19.0.0", "198.19.255.255",
                                   "198.19.0.255", "198.19.128.0"};
  const List vips = v6() ? List{"2001:db8:1::1", "2001:db8:1::"}
                         : List{"198.18.1.1", "198.18.1.2"};
  for (const std::string& client : clients) {
    for (const std::string& vip : vips) {
      SCOPED_TRACE(absl::StrCat(client, " to ", vip));
      Conn conn = NewConn(v6());
      conn.client = Parse(client);
      conn.vip = Parse(vip);
      Open(&conn);
      ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
      const Segment ack = conn.FromClient(kAck, 0, 0);
      ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
    }
  }
}

// Mapped addresses are no IPv6 packet's (the kernel drops them, too), and
// least of all those of an IPv4 connection.
TEST_F(PacketProgramTest, B12_MappedAddressesOnTheWireAreNoIpv4) {
  const Conn conn = Established(false);
  Segment data = conn.FromClient(kAck, 0, 0, Text("forged"));
  data.v6 = true;
  ExpectDropped(data, HG_PACKET_MALFORMED);
  Segment syn = NewConn(false).Syn();
  syn.v6 = true;
  ExpectDropped(syn, HG_PACKET_MALFORMED);
  Segment from = NewConn(true).Syn();
  from.source = conn.client;
  ExpectDropped(from, HG_PACKET_MALFORMED);
}

}  // namespace
}  // namespace headgate::datapath
