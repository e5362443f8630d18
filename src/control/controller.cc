#include "control/controller.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status.h"
#include "config/diff.h"
#include "config/parse.h"
#include "config/validate.h"
#include "control/transition_log.h"
#include "net/ports.h"

namespace headgate::control {
namespace {

// A worker's.
uint64_t MaxPipes(const Controller::Options& options) {
  return std::min<uint64_t>(options.max_descriptors / (64 * options.workers),
                            128);
}

// What checks that are under way may delay the end.
constexpr absl::Duration kStopPatience = absl::Seconds(1);

// Two descriptors a connection; some stay free for maps, listeners, the admin
// API, and two checks a backend, one under way and one taking leave, so that a
// flood of clients takes neither sight nor control away.
uint64_t MaxConnections(const Controller::Options& options, size_t backends) {
  const uint64_t reserve = std::min<uint64_t>(
      options.max_descriptors / 2,
      192 + 2 * backends + (8 + 2 * MaxPipes(options)) * options.workers);
  return (options.max_descriptors - reserve) / 2;
}

// What all readers together may leave behind: a quarter of memory.
uint64_t BacklogTotal(const config::Splice& splice) {
  if (splice.backlog_total_bytes.has_value()) {
    return *splice.backlog_total_bytes;
  }
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) / 4;
}

}  // namespace

Controller::Controller(const Options& options)
    : options_(options),
      listeners_(options.loop, &workers_),
      tables_(options.datapath),
      writer_(options.loop,
              [this](const std::string& problem) { NoteUnwritten(problem); }),
      backends_(options.loop, options.datapath, &writer_,
                [this](Backend& backend, bool changed) {
                  OnCheck(backend, changed);
                }),
      packet_(options.loop, options.datapath),
      sample_(options.loop, [this] { SampleSourcePorts(); }),
      traffic_timer_(options.loop, [this] { WatchTraffic(); }),
      save_timer_(options.loop, [this] { Save(); }) {}

// Workers give each other what they accept: that must end before they do.
Controller::~Controller() {
  listeners_.Set({});
  Save();
}

void Controller::EndChecks(absl::AnyInvocable<void()> done) {
  for (auto& [id, check] : checks_now_) backends_.LeaveCheck(std::move(check));
  checks_now_.clear();
  backends_.EndChecks(kStopPatience, std::move(done));
}

absl::StatusOr<std::unique_ptr<Controller>> Controller::Make(
    const Options& options) {
  std::unique_ptr<Controller> made(new Controller(options));
  for (uint32_t i = 0; i < options.workers; ++i) {
    ASSIGN_OR_RETURN(auto worker,
                     relay::Worker::Make({i, options.datapath, &made->limit_,
                                          &made->workers_, MaxPipes(options)}));
    made->workers_.push_back(std::move(worker));
  }
  made->LoadState();
  return made;
}

// ---- configuration ---------------------------------------------------------

absl::StatusOr<Controller::Applied> Controller::Reload(
    std::vector<config::Error>* mistakes) {
  const auto applied = ApplyFile(mistakes);
  last_reload_ok_ = applied.ok();
  if (!applied.ok()) {
    log::Error("reload refused, the running configuration stays:\n%s",
               applied.status().message());
    return applied;
  }
  for (const std::string& change : applied->changes) {
    log::Info("reload: %s", change);
  }
  log::Info("reloaded, generation %d", applied->generation);
  return applied;
}

absl::StatusOr<Controller::Applied> Controller::ApplyFile(
    std::vector<config::Error>* mistakes) {
  ASSIGN_OR_RETURN(const std::string text,
                   config::ReadFile(options_.config_file));
  config::Parsed parsed = config::Parse(text);
  if (!parsed.errors.empty()) {
    if (mistakes != nullptr) *mistakes = parsed.errors;
    return absl::InvalidArgumentError(absl::StrJoin(
        parsed.errors, "\n", [this](std::string* out, const auto& error) {
          *out += config::Format(options_.config_file, error);
        }));
  }
  return Apply(std::move(parsed.config), Binding::kLenient);
}

