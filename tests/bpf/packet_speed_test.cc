// What a packet costs, and a flow. A time fails no test, for it depends on who
// else uses the machine. HG_SOAK=1 fills a table with a million flows. What is
// recorded, tools/bench reads.
#include <cstdlib>
#include <fstream>

#include "absl/strings/str_format.h"
#include "packet_fixture.h"
#include "support/median.h"

namespace headgate::datapath {
namespace {

using headgate::testing::Median;

class PacketSpeedTest : public PacketProgramTest {
 protected:
  static constexpr uint32_t kSample = 1000;

  void TearDown() override {
    PacketProgramTest::TearDown();
    OpenTable(4096);
  }

  static bpf_prog_info Info() {
    bpf_prog_info info{};
    __u32 size = sizeof info;
    EXPECT_EQ(bpf_obj_get_info_by_fd(Program(), &info, &size), 0);
    return info;
  }
  // The kernel's own count of the program's time, one run a frame: that of
  // the caller comes in between, and leaves cold caches.
  template <typename Frames>
  static double Nanoseconds(const Frames& run) {
    const bpf_prog_info before = Info();
    run();
    const bpf_prog_info after = Info();
    return static_cast<double>(after.run_time_ns - before.run_time_ns) /
           static_cast<double>(after.run_cnt - before.run_cnt);
  }

  static uint64_t MemoryOf(const char* map) {
    const int fd = Pinned(map);
    std::ifstream info(absl::StrCat("/proc/self/fdinfo/", fd));
    std::string word;
    uint64_t bytes = 0;
    while (info >> word) {
      if (word == "memlock:") info >> bytes;
    }
    close(fd);
    return bytes;
  }

