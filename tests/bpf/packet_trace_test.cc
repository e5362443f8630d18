// What a reader is told of packets: each as it came and as it left, of those
// that it asked for, and nothing to nobody.
#include <bpf/libbpf.h>

#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

using Filter = PacketTrace::Filter;

class PacketTraceTest : public PacketProgramTest {
 protected:
  static std::shared_ptr<PacketTrace> Trace(const Filter& filter = {}) {
    auto trace = packet().Trace(filter);
    EXPECT_TRUE(trace.ok()) << trace.status();
    return *trace;
  }
  static std::vector<hg_trace_event> Read(PacketTrace& trace,
                                          uint32_t most = 10000) {
    std::vector<hg_trace_event> events;
    trace.Read(most, [&](const hg_trace_event& e) { events.push_back(e); });
    return events;
  }
  static hg_trace_event ReadOne(PacketTrace& trace) {
    const std::vector<hg_trace_event> events = Read(trace);
    EXPECT_EQ(events.size(), 1u);
    return events.empty() ? hg_trace_event{} : events[0];
  }
  // The event's frame, of which Build() has all.
  template <typename Packet>
  static void ExpectSide(const __u8 (&bytes)[HG_TRACE_BYTES], uint32_t size,
                         const Packet& wanted) {
    Bytes built = Build(wanted);
    EXPECT_EQ(size, built.size());
    built.resize(std::min<size_t>(built.size(), HG_TRACE_BYTES));
    const Bytes got(bytes, bytes + built.size());
    EXPECT_EQ(got, built) << "got" << Hex(got) << "\nwanted" << Hex(built);
  }
  template <typename Packet>
  static void ExpectEvent(const hg_trace_event& event, hg_packet_exit exit,
                          const Segment& came, const Packet& left) {
    EXPECT_EQ(event.exit, static_cast<uint32_t>(exit));
    ExpectSide(event.before, event.size_before, came);
    ExpectSide(event.after, event.size_after, left);
  }
  static void ExpectDropEvent(const hg_trace_event& event, hg_packet_exit exit,
                              const Segment& came) {
    EXPECT_EQ(event.exit, static_cast<uint32_t>(exit));
    ExpectSide(event.before, event.size_before, came);
    EXPECT_EQ(event.size_after, 0u);
    EXPECT_EQ(event.left_by, 0u);
  }
  static uint32_t ClientPortOf(const hg_trace_event& event) {
    return static_cast<uint32_t>(event.before[34] << 8 | event.before[35]);
  }
  // A map of the program that is attached.
  static UniqueFd MapOfProgram(const std::string& name) {
    std::vector<__u32> ids(64);
    bpf_prog_info program{};
    program.nr_map_ids = static_cast<__u32>(ids.size());
    program.map_ids = reinterpret_cast<uintptr_t>(ids.data());
    __u32 size = sizeof program;
    EXPECT_EQ(bpf_obj_get_info_by_fd(program_, &program, &size), 0);
    for (__u32 i = 0; i < program.nr_map_ids; ++i) {
      UniqueFd fd(bpf_map_get_fd_by_id(ids[i]));
      bpf_map_info map{};
      size = sizeof map;
      EXPECT_EQ(bpf_obj_get_info_by_fd(fd.get(), &map, &size), 0);
      if (map.name == name) return fd;
    }
    ADD_FAILURE() << "no map " << name;
    return UniqueFd();
  }
  // Events that wait in the program's ring, whoever reads it.
  static int Waiting() {
    const UniqueFd fd = MapOfProgram("packet_events");
    ring_buffer* ring = ring_buffer__new(
        fd.get(), [](void*, void*, size_t) { return 0; }, nullptr, nullptr);
    const int waiting = ring_buffer__consume(ring);
    ring_buffer__free(ring);
    return waiting;
  }
};

TEST_F(PacketTraceTest, AConnectionIsToldFromBothSides) {
  const auto trace = Trace();
  Conn conn = NewConn(false);
  Open(&conn);
  const hg_trace_event syn = ReadOne(*trace);
  ExpectEvent(syn, HG_PACKET_FORWARDED, conn.Syn(),
              conn.ToBackend(conn.Syn(), 0));
  EXPECT_EQ(syn.came_by, IndexOf("in0"));
  EXPECT_EQ(syn.left_by, IndexOf("out0"));
  EXPECT_EQ(syn.service, kService4);
  EXPECT_EQ(syn.backend, kService4 * 10 + 1);
  EXPECT_EQ(syn.again, 0u);
  EXPECT_EQ((syn.flow - 1) % 2, static_cast<uint32_t>(HG_FROM_CLIENT));
  Run(conn.SynAck());
  const hg_trace_event syn_ack = ReadOne(*trace);
  ExpectEvent(syn_ack, HG_PACKET_FORWARDED, conn.SynAck(),
              conn.ToClient(conn.SynAck(), 0));
  EXPECT_EQ(syn_ack.came_by, IndexOf("out0"));
  EXPECT_EQ(syn_ack.left_by, IndexOf("in0"));
  EXPECT_EQ((syn_ack.flow - 1) % 2, static_cast<uint32_t>(HG_FROM_BACKEND));
  EXPECT_EQ((syn_ack.flow - 1) / 2, (syn.flow - 1) / 2);
  EXPECT_GT(syn_ack.time, syn.time);
}

