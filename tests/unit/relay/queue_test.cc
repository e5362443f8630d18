#include "relay/queue.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "datapath/datapath.h"

namespace headgate::relay {
namespace {

class QueueTest : public ::testing::Test {
 protected:
  Queue::Admitted Note(int who) {
    return [this, who](Queue::Ticket) { admitted_.push_back(who); };
  }
  Queue::Entry Enter(int who) { return queue_.Enter(Note(who), &ticket_); }
  bool Return(Queue::Ticket ticket, int who, bool has_waited = false) {
    return queue_.Return(ticket, has_waited, Note(who));
  }
  void Leave() {
    datapath::RemoveOwn(stats_);
    queue_.LookForRoom();
  }

  hg_service_stats stats_{};
  Queue queue_{&stats_};
  Queue::Ticket ticket_ = 0;
  std::vector<int> admitted_;
};

TEST_F(QueueTest, AdmitsUpToTheLimitThenInOrder) {
  queue_.SetLimits(1, 2);
  EXPECT_EQ(Enter(1), Queue::Entry::kAdmitted);
  EXPECT_EQ(Enter(2), Queue::Entry::kWaits);
  EXPECT_EQ(Enter(3), Queue::Entry::kWaits);
  EXPECT_EQ(Enter(4), Queue::Entry::kFull);
  EXPECT_EQ(stats_.queue_active, 2u);
  Leave();
  EXPECT_EQ(admitted_, std::vector({2}));
  Leave();
  EXPECT_EQ(admitted_, std::vector({2, 3}));
  EXPECT_EQ(stats_.queue_active, 0u);
  EXPECT_EQ(stats_.connections_active, 1u);
}

TEST_F(QueueTest, WhoCancelsIsPassedOver) {
  queue_.SetLimits(1, 2);
  Enter(1);
  Enter(2);
  const Queue::Ticket second = ticket_;
  Enter(3);
  EXPECT_TRUE(queue_.Cancel(second));
  EXPECT_FALSE(queue_.Cancel(second));
  Leave();
  EXPECT_EQ(admitted_, std::vector({3}));
  EXPECT_FALSE(queue_.Cancel(ticket_)) << "it has been admitted";
}

TEST_F(QueueTest, RoomThatNobodyTookGoesToTheNext) {
  queue_.SetLimits(1, 2);
  Enter(1);
  Enter(2);
  const Queue::Ticket second = ticket_;
  Enter(3);
  Leave();
  queue_.GiveBack(second);  // It has gone.
  EXPECT_EQ(admitted_, std::vector({2, 3}));
  EXPECT_EQ(stats_.connections_active, 1u);
}

TEST_F(QueueTest, MoreRoomIsGivenOutAtOnce) {
  queue_.SetLimits(1, 3);
  for (int i = 1; i <= 4; ++i) Enter(i);
  queue_.SetLimits(2, 3);
  EXPECT_EQ(admitted_, std::vector({2}));
  queue_.SetLimits(0, 0);
  EXPECT_EQ(admitted_, std::vector({2, 3, 4}));
}

// ---- full backends ----

TEST_F(QueueTest, WhoFindsBackendsFullWaitsBeforeAllThatCameLater) {
  queue_.SetLimits(0, 9);
  EXPECT_EQ(Enter(1), Queue::Entry::kAdmitted);
  const Queue::Ticket first = ticket_;
  EXPECT_EQ(Enter(2), Queue::Entry::kAdmitted);
  const Queue::Ticket second = ticket_;
  EXPECT_TRUE(Return(second, 2));
  EXPECT_EQ(Enter(3), Queue::Entry::kWaits) << "no overtaking";
  EXPECT_TRUE(Return(first, 1));
  EXPECT_EQ(stats_.connections_active, 0u);
  EXPECT_EQ(stats_.queue_active, 3u);
  // One at a time, and each with room makes the occasion for the next.
  queue_.LookForRoom();
  EXPECT_EQ(admitted_, std::vector({1}));
  EXPECT_EQ(stats_.connections_active, 1u);
  EXPECT_TRUE(Return(first, 1, true)) << "still full";
  queue_.LookForRoom();
  queue_.FoundRoom(first);
  EXPECT_EQ(admitted_, std::vector({1, 1, 2}));
  queue_.FoundRoom(second);
  EXPECT_EQ(admitted_, std::vector({1, 1, 2, 3}));
  queue_.FoundRoom(ticket_);
  EXPECT_EQ(stats_.queue_active, 0u);
  EXPECT_EQ(Enter(4), Queue::Entry::kAdmitted) << "nobody waits any more";
}

// Else the second might take the room that has come while the first, in
// another thread, has seen none yet.
TEST_F(QueueTest, NobodyLooksWhileOneWhoCameEarlierDoes) {
  queue_.SetLimits(0, 9);
  Enter(1);
  const Queue::Ticket first = ticket_;
  Enter(2);
  const Queue::Ticket second = ticket_;
  Return(first, 1);
  Return(second, 2);
  queue_.LookForRoom();
  queue_.LookForRoom();
  EXPECT_EQ(admitted_, std::vector({1}));
  EXPECT_TRUE(Return(first, 1, true));
  queue_.LookForRoom();
  queue_.LookForRoom();
  EXPECT_EQ(admitted_, std::vector({1, 1}));
  queue_.GiveBack(first);
  EXPECT_EQ(admitted_, std::vector({1, 1, 2})) << "the first has gone";
  EXPECT_EQ(Enter(3), Queue::Entry::kWaits) << "the second looks still";
  queue_.FoundRoom(second);
  EXPECT_EQ(admitted_, std::vector({1, 1, 2, 3}));
}

TEST_F(QueueTest, AFullQueueTakesBackOnlyWhoHadAPlace) {
  queue_.SetLimits(0, 1);
  Enter(1);
  const Queue::Ticket first = ticket_;
  Enter(2);
  const Queue::Ticket second = ticket_;
  EXPECT_TRUE(Return(first, 1));
  EXPECT_FALSE(Return(second, 2));
  EXPECT_EQ(stats_.connections_active, 1u) << "it stands until it leaves";
  queue_.LookForRoom();
  EXPECT_EQ(Enter(3), Queue::Entry::kWaits) << "the first looks";
  EXPECT_TRUE(Return(first, 1, true));
  EXPECT_EQ(stats_.queue_active, 2u);
}

TEST_F(QueueTest, OnceTheLastHasLeftTheServiceLimitAloneCounts) {
  queue_.SetLimits(2, 9);
  Enter(1);
  EXPECT_TRUE(Return(ticket_, 1));
  EXPECT_TRUE(queue_.Cancel(ticket_));
  for (int i = 2; i <= 5; ++i) Enter(i);
  queue_.SetLimits(4, 9);
  EXPECT_EQ(admitted_, std::vector({4, 5}));
}

// Threads that come and go: the limit holds and nobody is forgotten.
TEST_F(QueueTest, ManyThreads) {
  constexpr int kThreads = 4, kRounds = 20'000;
  queue_.SetLimits(2, 100);
  std::atomic<uint64_t> inside = 0, most = 0;
  const auto visit = [&] {
    for (int i = 0; i < kRounds; ++i) {
      std::atomic<bool> admitted = false;
      Queue::Ticket ticket = 0;
      const auto entry =
          queue_.Enter([&](Queue::Ticket) { admitted = true; }, &ticket);
      if (entry == Queue::Entry::kWaits) {
        while (!admitted) std::this_thread::yield();
      }
      const uint64_t now = ++inside;
      if (now > most) most = now;
      --inside;
      Leave();
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(visit);
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(most, 2u);
  EXPECT_EQ(stats_.connections_active, 0u);
  EXPECT_EQ(stats_.queue_active, 0u);
}

}  // namespace
}  // namespace headgate::relay
