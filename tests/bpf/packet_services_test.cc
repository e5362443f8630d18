// How the control thread ends flows: those of a backend that goes down, a part
// of the table each round of its loop, and those of a paced drain.
#include "control/packet_services.h"

#include "control/paced_drain.h"
#include "net/event_loop.h"
#include "packet_fixture.h"

namespace headgate::datapath {
namespace {

using control::PacedDrain;
using control::PacketServices;

class PacketServicesTest : public PacketProgramTest {
 protected:
  PacketServicesTest() {
    loop_->Stop();  // Run() is one round from now on.
    loop_->Run();
  }
  void TearDown() override {
    PacketProgramTest::TearDown();
    for (const uint32_t n : {1U, 2U}) Clear(stats(n));
  }
  static hg_backend_stats& stats(uint32_t n) {
    return datapath_->backend_stats(BackendId(kService4, n));
  }
  void GoDown(uint32_t n) { services_.ResetBackend(BackendId(kService4, n)); }
  // Rounds until it has ended; `before` each of them.
  size_t RoundsToEnd(const Conn& conn, const std::function<void()>& before) {
    size_t rounds = 0;
    while (IsLive(conn) && rounds < 1000) {
      before();
      Round();
      ++rounds;
    }
    return rounds;
  }
  void Round() {
    loop_->Post([] {});  // It waits for nothing.
    loop_->Run();
  }
  void ExpectEnds(const Conn& conn) {
    EXPECT_LT(RoundsToEnd(conn, [] {}), 100U);
  }

  const std::unique_ptr<EventLoop> loop_ = *EventLoop::Make();
  PacketServices services_{loop_.get(), datapath_.get()};
};

// ---- a backend that goes down -----------------------------------------------

TEST_F(PacketServicesTest, WhoCameBetweenTwoFallsEndsToo) {
  const Conn before = Established(false);
  GoDown(1);
  const Conn between = Established(false);
  GoDown(1);
  const Conn after = Established(false);
  ExpectEnds(before);
  ExpectEnds(between);
  EXPECT_EQ(Read(stats(1).down_resets), 2U);
  EXPECT_TRUE(IsLive(after));
}

TEST_F(PacketServicesTest, WhoFallsOftenHoldsNobodyElseUp) {
  Serve({1, 2});
  const Conn one = Established(false), other = Established(false);
  const uint32_t n = one.backend == BackendAddress(1, false) ? 1 : 2;
  for (int i = 0; i < 50; ++i) GoDown(n);
  GoDown(3 - n);
  ExpectEnds(other);
  EXPECT_FALSE(IsLive(one));
}

TEST_F(PacketServicesTest, WhoFallsEachRoundDoesNotBeginAgainForEver) {
  // It is not in the first part of the table.
  for (int i = 0; i < 300; ++i) {
    Conn conn = NewConn(false);
    Open(&conn);
  }
  const Conn conn = Established(false);
  EXPECT_LT(RoundsToEnd(conn, [this] { GoDown(1); }), 100U);
}

// ---- the end of the path ----------------------------------------------------

class PacketClosingTest : public PacketServicesTest {
 protected:
  static constexpr size_t kConnections = 600;

  void SetUp() override {
    PacketServicesTest::SetUp();
    for (size_t i = 0; i < kConnections; ++i) Established(false);
    mail_.datapath = config::Datapath::kPacket;
    mail_.listen = {{*IpAddress::Parse("198.18.1.1"), 25}};
    wanted_.services["mail"] = mail_;
    wanted_.packet.emplace();
    wanted_.packet->interfaces = {"in0"};
    wanted_.packet->source = {*IpAddress::Parse("198.18.2.1")};
    wanted_.packet->max_flows = 4096;
  }
  void TearDown() override {
    OpenTable(4096);
    PacketServicesTest::TearDown();
  }
  static uint64_t Active() { return Read(stats(1).connections_active); }
  void WaitUntilClosed() {
    for (int i = 0; i < 100 && datapath_->packet() != nullptr; ++i) Round();
    EXPECT_EQ(datapath_->packet(), nullptr);
    EXPECT_EQ(Active(), 0U);
  }

  config::Service mail_;
  config::Config wanted_;
};

TEST_F(PacketClosingTest, ItsConnectionsEndAPartInEachRound) {
  services_.Apply({}, {});
  EXPECT_EQ(Active(), kConnections);
  ASSERT_NE(datapath_->packet(), nullptr);
  ExpectNotOurs(Build(NewConn(false).Syn()));
  size_t most = 0;
  while (Active() > 0) {
    const size_t before = Active();
    Round();
    most = std::max(most, before - Active());
  }
  EXPECT_GT(most, 0U);
  EXPECT_LE(most, 256U);
  WaitUntilClosed();
}

TEST_F(PacketClosingTest, WhoWantsItAgainMeanwhileHasANewOne) {
  services_.Apply({}, {});
  services_.Apply(wanted_, {{"mail", kService4}});
  EXPECT_FALSE(services_.active());
  EXPECT_THAT(services_.problem(), ::testing::HasSubstr("before still end"));
  WaitUntilClosed();
  // It is tried every second.
  for (int i = 0; i < 10 && !services_.active(); ++i) loop_->Run();
  EXPECT_TRUE(services_.active());
  EXPECT_EQ(services_.problem(), "");
}

TEST_F(PacketClosingTest, WhoHasWantedItAgainMeanwhileHasNone) {
  services_.Apply({}, {});
  services_.Apply(wanted_, {{"mail", kService4}});
  services_.Apply({}, {});
  EXPECT_EQ(services_.problem(), "");
  WaitUntilClosed();
}

// ---- a paced drain ----------------------------------------------------------

class PacketDrainTest : public PacketServicesTest {
 protected:
  void Drain(absl::Duration over) {
    start_ = absl::Now();
    drain_.emplace(loop_.get(), &nobody_, &services_, datapath_.get(),
                   BackendId(kService4, 1), control::Pace{.over = over});
  }
  bool draining() const { return drain_->progress().has_value(); }
  absl::Duration TimeToEnd() {
    while (draining()) loop_->Run();
    return absl::Now() - start_;
  }

  absl::Time start_;
  const PacedDrain::Workers nobody_{};
  std::optional<PacedDrain> drain_;
};

// One that counts and has no flow, as while it connects.
TEST_F(PacketDrainTest, WhoCannotBeFoundIsNotLookedForAllTheTime) {
  stats(1).connections_active = 1;
  Drain(absl::ZeroDuration());
  loop_->Run();
  stats(1).connections_active = 0;
  EXPECT_TRUE(draining());
  EXPECT_GE(TimeToEnd(), absl::Seconds(1));
}

TEST_F(PacketDrainTest, WhoWentMeanwhileLetsNobodyWait) {
  const Conn first = Established(false), second = Established(false);
  Drain(absl::Milliseconds(100));
  while (IsLive(first)) loop_->Run();
  // It was to be the next.
  ASSERT_TRUE(IsLive(second));
  const Segment rst = second.FromClient(kRst, 0, 0);
  ExpectSent(rst, second.OwnReset(rst, second.header()));
  const Conn third = Established(false);
  EXPECT_LT(TimeToEnd(), absl::Milliseconds(900));
  EXPECT_FALSE(IsLive(third));
}

}  // namespace
}  // namespace headgate::datapath
