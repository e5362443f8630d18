// One direction of a connection: bytes from a source socket to a sink socket,
// carried by this thread (relay) or, once it has proved to move bytes, by the
// kernel (splice). Never blocks.
//
// While the kernel carries it, some bytes may still be passed up (the sink is
// slow, splicing is off). They go on in order: nothing is sent before all that
// was redirected has entered the sink's send queue, and the kernel redirects
// nothing before Publish() has said that all passed bytes were sent.
//
// What it reads and the sink has not taken is reserved from the budget that
// all connections share; without a reservation it reads only what the sink
// takes, and the source's window closes.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/strings/string_view.h"
#include "datapath/datapath.h"
#include "relay/buffer_pool.h"
#include "relay/pipe_pool.h"

namespace headgate::relay {

// What the directions of one worker share. Not shared between threads.
struct PumpContext {
  PumpContext(EventLoop* loop, datapath::Datapath* kernel, size_t most_pipes)
      : datapath(kernel),
        buffers(&kernel->splice_budget()),
        pipes(loop, most_pipes, &kernel->splice_budget()) {}

  datapath::Datapath* datapath;
  datapath::SpliceFlows* flows = nullptr;  // Null: the kernel cannot splice.
  BufferPool buffers;
  PipePool pipes;
  std::array<char, kChunkBytes> scratch{};
};

class Direction {
 public:
  static constexpr size_t kFirstBytes = 512;

  enum class Outcome {
    kWait,         // Until the source is readable or the sink writable.
    kMore,         // The budget is used up: call again soon.
    kWaitDrain,    // Until the kernel has sent what it holds: poll.
    kSourceReset,  // The source is broken, and all it had sent is read.
    kSinkReset,    // The sink is broken.
  };

  Direction(PumpContext* context, uint32_t service, bool outward)
      : context_(context), service_(service), outward_(outward) {}
  Direction(const Direction&) = delete;
  Direction& operator=(const Direction&) = delete;
  ~Direction();

  // The descriptors stay the caller's.
  void Open(int source, int sink) {
    source_ = source;
    sink_ = sink;
  }

  // Edge-triggered readiness, remembered until it is used up.
  void SourceReadable() { readable_ = true; }
  // Its end, an error or urgent data is near: from now on a read that returns
  // less than was asked for does not mean that nothing is left.
  void SourceEnding() { readable_ = ending_ = true; }
  void SinkWritable() { writable_ = true; }

  // Moves what can be moved.
  Outcome Pump();
  // Sends `first`, at most kFirstBytes, and unless `alone` with it what the
  // source has for the sink already. Returns 0 or errno; then nothing is lost,
  // and Open() with another sink begins anew.
  int SendFirst(absl::string_view first, bool alone);
  // Both sockets will be closed once this direction is finished, which tells
  // the sink as well as shutdown() does.
  void CloseFollows(bool follows) { close_follows_ = follows; }

  // Hands the direction to the kernel, if the source is drained, all of it is
  // sent and it has not ended; returns whether it did, else *reason says why.
  // Unless `at_once`, only a steady stream goes: what is saturated or small is
  // faster here.
  bool Promote(uint64_t backlog_limit_bytes, bool at_once,
               std::optional<hg_fallback>* reason);
  // Of a promoted direction: whether the kernel may redirect.
  void SetSplicing(bool on);

  // The end of the source has been passed on.
  bool finished() const { return finished_; }
  bool spliced() const { return flow_.has_value(); }
  // Spliced, and the switch is on.
  bool kernel_carries() const;
  std::optional<uint32_t> flow() const { return flow_; }
  uint64_t bytes() const;  // All, since Open.
  int64_t last_active_ns() const;
  // Nothing is left to be acknowledged by the sink's peer. Not for hot paths.
  bool Delivered() const;
  // Grows while the sink's peer takes bytes. Not for hot paths.
  uint64_t SinkProgress() const;

  // The sockets are closed: gives the flow back.
  void Release();

 private:
  enum class Sent { kAll, kPart, kError };

  Outcome PumpSome();
  Outcome Read();
  bool LookAtSource();
  Outcome ReadNothing(ssize_t got);
  Outcome Copy();
  Outcome CopyWhatIsTaken();
  bool Consume(size_t bytes);
  Outcome FillPipe();
  bool EmptyPipe();
  bool CopyFromPipe();
  void TakenFromPipe(size_t bytes);
  void NoteReadSize(size_t bytes);
  bool holds_bytes() const { return pending_ != nullptr || pipe_ != nullptr; }
  Sent Send(absl::string_view bytes);
  bool SendPending();
  bool ClearToSend();
  bool KernelHasSentAll() const;
  bool PassedBytesMissing() const;
  bool Broken() const;
  void Publish();
  Outcome FinishSink();
  void CountRead(size_t bytes);
  void CountCopied(size_t bytes);

  PumpContext* context_;
  uint32_t service_;
  bool outward_;
  int source_ = -1;
  int sink_ = -1;
  bool readable_ = false;
  bool writable_ = true;
  bool ending_ = false;
  bool close_follows_ = false;
  bool source_ended_ = false;
  bool source_failed_ = false;
  bool finished_ = false;
  // Spliced only: all redirected bytes are in the sink's queue and no more can
  // come before Publish().
  bool clear_to_send_ = false;
  bool saturated_ = false;  // The last read was large.
  uint32_t steady_reads_ = 0;
  // What is read and not sent; the pipe's is behind the other's.
  std::unique_ptr<Chunk> pending_;
  std::unique_ptr<Pipe> pipe_;
  std::optional<uint32_t> flow_;
  uint64_t read_bytes_ = 0;         // By this thread, since Open.
  uint64_t unpublished_bytes_ = 0;  // Sent since the last Publish().
  uint64_t sink_base_ = 0;          // BytesQueuedEver(sink) at promotion.
  int64_t last_read_ns_ = 0;
};

}  // namespace headgate::relay
