// The packet path's program on frames by BPF_PROG_RUN, in a network of two
// interfaces, `in0` towards clients and `out0` towards backends; neighbours
// are permanent, so frames leave complete.
//
// What the program sends ahead of a frame (bpf_clone_redirect) takes the real
// way, over in0 and the program attached there, and is seen leaving at out0.
//
// HG_PACKET_HOOK=xdp: the frames meet XDP first, and at tc what that leaves.
// HG_PACKET_HOOK=generic: likewise, by generic XDP.
#pragma once

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sys/socket.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "datapath/datapath.h"
#include "packet_errors.h"
#include "packet_run.h"
#include "support/lab.h"
#include "support/wait.h"

namespace headgate::datapath {

class PacketProgramTest : public ::testing::Test {
 protected:
  static constexpr char kPins[] = "/sys/fs/bpf/packet_program_test";
  static constexpr uint16_t kFirstPort = 20000, kLastPort = 60999;
  static constexpr uint32_t kService4 = 1, kService6 = 2;
  static constexpr uint32_t kPlain4 = 3, kPlain6 = 4;  // Without header.
  static constexpr uint32_t kServices[] = {kService4, kService6, kPlain4,
                                           kPlain6};

  static void SetUpTestSuite() {
    static const bool network = MakeNetwork();
    ASSERT_TRUE(network);
    auto opened = Datapath::Open({kPins, 1, 1024});
    ASSERT_TRUE(opened.ok()) << opened.status();
    datapath_ = *std::move(opened);
    OpenTable(4096);
  }
  static void TearDownTestSuite() {
    for (int* fd : {&program_, &xdp_program_}) {
      if (*fd >= 0) close(*fd);
      *fd = -1;
    }
    capture_.reset();
    datapath_.reset();
  }
  void SetUp() override {
    ASSERT_GE(program_, 0);
    Serve({1});
    Configure();
  }
  void TearDown() override {
    packet().KillIf([](const hg_flow&) { return true; });
    for (const uint32_t id : kServices) {
      Clear(datapath_->service_stats(id));
    }
  }

  static PacketPath& packet() { return *datapath_->packet(); }

  // ---- the network ----------------------------------------------------------

  // The coarse clock is that of the tick.
  static void WaitForJiffy() {
    const auto now = [] {
      timespec time{};
      clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
      return std::pair(time.tv_sec, time.tv_nsec);
    };
    for (const auto before = now(); before == now();) sched_yield();
  }
  // For a jiffy, packets leave as they have left before (find_way()).
  static bool Shell(const std::string& command) {
    const bool done = system(command.c_str()) == 0;  // NOLINT(cert-env33-c)
    WaitForJiffy();
    return done;
  }
  static bool MakeNetwork() {
    if (!MakeLinks()) return false;
    if (!AtXdp()) return true;
    // Then in0 and out0 refuse native XDP.
    if (AtGeneric()) {
      return Shell("ip link set in1 mtu 9000; ip link set out1 mtu 9000");
    }
    // Then in0 and out0 take frames from XDP.
    return headgate::testing::SetOffload("in1", ETHTOOL_SGRO, true) &&
           headgate::testing::SetOffload("out1", ETHTOOL_SGRO, true);
  }
  static bool MakeLinks() {
    return Shell(R"(set -e
sysctl -qw net.ipv4.conf.all.forwarding=1 net.ipv6.conf.all.forwarding=1
ip link add in0 address 02:00:00:00:00:01 type veth peer name in1
ip link add out0 address 02:00:00:00:00:02 type veth peer name out1
for each in in0 in1 out0 out1; do
  sysctl -qw net.ipv6.conf.$each.accept_dad=0
  ip link set $each addrgenmode none up
done
sysctl -qw net.ipv6.conf.in1.disable_ipv6=1 net.ipv6.conf.out1.disable_ipv6=1
ip address add 198.18.0.1/24 dev in0
ip address add 2001:db8::1/64 dev in0 nodad
ip address add 198.18.2.1/24 dev out0
ip address add 2001:db8:2::1/64 dev out0 nodad
for client in 198.18.0.10 2001:db8::a; do
  ip neighbour add $client lladdr 02:00:00:00:00:0a dev in0 nud permanent
done
for n in 11 12 13 14; do for net in 198.18.2. 2001:db8:2::; do
  ip neighbour add $net$n lladdr 02:00:00:00:00:0b dev out0 nud permanent
done; done
ip route add 198.19.0.0/16 via 198.18.0.10
ip -6 route add 2001:db8:8000::/33 via 2001:db8::a
)");
  }

