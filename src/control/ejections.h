// Which backends are ejected: left out for a time because real connections to
// them fail, whatever their checks say. As HAProxy's `observe layer4` and
// Envoy's consecutive_gateway_failure.
//
// It looks at counters, now and then: when connections failed and succeeded
// between two looks, nobody knows the order, and the success is taken for the
// last. Where the server speaks first (timeouts.greeting), its first byte is
// what counts as a success, and ending or staying silent before it is a
// failure. Elsewhere being connected is all that can be judged: a client can
// make a server close at once, and a service whose servers never answer is as
// good as any. No client can make a failure; in the packet path, whose SYNs are
// the clients' own, those that may get lost by themselves are not counted.
//
// Never the last backend of a service that takes connections is ejected, and
// never more than max_percent of its backends; backups are counted apart. One
// that its checks find down, or that the operator takes out, is not ejected
// any more. All methods belong to the control thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "bpf/abi/types.h"
#include "config/types.h"

namespace headgate::control {

// Of a failure, as in headgate_connect_failures_total and
// headgate_backend_early_closes_total.
enum class Failure {
  kRefused,
  kTimeout,
  kUnreachable,
  kReset,
  kOvertaken,
  kClosed,
  kGreetingTimeout,
};
inline constexpr size_t kFailures = 7;
const char* FailureName(Failure failure);

// What became of the connections that a backend was chosen for. Totals.
struct Outcomes {
  uint64_t successes = 0;
  std::array<uint64_t, kFailures> failures{};  // By Failure.
};
Outcomes CountOutcomes(const hg_backend_stats& stats,
                       const hg_greeting_times& greetings,
                       bool server_speaks_first);

class Ejections {
 public:
  // How often to look, while connections are made and while none are.
  static constexpr absl::Duration kBusyInterval = absl::Milliseconds(100);
  static constexpr absl::Duration kIdleInterval = absl::Seconds(1);
  // A backend that fails is checked at once, but no more often than this.
  static constexpr absl::Duration kCheckInterval = absl::Seconds(1);
  // Each ejection is twice as long as the one before, up to this, until the
  // backend has been back for as long.
  static constexpr absl::Duration kLongest = absl::Minutes(5);

  struct Backend {
    uint32_t id = 0;
    uint32_t service = 0;  // Id.
    config::Ejection rule;
    bool backup = false;
    bool in_service = false;  // The operator's wish, and its weight is not 0.
    bool down = false;        // By its checks.
    Outcomes outcomes;
  };
  struct Ejected {
    absl::Time until;
    absl::Duration length;
    Failure last = Failure::kRefused;
    bool operator==(const Ejected&) const = default;
  };

  // To be called after Wait(), and whenever `backends` are others: all those
  // that may be ejected, by service. `now` is of a clock that nobody sets.
  // Returns the ids of those that should be checked at once.
  std::vector<uint32_t> Look(absl::Time now,
                             const std::vector<Backend>& backends);
  // Until the next look.
  absl::Duration Wait(absl::Time now) const;

  // Nothing: it is not ejected.
  std::optional<Ejected> Of(uint32_t backend) const;

 private:
  struct History {
    Outcomes outcomes;    // At the last look.
    uint64_t streak = 0;  // Failures since the last success.
    Failure last = Failure::kRefused;
    absl::Time checked = absl::InfinitePast();
    std::optional<Ejected> ejected;
    absl::Duration last_length;
    absl::Time ended = absl::InfinitePast();  // The last ejection.
  };
  // Of one service.
  struct Group {
    struct Tier {
      int size = 0;  // In service, whatever their health.
      int ejected = 0;
    };
    std::array<Tier, 2> tiers;  // The second: of the backups.
    int eligible = 0;
  };
  using Groups = std::map<uint32_t, Group>;  // By service id.

  // The history of each of them, and of nobody else.
  void Know(const std::vector<Backend>& backends);
  // Takes in what is new; true: a backend that takes connections has failed.
  bool Absorb(absl::Time now, const Backend& backend, History& history);
  Groups Count(const std::vector<Backend>& backends) const;
  void Relieve(absl::Time now, const std::vector<Backend>& backends,
               Groups& groups);
  void EjectFailing(absl::Time now, const std::vector<Backend>& backends,
                    Groups& groups);

  std::map<uint32_t, History> histories_;     // By backend id.
  absl::Time active_ = absl::InfinitePast();  // The last outcome seen.
};

}  // namespace headgate::control
