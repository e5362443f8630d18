#include "datapath/packet.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "datapath/packet_hook.h"
#include "datapath/packet_xdp.h"
#include "datapath/pinned.h"
#include "headgate_packet.skel.h"  // After the types that it names.

namespace headgate::datapath {
namespace {

template <typename Sum, typename Value>
absl::Status SumPerCpu(const bpf_map* map, uint32_t key, const Sum& sum,
                       Value) {
  std::vector<Value> values(static_cast<size_t>(libbpf_num_possible_cpus()));
  if (bpf_map__lookup_elem(map, &key, sizeof key, values.data(),
                           values.size() * sizeof(Value), 0) != 0) {
    return ErrnoStatus(errno, absl::StrCat("read ", bpf_map__name(map)));
  }
  for (const Value& value : values) sum(value);
  return absl::OkStatus();
}

}  // namespace

const char* PacketExitName(hg_packet_exit exit) {
  static constexpr const char* kNames[] = {
#define HG_PACKET_EXIT_NAME(name, text) text,
      HG_PACKET_EXITS(HG_PACKET_EXIT_NAME)
#undef HG_PACKET_EXIT_NAME
  };
  return kNames[exit];
}

const char* PacketLeftName(hg_packet_left reason) {
  static constexpr const char* kNames[] = {
#define HG_PACKET_LEFT_NAME(name, text) text,
      HG_PACKET_LEFT(HG_PACKET_LEFT_NAME)
#undef HG_PACKET_LEFT_NAME
  };
  return kNames[reason];
}

void PacketPath::SkeletonDeleter::operator()(
    headgate_packet_bpf* skeleton) const {
  headgate_packet_bpf::destroy(skeleton);
}

// ---- loading ----------------------------------------------------------------

absl::StatusOr<std::unique_ptr<PacketPath>> PacketPath::Open(
    const Options& options) {
  std::unique_ptr<PacketPath> made(new PacketPath());
  made->pin_dir_ = options.pin_dir;
  made->max_flows_ = options.max_flows;
  absl::Status loaded = made->Load(options, options.adopt);
  if (!loaded.ok() && options.adopt) {
    log::Warning("connections of the packet path from the last run end: %s",
                 loaded.message());
    RemovePacketPath(options.pin_dir);
    loaded = made->Load(options, false);
  } else {
    made->adopted_ = options.adopt;
  }
  RETURN_IF_ERROR(loaded);
  return made;
}

std::vector<bpf_map*> PacketPath::OwnMaps() const {
  const auto& maps = skeleton_->maps;
  return {maps.packet_addresses, maps.packet_local,  maps.packet_listeners,
          maps.packet_config,    maps.packet_keys,   maps.packet_flows,
          maps.packet_free,      maps.packet_closed, maps.packet_bytes,
          maps.packet_exits};
}

absl::Status PacketPath::LoadPrograms(const Options& options, bool adopt,
                                      bool xdp) {
  skeleton_.reset(headgate_packet_bpf::open());
  if (skeleton_ == nullptr) return ErrnoStatus(errno, "open BPF object");
  bpf_program__set_autoload(skeleton_->progs.packet_xdp, xdp);
  bpf_program__set_autoload(skeleton_->progs.packet_generic, xdp);
  auto& maps = skeleton_->maps;
  bpf_map__set_max_entries(maps.packet_keys, KeyBuckets(max_flows_));
  for (bpf_map* map :
       {maps.packet_flows, maps.packet_free, maps.packet_closed}) {
    bpf_map__set_max_entries(map, max_flows_);
  }
  const std::pair<bpf_map*, int> shared[] = {
      {maps.services, options.maps.services},
      {maps.backends, options.maps.backends},
      {maps.tables, options.maps.tables},
      {maps.service_stats, options.maps.service_stats},
      {maps.backend_stats, options.maps.backend_stats},
      {maps.greeting_times, options.maps.greeting_times}};
  for (const auto& [map, fd] : shared) {
    if (const int error = bpf_map__reuse_fd(map, fd); error != 0) {
      return ErrnoStatus(-error, "share maps with the packet path");
    }
  }
  for (bpf_map* map : OwnMaps()) {
    if (!adopt) break;
    const std::string path = absl::StrCat(pin_dir_, "/", bpf_map__name(map));
    const UniqueFd fd = OpenPinned(path, map);
    // Another version may count more: no reason to end connections.
    if (!fd.valid() && map == maps.packet_exits) continue;
    if (!fd.valid()) {
      return absl::FailedPreconditionError(absl::StrCat(
          path, " is not as this version, or packet.max_flows, has it"));
    }
    if (const int error = bpf_map__reuse_fd(map, fd.get()); error != 0) {
      return ErrnoStatus(-error, absl::StrCat("adopt ", path));
    }
  }
  if (const int error = headgate_packet_bpf::load(skeleton_.get());
      error != 0) {
    return ErrnoStatus(-error, "load the packet program");
  }
  return absl::OkStatus();
}

absl::Status PacketPath::Load(const Options& options, bool adopt) {
  xdp_objection_ = options.xdp ? "" : "takes effect at the next start";
  absl::Status loaded = LoadPrograms(options, adopt, options.xdp);
  if (!loaded.ok() && options.xdp) {
    xdp_objection_ = std::string(loaded.message());
    loaded = LoadPrograms(options, adopt, false);
  }
  RETURN_IF_ERROR(loaded);
  auto& maps = skeleton_->maps;
  ASSIGN_OR_RETURN(table_id_, MapId(bpf_map__fd(maps.packet_flows)));
  ASSIGN_OR_RETURN(flows_, SharedArray<hg_flow>::Map(
                               bpf_map__fd(maps.packet_flows), max_flows_));
  ASSIGN_OR_RETURN(addresses_,
                   SharedArray<hg_packet_address>::Map(
                       bpf_map__fd(maps.packet_addresses), HG_ADDRESS_PLACES));
  RETURN_IF_ERROR(SetUpKeys(adopt));
  ASSIGN_OR_RETURN(service_stats_,
                   SharedArray<hg_service_stats>::Map(
                       bpf_map__fd(maps.service_stats), HG_MAX_SERVICES));
  ASSIGN_OR_RETURN(backend_stats_,
                   SharedArray<hg_backend_stats>::Map(
                       bpf_map__fd(maps.backend_stats), HG_MAX_BACKENDS));
  if (!adopt) {
    RETURN_IF_ERROR(FillFreeNumbers());
    RETURN_IF_ERROR(Pin(OwnMaps()));  // Whole, for whoever adopts it.
  } else {
    RETURN_IF_ERROR(Pin({maps.packet_exits}));
  }
  // Not adopted: it has interfaces that may be gone since.
  return Pin({maps.packet_left});
}

absl::Status PacketPath::Pin(const std::vector<bpf_map*>& which) {
  for (bpf_map* map : which) {
    const std::string path = absl::StrCat(pin_dir_, "/", bpf_map__name(map));
    unlink(path.c_str());  // The last run's.
    if (const int error = bpf_map__pin(map, path.c_str()); error != 0) {
      return ErrnoStatus(-error, absl::StrCat("pin ", path));
    }
  }
  return absl::OkStatus();
}

// Of a full table about an eighth to a quarter of the entries is in use: both
// buckets of a key are never full in practice (unit.datapath_test).
uint32_t PacketPath::KeyBuckets(uint32_t max_flows) {
  return std::max(1U, std::bit_ceil(max_flows) / 2);
}

absl::Status PacketPath::SetUpKeys(bool adopt) {
  const bpf_map* map = skeleton_->maps.packet_config;
  const uint32_t zero = 0;
  hg_packet_config config{};
  if (adopt) {
    if (bpf_map__lookup_elem(map, &zero, sizeof zero, &config, sizeof config,
                             0) != 0) {
      return ErrnoStatus(errno, "read packet_config");
    }
    if (config.flow_format != HG_FLOW_FORMAT) {
      return absl::FailedPreconditionError(
          "its flows are not as this version has them");
    }
  } else {
    config.buckets = KeyBuckets(max_flows_);
    config.flow_format = HG_FLOW_FORMAT;
    if (getrandom(&config.seed, sizeof config.seed, 0) != sizeof config.seed) {
      return ErrnoStatus(errno, "draw a seed");
    }
    if (bpf_map__update_elem(map, &zero, sizeof zero, &config, sizeof config,
                             BPF_ANY) != 0) {
      return ErrnoStatus(errno, "update packet_config");
    }
  }
  seed_ = config.seed;
  ASSIGN_OR_RETURN(keys_, SharedArray<hg_key_bucket>::Map(
                              bpf_map__fd(skeleton_->maps.packet_keys),
                              KeyBuckets(max_flows_)));
  return absl::OkStatus();
}

absl::Status PacketPath::FillFreeNumbers() {
  for (uint32_t number = 0; number < max_flows_; ++number) {
    if (bpf_map_update_elem(bpf_map__fd(skeleton_->maps.packet_free), nullptr,
                            &number, BPF_ANY) != 0) {
      return ErrnoStatus(errno, "fill packet_free");
    }
  }
  return absl::OkStatus();
}

PacketPath::~PacketPath() {
  if (const auto trace = trace_.lock()) trace->Close();
  if (left_) return;
  // Nobody new, while hooks go one by one.
  if (skeleton_ != nullptr) SetServes(false).IgnoreError();
  while (!links_.empty()) Detach(links_.begin()->first);
  RemovePacketPath(pin_dir_);
}

// ---- what is seen -----------------------------------------------------------

absl::StatusOr<std::shared_ptr<PacketTrace>> PacketPath::Trace(
    const PacketTrace::Filter& filter) {
  if (!trace_.expired()) {
    return absl::FailedPreconditionError(
        "somebody traces packets already; one can at a time");
  }
  ASSIGN_OR_RETURN(
      std::shared_ptr<PacketTrace> trace,
      PacketTrace::Start({bpf_map__fd(skeleton_->maps.packet_events),
                          bpf_map__fd(skeleton_->maps.packet_event),
                          &skeleton_->bss->packet_trace},
                         filter));
  trace_ = trace;
  return trace;
}

std::vector<uint64_t> PacketPath::ExitsOf(hg_packet_hook hook) const {
  const uint32_t first = uint32_t{hook} * HG_PACKET_EXIT_COUNT;
  std::vector<uint64_t> sums(HG_PACKET_EXIT_COUNT);
  for (uint32_t exit = 0; exit < HG_PACKET_EXIT_COUNT; ++exit) {
    SumPerCpu(
        skeleton_->maps.packet_exits, first + exit,
        [&](const hg_counter& cpu) { sums[exit] += cpu.count; }, hg_counter{})
        .IgnoreError();
  }
  return sums;
}

std::vector<uint64_t> PacketPath::Exits() const {
  std::vector<uint64_t> sums = ExitsOf(HG_HOOK_TC);
  const std::vector<uint64_t> more = ExitsOf(HG_HOOK_XDP);
  for (size_t i = 0; i < sums.size(); ++i) sums[i] += more[i];
  return sums;
}

hg_packet_bytes PacketPath::Bytes(uint32_t service) const {
  hg_packet_bytes sum{};
  SumPerCpu(
      skeleton_->maps.packet_bytes, service,
      [&](const hg_packet_bytes& cpu) {
        sum.in += cpu.in;
        sum.out += cpu.out;
      },
      hg_packet_bytes{})
      .IgnoreError();
  return sum;
}

void PacketPath::ClearBytes(uint32_t service) {
  const std::vector<hg_packet_bytes> zeros(
      static_cast<size_t>(libbpf_num_possible_cpus()));
  bpf_map__update_elem(skeleton_->maps.packet_bytes, &service, sizeof service,
                       zeros.data(), zeros.size() * sizeof zeros[0], BPF_ANY);
}

}  // namespace headgate::datapath