absl::StatusOr<Controller::Applied> Controller::Apply(config::Config next,
                                                      Binding binding) {
  RuntimeChanges changes = changes_;
  Settle(next, changes);
  if (generation_ == 0) Adopt(next, changes);
  absl::Status room = CheckRoom(next, changes);
  if (!room.ok() && generation_ == 0) {
    log::Error("backends that operators added are left out: %s",
               room.message());
    std::erase_if(changes, [](const auto& entry) {
      return entry.second.presence == RuntimeChange::Presence::kAdded;
    });
    Adopt(next, changes);
    room = CheckRoom(next, changes);
  }
  RETURN_IF_ERROR(room);
  RETURN_IF_ERROR(PacketServices::Check(next));
  if (binding == Binding::kStrict) RETURN_IF_ERROR(TryBind(next));
  Applied applied;
  applied.changes = config::Diff(config_, next);
  if (generation_ == 0 || !applied.changes.empty()) {
    RemoveServices(next);
    options_.datapath->splice_budget().set_limit(BacklogTotal(next.splice));
    for (const auto& worker : workers_) worker->SetSplice(next.splice);
    changes_ = std::move(changes);
    if (generation_ == 0) EraseUnadopted(next);
    for (const auto& [name, service] : next.services) {
      PutService(service, next.pools.at(service.pool));
    }
    tables_.EraseAdopted();
    config_ = std::move(next);
    ApplyPacket();  // Before somebody connects who would be spliced.
    listeners_.Set(WantedListeners(config_));
    SampleSourcePorts();
    WatchTraffic();
    ++generation_;
    remembered_ = {};
    if (generation_ == 1) SayWhatIsKept();
    Save();
    const uint32_t workers = config_.workers.value_or(options_.workers);
    SetProblem("workers",
               workers == options_.workers
                   ? ""
                   : absl::StrCat("workers: ", workers,
                                  " takes effect at the next start"));
    if (on_applied_) on_applied_();
    NoteReady();
  } else {
    ApplyPacket();  // What it has given up is tried again.
  }
  last_reload_ok_ = true;
  last_reload_time_ = absl::Now();
  applied.generation = generation_;
  return applied;
}

// Old and new backends exist side by side for a moment, and removed ones until
// their last connection ends.
absl::Status Controller::CheckRoom(const config::Config& next,
                                   const RuntimeChanges& changes) {
  backends_.FreeRetired();
  size_t fresh = 0;
  for (const auto& [name, service] : next.services) {
    const config::Pool pool =
        Overlaid(service, next.pools.at(service.pool), changes);
    if (pool.backends.size() > config::kMaxBackendsPerPool) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "service ", name, ": more than ", config::kMaxBackendsPerPool,
          " backends, with those that were added by `headgatectl backend add`; "
          "remove some of them first"));
    }
    for (const config::Backend& backend : pool.backends) {
      const Backend* known = FindBackend(name, backend.name);
      fresh +=
          known == nullptr || known->row.address != AddressOf(service, backend);
    }
  }
  if (backends_.all().size() + fresh < HG_MAX_BACKENDS) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the configuration adds ", fresh, " backends (services times nodes) to ",
      backends_.all().size(),
      " that exist or still have connections; the limit is ",
      HG_MAX_BACKENDS - 1));
}

Listeners::Wanted Controller::WantedListeners(
    const config::Config& config) const {
  Listeners::Wanted wanted;
  for (const auto& [name, service] : config.services) {
    for (const Endpoint& address : service.listen) {
      wanted[address] = services_.at(name).id;
    }
  }
  return wanted;
}

