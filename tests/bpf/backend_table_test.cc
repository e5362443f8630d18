// What of backends gets into the BPF maps, and when.
#include "control/backend_table.h"

#include <bpf/bpf.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"

namespace headgate::control {
namespace {

constexpr char kPins[] = "/sys/fs/bpf/backend_table_test";

// Packets may come before anything else is said of it.
TEST(BackendTableTest, ANewOneIsAsOperatorsWantItAtOnce) {
  auto datapath = datapath::Datapath::Open({kPins, 1, 1024});
  ASSERT_TRUE(datapath.ok()) << datapath.status();
  auto loop = EventLoop::Make();
  ASSERT_TRUE(loop.ok()) << loop.status();
  BackendTable table(loop->get(), datapath->get(), [](Backend&, bool) {});
  config::Service service;
  service.name = "mail";
  service.health.type = config::HealthType::kNone;
  config::Backend backend;
  backend.name = "one";
  backend.address = *IpAddress::Parse("198.18.2.11");
  backend.port = 25;
  const uint32_t id = table.Put(service, 1, nullptr, backend, {},
                                {.admin = HG_ADMIN_MAINT, .weight = 7});
  const UniqueFd map(bpf_obj_get(absl::StrCat(kPins, "/backends").c_str()));
  hg_backend published{};
  ASSERT_EQ(bpf_map_lookup_elem(map.get(), &id, &published), 0);
  EXPECT_EQ(published.admin, HG_ADMIN_MAINT);
  EXPECT_EQ(published.weight, 7U);
}

}  // namespace
}  // namespace headgate::control
