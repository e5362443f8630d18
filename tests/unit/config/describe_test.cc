#include "config/describe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/diff.h"
#include "tests/unit/config/config_texts.h"
#include "tests/unit/config/random_config.h"

namespace headgate::config {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;

TEST(ToYamlTest, WritesDefaultsOut) {
  EXPECT_EQ(ToYaml(Parse(kExample).config), R"(metrics:
  listen: 127.0.0.1:9140
splice:
  mode: auto
  promote_after: 256KiB
  backlog_per_connection: 1MiB
pools:
  mail-nodes:
    backends:
      - {name: k8s-node1, address: 198.18.2.11, weight: 1, backup: false, max_connections: 0}
      - {name: k8s-node2, address: 198.18.2.12, weight: 2, backup: false, max_connections: 0}
      - {name: spare, address: "[2001:db8:2::9]:30125", weight: 1, backup: true, max_connections: 0}
services:
  smtp:
    listen: [198.18.1.1:25, "[2001:db8:1::1]:25"]
    pool: mail-nodes
    backend_port: 30125
    datapath: splice
    balance: round_robin
    panic_threshold: 0
    last_resort: none
    proxy_protocol: v2
    health:
      type: tcp
      port: 30145
      proxy_protocol: none
      interval: 5s
      timeout: 2s
      rise: 2
      fall: 3
    timeouts:
      connect: 5s
      try_next: 250ms
      idle: 1h
      dead_peer: 5m
    max_connections: 0
    on_no_backend: reset
    on_backend_down: keep
)");
}

TEST(ToYamlTest, ParsesBackToAnEqualConfig) {
  RandomConfig random(20240601);
  for (int i = 0; i < 500; ++i) {
    const Config config = random.Next();
    const std::string yaml = ToYaml(config);
    ASSERT_THAT(ErrorsOf(yaml), IsEmpty()) << yaml;
    ASSERT_EQ(Parse(yaml).config, config) << yaml;
  }
}

TEST(DiffTest, EmptyIfAndOnlyIfEqual) {
  RandomConfig random(7);
  Config before = random.Next();
  for (int i = 0; i < 500; ++i) {
    const Config after = random.Next();
    ASSERT_THAT(Diff(after, after), IsEmpty());
    ASSERT_NE(before, after);
    ASSERT_THAT(Diff(before, after), Not(IsEmpty()));
    before = after;
  }
}

IpAddress Address(absl::string_view text) {
  return IpAddress::Parse(text).value();
}

class DiffOfTest : public ::testing::Test {
 protected:
  std::vector<std::string> Lines() const { return Diff(running_, next_); }
  Service& smtp() { return next_.services.at("smtp"); }
  std::vector<Backend>& backends() {
    return next_.pools.at("mail-nodes").backends;
  }

  const Config running_ = Parse(kExample).config;
  Config next_ = running_;
};

TEST_F(DiffOfTest, Fields) {
  next_.metrics_listen.reset();
  next_.workers = 4;
  next_.splice.mode = SpliceMode::kOff;
  smtp().health.interval = absl::Seconds(2);
  smtp().health.fast_interval = absl::Seconds(1);
  smtp().health.down_interval = absl::Seconds(30);
  smtp().health.port.reset();
  smtp().listen.pop_back();
  next_.pools.at("mail-nodes").source = {Address("198.18.2.1"),
                                         Address("2001:db8:2::1")};
  EXPECT_THAT(Lines(),
              ElementsAre("metrics.listen: 127.0.0.1:9140 -> unset",
                          "workers: unset -> 4", "splice.mode: auto -> off",
                          "pool mail-nodes: source: unset -> [198.18.2.1, "
                          "\"2001:db8:2::1\"]",
                          "service smtp: listen: [198.18.1.1:25, "
                          "\"[2001:db8:1::1]:25\"] -> [198.18.1.1:25]",
                          "service smtp: health.port: 30145 -> unset",
                          "service smtp: health.interval: 5s -> 2s",
                          "service smtp: health.fast_interval: unset -> 1s",
                          "service smtp: health.down_interval: unset -> 30s"));
}

TEST_F(DiffOfTest, WhatBackendsFailingMeans) {
  smtp().greeting_timeout = absl::Seconds(10);
  smtp().try_next_timeout = absl::Seconds(1);
  smtp().queue = {50, absl::Minutes(1)};
  smtp().on_no_backend = NoBackend::kSmtp421;
  smtp().on_backend_down = BackendDown::kReset;
  smtp().ejection = Ejection();
  EXPECT_THAT(Lines(),
              ElementsAre("service smtp: timeouts.try_next: 250ms -> 1s",
                          "service smtp: timeouts.greeting: unset -> 10s",
                          "service smtp: queue.size: unset -> 50",
                          "service smtp: queue.timeout: unset -> 1m",
                          "service smtp: on_no_backend: reset -> smtp_421",
                          "service smtp: on_backend_down: keep -> reset",
                          "service smtp: ejection.failures: unset -> 5",
                          "service smtp: ejection.time: unset -> 10s",
                          "service smtp: ejection.max_percent: unset -> 50"));
}

TEST_F(DiffOfTest, ServicesAndPools) {
  next_.services["imap"] = smtp();
  next_.services.erase("smtp");
  next_.pools["web"] = next_.pools.at("mail-nodes");
  next_.pools.erase("mail-nodes");
  EXPECT_THAT(Lines(),
              ElementsAre("pool mail-nodes: removed", "pool web: added",
                          "service smtp: removed", "service imap: added"));
}

TEST_F(DiffOfTest, Backends) {
  backends()[0].weight = 0;
  backends()[2].name = "k8s-node5";
  EXPECT_THAT(Lines(),
              ElementsAre("pool mail-nodes: backend k8s-node1: weight: 1 -> 0",
                          "pool mail-nodes: backend spare: removed",
                          "pool mail-nodes: backend k8s-node5: added"));
}

TEST_F(DiffOfTest, OrderOfBackends) {
  std::swap(backends()[0], backends()[1]);
  EXPECT_THAT(Lines(),
              ElementsAre("pool mail-nodes: backends in another order"));
}

TEST_F(DiffOfTest, SameMeaningInOtherWords) {
  std::string text(kExample);
  text.replace(text.find("idle: 1h"), 8, "idle: 60m");
  ASSERT_THAT(ErrorsOf(text), IsEmpty());
  EXPECT_THAT(Diff(running_, Parse(text).config), IsEmpty());
}

}  // namespace
}  // namespace headgate::config
