// Backends that are several addresses of one process (`health.share: group`),
// such as the NodePorts of one pod. Checked alike, each by itself, the process
// would have the checks of all of them, and postfix turns away who connects
// more than smtpd_client_connection_rate_limit times a minute.
//
// So there are two kinds of check:
//
//   light   one at every member, at its intervals: does the address answer?
//           Says something of that member only.
//   deep    the check that is configured, one for all of them at an interval,
//           at one member after the other. Says something of the process, and
//           so of every member. One that fails before the connection is made
//           says nothing of the process: the member's light check follows.
//
// Each is counted by rise and fall for itself. A member is down while its light
// check or the group's deep one is; it is up once both are. Until both have had
// a result it stays what it was.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "config/types.h"
#include "health/result.h"
#include "health/rise_fall.h"

namespace headgate::health {

// A connect alone, whatever the port speaks and whether it expects a header:
// the handshake's last ACK is held back and the connection reset (TcpCheck), so
// that no receiver hears of it. An orderly end would be one too many here:
// without a header postscreen and smtpd log "haproxy read: EOF", Dovecot
// "Client disconnected"; behind one they log a lost connection, which count
// against the sender (CrowdSec) and in postfix's limits.
inline config::Health LightCheck(const config::Health& deep) {
  config::Health light;
  light.type = config::HealthType::kTcp;
  light.proxy_protocol = config::CheckHeader::kNone;
  light.interval = deep.interval;
  light.fast_interval = deep.fast_interval;
  light.down_interval = deep.down_interval;
  light.timeout = std::min(*deep.timeout, absl::Seconds(2));
  light.rise = deep.rise;
  light.fall = deep.fall;
  return light;
}

// Whether a deep check has met the process at all.
inline bool MetProcess(const CheckResult& result) {
  return result.outcome == Outcome::kPassed || result.layer != Layer::kTcp;
}

inline State MemberState(State before, State light, State deep) {
  if (light == State::kDown || deep == State::kDown) return State::kDown;
  return light == State::kUp && deep == State::kUp ? State::kUp : before;
}

// When deep checks may start: two at once and one every 8 s, which is no more
// than 9 in any minute, whatever the intervals and whoever asks for one.
// Postfix's own default is no limit; 10 a minute is what people set.
class DeepPace {
 public:
  // How long from `now_ns` until the next may; that moment is taken.
  absl::Duration Take(int64_t now_ns) {
    const int64_t start_ns = std::max(now_ns, due_ns_ - kApartNs);
    due_ns_ = std::max(start_ns, due_ns_) + kApartNs;
    return absl::Nanoseconds(start_ns - now_ns);
  }

 private:
  static constexpr int64_t kApartNs = 8'000'000'000;

  int64_t due_ns_ = 0;  // When the next would start at an even pace.
};

}  // namespace headgate::health
