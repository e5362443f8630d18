// The connect phase of a connection: picks backends and connects to them until
// one has taken the PROXY header. One that fails is followed by the next; one
// that does not answer gets company after `timeouts.try_next`, and the first to
// answer has the connection (as RFC 8305 does it with addresses). The others
// are reset before they have seen a byte. No backend is tried twice. On its
// connection's loop.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/unique_fd.h"
#include "net/event_loop.h"
#include "net/socket.h"
#include "relay/host.h"
#include "relay/service.h"

namespace headgate::relay {

// A backend that has taken the header. It counts the connection as active
// (hg_backend_stats); the owner undoes that.
struct Dialled {
  UniqueFd socket;  // In the loop, with Dial's `handler`.
  uint32_t backend = 0;
  int64_t started_ns = 0;  // When its connect began.
  uint32_t events = 0;     // What the loop has said of the socket.
};

class DialOwner {
 public:
  // The socket may be connected: sends the header. 0, EAGAIN if it is not
  // connected yet, or errno.
  virtual int SendHeader(int socket) = 0;
  // One of these ends each Next(); they may begin another, or Abandon().
  virtual void OnDialled(Dialled dialled) = 0;
  // `full`: a backend would do if it had room.
  virtual void OnNobodyLeft(bool full) = 0;

 protected:
  ~DialOwner() = default;
};

class Dial {
 public:
  // `handler` is the one of the backend's socket, `timer` is Dial's between
  // Next() and its end. All outlive it.
  Dial(ConnectionHost* host, DialOwner* owner, const Service* service,
       const Endpoint& client, IoHandler* handler, Timer* timer);
  ~Dial() { Abandon(); }

  // Looks for a backend that was not tried before.
  void Next() { GoOn(true); }
  // Whether those that Next() might take are all full.
  bool AllAreFull();
  // What the owner gets while Next() is under way.
  void OnIo(uint32_t events) { OnAttempt(first_, events); }
  void OnTimer();
  // Resets what is under way.
  void Abandon();

 private:
  // Beside the first one, of one connection.
  static constexpr size_t kMostRivals = 3;

  struct Attempt {
    IoHandler* handler = nullptr;
    UniqueFd socket;
    uint32_t backend = 0;
    int64_t started_ns = 0;
  };

  // An attempt beside the first one. Rare, so only who needs one pays for it.
  class Rival final : public IoHandler, public LoopOwned {
   public:
    explicit Rival(Dial* dial) : dial_(dial) { attempt.handler = this; }
    void OnIo(uint32_t events) override { dial_->OnAttempt(attempt, events); }

    Attempt attempt;

   private:
    Dial* dial_;
  };

  void GoOn(bool start);
  bool Start();
  bool StartRival();
  bool Connect(Attempt& attempt, HandshakeAck ack);
  int ConnectFromSource(Attempt& attempt, HandshakeAck ack);
  bool Select();
  bool TakePlace();
  void LeavePlace(uint32_t backend);
  void OnAttempt(Attempt& attempt, uint32_t events);
  void Won(Attempt& attempt, uint32_t events);
  void NoteOvertaken(const Attempt& attempt, const Dialled& winner);
  void CountFailure(const Attempt& attempt, int error);
  void Drop(Attempt& attempt);
  void FreeRivals();
  Attempt* Overdue(int64_t now_ns);
  bool under_way() const { return first_.socket.valid() || !rivals_.empty(); }
  void Arm();

  ConnectionHost* host_;
  DialOwner* owner_;
  const Service* service_;
  Timer* timer_;
  hg_select selection_{};
  Attempt first_;
  std::vector<std::unique_ptr<Rival>> rivals_;  // All of them under way.
  int64_t last_start_ns_ = 0;
  bool exhausted_ = false;  // The last start has found nobody.
};

}  // namespace headgate::relay
