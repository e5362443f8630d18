// Splice flows: directions of connections that the kernel carries from a
// source socket to a sink socket (bpf/splice.bpf.c has the rules). Each worker
// has its own numbers and its own event ring, so that workers share no lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "bpf/abi/types.h"

struct ring_buffer;

namespace headgate::datapath {

// What all connections together may hold for slow readers outside of socket
// buffers: every flow reserves its own cap beforehand, and so do the buffers
// and pipes of userspace, so the sum holds whatever the readers do. Any thread.
class SpliceBudget {
 public:
  void set_limit(uint64_t bytes) { limit_ = bytes; }
  bool Reserve(uint64_t bytes);
  void Return(uint64_t bytes) { reserved_ -= bytes; }
  uint64_t reserved() const { return reserved_; }
  uint64_t limit() const { return limit_; }

 private:
  std::atomic<uint64_t> limit_{0};
  std::atomic<uint64_t> reserved_{0};
};

struct SpliceMaps {
  int index_fd = -1;
  int sinks_fd = -1;
  int sources_fd = -1;
};

class SpliceFlows {
 public:
  struct Spec {
    int source = -1;  // Drained to EAGAIN; nothing of it is in userspace.
    int sink = -1;    // Everything given to it so far is in its send queue.
    uint32_t service = 0;
    bool outward = false;  // Towards the client.
    uint64_t backlog_limit_bytes = 0;
  };

  // Numbers first .. first + count - 1 of `flows`, which must outlive this.
  static absl::StatusOr<std::unique_ptr<SpliceFlows>> Make(
      const SpliceMaps& maps, SpliceBudget* budget, hg_splice_flow* flows,
      uint32_t first, uint32_t count, uint32_t worker, int events_fd);
  ~SpliceFlows();

  // Hands the direction to the kernel and returns the flow's number; or none,
  // with the reason, and the sockets are as they were.
  std::optional<uint32_t> Insert(const Spec& spec, hg_fallback* reason);
  // Frees the number. Only after both sockets are closed: taking a live
  // socket out of a sockmap loses bytes (sock_map_del_link).
  void Release(uint32_t flow);

  // Shared with the kernel half.
  hg_splice_flow& flow(uint32_t number) const { return flows_[number]; }
  uint32_t generation(uint32_t number) const {
    return flows_[number].generation;
  }

  // Readable when a flow has passed bytes to userspace.
  int event_fd() const;
  // Calls back for each such flow, at most once, and re-arms it. Stale events
  // are left out.
  void Consume(absl::FunctionRef<void(uint32_t flow)> callback);

  uint32_t in_use() const { return in_use_; }

 private:
  struct RingDeleter {
    void operator()(ring_buffer* ring) const;
  };

  SpliceFlows(const SpliceMaps& maps, SpliceBudget* budget,
              hg_splice_flow* flows)
      : maps_(maps), budget_(budget), flows_(flows) {}
  static int OnEvent(void* self, void* data, size_t size);
  int InsertSockets(const Spec& spec, uint64_t cookie, uint32_t number);

  SpliceMaps maps_;
  SpliceBudget* budget_;
  hg_splice_flow* flows_;
  uint32_t first_ = 0;
  uint32_t worker_ = 0;
  std::vector<uint32_t> free_;
  std::vector<uint64_t> cookies_;  // By number - first_, of flows in use.
  uint32_t in_use_ = 0;
  UniqueFd ring_fd_;
  std::unique_ptr<ring_buffer, RingDeleter> ring_;
  std::vector<hg_splice_event> events_;  // Of one Consume().
};

}  // namespace headgate::datapath
