#include "datapath/datapath.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <headgate.skel.h>
#include <sys/file.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "datapath/packet_hook.h"
#include "datapath/packet_xdp.h"
#include "datapath/pinned.h"
#include "datapath/preflight.h"

namespace headgate::datapath {
namespace {

int PrintLibbpf(libbpf_print_level level, const char* format, va_list args) {
  if (level == LIBBPF_DEBUG || !log::Enabled(log::Level::kDebug)) return 0;
  char line[512];
  const int length = vsnprintf(line, sizeof line, format, args);
  if (length > 0) {
    absl::string_view text(line);
    if (text.back() == '\n') text.remove_suffix(1);
    log::Write(log::Level::kDebug, text);
  }
  return 0;
}

template <typename Value>
absl::Status Put(bpf_map* map, uint32_t id, const Value& value) {
  if (bpf_map__update_elem(map, &id, sizeof id, &value, sizeof value,
                           BPF_ANY) == 0) {
    return absl::OkStatus();
  }
  return ErrnoStatus(
      errno, absl::StrCat("update map ", bpf_map__name(map), " at ", id));
}

absl::Status Erase(bpf_map* map, uint32_t id) {
  if (bpf_map__delete_elem(map, &id, sizeof id, 0) == 0 || errno == ENOENT) {
    return absl::OkStatus();
  }
  return ErrnoStatus(
      errno, absl::StrCat("erase from map ", bpf_map__name(map), " at ", id));
}

template <typename Look>
void ForEachKey(const bpf_map* map, const Look& look) {
  uint32_t key = 0, *before = nullptr;
  while (bpf_map__get_next_key(map, before, &key, sizeof key) == 0) {
    look(key);
    before = &key;
  }
}

absl::StatusOr<UniqueFd> LockDirectory(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open ", path));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  if (errno != EWOULDBLOCK) {
    return ErrnoStatus(errno, absl::StrCat("lock ", path));
  }
  return absl::AlreadyExistsError(absl::StrCat(
      "another headgated uses ", path, ": give this one its own --pin_dir"));
}

// Why this kernel had better not carry connections; empty: no reason.
std::string SpliceObjection() {
  utsname name{};
  uname(&name);
  if (KernelCarriesSockmapFixes(name.release)) return "";
  return absl::StrCat("kernel ", name.release,
                      " lacks the sockmap fixes of 6.17 (6.12.42, 6.6.102)");
}

}  // namespace

void CountGreeting(hg_greeting_times& times, int64_t ns) {
  static_assert(kGreetingBoundsMs.size() + 1 ==
                std::size(decltype(hg_greeting_times::counts){}));
  size_t bucket = 0;
  while (bucket < kGreetingBoundsMs.size() &&
         ns > kGreetingBoundsMs[bucket] * 1'000'000) {
    ++bucket;
  }
  Add(times.counts[bucket], 1);
  Add(times.sum_us, static_cast<uint64_t>(std::max<int64_t>(ns, 0) / 1000));
}

const char* VerdictName(hg_verdict verdict) {
  static constexpr const char* kNames[] = {
#define HG_VERDICT_NAME(name, text) text,
      HG_VERDICTS(HG_VERDICT_NAME)
#undef HG_VERDICT_NAME
  };
  return kNames[verdict];
}

const char* FallbackName(hg_fallback reason) {
  static constexpr const char* kNames[] = {
#define HG_FALLBACK_NAME(name, text) text,
      HG_FALLBACKS(HG_FALLBACK_NAME)
#undef HG_FALLBACK_NAME
  };
  return kNames[reason];
}

void Datapath::SkeletonDeleter::operator()(headgate_bpf* skeleton) const {
  headgate_bpf::destroy(skeleton);
}

absl::StatusOr<Datapath::Skeleton> Datapath::Load(const Options& options,
                                                  bool splice) {
  Skeleton skeleton(headgate_bpf::open());
  if (skeleton == nullptr) return ErrnoStatus(errno, "open BPF object");
  for (bpf_map* map :
       {skeleton->maps.splice_index, skeleton->maps.splice_flows,
        skeleton->maps.splice_sinks, skeleton->maps.splice_sources}) {
    bpf_map__set_max_entries(map, options.max_flows);
  }
  if (options.adopt) RETURN_IF_ERROR(Adopt(options.pin_dir, skeleton.get()));
  bpf_program__set_autoload(skeleton->progs.splice_verdict, splice);
  if (const int error = headgate_bpf::load(skeleton.get()); error != 0) {
    return ErrnoStatus(-error, "load BPF programs");
  }
  return skeleton;
}

