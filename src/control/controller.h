// The one place that knows everything: configuration, health, what operators
// asked for. Brings the BPF maps, the workers and the checks in line with it.
// All methods belong to the control thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "config/error.h"
#include "config/types.h"
#include "control/backend_table.h"
#include "control/ejections.h"
#include "control/id_pool.h"
#include "control/listeners.h"
#include "control/map_writer.h"
#include "control/packet_services.h"
#include "control/runtime_changes.h"
#include "control/saved_state.h"
#include "control/source_ports.h"
#include "control/state.h"
#include "control/tables.h"
#include "datapath/datapath.h"
#include "net/event_loop.h"
#include "relay/worker.h"

namespace headgate::control {

class Controller {
 public:
  struct Options {
    std::string config_file;
    EventLoop* loop = nullptr;
    datapath::Datapath* datapath = nullptr;
    uint32_t workers = 1;
    uint64_t max_descriptors = 1024;  // RLIMIT_NOFILE.
    std::string state_file;           // See saved_state.h; empty: none is kept.
  };

  // Starts the workers; serves nothing yet.
  static absl::StatusOr<std::unique_ptr<Controller>> Make(
      const Options& options);
  ~Controller();

  // ---- configuration ----

  struct Applied {
    uint64_t generation = 0;
    std::vector<std::string> changes;  // Empty: it was the same.
  };
  enum class Binding {
    kLenient,  // A listener that cannot be bound is retried.
    kStrict,   // ... makes the whole change refused.
  };
  // Replaces the configuration, whole or not at all. Connections stay, but for
  // those of services that are gone.
  absl::StatusOr<Applied> Apply(config::Config next, Binding binding);
  // From `config_file`. InvalidArgument with every mistake, one a line, and in
  // `mistakes` (may be null) one by one. Logs how it went.
  absl::StatusOr<Applied> Reload(std::vector<config::Error>* mistakes);

  // Before the end: checks nobody any more and lets the checks that are under
  // way end in order, within a second; then calls `done`, maybe at once.
  // Clients are served meanwhile, as health was last known.
  void EndChecks(absl::AnyInvocable<void()> done);

  // Called after each change.
  void OnApplied(absl::AnyInvocable<void()> callback) {
    on_applied_ = std::move(callback);
  }
  // Called once, when every backend has its first verdict; maybe at once.
  void OnReady(absl::AnyInvocable<void()> callback);

  const config::Config& config() const { return config_; }
  const std::string& config_file() const { return options_.config_file; }
  uint64_t generation() const { return generation_; }

  // ---- what operators ask for; NotFound without such a backend ----
  //
  // All of it outlives reloads and restarts until it is undone, or until the
  // configuration settles it (runtime_changes.h); but for the pace of a drain.

  // What it is already is no change: a paced drain goes on.
  absl::Status SetAdmin(const std::string& service, const std::string& backend,
                        hg_admin admin);
  // HG_ADMIN_DRAIN, and its connections are ended too.
  absl::Status Drain(const std::string& service, const std::string& backend,
                     const Pace& pace);
  absl::Status SetWeight(const std::string& service, const std::string& backend,
                         uint32_t weight);
  // AlreadyExists, or ResourceExhausted, or InvalidArgument without any port.
  // One that the configuration has, and that was removed, comes back.
  absl::Status AddBackend(const std::string& service,
                          const config::Backend& backend);
  // It takes no more connections; those it has stay.
  absl::Status RemoveBackend(const std::string& service,
                             const std::string& backend);
  // Checks once, now, beside the regular checks and without any effect on the
  // backend's state. FailedPrecondition if the service has no check.
  absl::Status CheckNow(const std::string& service, const std::string& backend,
                        bool explain, health::Check::Done done);
  bool KillConnection(uint64_t id);

  // ---- what is seen ----

  // For status: what is wrong with `subject`; empty: nothing any more. Returns
  // whether that is news.
  bool SetProblem(const std::string& subject, const std::string& problem);
  StatusRow Status() const;
  std::vector<ServiceRow> Services() const;
  std::vector<BackendRow> Backends() const;
  std::vector<LeavingRow> Leaving() const;
  // What operators changed and have not undone, one a line.
  std::vector<std::string> RuntimeLines() const { return Describe(changes_); }
  // What the workers carry; by id.
  std::vector<ConnectionRow> Connections(const ConnectionFilter& filter) const;
  // What the packet path carries, by id, too, each of which is above all the
  // workers'. There may be a million: they come by flow numbers, which are
  // below max_flows() (0: there is no packet path).
  std::vector<ConnectionRow> PacketConnections(
      const ConnectionFilter& filter, datapath::FlowNumbers numbers) const;
  std::vector<FlowRow> Flows(const ConnectionFilter& filter,
                             datapath::FlowNumbers numbers) const;
  uint32_t max_flows() const { return packet_.max_flows(); }
  uint64_t ConnectionsActive() const;
  // What the packet path does to packets from now on. NotFound without that
  // service; FailedPrecondition: it is not in use, or there is a reader
  // already.
  absl::StatusOr<std::shared_ptr<datapath::PacketTrace>> Trace(
      const ConnectionFilter& of);
  // The row refers to the event.
  TraceRow DescribePacket(const hg_trace_event& event) const;
  const datapath::Datapath& datapath() const { return *options_.datapath; }
  // Last reload or apply; of the daemon's start, if there was none.
  bool last_reload_ok() const { return last_reload_ok_; }
  absl::Time last_reload_time() const { return last_reload_time_; }

