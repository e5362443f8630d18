#include "net/event_loop.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <thread>

namespace headgate {
namespace {

std::unique_ptr<EventLoop> MakeLoop() {
  absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Make();
  EXPECT_TRUE(loop.ok()) << loop.status();
  return *std::move(loop);
}

TEST(TimerTest, FireInOrderOfTheirDeadlinesAndNotEarly) {
  auto loop = MakeLoop();
  std::vector<int> fired;
  const int64_t start = MonotonicNs();
  Timer late(loop.get(), [&] {
    fired.push_back(30);
    loop->Stop();
  });
  Timer early(loop.get(), [&] { fired.push_back(10); });
  Timer middle(loop.get(), [&] { fired.push_back(20); });
  late.Set(absl::Milliseconds(30));
  early.Set(absl::Milliseconds(10));
  middle.Set(absl::Milliseconds(20));
  loop->Run();
  EXPECT_EQ(fired, (std::vector<int>{10, 20, 30}));
  EXPECT_GE(MonotonicNs() - start, 30'000'000);
}

TEST(TimerTest, CancelledAndDestroyedOnesDoNotFire) {
  auto loop = MakeLoop();
  int fired = 0;
  Timer cancelled(loop.get(), [&] { ++fired; });
  cancelled.Set(absl::Milliseconds(1));
  cancelled.Cancel();
  auto destroyed = std::make_unique<Timer>(loop.get(), [&] { ++fired; });
  destroyed->Set(absl::Milliseconds(1));
  destroyed.reset();
  Timer stop(loop.get(), [&] { loop->Stop(); });
  stop.Set(absl::Milliseconds(20));
  loop->Run();
  EXPECT_EQ(fired, 0);
}

TEST(TimerTest, MayBeSetAgainByItsCallback) {
  auto loop = MakeLoop();
  int fired = 0;
  Timer timer(loop.get(), [&] {
    if (++fired == 3) {
      loop->Stop();
    } else {
      timer.Set(absl::Milliseconds(1));
    }
  });
  timer.Set(absl::Milliseconds(1));
  loop->Run();
  EXPECT_EQ(fired, 3);
}

TEST(TimerTest, MayBeDestroyedByItsCallback) {
  auto loop = MakeLoop();
  std::unique_ptr<Timer> timer;
  timer = std::make_unique<Timer>(loop.get(), [&] {
    timer.reset();
    loop->Stop();
  });
  timer->Set(absl::ZeroDuration());
  loop->Run();
  EXPECT_EQ(timer, nullptr);
}

TEST(TimerTest, ManyInRandomOrderFireSorted) {
  // When a timer is due, as far as one can tell: setting it takes time, and
  // may take long.
  struct Due {
    int64_t earliest_ns, latest_ns;
  };
  auto loop = MakeLoop();
  std::vector<Due> fired;
  std::vector<std::unique_ptr<Timer>> timers;
  std::vector<Due> dues(200);
  for (int i = 0; i < 200; ++i) {
    const int step = i * 37 % 200;  // 37 and 200 share no factor: all of them.
    Due& due = dues[static_cast<size_t>(i)];
    timers.push_back(std::make_unique<Timer>(
        loop.get(), [&fired, &due] { fired.push_back(due); }));
    due.earliest_ns = MonotonicNs() + step * 100'000;
    timers.back()->Set(absl::Microseconds(step * 100));
    due.latest_ns = MonotonicNs() + step * 100'000;
  }
  for (int i = 0; i < 200; i += 2) timers[static_cast<size_t>(i)]->Cancel();
  Timer stop(loop.get(), [&] { loop->Stop(); });
  stop.Set(absl::Milliseconds(25));
  loop->Run();
  ASSERT_EQ(fired.size(), 100U);
  for (size_t i = 1; i < fired.size(); ++i) {
    EXPECT_LE(fired[i - 1].earliest_ns, fired[i].latest_ns) << i;
  }
}

TEST(EventLoopTest, PostRunsInOrderInTheLoopsThread) {
  auto loop = MakeLoop();
  std::vector<int> ran;
  std::thread::id where;
  std::thread runner([&] { loop->Run(); });
  const std::thread::id runner_id = runner.get_id();
  loop->Post([&] { ran.push_back(1); });
  loop->Post([&] {
    ran.push_back(2);
    where = std::this_thread::get_id();
  });
  loop->Stop();
  runner.join();
  EXPECT_EQ(ran, (std::vector<int>{1, 2}));
  EXPECT_EQ(where, runner_id);
}

class Reader final : public IoHandler {
 public:
  explicit Reader(int fd) : fd_(fd) {}
  void OnIo(uint32_t events) override {
    ++calls;
    last_events = events;
    std::array<char, 16> buffer{};
    [[maybe_unused]] const ssize_t got = read(fd_, buffer.data(), 16);
    if (on_call) on_call();
  }
  int calls = 0;
  uint32_t last_events = 0;
  std::function<void()> on_call;

 private:
  int fd_;
};

class PairTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, first_), 0);
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, second_), 0);
  }
  void TearDown() override {
    for (const int fd : {first_[0], first_[1], second_[0], second_[1]}) {
      close(fd);
    }
  }
  int first_[2];
  int second_[2];
};

TEST_F(PairTest, AHandlerRemovedInARoundGetsNoEventOfThatRound) {
  auto loop = MakeLoop();
  Reader one(first_[0]);
  Reader other(second_[0]);
  // Whoever comes first removes the other; both are ready in the same round.
  one.on_call = [&] { loop->Remove(second_[0], &other); };
  other.on_call = [&] { loop->Remove(first_[0], &one); };
  ASSERT_TRUE(loop->Add(first_[0], EPOLLIN, &one).ok());
  ASSERT_TRUE(loop->Add(second_[0], EPOLLIN, &other).ok());
  ASSERT_EQ(write(first_[1], "x", 1), 1);
  ASSERT_EQ(write(second_[1], "x", 1), 1);
  loop->Post([&] { loop->Stop(); });
  loop->Run();
  EXPECT_EQ(one.calls + other.calls, 1);
}

TEST_F(PairTest, DeferRunsOnceInTheNextRoundWithoutEvents) {
  auto loop = MakeLoop();
  Reader reader(first_[0]);
  reader.on_call = [&] { loop->Stop(); };
  loop->Defer(&reader);
  loop->Run();
  EXPECT_EQ(reader.calls, 1);
  EXPECT_EQ(reader.last_events, 0U);
}

TEST(EventLoopTest, DestroyLaterWaitsForTheEndOfTheRound) {
  struct Tracked final : LoopOwned {
    explicit Tracked(bool* flag) : gone_(flag) {}
    ~Tracked() override { *gone_ = true; }
    bool* gone_;
  };
  auto loop = MakeLoop();
  bool gone = false;
  bool gone_in_round = true;
  loop->Post([&] {
    loop->DestroyLater(std::make_unique<Tracked>(&gone));
    gone_in_round = gone;
    loop->Stop();
  });
  loop->Run();
  EXPECT_FALSE(gone_in_round);
  EXPECT_TRUE(gone);
}

}  // namespace
}  // namespace headgate