  // Enough ports that most are free: where few are, a SYN takes many tries.
  static PacketPath::Setup ServeMany() {
    PacketPath::Setup setup = DefaultSetup();
    setup.sources.clear();
    for (int i = 1; i <= 64; ++i) {
      setup.sources.push_back(Parse(absl::StrCat("198.18.3.", i)));
    }
    setup.first_port = 1024;
    setup.last_port = 65535;
    Serve({1, 2, 3, 4});
    Configure(setup);
    return setup;
  }
  // Who come by ports of all kinds, as clients do.
  static Conn Caller(uint32_t number) {
    Conn conn = Client(number);
    conn.client_port =
        static_cast<uint16_t>(conn.client_port + 16 * (number % 4000));
    return conn;
  }
  static Segment WithTimestamps(Segment s) {
    s.options = Timestamps();
    return s;
  }
  static void Record(const char* name, double value) {
    RecordProperty(name, absl::StrCat(value));
  }
  static void ExpectLittleMemory();
  static void Measure(uint32_t flows);
  static uint32_t IdOf(const PacketAddress& address);
  static void PutKey(const hg_flow_key& key, uint32_t value);
  static void Put(uint32_t number, const Conn& conn);
  static double Repeat(Segment s, const char* interface);
  static void SetNeighbours(const Mac& client, const Mac& backend);
  static void MeasureCold(uint32_t flows);
  static void MeasureInOrder(uint32_t first);
  static void MeasureWarm(uint32_t flows, PacketPath::Setup setup);
};

uint32_t PacketSpeedTest::IdOf(const PacketAddress& address) {
  const int local = Pinned("packet_local");
  uint32_t found = 0;
  for (uint32_t id = 1; id < HG_MAX_PACKET_ADDRESSES; ++id) {
    hg_packet_local at{};
    bpf_map_lookup_elem(local, &id, &at);
    if (std::equal(address.begin(), address.end(), at.address)) found = id;
  }
  close(local);
  return found;
}

void PacketSpeedTest::PutKey(const hg_flow_key& key, uint32_t value) {
  const int configs = Pinned("packet_config"), keys = Pinned("packet_keys");
  const uint32_t zero = 0;
  hg_packet_config config{};
  ASSERT_EQ(bpf_map_lookup_elem(configs, &zero, &config), 0);
  const uint64_t hash = hg_hash_key(&key, config.seed);
  const auto at = static_cast<uint32_t>(hg_bucket_of(hash, 0, config.buckets));
  hg_key_bucket bucket{};
  ASSERT_EQ(bpf_map_lookup_elem(keys, &at, &bucket), 0);
  __u32* const room =
      std::find(std::begin(bucket.entries), std::end(bucket.entries), 0U);
  ASSERT_NE(room, std::end(bucket.entries));
  *room = static_cast<__u32>(hg_entry(hash, value));
  ASSERT_EQ(bpf_map_update_elem(keys, &at, &bucket, BPF_ANY), 0);
  close(configs);
  close(keys);
}

void PacketSpeedTest::Put(uint32_t number, const Conn& c) {
  const int flows = Pinned("packet_flows");
  hg_flow flow{};
  std::copy(c.client.begin(), c.client.end(), flow.client);
  std::copy(c.backend.begin(), c.backend.end(), flow.backend_address);
  flow.client_port = c.client_port;
  flow.listen_port = c.vip_port;
  flow.backend_port = c.backend_port;
  flow.source_port = c.source_port;
  flow.service = kService4;
  flow.listen = IdOf(c.vip);
  flow.source = IdOf(c.source);
  flow.header = 28;
  flow.state = HG_FLOW_ESTABLISHED;
  flow.flags = HG_FLOW_HEADER_SENT | HG_FLOW_HEADER_ACKED;
  flow.isn = c.isn;
  flow.next_in = flow.acked_in = c.isn + 1;
  flow.next_out = flow.acked_out = c.server_isn + 1;
  ASSERT_EQ(bpf_map_update_elem(flows, &number, &flow, BPF_ANY), 0);
  close(flows);
  for (const uint32_t side : {HG_FROM_CLIENT, HG_FROM_BACKEND}) {
    PutKey(flow.keys[side], number * 2 + side);
  }
}

void PacketSpeedTest::SetNeighbours(const Mac& client, const Mac& backend) {
  const auto set = [](const char* neighbour, const Mac& mac) {
    ASSERT_TRUE(
        Shell(absl::StrFormat("ip neigh replace %s nud permanent lladdr "
                              "02:00:00:00:00:%02x",
                              neighbour, uint32_t{mac.back()})));
  };
  set("198.18.0.10 dev in0", client);
  set("198.18.2.11 dev out0", backend);
}

double PacketSpeedTest::Repeat(Segment s, const char* interface) {
  constexpr int kRuns = 250;
  s.ttl = 255;
  s.options = Timestamps();
  s.payload = Bytes(1400, 1);
  const Bytes frame = Build(s);
  SetNeighbours(s.to, s.to);
  std::vector<double> times;
  for (int i = 0; i < 100; ++i) {
    Bytes out(frame.size() + 256);
    __sk_buff tc{};
    tc.ifindex = IndexOf(interface);
    xdp_md xdp{};
    xdp.ingress_ifindex = IndexOf(interface);
    bpf_test_run_opts options =
        AtXdp() ? RunOptions(frame, &out, &xdp) : RunOptions(frame, &out, &tc);
    options.repeat = kRuns;
    EXPECT_EQ(bpf_prog_test_run_opts(Program(), &options), 0);
    const uint32_t sent = AtXdp() ? uint32_t{XDP_REDIRECT} : uint32_t{kSent};
    EXPECT_EQ(options.retval, sent);
    EXPECT_EQ(out[14 + 8], 255 - kRuns) << "went all the way";
    times.push_back(options.duration);
  }
  return Median(times);
}

// Two flows that turn each other's segments back into what came in, and
// neighbours with the interface's own MAC, so that one frame can run as often
// as its TTL allows.
void PacketSpeedTest::MeasureWarm(uint32_t flows, PacketPath::Setup setup) {
  Conn conn = Client(0);
  conn.client = Parse("198.18.0.10");
  conn.source = Parse("198.18.3.1");
  conn.source_port = 1001;
  conn.backend = BackendAddress(1, false);
  setup.sources.push_back(conn.client);
  setup.listeners.push_back(
      {conn.backend, conn.backend_port, {kService4, 28, 0, 0}});
  Configure(setup);
  Conn back = conn;
  back.client = conn.source;
  back.client_port = conn.source_port;
  back.vip = conn.backend;
  back.vip_port = conn.backend_port;
  back.source = conn.client;
  back.source_port = conn.client_port;
  back.backend = conn.vip;
  back.backend_port = conn.vip_port;
  Put(flows, conn);
  Put(flows + 1, back);
  ASSERT_TRUE(
      Shell("ip route add 198.18.1.1 via 198.18.2.11 && "
            "ip route add 198.18.3.1 via 198.18.0.10"));
  const double in = Repeat(conn.FromClient(kAck, 0, 0), "in0");
  const double out = Repeat(conn.FromBackend(kAck, 0, 28), "out0");
  Record("data_in_ns", in);
  Record("data_out_ns", out);
  const auto others = packet().Trace({.client = Parse("198.19.255.255")});
  ASSERT_TRUE(others.ok()) << others.status();
  const double traced = Repeat(conn.FromClient(kAck, 0, 0), "in0");
  ASSERT_TRUE(Shell("ip route del 198.18.1.1 && ip route del 198.18.3.1"));
  SetNeighbours(kClientMac, kBackendMac);
  std::cout << "ns each, caches warm: data in " << in << ", data out " << out
            << "; data in while others are traced " << traced << "\n";
}

// Every kind over all of the sample before the next one.
void PacketSpeedTest::MeasureCold(uint32_t flows) {
  const uint32_t stride = flows / kSample;
  std::vector<Conn> sample;
  uint32_t refused = 0;
  const double syn = Nanoseconds([&] {
    for (uint32_t i = 0; i < flows; ++i) {
      Conn conn = Caller(i);
      const Outcome outcome = RunOnce(Build(conn.Syn()), "in0");
      if (outcome.verdict != kSent) {
        ++refused;
      } else if (i % stride == 0) {
        LearnLeg(outcome.frame, &conn);
        sample.push_back(conn);
      }
    }
  });
  EXPECT_LT(refused, flows / 100);
  const auto each = [&](const char* interface, const auto& segment,
                        Verdict verdict = kSent) {
    return Nanoseconds([&] {
      for (const Conn& conn : sample) {
        EXPECT_EQ(RunOnce(Build(segment(conn)), interface).verdict, verdict);
      }
    });
  };
  const double syn_ack =
      each("out0", [](const Conn& conn) { return conn.SynAck(); });
  const double ack = each("in0", [&](const Conn& conn) {
    return WithTimestamps(conn.FromClient(kAck, 0, 0));
  });
  each(
      "out0",
      [&](const Conn& conn) {
        return WithTimestamps(conn.FromBackend(kAck, 0, 28));
      },
      kDropped);
  const double in = each("in0", [&](const Conn& conn) {
    return WithTimestamps(conn.FromClient(kAck, 0, 0, Bytes(1400, 1)));
  });
  const double out = each("out0", [&](const Conn& conn) {
    return WithTimestamps(conn.FromBackend(kAck, 0, 1428, Bytes(1400, 1)));
  });
  const double nothing = Nanoseconds([&] {
    Bytes arp = Build(Client(0).Syn());
    Set16(arp, 12, 0x0806);
    for (uint32_t i = 0; i < kSample; ++i) RunOnce(arp, "in0");
  });
  std::cout << flows << " flows; ns each, caches cold, " << nothing
            << " of it for measuring: SYN " << syn << ", SYN-ACK " << syn_ack
            << ", ACK with header " << ack << ", data in " << in
            << ", data out " << out << "\n";
}

// One connection after the other, as they come: what a packet needs, the one
// before it has left at hand. Clients are those from `first` on.
void PacketSpeedTest::MeasureInOrder(uint32_t first) {
  std::vector<double> syn, syn_ack, ack, out, in;
  const auto take = [](const Segment& s, std::vector<double>* times) {
    Outcome outcome;
    times->push_back(Nanoseconds(
        [&] { outcome = RunOnce(Build(s), s.to == kIn0 ? "in0" : "out0"); }));
    return outcome;
  };
  for (uint32_t i = first; i < first + kSample; ++i) {
    Conn conn = Caller(i);
    const Outcome opened = take(conn.Syn(), &syn);
    if (opened.verdict != kSent) continue;
    LearnLeg(opened.frame, &conn);
    EXPECT_EQ(take(conn.SynAck(), &syn_ack).verdict, kSent);
    for (const auto& [segment, times] :
         {std::pair(conn.FromClient(kAck, 0, 0), &ack),
          std::pair(conn.FromBackend(kAck, 0, 28, Bytes(1400, 1)), &out),
          std::pair(conn.FromClient(kAck, 0, 1400, Bytes(1400, 1)), &in)}) {
      EXPECT_EQ(take(WithTimestamps(segment), times).verdict, kSent);
    }
  }
  ASSERT_GE(in.size(), kSample * 99 / 100);
  Record("syn_ns", Median(syn));
  Record("syn_ack_ns", Median(syn_ack));
  Record("header_ns", Median(ack));
  Record("first_in_ns", Median(in));
  Record("first_out_ns", Median(out));
  std::cout << "ns each, in order, medians of " << in.size() << ": SYN "
            << Median(syn) << ", SYN-ACK " << Median(syn_ack)
            << ", ACK with header " << Median(ack) << ", first data out "
            << Median(out) << ", first data in " << Median(in) << "\n";
}

void PacketSpeedTest::ExpectLittleMemory() {
  uint64_t bytes = 0;
  for (const char* map :
       {"packet_keys", "packet_flows", "packet_free", "packet_closed"}) {
    bytes += MemoryOf(map);
  }
  const uint64_t flows = packet().max_flows();
  EXPECT_LE(bytes, 256 * flows) << "for both directions";
  Record("flow_bytes", static_cast<double>(bytes / flows));
  std::cout << "room for " << flows << " flows: " << bytes / flows
            << " B each\n";
}

void PacketSpeedTest::Measure(uint32_t flows) {
  const int stats = bpf_enable_stats(BPF_STATS_RUN_TIME);
  ASSERT_GE(stats, 0) << strerror(errno);
  OpenTable(flows + kSample + 2);
  ExpectLittleMemory();
  const PacketPath::Setup setup = ServeMany();
  MeasureCold(flows);
  MeasureInOrder(flows);
  close(stats);
  MeasureWarm(flows + kSample, setup);
}

TEST_F(PacketSpeedTest, EachKindOfPacketInASmallTable) { Measure(1000); }

TEST_F(PacketSpeedTest, EachKindOfPacketInALargeTable) {
  Measure(std::getenv("HG_SOAK") != nullptr ? 1000000 : 100000);
}

TEST_F(PacketSpeedTest, TheProgramIsWithinWhatTheVerifierTakes) {
  const bpf_prog_info info = Info();
  Record("instructions", info.xlated_prog_len / sizeof(bpf_insn));
  std::cout << info.xlated_prog_len / sizeof(bpf_insn) << " instructions, "
            << info.verified_insns << " verified, " << info.jited_prog_len
            << " bytes of machine code\n";
  // Of a million; older kernels see more.
  EXPECT_LT(info.verified_insns, 250000U);
}

}  // namespace
}  // namespace headgate::datapath