 private:
  struct Service {
    uint32_t id = 0;
    config::Service config;
    std::vector<uint32_t> backends;  // In pool order.
    std::shared_ptr<relay::Queue> queue;
    uint32_t table = 0;  // In `tables_`, what the map names; 0: none.
    bool panic = false;  // As the log has it.
  };

  explicit Controller(const Options& options);

  absl::StatusOr<Applied> ApplyFile(std::vector<config::Error>* mistakes);
  void NoteReady();
  absl::Status CheckRoom(const config::Config& next,
                         const RuntimeChanges& changes);
  Listeners::Wanted WantedListeners(const config::Config& config) const;
  absl::Status TryBind(const config::Config& next) const;
  void RemoveServices(const config::Config& next);
  void RemoveService(const std::string& name);
  uint32_t TakeServiceId(const std::string& name);
  void ApplyPacket();
  void Adopt(const config::Config& next, const RuntimeChanges& changes);
  void EraseUnadopted(const config::Config& next);
  void PutService(const config::Service& service, const config::Pool& pool);
  void PublishService(const Service& service);
  absl::Status TryToPublish(Service& service);
  absl::StatusOr<uint32_t> TakeTable(const Service& service);
  void NoteUnwritten(const std::string& problem);
  void NotePanic(Service& service) const;
  // Whether selection ignores health; bpf/lib/select.h has the rule.
  bool InPanic(const Service& service) const;
  RuntimeChange& ChangeOf(const Backend& backend);
  void Changed();
  BackendTable::Start StartOf(const config::Service& service,
                              const config::Backend& backend) const;
  absl::Status CheckNewBackend(const std::string& service,
                               const config::Backend& backend);
  void LoadState();
  void SayWhatIsKept() const;
  void Save();
  void SaveSoon();
  Backend* FindBackend(const std::string& service, const std::string& name);
  void SampleSourcePorts();
  void OnCheck(Backend& backend, bool changed);
  void TakeHint(Backend& backend) const;
  void TakeWeight(Backend& backend);
  std::vector<const BackendRow*> Siblings(const Backend& backend) const;
  // Empty: it is gone.
  std::string NameOfService(uint32_t id) const;
  std::string NameOfBackend(uint32_t id) const;
  std::vector<datapath::PacketPath::Flow> Meant(
      const ConnectionFilter& filter, datapath::FlowNumbers numbers) const;
  std::vector<Ejections::Backend> Watched() const;
  void WatchTraffic();
  void SettleEjection(Backend& backend);

  Options options_;
  absl::Time started_ = absl::Now();
  int64_t started_ns_ = MonotonicNs();
  config::Config config_;
  absl::AnyInvocable<void()> on_applied_;
  absl::AnyInvocable<void()> on_ready_;
  bool ready_ = false;
  std::map<std::string, std::string> problems_;  // By subject.
  uint64_t generation_ = 0;
  bool last_reload_ok_ = true;
  absl::Time last_reload_time_ = absl::Now();
  relay::ConnectionLimit limit_;
  std::vector<std::unique_ptr<relay::Worker>> workers_;
  Listeners listeners_;
  SourcePorts source_ports_;
  Tables tables_;
  IdPool service_ids_{HG_MAX_SERVICES};
  std::set<uint32_t> ids_gone_;  // Of services that may have connections.
  std::map<std::string, uint32_t> adopted_services_;  // Ids; not Put() yet.
  std::map<std::string, Service> services_;
  MapWriter writer_;
  BackendTable backends_;
  PacketServices packet_;
  std::map<uint64_t, std::unique_ptr<health::Check>> checks_now_;
  uint64_t next_check_now_ = 0;
  Timer sample_;
  Ejections ejections_;
  Timer traffic_timer_;
  RuntimeChanges changes_;
  SavedState remembered_;  // From before the restart, until the first Apply.
  int64_t saved_ns_ = 0;
  Timer save_timer_;
};

}  // namespace headgate::control