absl::Status Controller::TryBind(const config::Config& next) const {
  Listeners::Wanted wanted;
  for (const auto& [name, service] : next.services) {
    for (const Endpoint& address : service.listen) wanted[address] = 0;
  }
  return listeners_.TryBind(wanted);
}

// Those that `next` has not. Their ids may be used again at once: by then
// nobody is brought to them.
void Controller::RemoveServices(const config::Config& next) {
  std::vector<std::string> gone;
  std::set<uint32_t> kept;
  for (const auto& [name, service] : services_) {
    if (next.services.contains(name)) {
      kept.insert(service.id);
    } else {
      gone.push_back(name);
    }
  }
  for (const std::string& name : gone) RemoveService(name);
  datapath::PacketPath* const path = options_.datapath->packet();
  if (!gone.empty() && path != nullptr) path->KeepListeners(kept);
}

void Controller::RemoveService(const std::string& name) {
  const Service& service = services_.at(name);
  for (const auto& worker : workers_) worker->RemoveService(service.id);
  listeners_.Forget(service.id);
  for (const uint32_t id : service.backends) backends_.Retire(id);
  writer_.Do({MapWriter::Map::kServices, service.id},
             [datapath = options_.datapath, id = service.id] {
               return datapath->EraseService(id);
             });
  tables_.Return(service.table);
  service_ids_.Return(service.id);
  ids_gone_.insert(service.id);
  services_.erase(name);
  backends_.FreeRetired();
}

void Controller::PutService(const config::Service& config,
                            const config::Pool& pool) {
  auto [it, is_new] = services_.try_emplace(config.name);
  Service& service = it->second;
  if (is_new) {
    service.id = TakeServiceId(config.name);
    hg_service_stats& stats = options_.datapath->service_stats(service.id);
    service.queue = std::make_shared<relay::Queue>(&stats);
  }
  service.config = config;
  std::vector<uint32_t> backends;
  const config::Pool used = Overlaid(config, pool, changes_);
  for (const config::Backend& backend : used.backends) {
    backends.push_back(backends_.Put(
        config, service.id, FindBackend(config.name, backend.name), backend,
        pool.source, StartOf(config, backend)));
  }
  for (const uint32_t old : service.backends) {
    if (std::find(backends.begin(), backends.end(), old) == backends.end()) {
      backends_.Retire(old);
    }
  }
  service.backends = std::move(backends);
  PublishService(service);
  auto shared = std::make_shared<relay::Service>();
  shared->id = service.id;
  shared->config = config;
  shared->queue = service.queue;
  shared->sources_v4 = OfFamily(pool.source, true);
  shared->sources_v6 = OfFamily(pool.source, false);
  for (const auto& worker : workers_) worker->PutService(shared);
  service.queue->SetLimits(config.max_connections,
                           config.queue.has_value() ? config.queue->size : 0);
  limit_.max = MaxConnections(options_, backends_.all().size());
}

void Controller::ApplyPacket() {
  std::map<std::string, uint32_t> ids;
  for (const auto& [name, service] : services_) ids[name] = service.id;
  packet_.Apply(config_, ids);
}

// ---- health ----------------------------------------------------------------

void Controller::OnCheck(Backend& backend, bool changed) {
  TakeHint(backend);
  TakeWeight(backend);
  NoteReady();
  if (!changed) return;
  SaveSoon();
  traffic_timer_.Set(absl::ZeroDuration());  // Once for all that changed.
  LogTransition(backend.row, Siblings(backend),
                backends_.ConnectionsActive(backend.row.id));
  Service& service = services_.at(backend.row.service);
  NotePanic(service);
  if (backend.row.health == health::State::kDown &&
      service.config.on_backend_down == config::BackendDown::kReset) {
    for (const auto& worker : workers_) worker->OnBackendDown(backend.row.id);
    packet_.ResetBackend(backend.row.id);
  }
}

