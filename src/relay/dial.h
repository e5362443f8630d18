// The connect phase of a connection: picks backends and connects to them, one
// after the other, until one has taken the PROXY header. No backend is tried
// twice. On its connection's loop.
#pragma once

#include <cstdint>

#include "base/unique_fd.h"
#include "net/event_loop.h"
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
  virtual void OnNobodyLeft() = 0;

 protected:
  ~DialOwner() = default;
};

class Dial {
 public:
  // `handler` is the one of the backend's socket, `timer` is Dial's between
  // Next() and its end. All outlive it.
  Dial(ConnectionHost* host, DialOwner* owner, const Service* service,
       IoHandler* handler, Timer* timer);
  ~Dial() { Abandon(); }

  // Looks for a backend that was not tried before.
  void Next();
  // What the owner gets while Next() is under way.
  void OnIo(uint32_t events);
  void OnTimer();
  // Resets what is under way.
  void Abandon();

 private:
  struct Attempt {
    UniqueFd socket;
    uint32_t backend = 0;
    int64_t started_ns = 0;
  };

  bool Select();
  bool Start();
  void Try(uint32_t events);
  void Failed(int error);

  ConnectionHost* host_;
  DialOwner* owner_;
  const Service* service_;
  IoHandler* handler_;
  Timer* timer_;
  hg_select selection_{};
  Attempt attempt_;
};

}  // namespace headgate::relay
