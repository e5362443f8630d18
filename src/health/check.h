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

// Destroying a check breaks it off without a result: what it has opened is
// closed in order, by `farewells`, but without the goodbye of its protocol.
// Farewells::Add(Check) is the polite way.
class Check {
 public:
  // Told exactly once, from the loop; the check may be destroyed in it.
  using Done = absl::AnyInvocable<void(CheckResult)>;

  explicit Check(Done done) : done_(std::move(done)) {}
  Check(const Check&) = delete;
  Check& operator=(const Check&) = delete;
  virtual ~Check() = default;

  // Whether a server has heard of it, and would notice that it is broken off.
  virtual bool met_server() const = 0;
  // Somebody else is told instead.
  void set_done(Done done) { done_ = std::move(done); }

 protected:
  // The last that a check does: it may be gone after it.
  void Tell(CheckResult result) {
    auto done = std::move(done_);
    done(std::move(result));
  }

 private:
  Done done_;
};

struct CheckRequest {
  Endpoint target;
  config::Health health;  // Resolved: neither auto nor none.
  bool explain = false;   // Fill CheckResult::steps.
  // It comes from the first that the machine has; empty: the kernel's choice.
  std::vector<IpAddress> sources = {};
};

// As ConnectTcp, from the request's sources.
UniqueFd ConnectForCheck(const CheckRequest& request, ConnectOptions options,
                         int* error);

// What is wrong with a socket that epoll told `events` of; 0: nothing. No
// system call unless they say that something is.
int ErrorOf(int fd, uint32_t events);

// Starts at once. `farewells` outlives the check.
std::unique_ptr<Check> StartCheck(EventLoop* loop, Farewells* farewells,
                                  const CheckRequest& request,
                                  Check::Done done);

}  // namespace headgate::health
