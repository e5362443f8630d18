// Random segments into the program, and into a model of its rules: no
// difference. And frames of random bytes. All hooks together take a minute;
// HG_SOAK=1 ten times that.
#include "packet_model.h"

#include <chrono>
#include <cstdlib>
#include <random>

namespace headgate::datapath {
namespace {

absl::Time EndOf(absl::Duration time) {
  return absl::Now() + time * (std::getenv("HG_SOAK") != nullptr ? 10 : 1);
}

class PacketModelTest : public PacketProgramTest {
 protected:
  static constexpr uint32_t kFlows = 65536;

  void SetUp() override {
    PacketProgramTest::SetUp();
    const char* seed = std::getenv("HG_SEED");
    seed_ = seed != nullptr ? static_cast<uint32_t>(std::atoi(seed))
                            : std::random_device()();
    random_.seed(seed_);
    RecordProperty("seed", std::to_string(seed_));
    Begin();
  }
  void TearDown() override {
    PacketProgramTest::TearDown();
    OpenTable(4096);
  }

  // An empty table, and a model that is at its beginning.
  void Begin() {
    OpenTable(kFlows);
    Serve({1, 2, 3});
    Configure();
    for (const uint32_t id : kServices) Clear(datapath_->service_stats(id));
    ForgetCaptured();
    model_.emplace(1500, 3);
    counted_ = Counted();
    old_legs_.clear();
  }

