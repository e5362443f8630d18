// What of backends gets into the BPF maps, and when.
#include "control/backend_table.h"

#include <bpf/bpf.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"

namespace headgate::control {
namespace {

constexpr char kPins[] = "/sys/fs/bpf/backend_table_test";

class BackendTableTest : public ::testing::Test {
 protected:
  BackendTableTest() {
    service_.name = "mail";
    service_.health.type = config::HealthType::kNone;
    backend_.name = "one";
    backend_.address = *IpAddress::Parse("198.18.2.11");
    backend_.port = 25;
  }
  uint32_t PutOne(const BackendTable::Start& start = {}) {
    return table_.Put(service_, 1, nullptr, backend_, {}, start);
  }

  const std::unique_ptr<datapath::Datapath> datapath_ =
      *datapath::Datapath::Open({kPins, 1, 1024});
  const std::unique_ptr<EventLoop> loop_ = *EventLoop::Make();
  MapWriter writer_{loop_.get(), [](const std::string&) {}};
  BackendTable table_{loop_.get(), datapath_.get(), &writer_,
                      [](Backend&, bool) {}};
  config::Service service_;
  config::Backend backend_;
};

// Packets may come before anything else is said of it.
TEST_F(BackendTableTest, ANewOneIsAsOperatorsWantItAtOnce) {
  const uint32_t id = PutOne({.admin = HG_ADMIN_MAINT, .weight = 7});
  const UniqueFd map(bpf_obj_get(absl::StrCat(kPins, "/backends").c_str()));
  hg_backend published{};
  ASSERT_EQ(bpf_map_lookup_elem(map.get(), &id, &published), 0);
  EXPECT_EQ(published.admin, HG_ADMIN_MAINT);
  EXPECT_EQ(published.weight, 7U);
}

// Of the one that had the id before: a handshake that ended after it had gone.
TEST_F(BackendTableTest, WhoWasCountedUpIsCountedDownUnderTheNextOne) {
  const uint32_t id = PutOne();
  table_.Retire(id);
  table_.FreeRetired();
  hg_backend_stats& stats = datapath_->backend_stats(id);
  datapath::Add(stats.connections_total, 1);
  datapath::Add(stats.connections_active, 1);
  for (uint32_t next = PutOne(); next != id; next = PutOne()) {
    table_.Retire(next);
  }
  EXPECT_EQ(datapath::Read(stats.connections_total), 0U);
  EXPECT_EQ(datapath::Read(stats.connections_active), 1U);
}

}  // namespace
}  // namespace headgate::control
