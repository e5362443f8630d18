// Frames as real senders leave them to the hardware: checksums to complete, and
// many segments in one. They come in by the wire, through AF_PACKET with a
// virtio_net_hdr, for BPF_PROG_RUN cannot make them. And frames whose sum the
// hardware has taken.
#include <linux/pkt_cls.h>

#include <iterator>

#include "packet_fixture.h"
#include "packet_wire.h"

namespace headgate::datapath {
namespace {

class PacketOffloadTest : public PacketFamilyTest {
 protected:
  // In by in0; gso_size 0: one segment.
  static void Send(const Segment& s, uint16_t gso_size) {
    VirtioNetHeader head;
    head.flags = VirtioNetHeader::kNeedsChecksum;
    head.csum_start = static_cast<uint16_t>(TcpAt(s.v6));
    if (gso_size != 0) {
      head.gso_type = s.v6 ? VirtioNetHeader::kGsoV6 : VirtioNetHeader::kGsoV4;
      head.gso_size = gso_size;
      head.hdr_len = static_cast<uint16_t>(TcpAt(s.v6) + 20 + s.options.size());
    }
    SendByWire(head, Incomplete(s));
  }
  // As if it were of more than 64 KiB.
  static Bytes Jumbo(Segment s) {
    s.next_header = 0;
    s.extensions = {6, 0, 0xc2, 4};
    Put32(s.extensions,
          static_cast<uint32_t>(8 + 20 + s.options.size() + s.payload.size()));
    Bytes frame = Build(s);
    Set16(frame, 18, 0);
    return frame;
  }
  // Ahead of the program at in0, one that takes marks away, until it is closed:
  // a classifier may set its own.
  static UniqueFd TakeMarks() {
    const bpf_insn code[] = {
        {BPF_ST | BPF_MEM | BPF_W, BPF_REG_1, 0, offsetof(__sk_buff, mark), 0},
        {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, TC_ACT_UNSPEC},
        {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
    const UniqueFd program(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "take_marks",
                                         "GPL", code, std::size(code),
                                         nullptr));
    EXPECT_TRUE(program.valid());
    constexpr auto kTcxIngress = static_cast<bpf_attach_type>(46);
    bpf_link_create_opts first{};
    first.sz = sizeof first;
    first.flags = 1U << 3;  // BPF_F_BEFORE
    UniqueFd link(bpf_link_create(
        program.get(), static_cast<int>(IndexOf("in0")), kTcxIngress, &first));
    EXPECT_TRUE(link.valid()) << strerror(errno);
    return link;
  }
  static void ExpectLeft(const Segment& wanted) {
    const std::optional<Bytes> frame = Captured();
    ASSERT_TRUE(frame.has_value());
    const Bytes built = Incomplete(wanted);
    EXPECT_TRUE(*frame == built) << Hex(*frame) << "\nwanted" << Hex(built);
  }
};
INSTANTIATE_TEST_SUITE_P(Both, PacketOffloadTest, ::testing::Bool(),
                         FamilyName);

TEST_P(PacketOffloadTest, B5_AChecksumThatIsTheHardwaresStaysIts) {
  Conn conn = NewConn(v6());
  Open(&conn);
  ForgetCaptured();
  Segment syn = conn.Syn(Concat({Mss(9000), {34, 4, 1, 2}}));
  syn.payload = Text("odd");
  Send(syn, 0);
  Segment wanted = conn.ToBackend(syn, 0);
  wanted.options = Concat({Mss(v6() ? 1440 : 1460), Nops(4)});
  wanted.payload.clear();
  ExpectLeft(wanted);
  ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
  for (const size_t options : {0U, 12U, 40U}) {
    Segment ack = conn.FromClient(kAck, 0, 0);
    ack.options = OptionsOf(options);
    Send(ack, 0);
    ExpectLeft(conn.HeaderFor(ack));
  }
  ExpectHeaderAcked(conn);
  const Segment data = conn.FromClient(kAck, 0, 0, Bytes(701, 0x16));
  Send(data, 0);
  ExpectLeft(conn.ToBackend(data, conn.header()));
}

// A ClientHello of more than a segment, and the handshake's ACK lost.
TEST_P(PacketOffloadTest, B1_TheHeaderGoesAheadOfAFrameOfManySegments) {
  if (AtXdp() && !AtGeneric())
    GTEST_SKIP() << "then a veth takes no such frames";
  for (const uint16_t gso_size : std::vector<uint16_t>{0, 1000, 1400}) {
    const Conn conn = Answered(v6());
    ForgetCaptured();
    Segment data = conn.FromClient(kAck | kPsh, 0, 0,
                                   Bytes(gso_size == 0 ? 1400 : 30000, 0x16));
    data.options = Timestamps();
    for (int i = 0; i < 2; ++i) {
      Send(data, gso_size);
      ExpectLeft(conn.HeaderFor(data));
      ExpectLeft(conn.ToBackend(data, conn.header()));
    }
    ExpectFromBackend(conn, conn.FromBackend(kAck, 0, conn.header()));
    Send(data, gso_size);
    ExpectLeft(conn.ToBackend(data, conn.header()));
  }
}

// Each of them alone could open a connection at a backend that has forgotten
// all but its SYN cookie (see packet_flow.h).
TEST_P(PacketOffloadTest, NoneOfManySegmentsFitsASynCookie) {
  if (AtXdp() && !AtGeneric())
    GTEST_SKIP() << "then a veth takes no such frames";
  const Conn conn = Established(v6());
  const uint32_t n = conn.header();
  ForgetCaptured();
  // What falls between their beginnings fits none, and is news to the backend.
  uint32_t at = 0;
  for (const uint32_t acks :
       {n - 4, n - 3, n + 3, n + 4, n + 500, n + 996, n + 997, n + 1000,
        n + 1003, n + 1004, n + 4003, n + 4500, n + 5003, n + 5004}) {
    SCOPED_TRACE(acks);
    const Segment data =
        conn.FromClient(kAck, at, at + acks, Bytes(5000, 0x16));
    Segment wanted = conn.ToBackend(data, n);
    const bool fits = acks <= n + 5003 && (acks + 3 - n) % 1000 <= 6;
    if (fits) wanted.ack = conn.server_isn + 1 + n + at - 8;
    at += 5000;
    Send(data, 1000);
    ExpectLeft(wanted);
    if (!fits) continue;
    Segment ack = conn.AckBehind(data, at);
    if (acks + 3 - n - 5000 <= 6) ack.seq += 8;
    ExpectLeft(ack);
  }
}

// Or it would come again for ever, and be sent on as often.
TEST_P(PacketOffloadTest, WhatComesASecondTimeMayHaveLostItsMark) {
  const Exits before = Counted();
  const UniqueFd taker = TakeMarks();
  const Conn conn = Answered(v6());
  const uint32_t n = conn.header();
  ForgetCaptured();
  const Segment early = conn.FromClient(kAck, 0, 0, Bytes(1000, 0x16));
  for (int i = 0; i < 3; ++i) {
    Send(early, 0);
    ExpectLeft(conn.HeaderFor(early));
    ExpectLeft(conn.ToBackend(early, n));
  }
  ExpectFromBackend(conn, conn.FromBackend(kAck, 0, n + 1000));
  const Segment fits = conn.FromClient(kAck, 1000, n + 1000, Bytes(100, 0x16));
  Segment wanted = conn.ToBackend(fits, n);
  wanted.ack -= 8;
  Send(fits, 0);
  for (int i = 0; i < 2; ++i) ExpectLeft(wanted);
  const Segment rst = conn.FromClient(kRst, 1100, 0);
  Segment first = rst;
  first.seq -= 100;
  Send(rst, 0);
  ExpectLeft(conn.OwnReset(first, n));
  ExpectLeft(conn.ToBackend(rst, n));
  // That was all.
  const Conn other = Established(v6());
  const Segment last = other.FromClient(kAck, 0, 0, Text("x"));
  Send(last, 0);
  ExpectLeft(other.ToBackend(last, n));
  EXPECT_EQ(Since(before)["header_ahead"], 3U);
}

// Its sums are its own, though those of what came were the hardware's: in0
// completes in software what it is left to.
TEST_P(PacketOffloadTest, B5_AnErrorAboutWhatIsTooBigIsComplete) {
  if (AtXdp()) GTEST_SKIP() << "then a veth takes no such frames";
  const Conn conn = Established(v6());
  const UniqueFd answers = OpenCapture("in1");
  ForgetCaptured();
  ASSERT_TRUE(headgate::testing::SetOffload("in0", ETHTOOL_STXCSUM, false));
  ASSERT_TRUE(Shell("ip link set out0 mtu 1280"));
  for (const uint16_t gso_size : std::vector<uint16_t>{0, 1000, 1400}) {
    Segment data =
        conn.FromClient(kAck, 0, 0, Bytes(gso_size == 0 ? 1400 : 30000, 0x16));
    data.options = Timestamps();
    Send(data, gso_size);
    if (gso_size == 1000) {  // Those fit.
      ExpectLeft(conn.ToBackend(data, conn.header()));
      continue;
    }
    const std::optional<Bytes> answer = Captured(answers.get(), kClientMac);
    ASSERT_TRUE(answer.has_value());
    ExpectFrame(*answer, TooBigFor(data, 1280));
  }
  ASSERT_TRUE(Shell("ip link set out0 mtu 1500"));
  ASSERT_TRUE(headgate::testing::SetOffload("in0", ETHTOOL_STXCSUM, true));
}

// IPv6 of more than 64 KiB has its length in a hop-by-hop option (RFC 2675): a
// receiver's kernel joins segments so where it may.
TEST_P(PacketOffloadTest, B5_AJumboHeaderIsNoReasonToDrop) {
  if (!v6()) GTEST_SKIP() << "IPv4 has none";
  const Conn conn = Established(true);
  const Segment data = conn.FromClient(kAck, 0, 0, Bytes(3000, 0x16));
  const Outcome outcome = RunOnce(Jumbo(data), "in0", 0, 1000);
  EXPECT_EQ(outcome.verdict, kSent);
  EXPECT_EQ(outcome.frame, Jumbo(conn.ToBackend(data, conn.header())));
}

// The kernel sends no clone of what BPF_PROG_RUN says is of many segments.
TEST_P(PacketOffloadTest, B5_WhatBecomesOfAJumboAndIsNoneHasNoSuchHeader) {
  if (!v6()) GTEST_SKIP() << "IPv4 has none";
  const Conn conn = Answered(true);
  Segment data = conn.FromClient(kAck, 0, 0, Bytes(1000, 0x16));
  data.options = Timestamps();
  const uint32_t in = IndexOf("in0");
  const Outcome header = RunAtTc(program_, Jumbo(data), in, 0, 0);
  EXPECT_EQ(header.verdict, kSent);
  EXPECT_EQ(header.frame, Build(conn.HeaderFor(data)));
  const Segment stray = NewConn(true).FromClient(kAck, 5, 7, Bytes(3000, 1));
  const Outcome reset = RunAtTc(program_, Jumbo(stray), in, 0, 1000);
  EXPECT_EQ(reset.verdict, kSent);
  EXPECT_EQ(reset.frame, Build(ResetFor(stray)));
}

// A sum of the frame that came in (CHECKSUM_COMPLETE) has to become that of the
// frame that leaves, or the next stack drops it. The kernel checks where it
// still has one: a frame whose length has changed has none.
class PacketSumTest : public PacketFamilyTest {
 protected:
  // 0, or an error: -EBADMSG if it has not.
  static int RunWithSum(const Segment& s) { return RunWithSum(Build(s), s.to); }
  static int RunWithSum(const Bytes& frame, const Mac& to) {
    Bytes out(frame.size());
    __sk_buff context{};
    context.ifindex = IndexOf(to == kIn0 ? "in0" : "out0");
    bpf_test_run_opts run = RunOptions(frame, &out, &context);
    run.flags = 1U << 2;  // BPF_F_TEST_SKB_CHECKSUM_COMPLETE
    const int error = bpf_prog_test_run_opts(program_, &run);
    EXPECT_TRUE(error != 0 || run.retval == static_cast<uint32_t>(kSent));
    return error;
  }
  static void ExpectRight(const Segment& s) {
    EXPECT_EQ(RunWithSum(s), 0) << Hex(Build(s));
  }
};
INSTANTIATE_TEST_SUITE_P(Both, PacketSumTest, ::testing::Bool(), FamilyName);

TEST_P(PacketSumTest, B5_TheHardwaresSumFollowsTheFrame) {
  Conn conn = NewConn(v6());
  Open(&conn);
  const Segment syn = conn.Syn(Concat({Mss(9000), {34, 4, 1, 2}}));
  if (RunWithSum(syn) == -EINVAL) GTEST_SKIP() << "the kernel cannot check";
  ExpectRight(syn);
  ExpectRight(conn.SynAck(Mss(9000)));
  const Segment ack = conn.FromClient(kAck, 0, 0);
  ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
  ExpectHeaderAcked(conn);
  for (const size_t options : {0U, 12U, 24U, 40U}) {
    for (const size_t payload : {0U, 1U, 701U}) {
      Segment data = conn.FromClient(kAck, 0, 0, Bytes(payload, 0x16));
      data.options = OptionsOf(options);
      ExpectRight(data);
      Segment answer = conn.FromBackend(kAck, 0, 500, Bytes(payload, 0x61));
      answer.options = OptionsOf(options);
      ExpectRight(answer);
    }
  }
  ExpectRight(conn.FromClient(kFin | kAck, 701, 0));
  const Segment sent = conn.ToBackend(conn.FromClient(kAck, 0, 0), 0);
  const Segment answered = conn.ToClient(conn.FromBackend(kAck, 0, 500), 0);
  for (const Segment& about : {sent, answered}) {
    const IcmpError error = TooBig(about, 1300);
    EXPECT_EQ(RunWithSum(Build(error), error.ip.to), 0) << Hex(Build(error));
  }
  ExpectRight(conn.FromBackend(kRst, 701, 0));
}

}  // namespace
}  // namespace headgate::datapath
