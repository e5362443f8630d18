// Loading, pinning, the shared counters; and that the structs of bpf/abi are
// what the kernel thinks they are.

#include "datapath/datapath.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <headgate.skel.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "base/unique_fd.h"

namespace headgate::datapath {
namespace {

constexpr char kPinDir[] = "/sys/fs/bpf/datapath_test";

std::unique_ptr<Datapath> Open() {
  auto opened = Datapath::Open({kPinDir, 2, 1024});
  EXPECT_TRUE(opened.ok()) << opened.status();
  return *std::move(opened);
}

UniqueFd OpenPin(const std::string& name) {
  return UniqueFd(bpf_obj_get((std::string(kPinDir) + "/" + name).c_str()));
}

// 0: there is no such pin.
uint32_t PinnedId(const std::string& name) {
  bpf_map_info info{};
  __u32 size = sizeof info;
  bpf_obj_get_info_by_fd(OpenPin(name).get(), &info, &size);
  return info.id;
}

TEST(AbiTest, SizesAreThoseOfTheMaps) {
  headgate_bpf* skeleton = headgate_bpf::open();
  ASSERT_NE(skeleton, nullptr);
  const auto expect = [](const bpf_map* map, size_t key, size_t value) {
    EXPECT_EQ(bpf_map__key_size(map), key) << bpf_map__name(map);
    EXPECT_EQ(bpf_map__value_size(map), value) << bpf_map__name(map);
  };
  expect(skeleton->maps.services, 4, sizeof(hg_service));
  expect(skeleton->maps.backends, 4, sizeof(hg_backend));
  expect(skeleton->maps.service_stats, 4, sizeof(hg_service_stats));
  expect(skeleton->maps.backend_stats, 4, sizeof(hg_backend_stats));
  expect(skeleton->maps.splice_flows, 4, sizeof(hg_splice_flow));
  expect(skeleton->maps.splice_index, 8, 4);
  headgate_bpf::destroy(skeleton);
}

TEST(DatapathTest, PinsWithTypeInformationAndUnpins) {
  {
    auto datapath = Open();
    const absl::Status packet = datapath->OpenPacket(16, false);
    ASSERT_TRUE(packet.ok()) << packet;
    for (const char* name :
         {"services", "backends", "service_stats", "backend_stats",
          "splice_flows", "splice_fallback", "splice_verdicts", "packet_flows",
          "packet_bytes", "packet_exits", "packet_left"}) {
      const UniqueFd pin = OpenPin(name);
      ASSERT_TRUE(pin.valid()) << name;
      bpf_map_info info{};
      __u32 size = sizeof info;
      ASSERT_EQ(bpf_obj_get_info_by_fd(pin.get(), &info, &size), 0);
      EXPECT_GT(info.btf_id, 0U) << name;
      EXPECT_GT(info.btf_value_type_id, 0U) << name;
    }
  }
  EXPECT_NE(access(kPinDir, F_OK), 0) << "the pins are still there";
}

// A last run without such a pin is adopted, too.
TEST(DatapathTest, ARunThatAdoptsHasItsOwnCountOfWhatXdpLeaves) {
  {
    auto last = Open();
    ASSERT_TRUE(last->OpenPacket(16).ok());
    last->LeavePacket();
  }
  const uint32_t flows = PinnedId("packet_flows");
  const uint32_t left = PinnedId("packet_left");
  for (const bool pinned : {true, false}) {
    if (!pinned) unlink((std::string(kPinDir) + "/packet_left").c_str());
    auto opened = Datapath::Open({kPinDir, 2, 1024, true});
    ASSERT_TRUE(opened.ok()) << opened.status();
    const absl::Status packet = (*opened)->OpenPacket(16);
    ASSERT_TRUE(packet.ok()) << packet;
    EXPECT_TRUE((*opened)->packet()->adopted());
    EXPECT_EQ(PinnedId("packet_flows"), flows);
    EXPECT_NE(PinnedId("packet_left"), left);
    EXPECT_NE(PinnedId("packet_left"), 0U);
    (*opened)->LeavePacket();
  }
  Open();  // Nothing stays.
  EXPECT_NE(access(kPinDir, F_OK), 0) << "the pins are still there";
}

TEST(DatapathTest, CanSpliceOnThisKernel) {
  auto datapath = Open();
  EXPECT_TRUE(datapath->can_splice()) << datapath->splice_objection();
}

TEST(DatapathTest, ASecondOneInTheSameDirectoryIsRefused) {
  auto first = Open();
  const auto second = Datapath::Open({kPinDir, 1, 1024});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(OpenPin("services").valid()) << "the first one's pins are gone";
}

TEST(DatapathTest, PinsLeftByAKilledDaemonAreReplaced) {
  ASSERT_EQ(mkdir(kPinDir, 0700), 0);
  const UniqueFd stale(
      bpf_map_create(BPF_MAP_TYPE_ARRAY, "stale", 4, 4, 1, nullptr));
  ASSERT_EQ(
      bpf_obj_pin(stale.get(), (std::string(kPinDir) + "/services").c_str()),
      0);
  auto datapath = Open();
  bpf_map_info info{};
  __u32 size = sizeof info;
  ASSERT_EQ(bpf_obj_get_info_by_fd(OpenPin("services").get(), &info, &size), 0);
  EXPECT_STREQ(info.name, "services");
}

TEST(DatapathTest, ADirectoryThatOthersMayWriteIsRefused) {
  ASSERT_EQ(mkdir(kPinDir, 0700), 0);
  ASSERT_EQ(chmod(kPinDir, 0777), 0);
  const auto opened = Datapath::Open({kPinDir, 1, 1024});
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  rmdir(kPinDir);
}

TEST(DatapathTest, CountersAreSharedMemoryWithTheMaps) {
  auto datapath = Open();
  Add(datapath->service_stats(3).bytes_in, 4711);
  hg_service_stats stats{};
  const uint32_t id = 3;
  ASSERT_EQ(bpf_map_lookup_elem(OpenPin("service_stats").get(), &id, &stats),
            0);
  EXPECT_EQ(stats.bytes_in, 4711U);
}

TEST(DatapathTest, AFullMapIsAnErrorThatNamesIt) {
  auto datapath = Open();
  absl::Status status;
  uint32_t id = 0;
  while (status.ok() && id <= HG_MAX_BACKENDS) {
    status = datapath->PutBackend(++id, hg_backend{});
  }
  EXPECT_EQ(id, HG_MAX_BACKENDS + 1U);
  EXPECT_NE(status.message().find("update map backends at 4097"),
            absl::string_view::npos)
      << status;
}

}  // namespace
}  // namespace headgate::datapath
