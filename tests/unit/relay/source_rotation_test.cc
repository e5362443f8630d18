#include "relay/source_rotation.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <map>
#include <memory>
#include <vector>

namespace headgate::relay {
namespace {

constexpr int64_t kMs = 1'000'000;

class SourceRotationTest : public ::testing::Test {
 protected:
  // The source that a connection gets at `now_ns`, as Connection does it.
  IpAddress Get(uint32_t backend, int64_t now_ns) {
    for (size_t i = 0; i < sources_.size(); ++i) {
      const IpAddress& source = rotation_->Next(backend, sources_);
      if (rotation_->PausedBy(backend, source, now_ns) == 0) return source;
    }
    return {};
  }

  // On the heap, as in a worker.
  std::unique_ptr<SourceRotation> rotation_ =
      std::make_unique<SourceRotation>();
  const std::vector<IpAddress> sources_ = {*IpAddress::Parse("198.18.2.1"),
                                           *IpAddress::Parse("198.18.2.2"),
                                           *IpAddress::Parse("198.18.2.3")};
};

TEST_F(SourceRotationTest, WithoutSourcesTheKernelChooses) {
  EXPECT_TRUE(rotation_->Next(1, {}).is_unspecified());
}

TEST_F(SourceRotationTest, EachBackendHasItsOwnTurns) {
  std::map<std::pair<uint32_t, IpAddress>, int> uses;
  for (uint32_t i = 0; i < 900; ++i) ++uses[{i % 3, Get(i % 3, 0)}];
  EXPECT_EQ(uses.size(), 9u);
  for (const auto& [pair, count] : uses) EXPECT_EQ(count, 100);
}

TEST_F(SourceRotationTest, ThePausedOnesShareGoesToTheOthersAlike) {
  rotation_->Pause(1, sources_[1], EADDRINUSE, 0, 0);
  std::map<IpAddress, int> uses;
  for (int i = 0; i < 100; ++i) ++uses[Get(1, 0)];
  EXPECT_EQ(uses[sources_[0]], 50);
  EXPECT_EQ(uses[sources_[2]], 50);
  EXPECT_EQ(rotation_->PausedBy(1, sources_[1], 0), EADDRINUSE);
  EXPECT_EQ(rotation_->PausedBy(2, sources_[1], 0), 0);
}

TEST_F(SourceRotationTest, APauseEnds) {
  rotation_->Pause(1, sources_[0], EADDRNOTAVAIL, 0, kMs);
  EXPECT_EQ(rotation_->PausedBy(1, sources_[0], 250 * kMs), EADDRNOTAVAIL);
  EXPECT_EQ(rotation_->PausedBy(1, sources_[0], 251 * kMs), 0);
  rotation_->Pause(1, sources_[0], EADDRNOTAVAIL, 300 * kMs, 300 * kMs);
  rotation_->Clear();
  EXPECT_EQ(rotation_->PausedBy(1, sources_[0], 300 * kMs), 0);
}

TEST_F(SourceRotationTest, RetriesOfAllSourcesTakeATwentiethOfTheTime) {
  constexpr int64_t kTakesNs = 8 * kMs;
  int64_t spent = 0;
  for (const IpAddress& source : sources_) {
    rotation_->Pause(1, source, EADDRINUSE, 0, 0);
  }
  for (int64_t now = 0; now < 20'000 * kMs; now += kMs) {
    for (const IpAddress& source : sources_) {
      if (rotation_->PausedBy(1, source, now) != 0) continue;
      rotation_->Pause(1, source, EADDRINUSE, now, now + kTakesNs);
      spent += kTakesNs;
    }
  }
  EXPECT_LE(spent, 1'000 * kMs);
  EXPECT_GE(spent, 100 * kMs) << "they are retried";
}

}  // namespace
}  // namespace headgate::relay