  // A new table, of this many flows.
  static void OpenTable(uint32_t flows) {
    for (int* fd : {&program_, &xdp_program_}) {
      if (*fd >= 0) close(*fd);
      *fd = -1;
    }
    datapath_->ClosePacket();
    const absl::Status opened = datapath_->OpenPacket(flows, AtXdp());
    ASSERT_TRUE(opened.ok()) << opened;
    Configure();
    ASSERT_THAT(packet().Attach(Interfaces(), AtXdp()), ::testing::IsEmpty());
    program_ = AttachedProgram();
    ASSERT_GE(program_, 0);
    if (AtXdp()) {
      xdp_program_ = AttachedXdp();
      ASSERT_GE(xdp_program_, 0);
    }
    if (!capture_.valid()) capture_ = OpenCapture("out0");
  }
  // XDP takes frames for the MACs of those that it is attached to, and generic
  // XDP sends to no others.
  static std::set<std::string> Interfaces() {
    return AtXdp() ? std::set<std::string>{"in0", "out0"}
                   : std::set<std::string>{"in0"};
  }
  static int AttachedProgram() {
    const int link = bpf_obj_get(
        absl::StrCat(kPins, "/packet_link_", IndexOf("in0")).c_str());
    bpf_link_info info{};
    __u32 size = sizeof info;
    if (link < 0 || bpf_obj_get_info_by_fd(link, &info, &size) != 0) return -1;
    close(link);
    return bpf_prog_get_fd_by_id(info.prog_id);
  }
  static int AttachedXdp() {
    __u32 id = 0;
    if (bpf_xdp_query_id(static_cast<int>(IndexOf("in0")), 0, &id) != 0) {
      return -1;
    }
    return bpf_prog_get_fd_by_id(id);
  }
  static UniqueFd OpenCapture(const char* interface) {
    UniqueFd fd(socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL)));
    sockaddr_ll at{};
    at.sll_family = AF_PACKET;
    at.sll_protocol = htons(ETH_P_ALL);
    at.sll_ifindex = static_cast<int>(if_nametoindex(interface));
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
    return fd;
  }

  // ---- what is configured ---------------------------------------------------

  // Backends n of the services are 198.18.2.(10 + n) and 2001:db8:2::(10 + n).
  static PacketAddress BackendAddress(uint32_t n, bool v6) {
    return v6 ? Parse(absl::StrCat("2001:db8:2::", 10 + n))
              : Parse(absl::StrCat("198.18.2.", 10 + n));
  }
  static uint32_t BackendId(uint32_t service, uint32_t n) {
    return service * 10 + n;
  }
  static bool IsOfV6(uint32_t service) {
    return service == kService6 || service == kPlain6;
  }
  static hg_backend BackendOf(uint32_t service, uint32_t n) {
    hg_backend backend{};
    backend.service = service;
    backend.weight = 1;
    backend.health = HG_HEALTH_UP;
    backend.port = 30125;
    const PacketAddress address = BackendAddress(n, IsOfV6(service));
    std::copy(address.begin(), address.end(), backend.address);
    return backend;
  }
  // Slots before the first are nobody's.
  static hg_service ServiceOf(uint32_t service,
                              const std::vector<uint32_t>& backends,
                              uint32_t first_slot = 0) {
    hg_service value{};
    std::strcpy(value.name, absl::StrCat("service", service).c_str());
    value.balance = HG_BALANCE_ROUND_ROBIN;
    value.backend_count = first_slot;
    for (const uint32_t n : backends) {
      value.backends[value.backend_count++] = BackendId(service, n);
    }
    return value;
  }
  // `max_connections` of each; 0: no limit.
  static void Serve(const std::vector<uint32_t>& backends,
                    uint32_t max_connections = 0, uint32_t first_slot = 0) {
    for (const uint32_t service : kServices) {
      for (const uint32_t n : backends) {
        hg_backend backend = BackendOf(service, n);
        backend.max_connections = max_connections;
        Put(service, n, backend);
      }
      const hg_service value = ServiceOf(service, backends, first_slot);
      ASSERT_TRUE(datapath_->PutService(service, value).ok());
    }
  }
  static void Put(uint32_t service, uint32_t n, const hg_backend& backend) {
    ASSERT_TRUE(datapath_->PutBackend(BackendId(service, n), backend).ok());
  }
  static PacketPath::Setup DefaultSetup(uint32_t max_connections = 0) {
    PacketPath::Setup setup;
    setup.sources = {Parse("198.18.2.1"), Parse("2001:db8:2::1")};
    setup.first_port = kFirstPort;
    setup.last_port = kLastPort;
    for (const char* vip : {"198.18.1.1", "198.18.1.2"}) {
      setup.listeners.push_back(
          {Parse(vip), 25, {kService4, 28, max_connections, 0}});
    }
    for (const char* vip : {"2001:db8:1::1", "2001:db8:1::"}) {
      setup.listeners.push_back(
          {Parse(vip), 25, {kService6, 52, max_connections, 0}});
    }
    setup.listeners.push_back(
        {Parse("198.18.1.1"), kPlainPort, {kPlain4, 0, 0, 0}});
    setup.listeners.push_back(
        {Parse("2001:db8:1::1"), kPlainPort, {kPlain6, 0, 0, 0}});
    return setup;
  }
  static void Configure(const PacketPath::Setup& setup = DefaultSetup()) {
    const absl::Status configured = packet().Configure(setup);
    ASSERT_TRUE(configured.ok()) << configured;
  }

  // ---- frames ---------------------------------------------------------------

  static Exits Counted() {
    const std::vector<uint64_t> counts = packet().Exits();
    Exits exits;
    for (size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] > 0)
        exits[PacketExitName(static_cast<hg_packet_exit>(i))] = counts[i];
    }
    return exits;
  }
  static Exits Since(const Exits& before) {
    Exits now = Counted();
    for (const auto& [exit, count] : before) {
      if ((now[exit] -= count) == 0) now.erase(exit);
    }
    return now;
  }

  static uint32_t IndexOf(const char* interface) {
    static const uint32_t in = if_nametoindex("in0");
    static const uint32_t out = if_nametoindex("out0");
    return std::strcmp(interface, "in0") == 0 ? in : out;
  }
  // That is asked for.
  static int Program() { return AtXdp() ? xdp_program_ : program_; }
  static Outcome RunXdp(const Bytes& frame, const char* interface) {
    return RunAtXdp(xdp_program_, frame, IndexOf(interface));
  }
  // With a mark, or of many segments, it is tc's.
  static Outcome RunOnce(const Bytes& frame, const char* interface,
                         uint32_t mark = 0, uint32_t gso_size = 0) {
    if (AtXdp() && mark == 0 && gso_size == 0) {
      const Outcome outcome = RunXdp(frame, interface);
      if (outcome.xdp != XDP_PASS || outcome.rewritten) return outcome;
      EXPECT_EQ(outcome.frame, frame) << "it must pass as it came";
    }
    return RunAtTc(program_, frame, IndexOf(interface), mark, gso_size);
  }
  static Outcome Run(const Bytes& frame, const char* interface,
                     uint32_t mark = 0) {
    const Exits before = Counted();
    Outcome outcome = RunOnce(frame, interface, mark);
    outcome.exits = Since(before);
    return outcome;
  }
  static Outcome Run(const Segment& segment, uint32_t mark = 0) {
    return Run(Build(segment), segment.to == kIn0 ? "in0" : "out0", mark);
  }

  // The next frame that left for a backend in earnest.
  static std::optional<Bytes> Captured() {
    return Captured(capture_.get(), kBackendMac);
  }
  static std::optional<Bytes> Captured(int capture, const Mac& to) {
    Bytes frame(65536);
    ssize_t size = -1;
    headgate::testing::WaitUntil(absl::Seconds(5), [&] {
      size = recv(capture, frame.data(), frame.size(), 0);
      return size > 0 && std::equal(to.begin(), to.end(), frame.begin());
    });
    if (size < 0) return std::nullopt;
    frame.resize(static_cast<size_t>(size));
    return frame;
  }
  // Now, when all have been counted.
  static bool MoreIsCaptured() {
    Bytes frame(65536);
    ssize_t size = 0;
    while ((size = recv(capture_.get(), frame.data(), frame.size(), 0)) > 0) {
      if (std::equal(kBackendMac.begin(), kBackendMac.end(), frame.begin())) {
        return true;
      }
    }
    return false;
  }
  static void ForgetCaptured() {
    char byte = 0;
    while (recv(capture_.get(), &byte, 1, 0) >= 0) continue;
  }

  template <typename Packet>
  static void ExpectFrame(const Bytes& got, const Packet& wanted) {
    const Bytes built = Build(wanted);
    EXPECT_EQ(got, built) << "got" << Hex(got) << "\nwanted" << Hex(built);
  }
  static void ExpectSent(const Segment& in, const Segment& out,
                         hg_packet_exit exit = HG_PACKET_FORWARDED) {
    const Outcome outcome = Run(in);
    EXPECT_EQ(outcome.verdict, kSent);
    EXPECT_EQ(outcome.exits, Once(exit));
    ExpectFrame(outcome.frame, out);
  }
  static void ExpectDropped(const Segment& in, hg_packet_exit exit) {
    const Outcome outcome = Run(in);
    EXPECT_EQ(outcome.verdict, kDropped);
    EXPECT_EQ(outcome.exits, Once(exit));
  }
  // Dropped, and its sender told why.
  static void ExpectTold(const Segment& in, const IcmpError& error,
                         hg_packet_exit exit) {
    const Outcome outcome = Run(in);
    EXPECT_EQ(outcome.verdict, kSent);
    EXPECT_EQ(outcome.exits, Once(exit));
    ExpectFrame(outcome.frame, error);
  }
  static void ExpectTooFar(const Segment& in) {
    ExpectTold(in, TooFarFor(in), HG_PACKET_TTL);
  }
  static void ExpectReset(const Segment& in, hg_packet_exit exit) {
    ExpectSent(in, ResetFor(in), exit);
  }
  static void ExpectNotOurs(const Bytes& frame) {
    const Outcome outcome = Run(frame, "in0");
    EXPECT_EQ(outcome.verdict, kNotOurs);
    EXPECT_EQ(outcome.exits, Exits{});
    EXPECT_EQ(outcome.frame, frame);
  }

  // ---- connections ----------------------------------------------------------

  static Conn NewConn(bool v6, uint32_t isn = 0x11223344) {
    static uint16_t port = 1024;
    Conn conn;
    conn.v6 = v6;
    conn.client = Parse(v6 ? "2001:db8::a" : "198.18.0.10");
    conn.vip = Parse(v6 ? "2001:db8:1::1" : "198.18.1.1");
    conn.client_port = ++port;
    conn.isn = isn;
    return conn;
  }
  // Reads from a SYN that left which backend and source port were chosen.
  static void Learn(const Bytes& frame, Conn* conn) {
    const size_t size = conn->v6 ? 16 : 4;
    const size_t at = conn->v6 ? 14 + 8 : 14 + 12;
    const size_t tcp = conn->v6 ? 14 + 40 : 14 + 20;
    ASSERT_GE(frame.size(), tcp + 20);
    const auto from = frame.begin() + static_cast<long>(at);
    const auto to = from + static_cast<long>(size);
    conn->source = conn->backend = Parse("0.0.0.0");
    std::copy(from, to, conn->source.end() - static_cast<long>(size));
    std::copy(to, to + static_cast<long>(size),
              conn->backend.end() - static_cast<long>(size));
    conn->source_port = static_cast<uint16_t>(Get16(frame, tcp));
    conn->backend_port = static_cast<uint16_t>(Get16(frame, tcp + 2));
    conn->shift = Get32(frame, tcp + 4) - conn->isn;
    EXPECT_EQ(conn->source, Parse(conn->v6 ? "2001:db8:2::1" : "198.18.2.1"));
    EXPECT_GE(conn->source_port, kFirstPort);
    EXPECT_LE(conn->source_port, kLastPort);
  }
  // Of a service without header.
  static Conn NewPlainConn(bool v6) {
    Conn conn = NewConn(v6);
    conn.vip_port = kPlainPort;
    return conn;
  }
  // Its SYN goes to a backend, unchanged in what is checked here.
  static void Open(Conn* conn) { Open(conn, conn->Syn()); }
  static void Open(Conn* conn, const Segment& syn) {
    const Outcome outcome = Run(syn);
    ASSERT_EQ(outcome.verdict, kSent)
        << ::testing::PrintToString(outcome.exits);
    EXPECT_EQ(outcome.exits, Once(HG_PACKET_FORWARDED));
    Learn(outcome.frame, conn);
    ExpectFrame(outcome.frame, conn->ToBackend(syn, 0));
  }
  static Conn Opened(bool v6) {
    Conn conn = NewConn(v6);
    Open(&conn);
    return conn;
  }
  // The backend has answered.
  static Conn Answered(bool v6, uint32_t isn = 0x11223344) {
    Conn conn = NewConn(v6, isn);
    Open(&conn);
    ExpectSent(conn.SynAck(), conn.ToClient(conn.SynAck(), 0));
    return conn;
  }
  // The client has, with the header; the backend has not acknowledged it.
  static Conn Greeted(bool v6, uint32_t isn = 0x11223344) {
    Conn conn = Answered(v6, isn);
    const Segment ack = conn.FromClient(kAck, 0, 0);
    ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
    return conn;
  }
  static Conn Established(bool v6, uint32_t isn = 0x11223344) {
    const Conn conn = Greeted(v6, isn);
    ExpectHeaderAcked(conn);
    return conn;
  }
  // For the first time, and nothing else: nobody else's business.
  static void ExpectHeaderAcked(const Conn& conn) {
    ExpectDropped(conn.FromBackend(kAck, 0, conn.header()),
                  HG_PACKET_HEADER_ACKED);
  }
  static void ExpectFromClient(const Conn& conn, const Segment& in) {
    ExpectSent(in, conn.ToBackend(in, conn.header()));
  }
  // The backend has acknowledged so many bytes behind the header, of those that
  // the client has sent.
  static void ExpectEnds(const Conn& conn, const Segment& rst,
                         uint32_t acked = 0, uint32_t sent = 0) {
    ExpectOwnResets(conn, rst, acked, sent);
    EXPECT_FALSE(IsLive(conn));
  }
  static void ExpectOwnResets(const Conn& conn, const Segment& rst,
                              uint32_t acked, uint32_t sent) {
    const auto own_at = [&](uint32_t in) {
      Segment at = rst;
      at.seq = conn.isn + 1 + in;
      return conn.OwnReset(at, conn.header());
    };
    ForgetCaptured();
    const Exits before = Counted();
    const Outcome outcome = Run(rst);
    EXPECT_EQ(outcome.verdict, kSent);
    ExpectFrame(outcome.frame, own_at(acked));
    if (sent > acked) {
      EXPECT_EQ(Captured(), Build(own_at(sent)));
    }
    EXPECT_EQ(
        Since(before),
        (Exits{{PacketExitName(HG_PACKET_FORWARDED), sent > acked ? 2U : 1U}}));
  }
  static void ExpectFromBackend(const Conn& conn, const Segment& in) {
    ExpectSent(in, conn.ToClient(in, conn.header()));
  }
  // The client first.
  static void CloseInOrder(const Conn& conn) {
    ExpectFromClient(conn, conn.FromClient(kFin | kAck, 0, 0));
    ExpectFromBackend(conn,
                      conn.FromBackend(kFin | kAck, 0, conn.header() + 1));
    ExpectFromClient(conn, conn.FromClient(kAck, 1, 1));
  }
  // One of so many clients, which the source addresses have room for.
  static Conn Client(uint32_t number) {
    Conn conn;
    conn.client = Parse("198.19.0.0");
    conn.client[14] = static_cast<uint8_t>(number >> 8);
    conn.client[15] = static_cast<uint8_t>(number);
    conn.client_port = static_cast<uint16_t>(1024 + (number >> 16));
    conn.vip = Parse("198.18.1.1");
    return conn;
  }
  // As Learn(), of IPv4 and without a check.
  static void LearnLeg(const Bytes& frame, Conn* conn) {
    std::copy_n(frame.begin() + 26, 4, conn->source.begin() + 12);
    conn->source[10] = conn->source[11] = 0xff;
    std::copy_n(frame.begin() + 30, 4, conn->backend.begin() + 12);
    conn->backend[10] = conn->backend[11] = 0xff;
    conn->source_port = static_cast<uint16_t>(Get16(frame, 34));
    conn->shift = Get32(frame, 38) - conn->isn;
  }
  static int Pinned(const char* map) {
    const int fd = bpf_obj_get(absl::StrCat(kPins, "/", map).c_str());
    EXPECT_GE(fd, 0) << map;
    return fd;
  }
  static bool IsLive(const Conn& conn) {
    for (const PacketPath::Flow& flow : packet().Flows()) {
      if (flow.state.client_port == conn.client_port) return true;
    }
    return false;
  }

  // Rewrites what the table has of a connection, as if it had come about so.
  static void Change(const Conn& conn,
                     const std::function<void(hg_flow&)>& change) {
    const int flows = Pinned("packet_flows");
    for (uint32_t number = 0; number < packet().max_flows(); ++number) {
      hg_flow flow = packet().At(number);
      if (flow.state == HG_FLOW_FREE || flow.client_port != conn.client_port ||
          flow.source_port != conn.source_port ||
          !std::equal(conn.backend.begin(), conn.backend.end(),
                      flow.backend_address)) {
        continue;
      }
      change(flow);
      ASSERT_EQ(bpf_map_update_elem(flows, &number, &flow, BPF_ANY), 0);
    }
    close(flows);
  }
  // The backend has had its time to answer the SYN.
  static void WaitForAnswer(const Conn& conn) {
    Change(conn, [](hg_flow& flow) { flow.asked -= 1000; });
  }

  static inline std::unique_ptr<Datapath> datapath_;
  static inline int program_ = -1;
  static inline int xdp_program_ = -1;
  static inline UniqueFd capture_;
};

inline std::string FamilyName(const ::testing::TestParamInfo<bool>& info) {
  return info.param ? "V6" : "V4";
}

// Of both families.
class PacketFamilyTest : public PacketProgramTest,
                         public ::testing::WithParamInterface<bool> {
 protected:
  static bool v6() { return GetParam(); }
};

}  // namespace headgate::datapath