absl::StatusOr<Datapath::Skeleton> Datapath::LoadWhatCan(
    const Options& options) {
  absl::StatusOr<Skeleton> whole = Load(options, true);
  splice_objection_.clear();
  if (whole.ok()) return whole;
  // A kernel that had better not carry connections may refuse the program, too.
  splice_objection_ = SpliceObjection();
  if (splice_objection_.empty()) {
    splice_objection_ = std::string(whole.status().message());
  }
  return Load(options, false);
}

std::vector<bpf_map*> Datapath::SharedMaps(headgate_bpf* skeleton) {
  const auto& maps = skeleton->maps;
  return {maps.services,      maps.backends,      maps.tables,
          maps.service_stats, maps.backend_stats, maps.greeting_times};
}

absl::Status Datapath::Adopt(const std::string& pin_dir,
                             headgate_bpf* skeleton) {
  for (bpf_map* map : SharedMaps(skeleton)) {
    const std::string path = absl::StrCat(pin_dir, "/", bpf_map__name(map));
    const UniqueFd fd = OpenPinned(path, map);
    if (!fd.valid()) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, " is not as this version has it"));
    }
    if (const int error = bpf_map__reuse_fd(map, fd.get()); error != 0) {
      return ErrnoStatus(-error, absl::StrCat("adopt ", path));
    }
  }
  return absl::OkStatus();
}

void Datapath::ReadAdopted() {
  const auto& maps = skeleton_->maps;
  ForEachKey(maps.tables, [&](uint32_t key) {
    adopted_.tables[key / HG_TABLE_CHUNKS] = false;
  });
  ForEachKey(maps.services, [&](uint32_t id) {
    hg_service service{};
    if (bpf_map__lookup_elem(maps.services, &id, sizeof id, &service,
                             sizeof service, 0) != 0) {
      return;
    }
    service.name[HG_NAME_LEN - 1] = 0;
    adopted_.services[service.name] = id;
    if (service.table != 0) adopted_.tables[service.table] = true;
  });
  ForEachKey(maps.backends, [&](uint32_t id) {
    hg_backend backend{};
    if (bpf_map__lookup_elem(maps.backends, &id, sizeof id, &backend,
                             sizeof backend, 0) != 0) {
      return;
    }
    backend.name[HG_NAME_LEN - 1] = 0;
    adopted_.backends[id] = backend;
  });
  for (uint32_t id = 1; id < HG_MAX_BACKENDS; ++id) {
    if (Read(backend_stats(id).connections_active) > 0) adopted_.backends[id];
  }
}

// Those that userspace carried ended with the last daemon, and those that
// waited for a backend.
void Datapath::ForgetOwnConnections() {
  for (uint32_t id = 1; id < HG_MAX_SERVICES; ++id) {
    RemoveAllOwn(service_stats(id));
    Set(service_stats(id).queue_active, 0);
  }
  for (uint32_t id = 1; id < HG_MAX_BACKENDS; ++id) {
    RemoveAllOwn(backend_stats(id));
  }
}

// The table of the last run's flows is not used any more, nor can anybody take
// back what they count.
void Datapath::ForgetFlows() {
  leaves_ = false;
  for (uint32_t id = 1; id < HG_MAX_SERVICES; ++id) {
    Set(service_stats(id).connections_active, 0);
  }
  for (uint32_t id = 1; id < HG_MAX_BACKENDS; ++id) {
    Set(backend_stats(id).connections_active, 0);
  }
}

absl::Status Datapath::OpenPacket(uint32_t max_flows, bool xdp) {
  if (packet_ != nullptr) return absl::OkStatus();
  const auto fd = [](bpf_map* map) { return bpf_map__fd(map); };
  const auto& maps = skeleton_->maps;
  PacketPath::Options options;
  options.pin_dir = pin_dir_;
  options.max_flows = max_flows;
  options.xdp = xdp;
  options.maps = {fd(maps.services),      fd(maps.backends),
                  fd(maps.tables),        fd(maps.service_stats),
                  fd(maps.backend_stats), fd(maps.greeting_times)};
  options.adopt = std::exchange(adopt_, false);
  auto opened = PacketPath::Open(options);
  if (options.adopt && !(opened.ok() && (*opened)->adopted())) ForgetFlows();
  ASSIGN_OR_RETURN(packet_, std::move(opened));
  return absl::OkStatus();
}

