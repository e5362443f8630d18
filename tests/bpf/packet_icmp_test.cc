// ICMP errors: of our own, about what goes no further; and of others, about
// what was sent on, which name addresses that the receiver does not know.
#include <sched.h>

#include <functional>

#include "packet_fixture.h"
#include "packet_quotation.h"

namespace headgate::datapath {
namespace {

class PacketIcmpTest : public PacketFamilyTest {
 protected:
  void TearDown() override {
    for (const char* interface : {"in0", "out0"}) SetMtu(interface, 1500);
    PacketFamilyTest::TearDown();
  }
  static void SetMtu(const char* interface, uint32_t mtu) {
    ASSERT_TRUE(Shell(absl::StrCat("ip link set ", interface, " mtu ", mtu)));
  }
  static size_t Headers() { return v6() ? 60 : 40; }
};
INSTANTIATE_TEST_SUITE_P(Both, PacketIcmpTest, ::testing::Bool(), FamilyName);

// ---- of our own -------------------------------------------------------------

TEST_P(PacketIcmpTest, B11_WhatIsTooBigForTheWayOutIsAnswered) {
  const Conn conn = Established(v6());
  for (const uint32_t mtu : {1280U, 1400U}) {
    const Bytes fits(mtu - Headers(), 1), over(mtu - Headers() + 1, 1);
    SetMtu("out0", mtu);
    ExpectFromClient(conn, conn.FromClient(kAck, 5, 0, fits));
    const Segment in = conn.FromClient(kAck | kPsh, 5, 0, over);
    ExpectTold(in, TooBigFor(in, mtu), HG_PACKET_TOO_BIG);
    SetMtu("out0", 1500);
    ExpectFromClient(conn, in);
    SetMtu("in0", mtu);
    ExpectFromBackend(conn, conn.FromBackend(kAck, 9, conn.header(), fits));
    const Segment out = conn.FromBackend(kAck, 9, conn.header(), over);
    ExpectTold(out, TooBigFor(out, mtu), HG_PACKET_TOO_BIG);
    SetMtu("in0", 1500);
  }
}

TEST_P(PacketIcmpTest, B11_TheAnswerQuotesWhatCame) {
  const Conn conn = Established(v6());
  SetMtu("out0", 1280);
  for (const size_t options : {0U, 12U, 40U}) {
    Segment in = conn.FromClient(kAck, 7, 3, Bytes(1300, 0x33));
    in.options = OptionsOf(options);
    in.tos = 0xb8;
    in.id = 0x7788;
    in.fragment = 0;  // It may be fragmented, but not by us.
    if (!v6()) in.ip_options = Bytes(options, 1);
    ExpectTold(in, TooBigFor(in, 1280), HG_PACKET_TOO_BIG);
  }
}

// What no router takes is no packet whose sender can be told (RFC 1812, 4.3.2.7
// and 5.2.2).
TEST_P(PacketIcmpTest, AHeaderThatCameDamagedIsAnsweredByNobody) {
  if (v6()) GTEST_SKIP() << "has no checksum";
  const Conn conn = Established(false);
  for (const size_t options : {0U, 4U, 40U}) {
    Segment in = conn.FromClient(kAck, 7, 3, Bytes(100, 1));
    in.ip_options = Bytes(options, 1);
    in.ttl = 1;
    ExpectTooFar(in);
    in.ip_damage = 0x100;
    ExpectDropped(in, HG_PACKET_TTL);
  }
}

// Of a segment that the header has gone ahead of.
TEST_P(PacketIcmpTest, B11_DataBehindTheirHeaderAreAnsweredAlike) {
  const Conn conn = Greeted(v6());
  SetMtu("out0", 1280);
  const Segment data = conn.FromClient(kAck, 0, 0, Bytes(1400, 1));
  const Outcome outcome = Run(data, HG_PACKET_MARK_BEHIND);
  EXPECT_EQ(outcome.verdict, kSent);
  EXPECT_EQ(outcome.exits, Once(HG_PACKET_TOO_BIG));
  ExpectFrame(outcome.frame, TooBigFor(data, 1280));
}

TEST_P(PacketIcmpTest, B1_ManySegmentsFitAsEachOfThemDoes) {
  const Conn conn = Established(v6());
  SetMtu("out0", 1280);
  Segment data = conn.FromClient(kAck, 0, 0, Bytes(3000, 0x16));
  data.options = Timestamps();
  const auto most = static_cast<uint32_t>(1280 - Headers() - 12);
  const Outcome passed = RunOnce(Build(data), "in0", 0, most);
  EXPECT_EQ(passed.verdict, kSent);
  EXPECT_GT(passed.segments, 0U);
  ExpectFrame(passed.frame, conn.ToBackend(data, conn.header()));
  const Outcome told = RunOnce(Build(data), "in0", 0, most + 1);
  EXPECT_EQ(told.verdict, kSent);
  EXPECT_EQ(told.segments, 0U);
  ExpectFrame(told.frame, TooBigFor(data, 1280));
}

TEST_P(PacketIcmpTest, AFloodOfWhatGoesNoFurtherIsNoFloodOfErrors) {
  OpenTable(4096);  // With its allowance whole.
  Configure();
  cpu_set_t all, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  Segment in = NewConn(v6()).Syn();
  in.ttl = 1;
  const Bytes frame = Build(in);
  const Exits before = Counted();
  const absl::Time start = absl::Now();
  uint64_t told = 0, silent = 0;
  while (silent < 500 && absl::Now() - start < absl::Seconds(20)) {
    ++(RunOnce(frame, "in0").verdict == kSent ? told : silent);
  }
  const absl::Duration took = absl::Now() - start;
  EXPECT_EQ(silent, 500U);
  EXPECT_GE(told, 50U);
  EXPECT_LE(static_cast<double>(told), 51 + absl::ToDoubleMilliseconds(took));
  EXPECT_EQ(Since(before), (Exits{{"ttl", told + silent}}));
  ASSERT_EQ(sched_setaffinity(0, sizeof all, &all), 0);
}

// ---- of others --------------------------------------------------------------

class PacketForeignIcmpTest : public PacketFamilyTest {
 protected:
  using Reason = std::pair<uint8_t, uint8_t>;  // Type, code.