// Said once of each kind; status has it for as long as it lasts.
void Controller::TakeHint(Backend& backend) const {
  const std::string problem = Misconfiguration(backend.row);
  if (problem.empty()) return;
  if (!backend.warned.insert(backend.row.last_check->outcome).second) return;
  log::Warning("%s", problem);
}

// Applied when it changes, so that an operator's weight holds until then.
void Controller::TakeWeight(Backend& backend) {
  const std::optional<uint32_t> weight = backend.row.last_check->weight;
  if (!weight.has_value() || weight == backend.asked_weight) return;
  backend.asked_weight = weight;
  if (backend.row.weight == *weight) return;
  backends_.SetWeight(backend, *weight);
  PublishService(services_.at(backend.row.service));  // Its table.
  log::Info("Server %s/%s has weight %d now, by its check.",
            backend.row.service, backend.row.name, *weight);
}

void Controller::NotePanic(Service& service) const {
  const bool panic = InPanic(service);
  if (panic == service.panic) return;
  service.panic = panic;
  if (panic) {
    log::Warning(
        "Service %s is in panic, too few backends are up: health is ignored.",
        service.config.name);
  } else {
    log::Info("Service %s leaves panic: health is heeded again.",
              service.config.name);
  }
}

bool Controller::InPanic(const Service& service) const {
  uint32_t ready = 0, up = 0;
  for (const uint32_t id : service.backends) {
    const BackendRow& row = backends_.at(id).row;
    if (row.admin != HG_ADMIN_READY || row.weight == 0 || row.backup) continue;
    ++ready;
    const bool usable =
        row.health != health::State::kDown && !row.ejected.has_value();
    up += usable ? 1 : 0;
  }
  return up * 100 < ready * service.config.panic_threshold;
}

std::vector<const BackendRow*> Controller::Siblings(
    const Backend& backend) const {
  std::vector<const BackendRow*> rows;
  for (const uint32_t id : services_.at(backend.row.service).backends) {
    rows.push_back(&backends_.at(id).row);
  }
  return rows;
}

void Controller::OnReady(absl::AnyInvocable<void()> callback) {
  if (ready_) {
    callback();
  } else {
    on_ready_ = std::move(callback);
  }
}

void Controller::NoteReady() {
  if (ready_) return;
  for (const auto& [id, backend] : backends_.all()) {
    if (backend.retired || backend.row.admin != HG_ADMIN_READY) continue;
    // A check that could not be made here, for want of a source address say,
    // may never come to a verdict.
    const bool unchecked = backend.row.health == health::State::kStarting &&
                           !backend.row.last_check.has_value();
    if (backend.remembered || unchecked) {
      return;
    }
  }
  ready_ = true;
  if (on_ready_) on_ready_();
}

void Controller::SampleSourcePorts() {
  std::vector<SourcePorts::Backend> sampled;
  for (const auto& [id, backend] : backends_.all()) {
    SourcePorts::Backend& sample = sampled.emplace_back(SourcePorts::Backend{
        id, backend.row.service, backend.row.name, backend.pool,
        backend.retired, backend.row.address, backend.sources, 0,
        datapath::Snapshot(options_.datapath->backend_stats(id))});
    const auto service = services_.find(backend.row.service);
    if (service == services_.end() ||
        !packet_.Carries(service->second.config)) {
      continue;
    }
    sample.sources =
        OfFamily(config_.packet->source, backend.row.address.address.is_v4());
    sample.packet_ports =
        config_.packet->last_port - config_.packet->first_port + 1U;
  }
  if (generation_ == 0) source_ports_.Adopt(sampled);
  source_ports_.Sample(absl::FromUnixNanos(MonotonicNs()), CountSourcePorts(),
                       sampled);
  for (const auto& [id, backend] : backends_.all()) {
    datapath::Set(options_.datapath->backend_stats(id).crowded,
                  source_ports_.Of(id).crowded() ? 1 : 0);
  }
  sample_.Set(SourcePorts::kInterval);
}

}  // namespace headgate::control
