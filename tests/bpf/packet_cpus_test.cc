// Every CPU at once, and what a kernel has to be able to load.
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

// Once; what another CPU does while the daemon sends a RST.
std::function<void()> while_sending;

}  // namespace
}  // namespace headgate::datapath

// In the place of the C library's.
extern "C" ssize_t sendto(int fd, const void* data, size_t size, int flags,
                          const sockaddr* to, socklen_t to_size) {
  if (const auto run = std::exchange(headgate::datapath::while_sending, {})) {
    run();
  }
  return syscall(SYS_sendto, fd, data, size, flags, to, to_size);
}

namespace headgate::datapath {
namespace {

class PacketCpusTest : public PacketProgramTest {
 protected:
  void TearDown() override {
    PacketProgramTest::TearDown();
    OpenTable(4096);
  }
  static void Pin(uint32_t cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    ASSERT_EQ(sched_setaffinity(0, sizeof set, &set), 0);
  }
  static bool Passes(const Segment& in, const Segment& out) {
    const Outcome outcome = RunOnce(Build(in), in.to == kIn0 ? "in0" : "out0");
    return outcome.verdict == kSent && outcome.frame == Build(out);
  }
  // False: one of its frames did not leave as it should.
  static bool OpenFully(Conn* conn) {
    const Outcome syn = RunOnce(Build(conn->Syn()), "in0");
    if (syn.verdict != kSent) return false;
    LearnLeg(syn.frame, conn);
    const Segment ack = conn->FromClient(kAck, 0, 0);
    return syn.frame == Build(conn->ToBackend(conn->Syn(), 0)) &&
           Passes(conn->SynAck(), conn->ToClient(conn->SynAck(), 0)) &&
           Passes(ack, conn->HeaderFor(ack));
  }
};

TEST_F(PacketCpusTest, B19_NoCountIsLostAndTurnsAreFair) {
  constexpr uint32_t kEach = 20000, kBackends = 4;
  const uint32_t cpus = std::thread::hardware_concurrency();
  OpenTable(65536);
  Serve({1, 2, 3, 4});
  PacketPath::Setup setup = DefaultSetup();
  setup.first_port = 1024;
  setup.last_port = 65535;
  Configure(setup);
  const Exits before = Counted();
  const auto& service = datapath_->service_stats(kService4);
  std::map<uint32_t, uint64_t> taken;
  for (uint32_t n = 1; n <= kBackends; ++n) {
    taken[n] =
        Read(datapath_->backend_stats(kService4 * 10 + n).connections_total);
  }
  std::vector<std::vector<Conn>> conns(cpus);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (uint32_t cpu = 0; cpu < cpus; ++cpu) {
    threads.emplace_back([&, cpu] {
      Pin(cpu);
      for (uint32_t i = 0; i < kEach; ++i) {
        Conn conn = Client(cpu * kEach + i);
        conn.isn = (cpu * kEach + i) * 77777;
        wrong += OpenFully(&conn) ? 0 : 1;
        conns[cpu].push_back(conn);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  const uint64_t all = uint64_t{cpus} * kEach;
  std::set<std::tuple<PacketAddress, PacketAddress, uint16_t>> legs;
  for (const std::vector<Conn>& of_cpu : conns) {
    for (const Conn& conn : of_cpu) {
      legs.insert({conn.backend, conn.source, conn.source_port});
    }
  }
  EXPECT_EQ(legs.size(), all) << "two share a port";
  EXPECT_EQ(Since(before), (Exits{{"forwarded", 2 * all}, {"header", all}}));
  EXPECT_EQ(Read(service.connections_total), all);
  EXPECT_EQ(Read(service.connections_active), all);
  for (uint32_t n = 1; n <= kBackends; ++n) {
    const auto share = static_cast<double>(all) / kBackends;
    EXPECT_NEAR(
        static_cast<double>(Read(datapath_->backend_stats(kService4 * 10 + n)
                                     .connections_total) -
                            taken[n]),
        share, share / 100);
  }
}

TEST_F(PacketCpusTest, WhatIsToEndEndsThoughItsHandshakeDoes) {
  const Conn conn = Answered(false);
  while_sending = [&] {
    const Segment ack = conn.FromClient(kAck, 0, 0);
    ExpectSent(ack, conn.HeaderFor(ack), HG_PACKET_HEADER);
    EXPECT_EQ(packet().Established(), 1U);
  };
  EXPECT_EQ(packet().KillIf([](const hg_flow&) { return true; }), 1U);
  EXPECT_FALSE(while_sending);
  EXPECT_FALSE(IsLive(conn));
  EXPECT_EQ(Read(datapath_->service_stats(kService4).connections_active), 0U);
}

// Of the million that every kernel's verifier looks at, whatever it knows of
// pruning. What it refuses (an offset in a context that is none, say) does not
// load at all: see SetUpTestSuite().
TEST_F(PacketCpusTest, B15_TheVerifierIsFarFromItsLimit) {
  for (const int program : {program_, xdp_program_}) {
    if (program < 0) continue;
    bpf_prog_info info{};
    __u32 size = sizeof info;
    ASSERT_EQ(bpf_obj_get_info_by_fd(program, &info, &size), 0);
    std::cout << info.name << ": " << info.verified_insns << " looked at, "
              << info.xlated_prog_len / 8 << " instructions, "
              << info.jited_prog_len << " bytes\n";
    EXPECT_GT(info.verified_insns, 0U);
    EXPECT_LT(info.verified_insns, 500000U);
  }
}

}  // namespace
}  // namespace headgate::datapath
