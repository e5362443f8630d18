// A reader of what the packet program tells of packets
// (bpf/lib/packet_trace.h). It tells while there is a reader, of those that the
// filter names. Events wait in a ring of 1 MiB; what finds no room there is
// lost, and counted.
//
// Threads: belongs to the control thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "bpf/abi/packet.h"

struct ring_buffer;

namespace headgate::datapath {

class PacketTrace {
 public:
  struct Filter {
    std::array<uint8_t, 16> client{};  // As in bpf/abi/types.h; zeros: any.
    uint16_t client_port = 0;          // 0: any.
    uint32_t service = 0;              // Id; 0: any.
  };
  // The program's maps, and `trace` in the memory of both.
  struct Shared {
    int events, event;
    hg_trace* trace;
  };
  static absl::StatusOr<std::unique_ptr<PacketTrace>> Start(
      const Shared& shared, const Filter& filter);
  ~PacketTrace();
  PacketTrace(const PacketTrace&) = delete;

  // The packet path is going; nothing is read any more.
  void Close();
  bool open() const { return trace_ != nullptr; }

  // At most `most` events, oldest first. The program falls silent when nobody
  // has called this for a minute: the daemon may have been killed.
  void Read(uint32_t most, absl::FunctionRef<void(const hg_trace_event&)> take);
  uint32_t lost() const;  // So far.

 private:
  explicit PacketTrace(hg_trace* trace) : trace_(trace) {}
  static int OnEvent(void* self, void* data, size_t size);
  void Tell(uint32_t until);

  struct RingDeleter {
    void operator()(ring_buffer* ring) const;
  };
  hg_trace* trace_;  // Null: closed.
  std::unique_ptr<ring_buffer, RingDeleter> ring_;
  uint32_t left_ = 0;  // Of what Read() may read.
  const absl::FunctionRef<void(const hg_trace_event&)>* take_ = nullptr;
};

}  // namespace headgate::datapath