  uint32_t Below(uint32_t bound) {
    return std::uniform_int_distribution<uint32_t>(0, bound - 1)(random_);
  }
  uint32_t Any() { return static_cast<uint32_t>(random_()); }
  template <typename T>
  T OneOf(const std::vector<T>& list) {
    return list[Below(static_cast<uint32_t>(list.size()))];
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
            options.push_back(static_cast<uint8_t>(Any()));
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
  void Vary(Segment* s) {
    s->flags = Flags();
    s->ae = Below(9) == 0;
    s->window = static_cast<uint16_t>(Below(65536));
    s->urgent = static_cast<uint16_t>(Below(3));
    s->ttl = Below(30) == 0 ? static_cast<uint8_t>(Below(3)) : 64;
    s->tos = static_cast<uint8_t>(Below(256));
    s->id = static_cast<uint16_t>(Below(65536));
    s->label = Below(1 << 20);
    s->options = Options();
    if (Below(2) == 0) {
      s->payload =
          Bytes(Below(Below(4) == 0 ? 1400 : 4), static_cast<uint8_t>(Any()));
    }
    if (s->payload.empty() && Below(8) == 0) {
      s->padding = Bytes(Below(20), 0x33);
    }
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

  Segment NextFromClient() {
    const Conn conn = AnyConn();
    const auto known = model_->flows().find(
        {conn.client, conn.client_port, conn.vip, conn.vip_port});
    flow_ =
        known != model_->flows().end() ? known->second : PacketModel::Flow();
    Segment s = conn.FromClient(0, 0, 0);
    Vary(&s);
    if (known == model_->flows().end() || !flow_.has_leg) {
      if (Below(4) != 0 || known != model_->flows().end()) s.flags = kSyn;
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

  std::optional<Segment> NextFromBackend() {
    std::vector<PacketModel::Flow> live;
    for (const auto& [key, flow] : model_->flows()) {
      if (flow.has_leg) live.push_back(flow);
    }
    if (live.empty()) return std::nullopt;
    flow_ = OneOf(live);
    Conn conn = flow_.conn;
    if (!old_legs_.empty() && Below(20) == 0) conn = OneOf(old_legs_);
    Segment s = conn.FromBackend(0, 0, 0);
    Vary(&s);
    s.seq = Below(3) == 0 ? flow_.next_out : Near();
    s.ack = Below(3) == 0 ? flow_.next_in + conn.header() : Near();
    if (flow_.state == PacketModel::kSynSent && Below(2) == 0) {
      s.flags = OneOf<uint8_t>({kSyn | kAck, kSyn | kAck, kRst | kAck});
      s.ack = conn.isn + 1;
    }
    return s;
  }

  // Whether the backend that was asked has had its time to answer.
  void SetSilent(bool silent) {
    const auto now = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now().time_since_epoch());
    Change(flow_.conn, [&](hg_flow& flow) {
      flow.asked = static_cast<uint32_t>(now.count()) - (silent ? 1000 : 100);
    });
    model_->SetSilent(flow_.conn, silent);
  }

  void RunOneSegment() {
    const bool client = Below(2) == 0;
    const std::optional<Segment> s =
        client ? std::optional(NextFromClient()) : NextFromBackend();
    if (!s) return;
    if (flow_.has_leg && Below(50) == 0) old_legs_.push_back(flow_.conn);
    if (old_legs_.size() > 20) old_legs_.clear();
    if (client && flow_.has_leg && flow_.state == PacketModel::kSynSent &&
        (s->flags & kSyn)) {
      SetSilent(Below(2) == 0);
    }
    const Prediction wanted =
        client ? model_->FromClient(*s) : model_->FromBackend(*s);
    const Bytes frame = Build(*s);
    const Outcome got = RunOnce(frame, client ? "in0" : "out0");
    SCOPED_TRACE(absl::StrCat("state ", static_cast<int>(flow_.state),
                              client ? " client" : " backend", Hex(frame)));
    const bool told = wanted.told && got.verdict == kSent;
    ASSERT_EQ(got.verdict, told ? kSent : wanted.verdict)
        << ::testing::PrintToString(Since(counted_)) << " wanted "
        << ::testing::PrintToString(wanted.exits);
    if (told) {
      ASSERT_EQ(got.frame, Build(*wanted.told)) << Hex(got.frame);
      ++told_;
    }
    if (wanted.behind) {
      const std::optional<Bytes> behind = Captured();
      ASSERT_TRUE(behind.has_value());
      ASSERT_EQ(*behind, Build(*wanted.behind));
    }
    // What was sent ahead of another is dropped in its own time.
    Exits exits;
    headgate::testing::WaitUntil(absl::Seconds(5), [&] {
      return (exits = Since(counted_)) == wanted.exits;
    });
    ASSERT_EQ(exits, wanted.exits);
    for (const auto& [exit, count] : exits) counted_[exit] += count;
    if (wanted.learn) {
      const std::string problem = wanted.learn(got.frame);
      ASSERT_EQ(problem, "") << Hex(got.frame);
    }
    if (wanted.out) {
      const Bytes out = Build(*wanted.out);
      ASSERT_EQ(got.frame, out) << Hex(got.frame) << "\nwanted" << Hex(out);
    }
  }

  void CompareTables() {
    std::map<PacketModel::Key, hg_flow> live;
    for (const PacketPath::Flow& flow : packet().Flows()) {
      PacketAddress client;
      std::copy_n(flow.state.client, 16, client.begin());
      live[{client, flow.state.client_port, flow.listen,
            flow.state.listen_port}] = flow.state;
    }
    uint64_t established = 0;
    for (const auto& [key, flow] : model_->flows()) {
      if (flow.state == PacketModel::kClosed) continue;
      ASSERT_TRUE(live.contains(key));
      const hg_flow got = live[key];
      live.erase(key);
      EXPECT_EQ(got.state, static_cast<uint32_t>(flow.state));
      EXPECT_EQ(got.isn, flow.conn.isn);
      EXPECT_EQ(got.next_in, flow.next_in);
      EXPECT_EQ(got.next_out, flow.next_out);
      EXPECT_EQ(got.bytes_in, flow.bytes_in);
      if (flow.state != PacketModel::kSynSent) {
        EXPECT_EQ(got.acked_in, flow.acked_in);
        EXPECT_EQ(got.acked_out, flow.acked_out);
      }
      if (got.header != 0) {
        EXPECT_EQ((got.flags & HG_FLOW_HEADER_ACKED) != 0, flow.acked);
      }
      established += flow.state == PacketModel::kEstablished ? 1 : 0;
    }
    EXPECT_TRUE(live.empty());
    uint64_t active = 0, total = 0;
    for (const uint32_t id : kServices) {
      active += Read(datapath_->service_stats(id).connections_active);
      total += Read(datapath_->service_stats(id).connections_total);
    }
    EXPECT_EQ(active, established);
    EXPECT_EQ(total, model_->connections());
  }

  uint32_t seed_ = 0;
  std::mt19937 random_;
  std::optional<PacketModel> model_;
  PacketModel::Flow flow_;  // That is looked at.
  Exits counted_;
  uint64_t told_ = 0;
  std::vector<Conn> old_legs_;
};

TEST_F(PacketModelTest, RandomSegmentsDoWhatTheModelSays) {
  const absl::Time deadline = EndOf(absl::Seconds(20));
  uint64_t segments = 0, connections = 0;
  while (absl::Now() < deadline) {
    for (int i = 0; i < 100; ++i, ++segments) {
      RunOneSegment();
      ASSERT_FALSE(HasFailure())
          << "segment " << segments << ", HG_SEED=" << seed_;
    }
    CompareTables();
    ASSERT_FALSE(HasFailure()) << "HG_SEED=" << seed_;
    // Before numbers are used again, of which the model knows nothing.
    if (model_->opened() + 200 < kFlows && Below(20000) != 0) continue;
    connections += model_->connections();
    Begin();
  }
  connections += model_->connections();
  EXPECT_GT(connections, 0U);
  EXPECT_GT(told_, 0U);
  std::cout << segments << " segments, " << connections << " connections, "
            << ::testing::PrintToString(counted_) << "\n";
}

// Anything may come in: it is counted, or somebody else's and untouched.
TEST_F(PacketModelTest, RandomBytesAreCountedOrNotOurs) {
  const absl::Time deadline = EndOf(absl::Seconds(3));
  const Conn four = Established(false), six = Established(true);
  uint64_t frames = 0, ours = 0;
  for (; absl::Now() < deadline; ++frames) {
    const Conn& conn = Below(2) == 0 ? four : six;
    flow_.conn = conn;
    const bool client = Below(2) == 0;
    Segment s = client ? conn.FromClient(0, 0, 0) : conn.FromBackend(0, 0, 0);
    Vary(&s);
    if (s.v6 && Below(4) == 0) {
      s.next_header = OneOf<uint8_t>({0, 43, 44, 60, 51, 6});
      s.extensions = Bytes(Below(64), static_cast<uint8_t>(Any()));
    }
    Bytes frame = Build(s);
    for (uint32_t i = Below(6); i > 0; --i) {
      frame[14 + Below(static_cast<uint32_t>(frame.size()) - 14)] =
          static_cast<uint8_t>(Any());
    }
    if (Below(4) == 0) {
      // Of less than an IPv6 header, BPF_PROG_RUN makes no packet.
      frame.resize(54 + Below(static_cast<uint32_t>(frame.size())));
    }
    if (Below(10) == 0) {
      frame.resize(std::max<size_t>(frame.size(), 54));
      for (uint8_t& byte : frame) byte = static_cast<uint8_t>(Any());
      Set16(frame, 12, Below(2) == 0 ? 0x0800 : 0x86dd);
    }
    const Outcome outcome = Run(frame, client ? "in0" : "out0");
    uint64_t counted = 0;
    for (const auto& [exit, count] : outcome.exits) counted += count;
    if (outcome.verdict == kNotOurs) {
      ASSERT_EQ(outcome.frame, frame) << Hex(frame);
      // A clone of an earlier frame may be counted late.
      continue;
    }
    ASSERT_TRUE(outcome.verdict == kSent || outcome.verdict == kDropped)
        << outcome.verdict << Hex(frame);
    ASSERT_GE(counted, 1U) << Hex(frame);
    ++ours;
  }
  ForgetCaptured();
  EXPECT_GT(ours, 0U);
  std::cout << frames << " frames, " << ours << " ours\n";
}

}  // namespace
}  // namespace headgate::datapath
