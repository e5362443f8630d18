// The listen addresses of all services: binds them for all workers, keeps
// trying those that cannot be bound. One busy port must not keep the others
// dark. On the control thread's loop.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "control/state.h"
#include "net/event_loop.h"
#include "relay/worker.h"

namespace headgate::control {

class Listeners {
 public:
  Listeners(EventLoop* loop,
            const std::vector<std::unique_ptr<relay::Worker>>* workers);

  // Address -> service id.
  using Wanted = std::map<Endpoint, uint32_t>;

  // Whether every address that is new in `wanted` can be bound now.
  absl::Status TryBind(const Wanted& wanted) const;
  // Makes it so: first closes what is not wanted any more (but for services
  // that the workers were told to remove, which takes their listeners along),
  // then opens what is new.
  void Set(const Wanted& wanted);
  // The service is gone from the workers.
  void Forget(uint32_t service);

  std::vector<ListenerRow> Rows(uint32_t service) const;

 private:
  struct Entry {
    uint32_t service = 0;
    absl::Status status;  // Of the last attempt to bind.
  };

  bool BoundByUs(const Endpoint& address) const;
  void Open(const Endpoint& address, Entry& entry);
  void Retry();

  const std::vector<std::unique_ptr<relay::Worker>>* workers_;
  std::map<Endpoint, Entry> entries_;
  Timer retry_;
};

}  // namespace headgate::control