TEST_F(PacketTraceTest, TheHeaderAndTheShiftAreSeen) {
  for (const bool v6 : {false, true}) {
    const Conn conn = Answered(v6);
    const auto trace = Trace();
    const Segment ack = conn.FromClient(kAck, 0, 0);
    Run(ack);
    ExpectEvent(ReadOne(*trace), HG_PACKET_HEADER, ack, conn.HeaderFor(ack));
    const Segment acked = conn.FromBackend(kAck, 0, conn.header());
    Run(acked);
    ExpectDropEvent(ReadOne(*trace), HG_PACKET_HEADER_ACKED, acked);
    // More than is copied.
    const Segment data = conn.FromClient(kAck | kPsh, 0, 0, Bytes(1000, 'x'));
    Run(data);
    ExpectEvent(ReadOne(*trace), HG_PACKET_FORWARDED, data,
                conn.ToBackend(data, conn.header()));
  }
}

TEST_F(PacketTraceTest, DataThatWaitBehindTheirHeaderAreToldAgain) {
  const Conn conn = Answered(false);
  ForgetCaptured();
  const auto trace = Trace();
  const Segment data = conn.FromClient(kAck | kPsh, 0, 0, Text("EHLO"));
  Run(data);
  ASSERT_TRUE(Captured().has_value());
  const std::vector<hg_trace_event> events = Read(*trace);
  ASSERT_EQ(events.size(), 2u);
  // The clone is handled on its own, before or after the program ends.
  const size_t ahead = events[0].again == 0 ? 0 : 1;
  ExpectEvent(events[ahead], HG_PACKET_HEADER_AHEAD, data,
              conn.HeaderFor(data));
  ExpectEvent(events[1 - ahead], HG_PACKET_FORWARDED, data,
              conn.ToBackend(data, 28));
  EXPECT_EQ(events[ahead].again, 0u);
  EXPECT_EQ(events[1 - ahead].again, 1u);
}

TEST_F(PacketTraceTest, DropsAndAnswersHaveTheirReason) {
  const Conn conn = Established(false);
  const auto trace = Trace();
  Segment fragment = conn.FromClient(kAck, 0, 0);
  fragment.fragment = 0x2000;
  Run(fragment);
  ExpectDropEvent(ReadOne(*trace), HG_PACKET_FRAGMENT, fragment);
  Segment dying = conn.FromClient(kAck, 0, 0);
  dying.ttl = 1;
  Run(dying);
  ExpectEvent(ReadOne(*trace), HG_PACKET_TTL, dying, TooFarFor(dying));
  ASSERT_TRUE(Shell("ip link set out0 mtu 1280"));
  const Segment large = conn.FromClient(kAck, 0, 0, Bytes(1300, 1));
  Run(large);
  ASSERT_TRUE(Shell("ip link set out0 mtu 1500"));
  const hg_trace_event told = ReadOne(*trace);
  ExpectEvent(told, HG_PACKET_TOO_BIG, large, TooBigFor(large, 1280));
  EXPECT_EQ(told.left_by, IndexOf("in0"));
  const Conn unknown = NewConn(false);
  const Segment stray = unknown.FromClient(kAck, 0, 0);
  Run(stray);
  const hg_trace_event reset = ReadOne(*trace);
  ExpectEvent(reset, HG_PACKET_NO_FLOW, stray, ResetFor(stray));
  EXPECT_EQ(reset.came_by, IndexOf("in0"));
  EXPECT_EQ(reset.left_by, IndexOf("in0"));
  EXPECT_EQ(reset.flow, 0u);
  Serve({});
  const Segment syn = unknown.Syn();
  Run(syn);
  const hg_trace_event refused = ReadOne(*trace);
  ExpectEvent(refused, HG_PACKET_NO_BACKEND, syn, ResetFor(syn));
  EXPECT_EQ(refused.flow, 0u);
  EXPECT_EQ(refused.service, kService4);
}

