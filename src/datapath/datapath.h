// The kernel half: loads the BPF programs, owns and pins their maps, and gives
// typed access to them. The only module that includes libbpf.
//
// Threads: Open and the Put/Erase calls belong to the control thread; Select
// and the counters may be used by any thread.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "bpf/abi/types.h"
#include "datapath/packet.h"
#include "datapath/shared_array.h"
#include "datapath/splice.h"

struct bpf_map;
struct headgate_bpf;

namespace headgate::datapath {

// Both halves count in shared memory. Relaxed: counters order nothing. Returns
// what it was before.
inline uint64_t Add(__u64& counter, uint64_t amount) {
  return __atomic_fetch_add(&counter, amount, __ATOMIC_RELAXED);
}
inline void Subtract(__u64& counter, uint64_t amount) {
  __atomic_fetch_sub(&counter, amount, __ATOMIC_RELAXED);
}
inline void Set(__u64& field, uint64_t value) {
  __atomic_store_n(&field, value, __ATOMIC_RELAXED);
}
inline uint64_t Read(const __u64& counter) {
  return __atomic_load_n(&counter, __ATOMIC_RELAXED);
}

// Of hg_service_stats and hg_backend_stats: a connection that userspace carries
// begins, or ends. Returns how many were active before. Who is killed between
// the two leaves one active too many: one too few would be 2^64 in the end.
template <typename Stats>
uint64_t AddOwn(Stats& stats) {
  const uint64_t before = Add(stats.connections_active, 1);
  Add(stats.own_active, 1);
  return before;
}
template <typename Stats>
void RemoveOwn(Stats& stats) {
  Subtract(stats.own_active, 1);
  Subtract(stats.connections_active, 1);
}
// The daemon that had them is gone.
template <typename Stats>
void RemoveAllOwn(Stats& stats) {
  Subtract(stats.connections_active,
           std::min(Read(stats.own_active), Read(stats.connections_active)));
  Set(stats.own_active, 0);
}

// A copy of counters that others go on counting, and their reset. Each field is
// read or written at once; all of them are 64 bits wide.
template <typename Stats>
Stats Snapshot(const Stats& shared) {
  Stats copy{};
  const auto* from = reinterpret_cast<const __u64*>(&shared);
  auto* to = reinterpret_cast<__u64*>(&copy);
  for (size_t i = 0; i < sizeof(Stats) / sizeof(__u64); ++i) {
    to[i] = Read(from[i]);
  }
  return copy;
}
template <typename Stats>
void Clear(Stats& shared) {
  auto* field = reinterpret_cast<__u64*>(&shared);
  for (size_t i = 0; i < sizeof(Stats) / sizeof(__u64); ++i) {
    Set(field[i], 0);
  }
}
// What is counted down, too.
inline std::array<const __u64*, 3> ActiveCounts(const hg_service_stats& stats) {
  return {&stats.connections_active, &stats.own_active, &stats.queue_active};
}
inline std::array<const __u64*, 2> ActiveCounts(const hg_backend_stats& stats) {
  return {&stats.connections_active, &stats.own_active};
}
// For a new owner of the id. What the last one's connections have counted up
// they have yet to count down.
template <typename Stats>
void ClearTotals(Stats& shared) {
  const auto active = ActiveCounts(shared);
  auto* field = reinterpret_cast<__u64*>(&shared);
  for (size_t i = 0; i < sizeof(Stats) / sizeof(__u64); ++i) {
    if (std::find(active.begin(), active.end(), &field[i]) == active.end()) {
      Set(field[i], 0);
    }
  }
}

// Adds a time, from a connect to the backend's first byte, to the histogram.
void CountGreeting(hg_greeting_times& times, int64_t ns);
// Upper bounds of its buckets but for the last, which has none.
inline constexpr auto kGreetingBoundsMs =
    std::to_array<int64_t>({HG_GREETING_BOUNDS_MS});

// As in metrics.
const char* VerdictName(hg_verdict verdict);
const char* FallbackName(hg_fallback reason);

class Datapath {
 public:
  struct Options {
    std::string pin_dir;   // On bpffs; made if its parent exists.
    uint32_t workers = 1;  // Event rings, and shares of the flow numbers.
    uint32_t max_flows = 1024;
    // Whether to adopt what the last daemon has left of the packet path;
    // otherwise it ends.
    bool adopt = false;
  };

  // Errors name what is missing and how to mend it: FailedPrecondition
  // without BTF or bpffs, PermissionDenied without capabilities,
  // AlreadyExists when another daemon uses `pin_dir`.
  static absl::StatusOr<std::unique_ptr<Datapath>> Open(const Options& options);
  // Unpins; but unless TakeOver() was called, what was adopted is left as it
  // was found, for the next daemon.
  ~Datapath();
  void TakeOver() { leaves_ = false; }

