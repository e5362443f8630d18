#include "control/map_writer.h"

#include <gtest/gtest.h>

namespace headgate::control {
namespace {

using Map = MapWriter::Map;

class MapWriterTest : public ::testing::Test {
 protected:
  static absl::Status Fail() { return absl::ResourceExhaustedError("no room"); }
  static absl::Status Succeed() { return absl::OkStatus(); }

  const std::unique_ptr<EventLoop> loop_ = *EventLoop::Make();
  std::string problem_ = "none yet";
  MapWriter writer_{loop_.get(),
                    [this](const std::string& problem) { problem_ = problem; }};
};

TEST_F(MapWriterTest, WhatSucceedsIsNoNews) {
  writer_.Do({Map::kBackends, 1}, Succeed);
  EXPECT_EQ(problem_, "none yet");
}

TEST_F(MapWriterTest, AnotherToTheSameElementTakesItsPlace) {
  writer_.Do({Map::kBackends, 1}, Fail);
  EXPECT_EQ(problem_.substr(0, 9), "no room; ");
  writer_.Do({Map::kBackends, 1}, Succeed);
  EXPECT_EQ(problem_, "");
}

TEST_F(MapWriterTest, TheProblemLastsAsLongAsOneIsLeft) {
  writer_.Do({Map::kBackends, 1}, Fail);
  writer_.Do({Map::kServices, 1}, Fail);
  writer_.Do({Map::kBackends, 1}, Succeed);
  EXPECT_NE(problem_, "");
  writer_.Do({Map::kServices, 1}, Succeed);
  EXPECT_EQ(problem_, "");
}

}  // namespace
}  // namespace headgate::control
