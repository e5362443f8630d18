// A table full of connections, looked at and ended while the daemon has other
// things to do. HG_SOAK=1: a million of them, and figures.
#include <bpf/bpf.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "bpf/abi/packet.h"
#include "packet_fixture.h"

namespace headgate::testing {
namespace {

class PacketListTest : public PacketLab {
 protected:
  static uint32_t Many() {
    return std::getenv("HG_SOAK") == nullptr ? 200'000 : 1'000'000;
  }
  UniqueFd Pinned(const char* map) const {
    UniqueFd fd(
        bpf_obj_get(absl::StrCat(daemon_->pin_dir(), "/", map).c_str()));
    EXPECT_TRUE(fd.valid()) << map;
    return fd;
  }
  // `count` connections like the first one, but for the client's address and
  // port. There must be no other, and come none: their numbers pass for free.
  void Fill(uint32_t count) const {
    const UniqueFd flows = Pinned("packet_flows");
    const uint32_t first = 0;
    hg_flow flow{};
    ASSERT_EQ(bpf_map_lookup_elem(flows.get(), &first, &flow), 0);
    ASSERT_EQ(flow.state, uint32_t{HG_FLOW_ESTABLISHED});
    const uint8_t host = flow.client[15];
    for (uint32_t number = 1; number < count; ++number) {
      flow.client_port = static_cast<uint16_t>(1024 + number % 60000);
      flow.client[15] = static_cast<uint8_t>(host + number / 60000);
      ASSERT_EQ(bpf_map_update_elem(flows.get(), &number, &flow, BPF_ANY), 0);
    }
    AddActive<hg_service_stats>("service_stats", flow.service, count - 1);
    AddActive<hg_backend_stats>("backend_stats", flow.backend, count - 1);
  }
  template <typename Stats>
  void AddActive(const char* map, uint32_t id, uint32_t count) const {
    const UniqueFd fd = Pinned(map);
    Stats stats{};
    ASSERT_EQ(bpf_map_lookup_elem(fd.get(), &id, &stats), 0);
    stats.connections_active += count;
    ASSERT_EQ(bpf_map_update_elem(fd.get(), &id, &stats, BPF_ANY), 0);
  }
};

TEST_F(PacketListTest, WhatABackendTakesAlongIsEndedByAndBy) {
  UniqueFd listener = ListenAt("198.18.2.11:25");
  Start({.packet = absl::StrCat("  max_flows: ", Many() + 1000),
         .service = "    on_backend_down: reset"});
  Session session = OpenSession(vip_, listener);
  Fill(Many());
  const auto ended = [this] {
    return Metric(R"(headgate_backend_down_resets_total{backend="one",)"
                  R"(service="mail"})");
  };
  listener.reset();
  bool by_and_by = false;
  absl::Duration slowest;
  ASSERT_TRUE(WaitUntil(absl::Seconds(60), [&] {
    const absl::Time asked = absl::Now();
    const double now = ended();
    slowest = std::max(slowest, absl::Now() - asked);
    by_and_by = by_and_by || (now > 0 && now < Many());
    return now == Many();
  })) << ended();
  std::cout << "slowest other answer " << slowest << std::endl;
  EXPECT_TRUE(by_and_by);
  EXPECT_TRUE(session.client.ReceivesReset());
  EXPECT_TRUE(session.backend.ReceivesReset());
  EXPECT_EQ(daemon_->ActiveConnections(), 0);
}

}  // namespace
}  // namespace headgate::testing
