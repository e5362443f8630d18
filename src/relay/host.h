// The worker, as its connections see it.
#pragma once

#include <cstdint>
#include <optional>

#include "config/types.h"
#include "net/event_loop.h"
#include "relay/direction.h"
#include "relay/source_rotation.h"

namespace headgate::relay {

class Connection;

// Of a connection's sockets: edge-triggered, all of them.
inline constexpr uint32_t kAllEvents =
    static_cast<uint32_t>(EPOLLIN) | static_cast<uint32_t>(EPOLLOUT) |
    static_cast<uint32_t>(EPOLLPRI) | static_cast<uint32_t>(EPOLLRDHUP) |
    static_cast<uint32_t>(EPOLLET);

inline bool Any(uint32_t events, int mask) {
  return (events & static_cast<uint32_t>(mask)) != 0;
}

class ConnectionHost {
 public:
  virtual EventLoop* loop() = 0;
  virtual PumpContext* context() = 0;
  virtual const config::Splice& splice() const = 0;
  virtual SourceRotation& sources() = 0;
  // Why connections are not spliced now, if so.
  virtual std::optional<hg_fallback> splice_obstacle() const = 0;
  // Whom the events of a splice flow are for; null: nobody any more.
  virtual void SetFlowOwner(uint32_t flow, Connection* connection) = 0;
  // Room for one more descriptor, beyond the two that a connection has; false:
  // there is none.
  virtual bool TakeRoom() = 0;
  virtual void ReturnRoom() = 0;
  // Of a connection that waited in its service's queue: it has its turn now.
  // False: it has gone.
  virtual bool Admitted(uint64_t connection) = 0;
  // The connection is over: drop it at the end of the round.
  virtual void Closed(Connection* connection) = 0;

 protected:
  ~ConnectionHost() = default;
};

}  // namespace headgate::relay
