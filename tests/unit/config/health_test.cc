// What auto is, and what is left open otherwise.
#include "config/health.h"

#include <gtest/gtest.h>

namespace headgate::config {
namespace {

Service ListeningOn(std::vector<uint16_t> ports) {
  Service service;
  for (const uint16_t port : ports) service.listen.push_back({{}, port});
  return service;
}

TEST(ResolvedTest, PortsTellTheType) {
  for (const auto& [port, type, tls] :
       {std::tuple<uint16_t, HealthType, bool>{25, HealthType::kSmtp, false},
        {2525, HealthType::kSmtp, false},
        {587, HealthType::kSmtp, false},
        {465, HealthType::kSmtp, true},
        {143, HealthType::kImap, false},
        {993, HealthType::kImap, true},
        {110, HealthType::kGreeting, false},
        {995, HealthType::kGreeting, true},
        {8443, HealthType::kTcp, false}}) {
    const Health health = Resolved(ListeningOn({port, port}));
    EXPECT_EQ(health.type, type) << port;
    EXPECT_EQ(health.tls, tls) << port;
    EXPECT_EQ(health.expect.empty(), type != HealthType::kGreeting) << port;
  }
}

TEST(ResolvedTest, PortsOfSeveralKindsAreTcp) {
  EXPECT_EQ(Resolved(ListeningOn({25, 465})).type, HealthType::kTcp);
  EXPECT_EQ(Resolved(ListeningOn({25, 587})).type, HealthType::kSmtp);
}

TEST(ResolvedTest, AutoSendsLocalWhereTheBackendExpectsAHeader) {
  Service service = ListeningOn({25});
  EXPECT_EQ(Resolved(service).proxy_protocol, CheckHeader::kLocal);
  service.health.proxy_protocol = CheckHeader::kOwn;
  EXPECT_EQ(Resolved(service).proxy_protocol, CheckHeader::kOwn);
  service.health.proxy_protocol.reset();
  service.health.port = 30145;
  EXPECT_EQ(Resolved(service).proxy_protocol, CheckHeader::kNone);
  service.health.port.reset();
  service.proxy_protocol = ProxyProtocol::kNone;
  EXPECT_EQ(Resolved(service).proxy_protocol, CheckHeader::kNone);
  // A receiver of version 1 may not know LOCAL.
  service.proxy_protocol = ProxyProtocol::kV1;
  EXPECT_EQ(Resolved(service).type, HealthType::kTcp);
  EXPECT_EQ(Resolved(service).proxy_protocol, CheckHeader::kNone);
}

TEST(ResolvedTest, AWrittenTypeInheritsNothing) {
  Service service = ListeningOn({465});
  for (const HealthType type : {HealthType::kTcp, HealthType::kSmtp}) {
    service.health.type = type;
    EXPECT_EQ(Resolved(service).type, type);
    EXPECT_FALSE(Resolved(service).tls);
    EXPECT_EQ(Resolved(service).proxy_protocol, CheckHeader::kNone);
  }
}

TEST(ResolvedTest, Intervals) {
  Service service = ListeningOn({25});
  service.health.interval = absl::Seconds(3);
  EXPECT_EQ(Resolved(service).fast_interval, absl::Seconds(3));
  EXPECT_EQ(Resolved(service).down_interval, absl::Seconds(3));
  service.health.fast_interval = absl::Seconds(1);
  service.health.down_interval = absl::Seconds(30);
  EXPECT_EQ(Resolved(service).fast_interval, absl::Seconds(1));
  EXPECT_EQ(Resolved(service).down_interval, absl::Seconds(30));
}

TEST(ResolvedTest, Timeouts) {
  Service service = ListeningOn({25});
  EXPECT_EQ(Resolved(service).timeout, absl::Seconds(6));
  service.health.postscreen = Postscreen::kFull;
  EXPECT_EQ(Resolved(service).timeout, absl::Seconds(10));
  service.health.timeout = absl::Seconds(1);
  EXPECT_EQ(Resolved(service).timeout, absl::Seconds(1));
  EXPECT_EQ(Resolved(ListeningOn({1})).timeout, absl::Seconds(2));
}

}  // namespace
}  // namespace headgate::config
