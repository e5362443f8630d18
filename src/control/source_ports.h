// How near backends are to having no source port left, and which sources the
// machine lacks. A connection that we close first keeps its port for another
// 60 s (TIME_WAIT, net/tcp.h: TCP_TIMEWAIT_LEN); all that ended within that
// time are counted, so that the figure is an upper bound. Sampled, never
// counted by connection. All methods belong to the control thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "bpf/abi/types.h"
#include "net/address.h"

namespace headgate::control {

class SourcePorts {
 public:
  static constexpr absl::Duration kInterval = absl::Seconds(1);

  struct Backend {
    uint32_t id = 0;
    std::string service;
    std::string name;
    std::string pool;
    bool retired = false;  // Holds ports, and nothing new is said of it.
    Endpoint address;
    // Of the backend's family; empty: the kernel's choice, taken for one.
    std::vector<IpAddress> sources;
    // What the packet path has of each source; 0: the kernel chooses.
    uint64_t packet_ports = 0;
    hg_backend_stats stats{};  // Since the id is this backend's.
  };
  struct Use {
    uint64_t ports = 0;     // Sources times ports; 0: not known.
    uint64_t forecast = 0;  // In use if it goes on like this.

    // Nearly half: soon connect() will have used up those of one parity.
    bool crowded() const { return ports != 0 && forecast > ports * 2 / 5; }
  };

  // Once, before all else: what these have counted is of the last run, which
  // held its ports by itself.
  void Adopt(const std::vector<Backend>& backends);

  // To be called every kInterval, and whenever `backends` are others. `now` is
  // of a clock that nobody sets; `ports_per_source` as CountSourcePorts() has
  // it. Logs what is new.
  void Sample(absl::Time now, uint64_t ports_per_source,
              const std::vector<Backend>& backends);

  Use Of(uint32_t backend) const;
  // What an operator should look at.
  std::vector<std::string> Problems() const;

 private:
  static constexpr absl::Duration kTimeWait = absl::Seconds(60);
  static constexpr size_t kSteps = 12;

  struct History {
    // Connections that had ended at the begin of each step.
    std::array<int64_t, kSteps + 1> ended{};
    uint64_t failures = 0;  // At the last sample.
    bool exhausted = false;
    absl::Time last_failure = absl::InfinitePast();
    uint64_t total_at_failure = 0;  // Connections until then.
    bool nearly = false;
    Use use;
  };
  using Texts = std::map<std::string, std::string>;  // By subject.

  void Step(absl::Time now, const std::vector<Backend>& backends);
  void Forecast(uint64_t ports_per_source,
                const std::vector<Backend>& backends);
  void Judge(absl::Time now, const Backend& backend, Texts& problems);
  static void FindMissing(const std::vector<Backend>& backends,
                          Texts& problems);

  std::map<uint32_t, History> histories_;  // By backend id.
  absl::Time step_began_ = absl::InfinitePast();
  size_t step_ = 0;
  Texts problems_;
};

}  // namespace headgate::control
