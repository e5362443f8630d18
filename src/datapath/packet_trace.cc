#include "datapath/packet_trace.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "base/status.h"
#include "datapath/coarse_clock.h"

namespace headgate::datapath {
namespace {

constexpr uint32_t kSilence = 60;  // Seconds.

}  // namespace

void PacketTrace::RingDeleter::operator()(ring_buffer* ring) const {
  ring_buffer__free(ring);
}

absl::StatusOr<std::unique_ptr<PacketTrace>> PacketTrace::Start(
    const Shared& shared, const Filter& filter) {
  std::unique_ptr<PacketTrace> made(new PacketTrace(shared.trace));
  made->ring_.reset(
      ring_buffer__new(shared.events, OnEvent, made.get(), nullptr));
  if (made->ring_ == nullptr) return ErrnoStatus(errno, "open packet_events");
  // What the last reader has left, in the ring and half done on each CPU.
  made->Read(UINT32_MAX, [](const hg_trace_event&) {});
  const uint32_t zero = 0;
  const std::vector<hg_trace_event> none(
      static_cast<size_t>(libbpf_num_possible_cpus()));
  if (bpf_map_update_elem(shared.event, &zero, none.data(), BPF_ANY) != 0) {
    return ErrnoStatus(errno, "clear packet_event");
  }
  hg_trace& trace = *shared.trace;
  std::copy(filter.client.begin(), filter.client.end(), trace.client);
  trace.client_port = filter.client_port;
  trace.service = filter.service;
  trace.lost = 0;
  made->Tell(NowSeconds() + kSilence);
  return made;
}

PacketTrace::~PacketTrace() { Close(); }

void PacketTrace::Close() {
  if (open()) Tell(0);
  trace_ = nullptr;
}

void PacketTrace::Tell(uint32_t until) {
  __atomic_store_n(&trace_->until, until, __ATOMIC_RELEASE);
}

int PacketTrace::OnEvent(void* self, void* data, size_t size) {
  auto* trace = static_cast<PacketTrace*>(self);
  if (size == sizeof(hg_trace_event)) {
    (*trace->take_)(*static_cast<const hg_trace_event*>(data));
  }
  return --trace->left_ > 0 ? 0 : -ECANCELED;  // Ends the reading.
}

void PacketTrace::Read(uint32_t most,
                       absl::FunctionRef<void(const hg_trace_event&)> take) {
  if (!open() || most == 0) return;
  if (trace_->until != 0) Tell(NowSeconds() + kSilence);
  left_ = most;
  take_ = &take;
  ring_buffer__consume(ring_.get());
  take_ = nullptr;
}

uint32_t PacketTrace::lost() const {
  return open() ? __atomic_load_n(&trace_->lost, __ATOMIC_RELAXED) : 0;
}

}  // namespace headgate::datapath