  // What the maps had, if they were adopted: its ids are to be kept, for
  // connections count on under them.
  struct Adopted {
    std::map<std::string, uint32_t> services;  // By name.
    // By id; without a name: it was removed, and has connections.
    std::map<uint32_t, hg_backend> backends;
    // Ids, and whether a service has the table.
    std::map<uint32_t, bool> tables;
  };
  // Empty: nothing was.
  const Adopted& adopted() const { return adopted_; }

  // Opens the packet path, if it is not open yet; with `xdp`, so that it can be
  // attached there.
  absl::Status OpenPacket(uint32_t max_flows, bool xdp = false);
  PacketPath* packet() { return packet_.get(); }  // Null: not open.
  const PacketPath* packet() const { return packet_.get(); }
  void ClosePacket() { packet_.reset(); }
  // Before the end, so that the packet path, if it is open, outlives us as it
  // is for a daemon that adopts it.
  void LeavePacket();

  absl::Status PutService(uint32_t id, const hg_service& service);
  absl::Status PutBackend(uint32_t id, const hg_backend& backend);
  absl::Status EraseService(uint32_t id);
  absl::Status EraseBackend(uint32_t id);
  // A Maglev table of HG_TABLE_SIZE entries; ids are 1 to HG_MAX_TABLES - 1.
  absl::Status PutTable(uint32_t id, const std::vector<uint16_t>& slots);
  absl::Status EraseTable(uint32_t id);

  // Runs the selection program on `request`; request->backend is 0 when no
  // backend is eligible. About a microsecond.
  absl::Status Select(hg_select* request) const;

  hg_service_stats& service_stats(uint32_t id) const {
    return service_stats_[id];
  }
  hg_backend_stats& backend_stats(uint32_t id) const {
    return backend_stats_[id];
  }
  hg_greeting_times& greeting_times(uint32_t backend) const {
    return greeting_times_[backend];
  }
  void CountFallback(hg_fallback reason) const {
    Add(fallbacks_[reason].count, 1);
  }
  // Once for each reason that is a shortage: later ones are only counted.
  void LogShortage(hg_fallback reason);
  uint64_t fallbacks(hg_fallback reason) const {
    return Read(fallbacks_[reason].count);
  }
  // By enum hg_verdict, summed over CPUs.
  absl::StatusOr<std::vector<uint64_t>> SpliceVerdicts() const;

  // The splice flows of worker `index`, for that worker's thread only; null
  // when the kernel cannot carry connections.
  SpliceFlows* splice_flows(uint32_t index) {
    return splice_flows_.empty() ? nullptr : splice_flows_[index].get();
  }
  bool can_splice() const { return !splice_flows_.empty(); }
  // Why it cannot, or had better not (it lacks fixes); empty when it can.
  const std::string& splice_objection() const { return splice_objection_; }
  SpliceBudget& splice_budget() { return splice_budget_; }
  const SpliceBudget& splice_budget() const { return splice_budget_; }

 private:
  struct SkeletonDeleter {
    void operator()(headgate_bpf* skeleton) const;
  };
  using Skeleton = std::unique_ptr<headgate_bpf, SkeletonDeleter>;

  Datapath() = default;
  static absl::StatusOr<Skeleton> Load(const Options& options, bool splice);
  // Without the splice program where the kernel refuses it.
  absl::StatusOr<Skeleton> LoadWhatCan(const Options& options);
  // The maps that selection and the packet path share.
  static std::vector<bpf_map*> SharedMaps(headgate_bpf* skeleton);
  static absl::Status Adopt(const std::string& pin_dir, headgate_bpf* skeleton);
  void ReadAdopted();
  void ForgetOwnConnections();
  void ForgetFlows();
  absl::Status Pin(const std::string& pin_dir);
  absl::Status MapCounters();
  absl::Status StartSplice(const Options& options);

  Skeleton skeleton_;
  UniqueFd pin_dir_lock_;
  std::vector<std::string> pins_;
  std::string pin_dir_;
  int select_fd_ = -1;  // Owned by the skeleton.
  SharedArray<hg_service_stats> service_stats_;
  SharedArray<hg_backend_stats> backend_stats_;
  SharedArray<hg_greeting_times> greeting_times_;
  SharedArray<hg_counter> fallbacks_;
  SharedArray<hg_splice_flow> flows_;
  std::string splice_objection_;
  SpliceBudget splice_budget_;
  std::array<std::atomic<bool>, HG_FALLBACK_COUNT> shortage_logged_{};
  std::vector<std::unique_ptr<SpliceFlows>> splice_flows_;
  bool adopt_ = false;   // The packet path, when it is opened.
  bool leaves_ = false;  // It, to the next daemon.
  Adopted adopted_;
  std::unique_ptr<PacketPath> packet_;  // After what it shares.
};

}  // namespace headgate::datapath
