// Random frames into the program, and into a model of its rules: no
// difference, for a minute of all three hooks. And frames of random bytes.
// HG_SOAK=1 takes ten times as long.
#include "packet_model.h"

#include <chrono>
#include <cstdlib>
#include <random>

#include "packet_random.h"

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
    random_.emplace(seed_);
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
    if (model_) connections_ += model_->connections();
    model_.emplace(1500, 3);
    counted_ = Counted();
    random_->Forget();
  }

  // Whether the backend that was asked has had its time to answer.
  void SetSilent(const Conn& conn, bool silent) {
    const auto now = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now().time_since_epoch());
    Change(conn, [&](hg_flow& flow) {
      flow.asked = static_cast<uint32_t>(now.count()) - (silent ? 1000 : 100);
    });
    model_->SetSilent(conn, silent);
  }

  void RunOneFrame() {
    const uint32_t kind = random_->Below(8);
    if (kind == 0) {
      const std::optional<IcmpError> error = random_->Error(*model_);
      if (!error) return;
      const Bytes frame = Build(*error);
      Compare(frame, RunOn(error->ip, frame), model_->FromAnybody(*error));
    } else if (kind % 2 == 0) {
      const std::optional<Segment> s = random_->FromBackend(*model_);
      if (!s) return;
      const Bytes frame = Build(*s);
      Compare(frame, RunOn(*s, frame), model_->FromBackend(*s));
    } else {
      const Segment s = random_->FromClient(*model_);
      const PacketModel::Flow& flow = random_->flow();
      const bool again = flow.has_leg && (s.flags & kSyn) &&
                         flow.state == PacketModel::kSynSent;
      const absl::Time asked = absl::Now();
      if (again) SetSilent(flow.conn, random_->Below(2) == 0);
      const Outcome got = RunOn(s, Build(s));
      // The machine stood still: who knows which time was over.
      if (again && absl::Now() - asked > absl::Milliseconds(400)) {
        return Begin();
      }
      Compare(Build(s), got, model_->FromClient(s));
    }
  }
  static Outcome RunOn(const Segment& ip, const Bytes& frame) {
    return RunOnce(frame, ip.to == kIn0 ? "in0" : "out0");
  }
  void Compare(const Bytes& frame, const Outcome& got,
               const Prediction& wanted) {
    SCOPED_TRACE(absl::StrCat("state ", static_cast<int>(random_->flow().state),
                              Hex(frame)));
    const bool told = wanted.told && got.verdict == kSent;
    ASSERT_EQ(got.verdict, told ? kSent : wanted.verdict)
        << ::testing::PrintToString(Since(counted_)) << " wanted "
        << ::testing::PrintToString(wanted.exits);
    if (told) {
      ASSERT_EQ(got.frame, *wanted.told) << Hex(got.frame);
      ++told_;
    }
    if (wanted.verdict == kNotOurs) {
      ASSERT_EQ(got.frame, frame) << Hex(got.frame);
    }
    for (const Bytes& next : wanted.behind) {
      const std::optional<Bytes> behind = Captured();
      ASSERT_TRUE(behind.has_value());
      ASSERT_EQ(*behind, next);
    }
    // What was sent ahead of another is dropped in its own time.
    Exits exits;
    headgate::testing::WaitUntil(absl::Seconds(5), [&] {
      return (exits = Since(counted_)) == wanted.exits;
    });
    ASSERT_EQ(exits, wanted.exits);
    ASSERT_FALSE(MoreIsCaptured());
    for (const auto& [exit, count] : exits) counted_[exit] += count;
    if (wanted.learn) {
      const std::string problem = wanted.learn(got.frame);
      ASSERT_EQ(problem, "") << Hex(got.frame);
    }
    if (wanted.out) {
      ASSERT_EQ(got.frame, *wanted.out)
          << Hex(got.frame) << "\nwanted" << Hex(*wanted.out);
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
      EXPECT_EQ(got.bytes_in, flow.bytes_in);
      if (flow.state != PacketModel::kSynSent) {
        EXPECT_EQ(got.next_out, flow.next_out);
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
  std::optional<RandomFrames> random_;
  std::optional<PacketModel> model_;
  Exits counted_;
  uint64_t told_ = 0, connections_ = 0;
};

TEST_F(PacketModelTest, RandomFramesDoWhatTheModelSays) {
  const absl::Time deadline = EndOf(absl::Seconds(20));
  uint64_t frames = 0;
  while (absl::Now() < deadline) {
    for (int i = 0; i < 100; ++i, ++frames) {
      RunOneFrame();
      ASSERT_FALSE(HasFailure()) << "frame " << frames << ", HG_SEED=" << seed_;
    }
    CompareTables();
    ASSERT_FALSE(HasFailure()) << "HG_SEED=" << seed_;
    // Before numbers are used again, of which the model knows nothing.
    if (model_->opened() + 200 < kFlows && random_->Below(20000) != 0) continue;
    Begin();
  }
  connections_ += model_->connections();
  EXPECT_GT(connections_, 0U);
  EXPECT_GT(told_, 0U);
  std::cout << frames << " frames, " << connections_ << " connections, "
            << ::testing::PrintToString(counted_) << "\n";
}

// Anything may come in: it is counted, or somebody else's and untouched.
TEST_F(PacketModelTest, RandomBytesAreCountedOrNotOurs) {
  const absl::Time deadline = EndOf(absl::Seconds(3));
  const Conn four = Established(false), six = Established(true);
  uint64_t frames = 0, ours = 0;
  for (; absl::Now() < deadline; ++frames) {
    random_->LookAt(random_->Below(2) == 0 ? four : six);
    const Bytes frame = random_->Garbled();
    const bool by_in0 = std::equal(kIn0.begin(), kIn0.end(), frame.begin());
    const Outcome outcome = Run(frame, by_in0 ? "in0" : "out0");
    uint64_t counted = 0;
    for (const auto& [exit, count] : outcome.exits) counted += count;
    if (outcome.verdict == kNotOurs) {
      ASSERT_EQ(outcome.frame, frame) << Hex(frame);
      // A clone of an earlier frame may be counted late.
      continue;
    }
    ASSERT_TRUE(outcome.verdict == kSent || outcome.verdict == kDropped)
        << outcome.verdict << Hex(frame);
    ASSERT_NE(outcome.xdp, XDP_ABORTED) << Hex(frame);
    ASSERT_GE(counted, 1U) << Hex(frame);
    ++ours;
  }
  ForgetCaptured();
  EXPECT_GT(ours, 0U);
  std::cout << frames << " frames, " << ours << " ours\n";
}

}  // namespace
}  // namespace headgate::datapath
