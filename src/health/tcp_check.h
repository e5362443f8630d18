// One health check of type tcp: does the port accept?
//
// Without a header the server's application never sees it: the handshake's
// last ACK is held back (TCP_QUICKACK off) and the connection is reset, as
// HAProxy does on Linux. With a header it ends in order: header, FIN, then the
// server's FIN; a LOCAL header followed by RST makes Postfix before 3.11 fatal.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "config/types.h"
#include "net/address.h"
#include "net/event_loop.h"

namespace headgate::health {

// kError: something is wrong on this side (no descriptors, no memory, no source
// address), which says nothing of the target.
enum class Outcome { kPassed, kRefused, kTimeout, kUnreachable, kError };
inline constexpr std::array kOutcomes = {
    Outcome::kPassed, Outcome::kRefused, Outcome::kTimeout,
    Outcome::kUnreachable, Outcome::kError};

struct CheckResult {
  Outcome outcome = Outcome::kError;
  std::string detail;  // "Connection refused"; empty if passed.
  absl::Duration duration;
  absl::Time time;  // When it ended.
};

class TcpCheck final : public IoHandler {
 public:
  // Starts at once, from the first of `sources` that the machine has, or from
  // where the kernel chooses if there are none. Calls `done` exactly once, from
  // the loop, unless destroyed before; the check may be destroyed in it.
  TcpCheck(EventLoop* loop, const Endpoint& target,
           absl::Span<const IpAddress> sources, config::CheckHeader header,
           absl::Duration timeout, absl::AnyInvocable<void(CheckResult)> done);
  ~TcpCheck();

  void OnIo(uint32_t events) override;

 private:
  void Connect(absl::Span<const IpAddress> sources);
  void OnTimer();
  void Connected();
  void Finish(Outcome outcome, std::string detail);
  void FinishWithErrno(int error);

  EventLoop* loop_;
  const Endpoint target_;
  const config::CheckHeader header_;
  const absl::Duration timeout_;
  absl::AnyInvocable<void(CheckResult)> done_;
  const int64_t started_ns_;
  UniqueFd fd_;
  int start_error_ = 0;
  bool header_sent_ = false;
  Timer timer_;
};

}  // namespace headgate::health
