#include "control/source_ports.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace headgate::control {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// One backend, looked at every second.
class SourcePortsTest : public ::testing::Test {
 protected:
  void Sample() {
    now_ += SourcePorts::kInterval;
    ports_.Sample(now_, 100, backends_);
  }
  void Wait(absl::Duration duration) {
    const absl::Time end = now_ + duration;
    while (now_ < end) Sample();
  }
  // Connections that are over at once.
  void Serve(uint64_t count) { stats().connections_total += count; }
  hg_backend_stats& stats() { return backends_[0].stats; }
  uint64_t forecast() const { return ports_.Of(1).forecast; }

  absl::Time now_ = absl::UnixEpoch();
  SourcePorts ports_;
  std::vector<SourcePorts::Backend> backends_ = {
      {.id = 1,
       .service = "smtp",
       .name = "node1",
       .pool = "mail",
       .address = *Endpoint::Parse("127.0.0.1:25"),
       .sources = {}}};
};

TEST_F(SourcePortsTest, CountsSourcesTimesPorts) {
  Sample();
  EXPECT_EQ(ports_.Of(1).ports, 100u);
  backends_[0].sources = {*IpAddress::Parse("127.0.0.2"),
                          *IpAddress::Parse("127.0.0.3")};
  Sample();
  EXPECT_EQ(ports_.Of(1).ports, 200u);
  EXPECT_EQ(ports_.Of(2).ports, 0u);
}

TEST_F(SourcePortsTest, AnEndedConnectionHoldsItsPortForAMinute) {
  Serve(7);
  stats().connections_total += 3;
  stats().connections_active = 3;
  Sample();
  EXPECT_EQ(forecast(), 10u);
  Wait(absl::Seconds(58));
  EXPECT_EQ(forecast(), 10u);
  Wait(absl::Seconds(10));
  EXPECT_EQ(forecast(), 3u) << "those that are open";
  stats().connections_active = 0;
  Sample();
  EXPECT_EQ(forecast(), 3u);
  Wait(absl::Seconds(67));
  EXPECT_EQ(forecast(), 0u);
}

TEST_F(SourcePortsTest, ASteadyRateIsForecastWithinAStep) {
  for (int i = 0; i < 200; ++i) {
    Serve(2);
    Sample();
  }
  EXPECT_GE(forecast(), 120u);
  EXPECT_LE(forecast(), 132u);
}

TEST_F(SourcePortsTest, WhatTheLastRunCountedIsOld) {
  stats().connections_total = 1'000'000;
  stats().connections_active = 3;
  stats().connect_no_source_port = 5;
  ports_.Adopt(backends_);
  Sample();
  EXPECT_EQ(forecast(), 3u);
  EXPECT_THAT(ports_.Problems(), IsEmpty());
  Serve(7);
  ++stats().connect_no_source_port;
  Sample();
  EXPECT_EQ(forecast(), 10u);
  EXPECT_THAT(ports_.Problems(),
              ElementsAre(HasSubstr("no source port is left")));
}

TEST_F(SourcePortsTest, WarnsAboveFourFifths) {
  Serve(80);
  Sample();
  EXPECT_THAT(ports_.Problems(), IsEmpty());
  EXPECT_TRUE(ports_.Of(1).crowded());
  Serve(1);
  Sample();
  EXPECT_THAT(ports_.Problems(),
              ElementsAre("service smtp: backend node1: more than 80 % of the "
                          "source ports towards 127.0.0.1:25 may be in use: "
                          "add addresses to the source of pool mail, or widen "
                          "net.ipv4.ip_local_port_range"));
  Wait(absl::Seconds(70));
  EXPECT_THAT(ports_.Problems(), IsEmpty());
  EXPECT_FALSE(ports_.Of(1).crowded());
}

TEST_F(SourcePortsTest, BackendsThatAreOneServerShareItsPorts) {
  backends_.push_back(backends_[0]);
  backends_[1].id = 2;
  backends_[1].service = "submission";
  backends_[0].stats.connections_total = 30;
  backends_[1].stats.connections_total = 12;
  Sample();
  EXPECT_EQ(ports_.Of(1).forecast, 42u);
  EXPECT_EQ(ports_.Of(2).forecast, 42u);
}

TEST_F(SourcePortsTest, ThePacketPathHasPortsOfItsOwn) {
  backends_[0].sources = {*IpAddress::Parse("127.0.0.2"),
                          *IpAddress::Parse("127.0.0.3")};
  backends_.push_back(backends_[0]);
  backends_[1].id = 2;
  backends_[1].packet_ports = 5;
  Serve(20);
  backends_[1].stats.connections_total = 9;
  Sample();
  EXPECT_EQ(ports_.Of(1).ports, 200u);
  EXPECT_EQ(ports_.Of(1).forecast, 20u);
  EXPECT_EQ(ports_.Of(2).ports, 10u);
  EXPECT_EQ(ports_.Of(2).forecast, 9u);
  EXPECT_THAT(ports_.Problems(),
              ElementsAre("service smtp: backend node1: more than 80 % of the "
                          "source ports towards 127.0.0.1:25 may be in use: "
                          "add addresses to packet.source, or widen "
                          "packet.ports"));
}

TEST_F(SourcePortsTest, NoPortIsAProblemUntilConnectionsSucceedAgain) {
  stats().connect_no_source_port = 1;
  Sample();
  EXPECT_THAT(ports_.Problems(),
              ElementsAre(HasSubstr("smtp: backend node1: no source port is "
                                    "left towards 127.0.0.1:25: add")));
  // One that succeeds now and then does not make it come and go.
  for (int i = 0; i < 20; ++i) {
    Serve(1);
    if (i % 2 == 0) ++stats().connect_no_source_port;
    Sample();
    EXPECT_EQ(ports_.Problems().size(), 1u);
  }
  Serve(1);
  Wait(absl::Seconds(11));
  EXPECT_THAT(ports_.Problems(), IsEmpty());
}

TEST_F(SourcePortsTest, NoPortIsOldNewsAfterAMinute) {
  stats().connect_no_source_port = 1;
  Wait(absl::Seconds(59));
  EXPECT_EQ(ports_.Problems().size(), 1u);
  Wait(absl::Seconds(3));
  EXPECT_THAT(ports_.Problems(), IsEmpty());
}

TEST_F(SourcePortsTest, AMissingSourceIsAProblem) {
  backends_[0].sources = {*IpAddress::Parse("127.0.0.2"),
                          *IpAddress::Parse("198.18.0.99")};
  Sample();
  EXPECT_THAT(ports_.Problems(),
              ElementsAre(HasSubstr("pool mail: source 198.18.0.99: this "
                                    "machine does not have the address")));
}

TEST_F(SourcePortsTest, AnIdThatIsUsedAgainStartsAnew) {
  Serve(50);
  Sample();
  const auto all = std::exchange(backends_, {});
  Sample();
  EXPECT_EQ(ports_.Of(1).ports, 0u);
  backends_ = all;
  stats() = {};
  Sample();
  EXPECT_EQ(forecast(), 0u);
}

}  // namespace
}  // namespace headgate::control