TEST_F(PacketTraceTest, OnlyTheClientIsToldThatWasAskedFor) {
  const Conn one = Established(false), other = Established(false);
  Conn elsewhere = one;
  elsewhere.client = Parse("198.19.0.7");
  const auto send_all = [&] {
    for (const Conn* conn : {&one, &other}) {
      Run(conn->FromClient(kAck, 0, 0));
      Run(conn->FromBackend(kAck, 0, 28));
    }
    Run(elsewhere.FromClient(kAck, 0, 0));  // Of no flow.
  };
  {
    const auto trace = Trace({.client = one.client});
    send_all();
    EXPECT_EQ(Read(*trace).size(), 4u);
  }
  {
    const auto trace =
        Trace({.client = one.client, .client_port = one.client_port});
    send_all();
    const std::vector<hg_trace_event> events = Read(*trace);
    ASSERT_EQ(events.size(), 2u);
    EXPECT_EQ(ClientPortOf(events[0]), one.client_port);
    EXPECT_EQ((events[0].flow - 1) / 2, (events[1].flow - 1) / 2);
  }
  const auto trace = Trace({.client = elsewhere.client});
  send_all();
  EXPECT_EQ(ReadOne(*trace).exit, static_cast<uint32_t>(HG_PACKET_NO_FLOW));
}

TEST_F(PacketTraceTest, OnlyTheServiceIsToldThatWasAskedFor) {
  const Conn four = Established(false), six = Established(true);
  const auto trace = Trace({.service = kService6});
  Run(four.FromClient(kAck, 0, 0));
  Run(six.FromClient(kAck, 0, 0));
  Run(six.FromBackend(kAck, 0, six.header()));
  Serve({});
  Run(NewConn(false).Syn());
  Run(NewConn(true).Syn());
  const std::vector<hg_trace_event> events = Read(*trace);
  ASSERT_EQ(events.size(), 3u);
  for (const hg_trace_event& event : events) {
    EXPECT_EQ(event.service, kService6);
  }
}

TEST_F(PacketTraceTest, WithoutAReaderNothingIsTold) {
  const Conn conn = Established(false);
  Run(conn.FromClient(kAck, 0, 0));
  EXPECT_EQ(Waiting(), 0);
  Trace();  // Which ends at once.
  Run(conn.FromClient(kAck, 0, 0));
  EXPECT_EQ(Waiting(), 0);
  const auto trace = Trace();
  Run(conn.FromClient(kAck, 0, 0));
  EXPECT_EQ(Waiting(), 1);
}

// A daemon that is killed leaves the program as it is.
TEST_F(PacketTraceTest, AReaderWhoReadsNoMoreIsToldNothing) {
  const Conn conn = Established(false);
  const auto trace = Trace();
  // All globals of the program, packet_trace first.
  const UniqueFd globals = MapOfProgram("headgate.bss");
  bpf_map_info info{};
  __u32 size = sizeof info;
  ASSERT_EQ(bpf_obj_get_info_by_fd(globals.get(), &info, &size), 0);
  Bytes values(info.value_size);
  const uint32_t zero = 0;
  ASSERT_EQ(bpf_map_lookup_elem(globals.get(), &zero, values.data()), 0);
  hg_trace state{};
  std::memcpy(&state, values.data(), sizeof state);
  EXPECT_GT(state.until, 0u);
  state.until = 1;  // Long ago.
  std::memcpy(values.data(), &state, sizeof state);
  ASSERT_EQ(bpf_map_update_elem(globals.get(), &zero, values.data(), BPF_ANY),
            0);
  Run(conn.FromClient(kAck, 0, 0));
  EXPECT_EQ(Waiting(), 0);
  Read(*trace);  // Who reads is told again.
  Run(conn.FromClient(kAck, 0, 0));
  EXPECT_EQ(Read(*trace).size(), 1u);
}

TEST_F(PacketTraceTest, WhatTheRingHasNoRoomForIsCounted) {
  const Conn conn = Established(false);
  const auto trace = Trace();
  constexpr uint32_t kSent = 3000;
  const Bytes frame = Build(conn.FromClient(kAck, 0, 0));
  for (uint32_t i = 0; i < kSent; ++i) RunOnce(frame, "in0");
  EXPECT_GT(trace->lost(), 0u);
  EXPECT_EQ(Read(*trace, 100).size(), 100u);
  EXPECT_EQ(Read(*trace).size() + 100 + trace->lost(), kSent);
  const uint32_t lost = trace->lost();
  RunOnce(frame, "in0");  // There is room again.
  EXPECT_EQ(Read(*trace).size(), 1u);
  EXPECT_EQ(trace->lost(), lost);
}

TEST_F(PacketTraceTest, OneCanReadAtATime) {
  auto first = Trace();
  EXPECT_TRUE(absl::IsFailedPrecondition(packet().Trace({}).status()));
  first.reset();
  EXPECT_TRUE(packet().Trace({}).ok());
}

TEST_F(PacketTraceTest, ItEndsWithThePacketPath) {
  const auto trace = Trace();
  EXPECT_TRUE(trace->open());
  OpenTable(4096);
  EXPECT_FALSE(trace->open());
  EXPECT_EQ(Read(*trace).size(), 0u);
  EXPECT_TRUE(packet().Trace({}).ok()) << "of the new one";
}

}  // namespace
}  // namespace headgate::datapath
