// One client connection: picks a backend, connects, sends the PROXY header,
// moves bytes both ways until both sides have ended. Lives on its worker's
// loop and destroys itself there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "config/types.h"
#include "net/address.h"
#include "net/event_loop.h"
#include "relay/dial.h"
#include "relay/direction.h"
#include "relay/farewell.h"
#include "relay/host.h"
#include "relay/service.h"

namespace headgate::relay {

// A row of `conn list`.
struct ConnectionInfo {
  uint64_t id = 0;
  uint32_t service = 0;  // Ids in the maps; backend 0: none yet.
  uint32_t backend = 0;
  Endpoint client;
  bool spliced = false;
  int64_t started_ns = 0;  // Both of CLOCK_MONOTONIC.
  int64_t active_ns = 0;   // When a byte last moved.
  uint64_t bytes_in = 0;
  uint64_t bytes_out = 0;
};

class Connection final : public LoopOwned, public DialOwner {
 public:
  // Takes an accepted, non-blocking client socket; `destination` is what the
  // client dialled. Call Start() once.
  Connection(ConnectionHost* host, uint64_t id, ServicePtr service,
             UniqueFd client, const Endpoint& source,
             const Endpoint& destination);

  void Start();
  // Ends it now: RST to both sides.
  void Reset();
  // The splice switch was thrown.
  void SpliceChanged(bool on);
  // Its turn in the queue; false: it has not waited for it (any more).
  bool OnAdmitted();
  // Its backend is down: ends the connection, or looks for another backend if
  // the client has not heard of this one yet.
  void OnBackendDown();
  // The kernel has passed bytes of the spliced direction up.
  void OnSpliceEvent();

  uint64_t id() const { return id_; }
  const ServicePtr& service() const { return service_; }
  uint32_t backend() const { return backend_id_; }  // 0: none yet.
  ConnectionInfo Info() const;

 private:
  enum class State {
    kQueued,      // Waits for its turn.
    kConnecting,  // dial_ is at it.
    kGreeting,    // The header is sent; the client's bytes are held back until
                  // the backend has spoken.
    kOpen,
    kFarewell,   // Turned away; what the client still sends is dropped.
    kResetting,  // One side is broken; what it had said goes on.
    kClosed,
  };

  // The epoll face of one socket.
  class Leg final : public IoHandler {
   public:
    Leg(Connection* owner, void (Connection::*on_io)(uint32_t))
        : owner_(owner), on_io_(on_io) {}
    void OnIo(uint32_t events) override { (owner_->*on_io_)(events); }

   private:
    Connection* owner_;
    void (Connection::*on_io_)(uint32_t);
  };

  void OnClient(uint32_t events);
  void OnBackend(uint32_t events);
  void OnDeferred(uint32_t);
  void OnTimer();
  void OnTimerOpen();

  void EnterQueue();
  void ReturnToQueue();
  Queue::Admitted AdmissionLater();
  void Wait();
  void Admit();
  int SendHeader(int socket) override;
  void OnDialled(Dialled dialled) override;
  void OnNobodyLeft(bool full) override;
  void TurnAway();
  void DrainClient();
  void AwaitGreeting(uint32_t events);
  void HearGreeting(uint32_t events);
  void ReplaceBackend();
  void NoteFirstWord();
  void Opened();

  void PumpBoth();
  bool Act(Direction& direction);
  void MaybePromote(Direction& direction, Leg& source_leg, int source_fd);
  void Failed(Direction& direction);
  void FlushThenReset();
  void SetIdleTimer(absl::Duration left);
  void MaybeWatchPeers();
  void CheckIdle();
  int64_t last_active_ns() const;
  void Close(bool reset);
  void LeaveService();
  void LeaveBackend();
  void CountFallback();
  hg_service_stats& service_stats() const;
  hg_backend_stats& backend_stats() const;

  ConnectionHost* host_;
  const uint64_t id_;
  ServicePtr service_;
  const Endpoint source_;
  const Endpoint destination_;
  State state_ = State::kConnecting;
  UniqueFd client_;
  UniqueFd backend_;
  Leg client_leg_{this, &Connection::OnClient};
  Leg backend_leg_{this, &Connection::OnBackend};
  Leg deferred_leg_{this, &Connection::OnDeferred};
  bool deferred_ = false;
  Timer timer_;
  Dial dial_;
  uint32_t backend_id_ = 0;  // Dialled; 0: none.
  int64_t dialled_ns_ = 0;   // When that connect began.
  bool admitted_ = false;    // Counted in connections_active.
  bool heard_ = false;       // The backend's first word, or that it has none.
  bool has_waited_ = false;  // In the queue, where ticket_ is its place.
  Queue::Ticket ticket_ = 0;
  Farewell farewell_;
  Direction in_;   // From the client.
  Direction out_;  // To the client.
  bool was_spliced_ = false;
  bool peers_watched_ = false;
  std::optional<hg_fallback> fallback_;
  uint64_t promote_at_bytes_ = 0;
  int64_t started_ns_;
  int64_t active_ns_ = 0;  // Opened, or a slow sink was seen to take bytes.
  uint64_t sink_progress_ = 0;
  Direction* last_words_ = nullptr;  // While resetting.
  int64_t reset_by_ns_ = 0;
  // While a direction waits for the kernel to send what it holds, the timer
  // asks again, less and less often.
  bool draining_ = false;
  absl::Duration drain_poll_ = absl::ZeroDuration();
};

}  // namespace headgate::relay
