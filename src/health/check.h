// One health check of any kind. On the loop's thread.
#pragma once

#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "base/unique_fd.h"
#include "config/types.h"
#include "health/farewells.h"
#include "health/result.h"
#include "net/address.h"
#include "net/event_loop.h"
#include "net/socket.h"

namespace headgate::health {

// Destroying a check ends it without a result; what it has opened is closed in
// order, by `farewells`.
class Check {
 public:
  // Told exactly once, from the loop; the check may be destroyed in it.
  using Done = absl::AnyInvocable<void(CheckResult)>;

  virtual ~Check() = default;
};

struct CheckRequest {
  Endpoint target;
  config::Health health;  // Resolved: neither auto nor none.
  bool explain = false;   // Fill CheckResult::steps.
  // It comes from the first that the machine has; empty: the kernel's choice.
  std::vector<IpAddress> sources = {};
};

// As ConnectTcp.
UniqueFd ConnectForCheck(const CheckRequest& request, HandshakeAck ack,
                         int* error);

// Starts at once. `farewells` outlives the check.
std::unique_ptr<Check> StartCheck(EventLoop* loop, Farewells* farewells,
                                  const CheckRequest& request,
                                  Check::Done done);

}  // namespace headgate::health