  // That say what became of a packet.
  static std::vector<Reason> Reasons() {
    if (v6()) return {{1, 0}, {1, 3}, {1, 4}, {2, 0}, {3, 0}, {4, 1}};
    return {{3, 0}, {3, 1}, {3, 3}, {3, 4}, {3, 13}, {11, 0}, {12, 0}};
  }
  // By a router beyond, about what has left.
  static IcmpError ByRouter(const Segment& left, Reason reason,
                            size_t tcp_bytes = 8) {
    IcmpError error =
        ErrorAbout(left, reason.first, reason.second, 1280, tcp_bytes);
    error.ip.source = Parse(v6() ? "2001:db8:77::7" : "198.18.77.7");
    return error;
  }
  // What becomes of it: `sent` is what its receiver has sent. Of the rest of
  // what is quoted, the checksum is taken: how far its numbers move would be in
  // it.
  static IcmpError Translated(const IcmpError& error, const Segment& ip,
                              Segment sent) {
    sent.ttl -= 1;
    IcmpError wanted = error;
    wanted.ip = ip;
    const size_t tcp = QuotedTcpAt(sent.v6, error.quoted);
    const Bytes known = Quote(sent);
    if (wanted.quoted.size() >= tcp + 18) Set16(wanted.quoted, tcp + 16, 0);
    std::copy(known.begin(), known.end(), wanted.quoted.begin());
    return wanted;
  }
  static IcmpError ToClient(const Conn& conn, const IcmpError& error,
                            const Segment& sent) {
    return Translated(error, conn.ToClient(error.ip, 0), sent);
  }
  static IcmpError ToBackend(const Conn& conn, const IcmpError& error,
                             const Segment& sent) {
    return Translated(error, conn.ToBackend(error.ip, 0), sent);
  }
  static void ForEveryError(
      const Segment& left, const std::function<void(const IcmpError&)>& check) {
    for (const Reason& reason : Reasons()) {
      for (const size_t tcp_bytes : {8U, 20U, 120U}) {
        check(ByRouter(left, reason, tcp_bytes));
      }
    }
  }
  static Outcome Run(const IcmpError& error) {
    return PacketFamilyTest::Run(Build(error),
                                 error.ip.to == kIn0 ? "in0" : "out0");
  }
  static void ExpectTranslated(const IcmpError& error,
                               const IcmpError& wanted) {
    const Outcome outcome = Run(error);
    EXPECT_EQ(outcome.verdict, kSent);
    EXPECT_EQ(outcome.exits, Once(HG_PACKET_ICMP_ERROR));
    ExpectFrame(outcome.frame, wanted);
  }
  static void ExpectDropped(const IcmpError& error, hg_packet_exit exit) {
    const Outcome outcome = Run(error);
    EXPECT_EQ(outcome.verdict, kDropped);
    EXPECT_EQ(outcome.exits, Once(exit));
  }
  static void ExpectNotOurs(const IcmpError& error) {
    const Outcome outcome = Run(error);
    EXPECT_EQ(outcome.verdict, kNotOurs);
    EXPECT_EQ(outcome.exits, Exits{});
    EXPECT_EQ(outcome.frame, Build(error));
  }
};
INSTANTIATE_TEST_SUITE_P(Both, PacketForeignIcmpTest, ::testing::Bool(),
                         FamilyName);

TEST_P(PacketForeignIcmpTest, B11_ErrorsAboutWhatTheClientSentReachIt) {
  for (const uint32_t isn : {0x11223344U, 0xfffffff0U}) {
    const Conn conn = Established(v6(), isn);
    Segment sent = conn.FromClient(kAck, 1000, 0, Bytes(700, 1));
    sent.options = Timestamps();
    ForEveryError(conn.ToBackend(sent, conn.header()),
                  [&](const IcmpError& error) {
                    ExpectTranslated(error, ToClient(conn, error, sent));
                  });
  }
}

TEST_P(PacketForeignIcmpTest, B11_ErrorsAboutWhatTheBackendSentReachIt) {
  const Conn conn = Established(v6());
  const Segment sent =
      conn.FromBackend(kAck, 1000, conn.header(), Bytes(700, 1));
  ForEveryError(conn.ToClient(sent, conn.header()),
                [&](const IcmpError& error) {
                  ExpectTranslated(error, ToBackend(conn, error, sent));
                });
}

// Whatever it quotes, it would learn how far its numbers move.
TEST_P(PacketForeignIcmpTest, TheClientGetsNoneThatComesFromItself) {
  for (const Conn& conn : {Opened(v6()), Answered(v6()), Established(v6())}) {
    const Segment sent = conn.FromClient(kAck, 1000, 0, Bytes(700, 1));
    ForEveryError(conn.ToBackend(sent, conn.header()), [&](IcmpError error) {
      error.ip.to = kIn0;
      error.ip.from = kClientMac;
      ExpectDropped(error, HG_PACKET_REVERSE_PATH);
    });
  }
}

// Nobody but us has sent that; what it stands for is the ACK at the same place.
TEST_P(PacketForeignIcmpTest, B11_AnErrorAboutTheHeaderIsAboutTheFirstByte) {
  const Conn conn = Greeted(v6());
  const Segment ack = conn.FromClient(kAck, 0, 0);
  const IcmpError error = ByRouter(conn.HeaderFor(ack), Reasons()[0]);
  IcmpError wanted = ToClient(conn, error, ack);
  // The length is that of what the router saw.
  Segment as_long = ack;
  as_long.payload = conn.Header();
  as_long.ttl -= 1;
  wanted.quoted = Quote(as_long);
  ExpectTranslated(error, wanted);
}

TEST_P(PacketForeignIcmpTest, AnErrorThatHasComeTooFarIsDropped) {
  const Conn conn = Established(v6());
  const Segment left =
      conn.ToBackend(conn.FromClient(kAck, 5, 0, Text("x")), conn.header());
  IcmpError error = ByRouter(left, Reasons()[0]);
  error.ip.ttl = 1;
  ExpectDropped(error, HG_PACKET_TTL);  // And about no error is there one.
}

TEST_P(PacketForeignIcmpTest, B14_IpOptionsOfEitherHeaderStay) {
  if (v6()) GTEST_SKIP() << "has none";
  const Conn conn = Established(false);
  for (const size_t outer : {0U, 4U, 40U}) {
    for (const size_t inner : {4U, 12U, 40U}) {
      Segment sent = conn.FromClient(kAck, 1000, 0, Bytes(700, 1));
      sent.ip_options = Bytes(inner, 1);
      const Segment left = conn.ToBackend(sent, conn.header());
      IcmpError error = ByRouter(left, {3, 4}, 8);
      error.ip.ip_options = Bytes(outer, 1);
      ExpectTranslated(error, ToClient(conn, error, sent));
    }
  }
}

// As for segments: the kernel drops them, too.
TEST_P(PacketForeignIcmpTest, B12_MappedAddressesOnTheWireAreNoIpv4) {
  const Conn conn = Established(v6());
  Segment left =
      conn.ToBackend(conn.FromClient(kAck, 5, 0, Text("x")), conn.header());
  left.v6 = true;
  IcmpError error = ByRouter(left, {1, 0});
  error.ip.source = Parse("198.18.77.7");
  ExpectNotOurs(error);
}

// The one cannot be put together here, the other may hide where it goes.
TEST_P(PacketForeignIcmpTest, B14_FragmentsAndExtensionHeadersAreDropped) {
  const Conn conn = Established(v6());
  const Segment left =
      conn.ToBackend(conn.FromClient(kAck, 5, 0, Text("x")), conn.header());
  const IcmpError whole = ByRouter(left, Reasons()[0], 20);
  IcmpError error = whole;
  if (!v6()) {
    error.ip.fragment = 0x2000;
    ExpectDropped(error, HG_PACKET_FRAGMENT);
    return;
  }
  for (const uint8_t kind : Bytes{0, 43, 60}) {
    for (const uint8_t more : Bytes{0, 1, 3}) {
      error.ip.next_header = kind;
      error.ip.extensions = Concat({{58, more}, Bytes(6U + 8U * more, 0)});
      ExpectDropped(error, HG_PACKET_EXTENSION);
    }
  }
  error.ip.next_header = 44;
  error.ip.extensions = {58, 0, 0, 1, 0, 0, 0, 1};
  ExpectDropped(error, HG_PACKET_FRAGMENT);
}

TEST_P(PacketForeignIcmpTest, WhatIsAboutNoConnectionIsTheHosts) {
  const Conn conn = Established(v6());
  const Segment left =
      conn.ToBackend(conn.FromClient(kAck, 5, 0, Text("x")), conn.header());
  const Reason reason = Reasons()[0];
  Segment other = left;
  other.source_port ^= 1;
  std::vector<IcmpError> hosts = {ByRouter(other, reason)};
  other = left;
  other.destination_port ^= 1;
  hosts.push_back(ByRouter(other, reason));
  // Pings, of which no byte matters.
  hosts.push_back(ByRouter(left, {v6() ? 128 : 8, 0}));
  hosts.push_back(ByRouter(left, {v6() ? 129 : 0, 0}));
  // Its receiver has not sent what it quotes.
  other = left;
  other.source = conn.vip;
  hosts.push_back(ByRouter(left, reason));
  hosts.back().quoted = Quote(other);
  // The last numbers are behind its end.
  hosts.push_back(ByRouter(left, reason));
  Bytes& quoted = hosts.back().quoted;
  hosts.back().ip.padding = Bytes(quoted.end() - 4, quoted.end());
  quoted.resize(quoted.size() - 4);
  // It quotes a later fragment: its bytes are no ports.
  if (!v6()) {
    other = left;
    other.fragment = 0x0020;
    hosts.push_back(ByRouter(other, reason));
  }
  for (const IcmpError& error : hosts) {
    ExpectNotOurs(error);
    IcmpError cut = error;
    cut.quoted.resize(v6() ? 46 : 26);
    ExpectNotOurs(cut);
    IcmpError odd = error;
    odd.ip.fragment = 0x2000;
    odd.ip.next_header = 60;
    odd.ip.extensions = Concat({{58, 0}, Bytes(6, 0)});
    ExpectNotOurs(odd);
  }
}

// ---- an answer to the SYN ---------------------------------------------------

class PacketUnreachableTest : public PacketForeignIcmpTest {
 protected:
  static std::vector<Reason> Unreachable() {
    if (v6()) return {{1, 0}, {1, 1}, {1, 3}, {1, 4}};
    return {{3, 0}, {3, 1}, {3, 3}, {3, 13}};
  }
  static IcmpError Answer(const Conn& conn, Reason reason) {
    return ByRouter(conn.ToBackend(conn.Syn(), 0), reason);
  }
  static uint32_t service() { return v6() ? kService6 : kService4; }
  static uint64_t Failures(const std::vector<uint32_t>& backends) {
    uint64_t sum = 0;
    for (const uint32_t n : backends) {
      sum += Read(
          datapath_->backend_stats(service() * 10 + n).connect_unreachable);
    }
    return sum;
  }
};
INSTANTIATE_TEST_SUITE_P(Both, PacketUnreachableTest, ::testing::Bool(),
                         FamilyName);

TEST_P(PacketUnreachableTest, ItIsKeptWhileAnotherMayDoBetter) {
  Serve({1, 2});
  for (const Reason& reason : Unreachable()) {
    const uint64_t failures = Failures({1, 2});
    Conn conn = NewConn(v6());
    Open(&conn);
    const Conn first = conn;
    ExpectDropped(Answer(conn, reason), HG_PACKET_REFUSED);
    EXPECT_TRUE(IsLive(conn));
    Open(&conn);
    EXPECT_NE(conn.backend, first.backend);
    EXPECT_EQ(Failures({1, 2}), failures + 1);
    ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
  }
}

// Only who has seen the SYN leave quotes its number, wherever that is.
TEST_P(PacketUnreachableTest, WhatQuotesTheSynIsBelievedFromTheClientsSide) {
  Serve({1, 2});
  Conn conn = NewConn(v6());
  Open(&conn);
  const Conn first = conn;
  const auto from_client_side = [&](uint32_t off) {
    Segment syn = conn.Syn();
    syn.seq += off;
    IcmpError error = ByRouter(conn.ToBackend(syn, 0), Unreachable()[0]);
    error.ip.to = kIn0;
    error.ip.from = kClientMac;
    return error;
  };
  ExpectDropped(from_client_side(1), HG_PACKET_REVERSE_PATH);
  Open(&conn);
  EXPECT_EQ(conn.backend, first.backend);
  ExpectDropped(from_client_side(0), HG_PACKET_REFUSED);
  Open(&conn);
  EXPECT_NE(conn.backend, first.backend);
}

TEST_P(PacketUnreachableTest, WhenAllAreSoTheClientIsTold) {
  Serve({1, 2, 3});
  const uint64_t failures = Failures({1, 2, 3});
  Conn conn = NewConn(v6());
  for (int i = 0; i < 3; ++i) {
    Open(&conn);
    const IcmpError answer = Answer(conn, Unreachable()[1]);
    if (i < 2) {
      ExpectDropped(answer, HG_PACKET_REFUSED);
    } else {
      ExpectTranslated(answer, ToClient(conn, answer, conn.Syn()));
    }
  }
  EXPECT_FALSE(IsLive(conn));
  EXPECT_EQ(Failures({1, 2, 3}), failures + 3);
  EXPECT_EQ(Read(datapath_->service_stats(service()).no_backend), 1U);
  Open(&conn, conn.Syn());
  ExpectDropped(Answer(conn, Unreachable()[0]), HG_PACKET_REFUSED);
}

TEST_P(PacketUnreachableTest, OtherErrorsAndLaterOnesAreTheClients) {
  Serve({1, 2});
  const uint64_t failures = Failures({1, 2});
  Conn conn = NewConn(v6());
  Open(&conn);
  const auto passed = [&](const Segment& sent, Reason reason) {
    const IcmpError error = ByRouter(conn.ToBackend(sent, 0), reason);
    ExpectTranslated(error, ToClient(conn, error, sent));
  };
  passed(conn.Syn(), v6() ? Reason{2, 0} : Reason{3, 4});
  passed(conn.Syn(), v6() ? Reason{3, 0} : Reason{11, 0});
  Segment forged = conn.Syn();  // By who cannot see the SYN.
  forged.seq -= 1;
  passed(forged, Unreachable()[0]);
  ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
  passed(conn.Syn(), Unreachable()[0]);
  EXPECT_TRUE(IsLive(conn));
  EXPECT_EQ(Failures({1, 2}), failures);
}

}  // namespace
}  // namespace headgate::datapath
