#include "relay/direction.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "net/event_loop.h"
#include "net/socket.h"

namespace headgate::relay {
namespace {

// What one direction may do before others get their turn.
constexpr size_t kBudgetSteps = 16;
constexpr uint64_t kBudgetBytes = 1024 * 1024;

// What the kernel carries best are streams that come in pieces of middling
// size: after so many of them in a row a direction is one. A saturated one,
// with more than a large piece to read each time, is faster by splice(2); small
// exchanges are faster copied (tools/bench).
constexpr uint32_t kSteady = 32;
constexpr size_t kSmallRead = 8 * 1024;
constexpr size_t kLargeRead = 32 * 1024;

bool WouldBlock(int error) { return error == EAGAIN; }  // And EWOULDBLOCK.
// Of splice(2), which needs memory where recv() and send() have theirs.
bool IsShortage(int error) { return error == ENOMEM || error == ENOBUFS; }

}  // namespace

Direction::~Direction() { Release(); }

void Direction::Release() {
  if (flow_.has_value()) {
    context_->flows->Release(*flow_);
    flow_.reset();
  }
  if (pending_ != nullptr) context_->buffers.Return(std::move(pending_));
  if (pipe_ != nullptr) context_->pipes.Return(std::move(pipe_));
}

Direction::Outcome Direction::Pump() {
  const uint64_t enough = read_bytes_ + kBudgetBytes;
  for (size_t i = 0; i < kBudgetSteps && read_bytes_ < enough; ++i) {
    const Outcome outcome = PumpSome();
    if (outcome != Outcome::kMore) return outcome;
  }
  return Outcome::kMore;
}

// One step: send what is left over, or read and send once. kMore: something
// was done.
Direction::Outcome Direction::PumpSome() {
  if (finished_) return Outcome::kWait;
  if (Broken()) return Outcome::kSinkReset;
  if (pending_ != nullptr) {
    if (!ClearToSend()) return Outcome::kWaitDrain;
    if (!writable_) return Outcome::kWait;
    if (!SendPending()) return Outcome::kSinkReset;
    return pending_ == nullptr ? Outcome::kMore : Outcome::kWait;
  }
  if (pipe_ != nullptr) {
    if (!writable_) return Outcome::kWait;
    if (!EmptyPipe()) return Outcome::kSinkReset;
    return pipe_ == nullptr || writable_ ? Outcome::kMore : Outcome::kWait;
  }
  if (source_failed_) return Outcome::kSourceReset;
  if (source_ended_) return FinishSink();
  if (!readable_) {
    Publish();
    return Outcome::kWait;
  }
  return Read();
}

Direction::Outcome Direction::Read() {
  // Never from a source that has a verdict: its queue stays empty.
  if (saturated_ && !flow_.has_value()) {
    pipe_ = context_->pipes.Take();
    if (pipe_ != nullptr) return FillPipe();
  }
  return Copy();
}

void Direction::NoteReadSize(size_t bytes) {
  saturated_ = bytes >= kLargeRead;
  if (saturated_) {
    steady_reads_ = 0;
  } else if (bytes >= kSmallRead) {
    ++steady_reads_;
  }
}

// The source gave no bytes: its end, an error, or nothing for now.
Direction::Outcome Direction::ReadNothing(ssize_t got) {
  if (got == 0) {
    // The end is told even while passed bytes are still on their way up (the
    // kernel queues what it has no memory for: sk_psock_verdict_apply).
    if (PassedBytesMissing()) return Outcome::kWaitDrain;
    source_ended_ = true;
    Publish();
    return Outcome::kMore;
  }
  if (errno == EINTR) return Outcome::kMore;
  if (!WouldBlock(errno)) {
    source_failed_ = true;  // Told once; the next recv() would say "end".
    return Outcome::kSourceReset;
  }
  Publish();
  if (PassedBytesMissing()) return Outcome::kWaitDrain;
  readable_ = false;
  return Outcome::kWait;
}

Direction::Outcome Direction::Copy() {
  if (!context_->buffers.Ready()) return CopyWhatIsTaken();
  const ssize_t got = recv(source_, context_->scratch.data(),
                           context_->scratch.size(), MSG_DONTWAIT);
  if (got <= 0) return ReadNothing(got);
  const absl::string_view bytes(context_->scratch.data(),
                                static_cast<size_t>(got));
  CountCopied(bytes.size());
  NoteReadSize(bytes.size());
  // What comes now makes a new event. (A spliced source has events of another
  // kind, and a queue of its own.)
  if (bytes.size() < context_->scratch.size() && !ending_ && !flow_.has_value())
    readable_ = false;
  if (!writable_ || !ClearToSend()) {
    pending_ = context_->buffers.Take(bytes);
    return Outcome::kMore;
  }
  return Send(bytes) == Sent::kError ? Outcome::kSinkReset : Outcome::kMore;
}

// Copy() with nowhere to keep what the sink does not take: that stays where it
// is, in the source's queue.
Direction::Outcome Direction::CopyWhatIsTaken() {
  if (!writable_) return Outcome::kWait;
  const ssize_t got = recv(source_, context_->scratch.data(),
                           context_->scratch.size(), MSG_PEEK | MSG_DONTWAIT);
  if (got <= 0) return ReadNothing(got);
  if (!ClearToSend()) return Outcome::kWaitDrain;
  const ssize_t sent =
      send(sink_, context_->scratch.data(), static_cast<size_t>(got),
           MSG_DONTWAIT | MSG_NOSIGNAL);
  writable_ = sent == got;
  if (sent < 0) {
    return WouldBlock(errno) ? Outcome::kWait : Outcome::kSinkReset;
  }
  const auto taken = static_cast<size_t>(sent);
  NoteReadSize(static_cast<size_t>(got));
  CountCopied(taken);
  unpublished_bytes_ += taken;
  return Consume(taken) ? Outcome::kMore : Outcome::kSourceReset;
}

// Takes what was peeked at out of the source; false: it has broken.
bool Direction::Consume(size_t bytes) {
  while (bytes > 0) {
    const ssize_t got =
        recv(source_, context_->scratch.data(), bytes, MSG_DONTWAIT);
    if (got > 0) {
      bytes -= static_cast<size_t>(got);
    } else if (got == 0 || errno != EINTR) {
      source_failed_ = true;
      return false;
    }
  }
  return true;
}

// Moves pages from the source towards the sink without looking at them.
Direction::Outcome Direction::FillPipe() {
  const ssize_t got = splice(source_, nullptr, pipe_->write_end.get(), nullptr,
                             Pipe::kBytes, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  if (got <= 0) {
    const int error = errno;
    context_->pipes.Return(std::move(pipe_));
    // It stops before urgent data as if nothing were left (__tcp_read_sock);
    // recv() steps over it.
    if (got == 0 || IsShortage(error) || (ending_ && WouldBlock(error))) {
      return Copy();
    }
    errno = error;
    return ReadNothing(got);
  }
  pipe_->held = static_cast<size_t>(got);
  CountRead(pipe_->held);
  NoteReadSize(pipe_->held);
  return writable_ && !EmptyPipe() ? Outcome::kSinkReset : Outcome::kMore;
}

// False: the sink is broken.
bool Direction::EmptyPipe() {
  const ssize_t sent = splice(pipe_->read_end.get(), nullptr, sink_, nullptr,
                              pipe_->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  if (sent <= 0) {
    if (sent < 0 && IsShortage(errno)) return CopyFromPipe();
    if (sent == 0 || !WouldBlock(errno)) return false;
    writable_ = false;
    return true;
  }
  last_read_ns_ = MonotonicNs();  // A sink that takes bytes is not idle.
  TakenFromPipe(static_cast<size_t>(sent));
  return true;
}

// EmptyPipe() of the next piece, by way of this thread's memory.
bool Direction::CopyFromPipe() {
  if (!context_->buffers.Ready()) return false;
  const ssize_t got = read(pipe_->read_end.get(), context_->scratch.data(),
                           context_->scratch.size());
  if (got <= 0) return false;
  TakenFromPipe(static_cast<size_t>(got));
  return Send({context_->scratch.data(), static_cast<size_t>(got)}) !=
         Sent::kError;
}

void Direction::TakenFromPipe(size_t bytes) {
  pipe_->held -= bytes;
  if (pipe_->held == 0) context_->pipes.Return(std::move(pipe_));
}

// Sends; what the sink does not take becomes pending_.
Direction::Sent Direction::Send(absl::string_view bytes) {
  ssize_t sent =
      send(sink_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0) {
    if (!WouldBlock(errno)) return Sent::kError;
    sent = 0;
  }
  unpublished_bytes_ += static_cast<size_t>(sent);
  bytes.remove_prefix(static_cast<size_t>(sent));
  if (bytes.empty()) return Sent::kAll;
  writable_ = false;
  pending_ = context_->buffers.Take(bytes);
  return Sent::kPart;
}

int Direction::SendFirst(absl::string_view first, bool alone) {
  char* const buffer = context_->scratch.data();
  char* const payload = buffer + first.size();
  size_t size = 0;
  std::memcpy(buffer, first.data(), first.size());
  if (pending_ != nullptr) {  // Read for a sink that broke.
    size = pending_->pending().copy(payload, kChunkBytes);
    context_->buffers.Return(std::move(pending_));
  } else if (readable_ && !alone && context_->buffers.Ready()) {
    const ssize_t got =
        recv(source_, payload, kChunkBytes - kFirstBytes, MSG_DONTWAIT);
    // An end is told again, to Pump(); an error is not.
    if (got > 0) {
      size = static_cast<size_t>(got);
      CountCopied(size);
    } else if (got < 0 && errno != EINTR && !WouldBlock(errno)) {
      source_failed_ = true;
    }
  }
  const ssize_t sent =
      send(sink_, buffer, first.size() + size, MSG_DONTWAIT | MSG_NOSIGNAL);
  int error = sent < 0 ? errno : 0;
  size_t done = 0;  // Of the payload.
  if (sent > static_cast<ssize_t>(first.size())) {
    done = static_cast<size_t>(sent) - first.size();
  } else if (error == 0 && sent < static_cast<ssize_t>(first.size())) {
    error = EPROTO;  // Receivers refuse a header in pieces.
  }
  if (done < size) {
    writable_ = error != 0;
    pending_ = context_->buffers.Take({payload + done, size - done});
  }
  return error;
}

// False: the sink is broken.
bool Direction::SendPending() {
  const absl::string_view bytes = pending_->pending();
  const ssize_t sent =
      send(sink_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0) {
    if (!WouldBlock(errno)) return false;
    writable_ = false;
    return true;
  }
  last_read_ns_ = MonotonicNs();  // A sink that takes bytes is not idle.
  unpublished_bytes_ += static_cast<size_t>(sent);
  pending_->begin += static_cast<size_t>(sent);
  if (pending_->pending().empty()) {
    context_->buffers.Return(std::move(pending_));
  } else {
    writable_ = false;
  }
  return true;
}

// The end of the source goes on to the sink, behind all bytes.
Direction::Outcome Direction::FinishSink() {
  if (!KernelHasSentAll()) return Outcome::kWaitDrain;
  // ENOTCONN: the sink has gone meanwhile; its own event says so.
  if (!close_follows_) shutdown(sink_, SHUT_WR);
  finished_ = true;
  return Outcome::kWait;
}

void Direction::CountRead(size_t bytes) {
  read_bytes_ += bytes;
  last_read_ns_ = MonotonicNs();
  hg_service_stats& stats = context_->datapath->service_stats(service_);
  datapath::Add(outward_ ? stats.bytes_out : stats.bytes_in, bytes);
}

void Direction::CountCopied(size_t bytes) {
  CountRead(bytes);
  datapath::Add(context_->datapath->service_stats(service_).bytes_copied,
                bytes);
}

bool Direction::Promote(uint64_t backlog_limit_bytes, bool at_once,
                        std::optional<hg_fallback>* reason) {
  if (source_ended_ || source_failed_) {
    *reason = HG_FALLBACK_CLOSING;
    return false;
  }
  // Only a drained source: the head of a receive queue may be half a megabyte
  // (tcp_try_coalesce), too much for the program to cut off what was read of
  // it.
  if (readable_ || holds_bytes()) {
    *reason = HG_FALLBACK_BUSY;
    return false;
  }
  if (!at_once && steady_reads_ < kSteady) {
    *reason = saturated_ ? HG_FALLBACK_BUSY : HG_FALLBACK_INTERACTIVE;
    return false;
  }
  // Urgent data can have stopped the last read early.
  if (LookAtSource()) {
    *reason = HG_FALLBACK_BUSY;
    return false;
  }
  // Before the insertion: afterwards the kernel may already be sending.
  sink_base_ = BytesQueuedEver(sink_);
  datapath::SpliceFlows::Spec spec;
  spec.source = source_;
  spec.sink = sink_;
  spec.service = service_;
  spec.outward = outward_;
  spec.backlog_limit_bytes = backlog_limit_bytes;
  hg_fallback why{};
  flow_ = context_->flows->Insert(spec, &why);
  if (!flow_.has_value()) {
    *reason = why;
    return false;
  }
  unpublished_bytes_ = 0;
  clear_to_send_ = false;
  // What arrived during the insertion waits for the next packet otherwise: a
  // peek makes the kernel run the verdict on it (tcp_bpf_recvmsg_parser).
  LookAtSource();
  return true;
}

// Whether there is something to read: bytes, the end or an error.
bool Direction::LookAtSource() {
  char byte = 0;
  if (recv(source_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0) {
    if (WouldBlock(errno)) return false;
    source_failed_ = errno != EINTR;  // Told once, as in ReadNothing().
  }
  readable_ = true;
  return true;
}

void Direction::SetSplicing(bool on) {
  if (!flow_.has_value()) return;
  hg_splice_flow& flow = context_->flows->flow(*flow_);
  uint32_t expected = on ? HG_SPLICE_OFF : HG_SPLICE_ON;
  __atomic_compare_exchange_n(&flow.mode, &expected,
                              on ? HG_SPLICE_ON : HG_SPLICE_OFF, false,
                              __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

bool Direction::kernel_carries() const {
  return flow_.has_value() &&
         __atomic_load_n(&context_->flows->flow(*flow_).mode,
                         __ATOMIC_SEQ_CST) == HG_SPLICE_ON;
}

// Whether bytes held by this thread may be sent now. Asked only while some are
// held: passed != relayed then, so nothing new is redirected.
bool Direction::ClearToSend() {
  if (flow_.has_value() && !clear_to_send_) clear_to_send_ = KernelHasSentAll();
  return clear_to_send_ || !flow_.has_value();
}

// Whether all that was redirected has entered the sink's send queue.
bool Direction::KernelHasSentAll() const {
  if (!flow_.has_value()) return true;
  const hg_splice_flow& flow = context_->flows->flow(*flow_);
  const uint64_t due = __atomic_load_n(&flow.redirected, __ATOMIC_SEQ_CST) +
                       __atomic_load_n(&flow.relayed, __ATOMIC_SEQ_CST) +
                       unpublished_bytes_;
  return BytesQueuedEver(sink_) - sink_base_ >= due;
}

bool Direction::PassedBytesMissing() const {
  if (!flow_.has_value()) return false;
  const hg_splice_flow& flow = context_->flows->flow(*flow_);
  return __atomic_load_n(&flow.passed, __ATOMIC_SEQ_CST) !=
         __atomic_load_n(&flow.relayed, __ATOMIC_SEQ_CST) + unpublished_bytes_;
}

bool Direction::Broken() const {
  return flow_.has_value() &&
         __atomic_load_n(&context_->flows->flow(*flow_).mode,
                         __ATOMIC_SEQ_CST) == HG_SPLICE_BROKEN;
}

void Direction::Publish() {
  if (!flow_.has_value() || pending_ != nullptr) return;
  clear_to_send_ = false;
  if (unpublished_bytes_ == 0) return;
  hg_splice_flow& flow = context_->flows->flow(*flow_);
  __atomic_fetch_add(&flow.relayed, unpublished_bytes_, __ATOMIC_SEQ_CST);
  unpublished_bytes_ = 0;
}

uint64_t Direction::bytes() const {
  if (!flow_.has_value()) return read_bytes_;
  return read_bytes_ + datapath::Read(context_->flows->flow(*flow_).redirected);
}

int64_t Direction::last_active_ns() const {
  if (!flow_.has_value()) return last_read_ns_;
  return std::max(last_read_ns_,
                  static_cast<int64_t>(datapath::Read(
                      context_->flows->flow(*flow_).last_active)));
}

bool Direction::Delivered() const {
  return !holds_bytes() && KernelHasSentAll() &&
         BytesUnacknowledged(sink_) == 0;
}

uint64_t Direction::SinkProgress() const { return BytesAcknowledged(sink_); }

}  // namespace headgate::relay
