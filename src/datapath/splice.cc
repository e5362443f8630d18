#include "datapath/splice.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "base/status.h"

namespace headgate::datapath {
namespace {

absl::StatusOr<uint64_t> SocketCookie(int fd) {
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) != 0) {
    return ErrnoStatus(errno, "get socket cookie");
  }
  return cookie;
}

// 0 or errno.
int InsertSocket(int map_fd, uint64_t cookie, int socket) {
  const uint64_t value = static_cast<uint64_t>(socket);
  return bpf_map_update_elem(map_fd, &cookie, &value, BPF_NOEXIST) == 0 ? 0
                                                                        : errno;
}

}  // namespace

bool SpliceBudget::Reserve(uint64_t bytes) {
  if (reserved_.fetch_add(bytes) + bytes <= limit_) return true;
  reserved_ -= bytes;
  return false;
}

void SpliceFlows::RingDeleter::operator()(ring_buffer* ring) const {
  ring_buffer__free(ring);
}

absl::StatusOr<std::unique_ptr<SpliceFlows>> SpliceFlows::Make(
    const SpliceMaps& maps, SpliceBudget* budget, hg_splice_flow* flows,
    uint32_t first, uint32_t count, uint32_t worker, int events_fd) {
  std::unique_ptr<SpliceFlows> made(new SpliceFlows(maps, budget, flows));
  made->first_ = first;
  made->worker_ = worker;
  made->cookies_.resize(count);
  made->free_.reserve(count);
  for (uint32_t i = count; i > 0; --i) made->free_.push_back(first + i - 1);

  // An event takes 8 bytes and an 8 byte header; each flow has at most one.
  const uint32_t ring_size = std::bit_ceil(std::max(count * 16, 4096U) * 2);
  made->ring_fd_.reset(bpf_map_create(BPF_MAP_TYPE_RINGBUF, "splice_ring", 0, 0,
                                      ring_size, nullptr));
  if (!made->ring_fd_.valid()) return ErrnoStatus(errno, "create event ring");
  const int ring_fd = made->ring_fd_.get();
  if (bpf_map_update_elem(events_fd, &worker, &ring_fd, BPF_ANY) != 0) {
    return ErrnoStatus(errno, "publish event ring");
  }
  made->ring_.reset(ring_buffer__new(ring_fd, OnEvent, made.get(), nullptr));
  if (made->ring_ == nullptr) return ErrnoStatus(errno, "open event ring");
  return made;
}

SpliceFlows::~SpliceFlows() = default;

std::optional<uint32_t> SpliceFlows::Insert(const Spec& spec,
                                            hg_fallback* reason) {
  const absl::StatusOr<uint64_t> cookie = SocketCookie(spec.source);
  if (!cookie.ok() || free_.empty()) {
    *reason = HG_FALLBACK_NO_FLOW;
    return std::nullopt;
  }
  if (!budget_->Reserve(spec.backlog_limit_bytes)) {
    *reason = HG_FALLBACK_BACKLOG;
    return std::nullopt;
  }
  const uint32_t number = free_.back();
  hg_splice_flow& flow = flows_[number];
  const uint32_t generation = flow.generation + 1;
  flow = {};
  flow.service = spec.service;
  flow.outward = spec.outward ? 1 : 0;
  flow.worker = worker_;
  flow.generation = generation;
  flow.backlog_limit = spec.backlog_limit_bytes;
  flow.mode = HG_SPLICE_ON;
  __atomic_thread_fence(__ATOMIC_RELEASE);

  if (const int error = InsertSockets(spec, *cookie, number); error != 0) {
    budget_->Return(spec.backlog_limit_bytes);
    // Only established sockets are taken (sock_map_sk_state_allowed).
    *reason = error == EOPNOTSUPP ? HG_FALLBACK_CLOSING : HG_FALLBACK_REFUSED;
    return std::nullopt;
  }
  free_.pop_back();
  cookies_[number - first_] = *cookie;
  ++in_use_;
  return number;
}

int SpliceFlows::InsertSockets(const Spec& spec, uint64_t cookie,
                               uint32_t number) {
  if (bpf_map_update_elem(maps_.index_fd, &cookie, &number, BPF_ANY) != 0) {
    return errno;
  }
  // The source goes last: from then on the program runs.
  int error = InsertSocket(maps_.sinks_fd, cookie, spec.sink);
  if (error == 0) {
    error = InsertSocket(maps_.sources_fd, cookie, spec.source);
    // The sink has received nothing by redirect yet, so it can leave.
    if (error != 0) bpf_map_delete_elem(maps_.sinks_fd, &cookie);
  }
  if (error != 0) bpf_map_delete_elem(maps_.index_fd, &cookie);
  return error;
}

void SpliceFlows::Release(uint32_t number) {
  const uint64_t cookie = cookies_[number - first_];
  bpf_map_delete_elem(maps_.index_fd, &cookie);
  budget_->Return(flows_[number].backlog_limit);
  flows_[number].generation++;
  free_.push_back(number);
  --in_use_;
}

int SpliceFlows::event_fd() const { return ring_buffer__epoll_fd(ring_.get()); }

int SpliceFlows::OnEvent(void* self, void* data, size_t size) {
  if (size != sizeof(hg_splice_event)) return 0;
  static_cast<SpliceFlows*>(self)->events_.push_back(
      *static_cast<const hg_splice_event*>(data));
  return 0;
}

void SpliceFlows::Consume(absl::FunctionRef<void(uint32_t)> callback) {
  events_.clear();
  ring_buffer__consume(ring_.get());
  // Only now, or a busy flow would fill the ring as fast as it is emptied.
  for (const hg_splice_event& event : events_) {
    hg_splice_flow& flow = flows_[event.flow];
    if (flow.generation != event.generation) continue;
    // Cleared before the callback reads: bytes passed later make a new event.
    __atomic_store_n(&flow.notified, 0, __ATOMIC_SEQ_CST);
    callback(event.flow);
  }
}

}  // namespace headgate::datapath