void Datapath::LeavePacket() {
  if (packet_ == nullptr) return;
  leaves_ = true;
  log::Info(
      "the packet path goes on without this daemon, with %d connections; the "
      "next one adopts it",
      packet_->Established());
}

absl::StatusOr<std::unique_ptr<Datapath>> Datapath::Open(const Options& asked) {
  Options options = asked;
  libbpf_set_print(PrintLibbpf);
  PrepareLibxdp();
  RETURN_IF_ERROR(CheckCapabilities());
  RETURN_IF_ERROR(CheckBtf());
  RETURN_IF_ERROR(PreparePinDirectory(options.pin_dir));
  std::unique_ptr<Datapath> made(new Datapath());
  ASSIGN_OR_RETURN(made->pin_dir_lock_, LockDirectory(options.pin_dir));

  options.adopt =
      asked.adopt &&
      access(absl::StrCat(options.pin_dir, "/packet_flows").c_str(), F_OK) == 0;
  absl::StatusOr<Skeleton> skeleton = made->LoadWhatCan(options);
  if (!skeleton.ok() && options.adopt) {
    const std::string reason(skeleton.status().message());
    options.adopt = false;
    skeleton = made->LoadWhatCan(options);
    if (skeleton.ok()) {
      log::Warning("connections of the packet path from the last run end: %s",
                   reason);
    }
  }
  RETURN_IF_ERROR(skeleton.status());
  if (!options.adopt) RemovePacketPath(options.pin_dir);
  made->skeleton_ = *std::move(skeleton);
  made->adopt_ = made->leaves_ = options.adopt;
  made->select_fd_ = bpf_program__fd(made->skeleton_->progs.select_backend);
  RETURN_IF_ERROR(made->Pin(options.pin_dir));
  RETURN_IF_ERROR(made->MapCounters());
  if (options.adopt) {
    made->ForgetOwnConnections();
    made->ReadAdopted();
  }
  if (made->splice_objection_.empty()) {
    RETURN_IF_ERROR(made->StartSplice(options));
  }
  return made;
}

Datapath::~Datapath() {
  if (leaves_) {
    if (packet_ != nullptr) packet_->Leave();
    for (bpf_map* map : SharedMaps(skeleton_.get())) {
      std::erase(pins_, absl::StrCat(pin_dir_, "/", bpf_map__name(map)));
    }
  }
  packet_.reset();  // Before the folder goes that its pins are in.
  for (const std::string& pin : pins_) unlink(pin.c_str());
  if (!pin_dir_.empty()) rmdir(pin_dir_.c_str());
}

absl::Status Datapath::Pin(const std::string& pin_dir) {
  pin_dir_ = pin_dir;
  const std::vector<bpf_map*> shared = SharedMaps(skeleton_.get());
  std::vector<bpf_map*> all = {skeleton_->maps.splice_flows,
                               skeleton_->maps.splice_fallback,
                               skeleton_->maps.splice_verdicts};
  all.insert(all.end(), shared.begin(), shared.end());
  for (bpf_map* map : all) {
    const std::string path = absl::StrCat(pin_dir, "/", bpf_map__name(map));
    if (adopt_ &&
        std::find(shared.begin(), shared.end(), map) != shared.end()) {
      pins_.push_back(path);
      continue;
    }
    unlink(path.c_str());  // Left by a daemon that was killed.
    if (const int error = bpf_map__pin(map, path.c_str()); error != 0) {
      return ErrnoStatus(-error, absl::StrCat("pin ", path));
    }
    pins_.push_back(path);
  }
  return absl::OkStatus();
}

absl::Status Datapath::MapCounters() {
  const auto fd = [](bpf_map* map) { return bpf_map__fd(map); };
  ASSIGN_OR_RETURN(service_stats_,
                   SharedArray<hg_service_stats>::Map(
                       fd(skeleton_->maps.service_stats), HG_MAX_SERVICES));
  ASSIGN_OR_RETURN(backend_stats_,
                   SharedArray<hg_backend_stats>::Map(
                       fd(skeleton_->maps.backend_stats), HG_MAX_BACKENDS));
  ASSIGN_OR_RETURN(greeting_times_,
                   SharedArray<hg_greeting_times>::Map(
                       fd(skeleton_->maps.greeting_times), HG_MAX_BACKENDS));
  ASSIGN_OR_RETURN(fallbacks_,
                   SharedArray<hg_counter>::Map(
                       fd(skeleton_->maps.splice_fallback), HG_FALLBACK_COUNT));
  return absl::OkStatus();
}

