// The backends of all services: their ids, their entries in the BPF maps,
// their checks and slow starts. On the control thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "config/types.h"
#include "control/id_pool.h"
#include "control/map_writer.h"
#include "control/paced_drain.h"
#include "control/state.h"
#include "datapath/datapath.h"
#include "health/check.h"
#include "health/farewells.h"
#include "health/monitor.h"
#include "net/event_loop.h"

namespace headgate::control {

struct Backend {
  BackendRow row;
  uint32_t service_id = 0;
  config::Backend config;
  std::string pool;
  std::vector<IpAddress> sources;  // What it is reached from; of its family.
  bool retired = false;     // Out of the configuration, has connections left.
  bool remembered = false;  // Its health is from before a restart.
  std::optional<absl::Duration> slow_start;  // The service's.
  std::optional<int64_t> warm_since_ns;      // In its slow start.
  double share = 1;  // Of its weight, what is published: 0.1 to 1.
  std::unique_ptr<PacedDrain> drain;
  std::set<health::Outcome> warned;      // Hints that are in the log already.
  std::optional<uint32_t> asked_weight;  // By the server, last.
};

// Where `service` reaches `backend`. The parser has seen to it that there is a
// port.
Endpoint AddressOf(const config::Service& service,
                   const config::Backend& backend);

// Where the backend is checked; `health` is resolved.
Endpoint CheckedEndpoint(const BackendRow& row, const config::Health& health);

// Those that are, or are not, IPv4.
std::vector<IpAddress> OfFamily(const std::vector<IpAddress>& addresses,
                                bool v4);

class BackendTable {
 public:
  // After each check; `changed`: the backend's state is new.
  using OnCheck = absl::AnyInvocable<void(Backend&, bool changed)>;

  BackendTable(EventLoop* loop, datapath::Datapath* datapath, MapWriter* writer,
               OnCheck on_check);

  // Once, before the first Put(): backends of the last run, see
  // Datapath::adopted(), that are among these keep their ids. Of the others
  // those that have connections are retired.
  struct Known {
    uint32_t service_id = 0;
    std::string name;
    Endpoint address;
    bool operator==(const Known&) const = default;
  };
  void Adopt(const std::vector<Known>& wanted);
  // Erases the others from the maps.
  void EraseUnadopted();

  // What a new backend begins with, from before a restart.
  struct Start {
    health::State health = health::State::kStarting;
    hg_admin admin = HG_ADMIN_READY;
    std::optional<uint32_t> weight;  // Unless the configuration's.
  };
  // Adds a backend, or changes the one of the same name, `known` (null: there
  // is none), and returns its id. What operators asked for stays with it, but a
  // weight that changed in the configuration wins. Another address is another
  // server: `known` is retired.
  uint32_t Put(const config::Service& service, uint32_t service_id,
               Backend* known, const config::Backend& config,
               const std::vector<IpAddress>& pool_sources, const Start& start);
  // From now on it takes no connections; those it has stay. Does nothing for
  // one that is retired already, or forgotten.
  void Retire(uint32_t id);
  // Forgets those that are retired and have no connection left.
  void FreeRetired();

  // Ends a paced drain.
  void SetAdmin(Backend& backend, hg_admin admin,
                const config::Service& service);
  void SetWeight(Backend& backend, uint32_t weight);
  // Takes no new connections until EndEjection(), whatever its checks say.
  void Eject(Backend& backend, const Ejection& ejection);
  void EndEjection(Backend& backend);
  // See health::Monitor.
  void CheckNow(uint32_t id) { monitor_.CheckNow(id); }

  // Checks once, now, beside the regular checks and without any effect on the
  // backend's state.
  std::unique_ptr<health::Check> StartCheck(const Backend& backend,
                                            const config::Health& health,
                                            bool explain,
                                            health::Check::Done done);

  // Ends a check that StartCheck() has started.
  void LeaveCheck(std::unique_ptr<health::Check> check) {
    farewells_.Add(std::move(check));
  }
  // Begins no check any more and ends those under way in order; then, or when
  // `patience` is over, calls `done`: at once if no server would notice.
  void EndChecks(absl::Duration patience, absl::AnyInvocable<void()> done);

  Backend* Find(uint32_t id);  // Null: forgotten.
  Backend& at(uint32_t id) { return backends_.at(id); }
  const Backend& at(uint32_t id) const { return backends_.at(id); }
  const std::map<uint32_t, Backend>& all() const { return backends_; }
  uint64_t ConnectionsActive(uint32_t id) const;

 private:
  // Of a service, those that are not retired.
  struct Members {
    std::set<uint32_t> ids;
    size_t warming = 0;  // How many are in their slow start.
  };

  void Watch(const Backend& backend, const config::Service& service,
             health::State remembered = health::State::kStarting);
  void Publish(const Backend& backend);
  // That of the last run, with its counters, if it was adopted.
  uint32_t TakeId(const Known& known);
  std::string ServiceOfLastRun(uint32_t id) const;
  void PublishAll(uint32_t service_id);
  uint32_t Scale(uint32_t service_id) const;
  void PublishScaled(const Backend& backend, bool rescaled);
  void Warm(Backend& backend);
  void EndWarming(Backend& backend);
  void WarmStepPassed();
  void Checked(uint32_t id, const health::CheckResult& result,
               health::State state, bool changed);

  EventLoop* loop_;
  datapath::Datapath* datapath_;
  MapWriter* writer_;
  OnCheck on_check_;
  health::Farewells farewells_;
  health::Monitor monitor_;
  Timer warm_timer_;
  IdPool ids_{HG_MAX_BACKENDS};
  std::map<uint32_t, Known> adopted_;  // By id; not Put() yet.
  std::map<uint32_t, Backend> backends_;
  std::map<uint32_t, Members> members_;  // By service id.
};

}  // namespace headgate::control