absl::Status Datapath::StartSplice(const Options& options) {
  splice_objection_ = SpliceObjection();
  ASSIGN_OR_RETURN(flows_, SharedArray<hg_splice_flow>::Map(
                               bpf_map__fd(skeleton_->maps.splice_flows),
                               options.max_flows));
  const SpliceMaps maps{bpf_map__fd(skeleton_->maps.splice_index),
                        bpf_map__fd(skeleton_->maps.splice_sinks),
                        bpf_map__fd(skeleton_->maps.splice_sources)};
  const int events_fd = bpf_map__fd(skeleton_->maps.splice_events);
  const uint32_t share = options.max_flows / options.workers;
  for (uint32_t i = 0; i < options.workers; ++i) {
    ASSIGN_OR_RETURN(auto flows,
                     SpliceFlows::Make(maps, &splice_budget_, flows_.data(),
                                       i * share, share, i, events_fd));
    splice_flows_.push_back(std::move(flows));
  }
  if (bpf_prog_attach(bpf_program__fd(skeleton_->progs.splice_verdict),
                      maps.sources_fd, BPF_SK_SKB_STREAM_VERDICT, 0) != 0) {
    return ErrnoStatus(errno, "attach splice program");
  }
  return absl::OkStatus();
}

absl::Status Datapath::PutService(uint32_t id, const hg_service& service) {
  return Put(skeleton_->maps.services, id, service);
}
absl::Status Datapath::PutBackend(uint32_t id, const hg_backend& backend) {
  return Put(skeleton_->maps.backends, id, backend);
}
absl::Status Datapath::EraseService(uint32_t id) {
  return Erase(skeleton_->maps.services, id);
}
absl::Status Datapath::EraseBackend(uint32_t id) {
  return Erase(skeleton_->maps.backends, id);
}

absl::Status Datapath::PutTable(uint32_t id,
                                const std::vector<uint16_t>& slots) {
  for (uint32_t i = 0; i < HG_TABLE_CHUNKS; ++i) {
    hg_table_chunk chunk{};
    const size_t first = size_t{i} * HG_TABLE_CHUNK;
    std::copy_n(slots.data() + first,
                std::min<size_t>(HG_TABLE_CHUNK, slots.size() - first),
                chunk.slots);
    RETURN_IF_ERROR(
        Put(skeleton_->maps.tables, id * HG_TABLE_CHUNKS + i, chunk));
  }
  return absl::OkStatus();
}
absl::Status Datapath::EraseTable(uint32_t id) {
  for (uint32_t i = 0; i < HG_TABLE_CHUNKS; ++i) {
    RETURN_IF_ERROR(Erase(skeleton_->maps.tables, id * HG_TABLE_CHUNKS + i));
  }
  return absl::OkStatus();
}

absl::Status Datapath::Select(hg_select* request) const {
  bpf_test_run_opts options{};
  options.sz = sizeof options;
  options.ctx_in = request;
  options.ctx_size_in = sizeof *request;
  if (bpf_prog_test_run_opts(select_fd_, &options) != 0) {
    return ErrnoStatus(errno, "run the selection program");
  }
  return absl::OkStatus();
}

void Datapath::LogShortage(hg_fallback reason) {
  const bool shortage = reason == HG_FALLBACK_NO_FLOW ||
                        reason == HG_FALLBACK_BACKLOG ||
                        reason == HG_FALLBACK_REFUSED;
  if (!shortage || shortage_logged_[reason].exchange(true)) return;
  log::Warning(
      "a connection is carried by userspace: %s; later ones are only counted "
      "(headgate_splice_fallbacks_total)",
      FallbackName(reason));
}

absl::StatusOr<std::vector<uint64_t>> Datapath::SpliceVerdicts() const {
  std::vector<uint64_t> sums(HG_VERDICT_COUNT);
  std::vector<hg_counter> per_cpu(
      static_cast<size_t>(libbpf_num_possible_cpus()));
  for (uint32_t verdict = 0; verdict < HG_VERDICT_COUNT; ++verdict) {
    if (bpf_map__lookup_elem(skeleton_->maps.splice_verdicts, &verdict,
                             sizeof verdict, per_cpu.data(),
                             per_cpu.size() * sizeof(hg_counter), 0) != 0) {
      return ErrnoStatus(errno, "read splice_verdicts");
    }
    for (const hg_counter& cpu : per_cpu) sums[verdict] += cpu.count;
  }
  return sums;
}

}  // namespace headgate::datapath
