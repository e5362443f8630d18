#include "control/controller.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status.h"
#include "config/diff.h"
#include "config/parse.h"

namespace headgate::control {
namespace {

Endpoint AddressOf(const config::Service& service,
                   const config::Backend& backend) {
  // The parser has seen to it that there is a port.
  return {backend.address,
          backend.port.value_or(service.backend_port.value_or(0))};
}

void CopyName(const std::string& name, char (&out)[HG_NAME_LEN]) {
  std::memset(out, 0, sizeof out);
  std::memcpy(out, name.data(), std::min<size_t>(name.size(), HG_NAME_LEN - 1));
}

hg_health ToAbi(health::State state) {
  switch (state) {
    case health::State::kStarting:
      return HG_HEALTH_STARTING;
    case health::State::kUp:
      return HG_HEALTH_UP;
    case health::State::kDown:
      return HG_HEALTH_DOWN;
  }
  return HG_HEALTH_DOWN;
}

// A worker's.
uint64_t MaxPipes(const Controller::Options& options) {
  return std::min<uint64_t>(options.max_descriptors / (64 * options.workers),
                            128);
}

// Two descriptors a connection; some stay free for maps, checks, listeners and
// the admin API, so that a flood of clients takes neither sight nor control
// away.
uint64_t MaxConnections(const Controller::Options& options) {
  const uint64_t reserve =
      std::min<uint64_t>(options.max_descriptors / 2,
                         192 + (8 + 2 * MaxPipes(options)) * options.workers);
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

// Cannot fail but for the map being full, which CheckRoom excludes.
void LogIfFailed(const absl::Status& status) {
  if (!status.ok()) log::Error("%s", status.message());
}

}  // namespace

Controller::Controller(const Options& options)
    : options_(options),
      listeners_(options.loop, &workers_),
      monitor_(options.loop,
               [this](uint32_t id, const health::CheckResult& result,
                      health::State state,
                      bool changed) { OnCheck(id, result, state, changed); }) {}

// Workers give each other what they accept: that must end before they do.
Controller::~Controller() { listeners_.Set({}); }

absl::StatusOr<std::unique_ptr<Controller>> Controller::Make(
    const Options& options) {
  std::unique_ptr<Controller> made(new Controller(options));
  made->limit_.max = MaxConnections(options);
  for (uint32_t i = 0; i < options.workers; ++i) {
    ASSIGN_OR_RETURN(auto worker,
                     relay::Worker::Make({i, options.datapath, &made->limit_,
                                          &made->workers_, MaxPipes(options)}));
    made->workers_.push_back(std::move(worker));
  }
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
  RETURN_IF_ERROR(CheckRoom(next));
  if (binding == Binding::kStrict) RETURN_IF_ERROR(TryBind(next));
  Applied applied;
  applied.changes = config::Diff(config_, next);
  if (generation_ == 0 || !applied.changes.empty()) {
    std::vector<std::string> gone;
    for (const auto& [name, service] : services_) {
      if (!next.services.contains(name)) gone.push_back(name);
    }
    for (const std::string& name : gone) RemoveService(name);
    options_.datapath->splice_budget().set_limit(BacklogTotal(next.splice));
    for (const auto& worker : workers_) worker->SetSplice(next.splice);
    for (const auto& [name, service] : next.services) {
      PutService(service, next.pools.at(service.pool));
    }
    config_ = std::move(next);
    listeners_.Set(WantedListeners(config_));
    ++generation_;
    const uint32_t workers = config_.workers.value_or(options_.workers);
    SetProblem("workers",
               workers == options_.workers
                   ? ""
                   : absl::StrCat("workers: ", workers,
                                  " takes effect at the next start"));
    if (on_applied_) on_applied_();
    NoteReady();
  }
  last_reload_ok_ = true;
  last_reload_time_ = absl::Now();
  applied.generation = generation_;
  return applied;
}

// Old and new backends exist side by side for a moment, and removed ones until
// their last connection ends.
absl::Status Controller::CheckRoom(const config::Config& next) {
  FreeRetired();
  size_t fresh = 0;
  for (const auto& [name, service] : next.services) {
    for (const config::Backend& backend :
         next.pools.at(service.pool).backends) {
      const Backend* known = FindBackend(name, backend.name);
      fresh +=
          known == nullptr || known->row.address != AddressOf(service, backend);
    }
  }
  if (backends_.size() + fresh < HG_MAX_BACKENDS) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the configuration adds ", fresh, " backends (services times nodes) to ",
      backends_.size(), " that exist or still have connections; the limit is ",
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

void Controller::RemoveService(const std::string& name) {
  const Service& service = services_.at(name);
  for (const auto& worker : workers_) worker->RemoveService(service.id);
  listeners_.Forget(service.id);
  for (const uint32_t id : service.backends) RetireBackend(id);
  LogIfFailed(options_.datapath->EraseService(service.id));
  service_ids_.Return(service.id);
  services_.erase(name);
  FreeRetired();
}

void Controller::PutService(const config::Service& config,
                            const config::Pool& pool) {
  auto [it, is_new] = services_.try_emplace(config.name);
  Service& service = it->second;
  if (is_new) {
    service.id = service_ids_.Take().value();  // The parser has counted them.
    datapath::Clear(options_.datapath->service_stats(service.id));
  }
  service.config = config;
  std::vector<uint32_t> backends;
  for (const config::Backend& backend : pool.backends) {
    backends.push_back(PutBackend(service, backend));
  }
  for (const uint32_t old : service.backends) {
    if (std::find(backends.begin(), backends.end(), old) == backends.end()) {
      RetireBackend(old);
    }
  }
  service.backends = std::move(backends);
  PublishService(service);
  auto shared = std::make_shared<relay::Service>();
  shared->id = service.id;
  shared->config = config;
  for (const auto& worker : workers_) worker->PutService(shared);
}

// A backend is known by its name; what operators asked for stays with it, but
// a weight that changed in the file wins.
uint32_t Controller::PutBackend(Service& service,
                                const config::Backend& config) {
  const Endpoint address = AddressOf(service.config, config);
  Backend* backend = FindBackend(service.config.name, config.name);
  if (backend != nullptr && backend->row.address != address) {
    RetireBackend(backend->row.id);  // Another server by the same name.
    backend = nullptr;
  }
  if (backend == nullptr) {
    FreeRetired();
    const uint32_t id = backend_ids_.Take().value();  // CheckRoom.
    datapath::Clear(options_.datapath->backend_stats(id));
    backend = &backends_[id];
    backend->row.id = id;
    backend->row.service = service.config.name;
    backend->row.name = config.name;
    backend->row.address = address;
    backend->row.weight = config.weight;
    backend->service_id = service.id;
  } else if (backend->config.weight != config.weight) {
    backend->row.weight = config.weight;
  }
  backend->row.backup = config.backup;
  backend->config = config;
  Watch(*backend, service.config);
  if (service.config.health.type == config::HealthType::kNone) {
    backend->row.health = health::State::kUp;
  }
  Publish(*backend);
  return backend->row.id;
}

// From now on it takes no connections; those it has stay.
void Controller::RetireBackend(uint32_t id) {
  monitor_.Remove(id);
  LogIfFailed(options_.datapath->EraseBackend(id));
  backends_.at(id).retired = true;
}

void Controller::FreeRetired() {
  for (auto it = backends_.begin(); it != backends_.end();) {
    const uint64_t active = datapath::Read(
        options_.datapath->backend_stats(it->first).connections_active);
    if (it->second.retired && active == 0) {
      backend_ids_.Return(it->first);
      it = backends_.erase(it);
    } else {
      ++it;
    }
  }
}

void Controller::Watch(const Backend& backend, const config::Service& service) {
  if (service.health.type == config::HealthType::kNone ||
      backend.row.admin == HG_ADMIN_MAINT) {
    monitor_.Remove(backend.row.id);
    return;
  }
  Endpoint endpoint = backend.row.address;
  endpoint.port = service.health.port.value_or(endpoint.port);
  monitor_.Put(backend.row.id, {endpoint, service.health});
}

void Controller::Publish(const Backend& backend) {
  hg_backend value{};
  CopyName(backend.row.name, value.name);
  value.service = backend.service_id;
  value.weight = backend.row.weight;
  value.health = ToAbi(backend.row.health);
  value.admin = backend.row.admin;
  value.backup = backend.row.backup ? 1 : 0;
  std::memcpy(value.address, backend.row.address.address.bytes().data(),
              sizeof value.address);
  value.port = backend.row.address.port;
  LogIfFailed(options_.datapath->PutBackend(backend.row.id, value));
}

void Controller::PublishService(const Service& service) {
  hg_service value{};
  CopyName(service.config.name, value.name);
  value.backend_count = static_cast<uint32_t>(service.backends.size());
  std::copy(service.backends.begin(), service.backends.end(), value.backends);
  LogIfFailed(options_.datapath->PutService(service.id, value));
}

// ---- what operators ask for ------------------------------------------------

Controller::Backend* Controller::FindBackend(const std::string& service,
                                             const std::string& name) {
  const auto found = services_.find(service);
  if (found == services_.end()) return nullptr;
  for (const uint32_t id : found->second.backends) {
    if (backends_.at(id).row.name == name) return &backends_.at(id);
  }
  return nullptr;
}

absl::Status Controller::SetAdmin(const std::string& service,
                                  const std::string& name, hg_admin admin) {
  Backend* backend = FindBackend(service, name);
  if (backend == nullptr) {
    return absl::NotFoundError(absl::StrCat("no backend ", service, "/", name));
  }
  if (backend->row.admin == admin) return absl::OkStatus();
  const bool was_maint = backend->row.admin == HG_ADMIN_MAINT;
  backend->row.admin = admin;
  const config::Service& config = services_.at(service).config;
  if (was_maint && config.health.type != config::HealthType::kNone) {
    // What was known before the maintenance says nothing about now.
    backend->row.health = health::State::kStarting;
  }
  Watch(*backend, config);
  Publish(*backend);
  log::Info("Server %s/%s is set to %s by the operator.", service, name,
            AdminName(admin));
  return absl::OkStatus();
}

absl::Status Controller::SetWeight(const std::string& service,
                                   const std::string& name, uint32_t weight) {
  Backend* backend = FindBackend(service, name);
  if (backend == nullptr) {
    return absl::NotFoundError(absl::StrCat("no backend ", service, "/", name));
  }
  backend->row.weight = weight;
  Publish(*backend);
  log::Info("Server %s/%s has weight %d now, by the operator.", service, name,
            weight);
  return absl::OkStatus();
}

bool Controller::KillConnection(uint64_t id) {
  const uint32_t index = relay::Worker::IndexOf(id);
  return index < workers_.size() && workers_[index]->Kill(id);
}

// ---- health ----------------------------------------------------------------

void Controller::OnCheck(uint32_t id, const health::CheckResult& result,
                         health::State state, bool changed) {
  Backend& backend = backends_.at(id);
  ++backend.row.checks[static_cast<size_t>(result.outcome)];
  backend.row.last_check = result;
  backend.row.health = state;
  NoteReady();
  if (!changed) return;
  ++(state == health::State::kUp ? backend.row.times_up
                                 : backend.row.times_down);
  Publish(backend);
  LogTransition(backend);
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
  for (const auto& [id, backend] : backends_) {
    if (std::strcmp(backend.row.state(), "starting") == 0) return;
  }
  ready_ = true;
  if (on_ready_) on_ready_();
}

// HAProxy's words: eyes and alerts are used to them.
void Controller::LogTransition(const Backend& backend) const {
  const health::CheckResult& check = *backend.row.last_check;
  int active = 0, backup = 0;
  for (const uint32_t id : services_.at(backend.row.service).backends) {
    const BackendRow& other = backends_.at(id).row;
    if (other.admin != HG_ADMIN_READY || other.health == health::State::kDown) {
      continue;
    }
    ++(other.backup ? backup : active);
  }
  const std::string name =
      absl::StrCat(backend.row.service, "/", backend.row.name);
  const int64_t ms = absl::ToInt64Milliseconds(check.duration);
  if (backend.row.health == health::State::kUp) {
    log::Info(
        "Server %s is UP, reason: Layer4 check passed, check duration: %dms. "
        "%d active and %d backup servers online. 0 sessions requeued, 0 total "
        "in queue.",
        name, ms, active, backup);
    return;
  }
  const std::string reason =
      check.outcome == health::Outcome::kTimeout
          ? "Layer4 timeout"
          : absl::StrCat("Layer4 connection problem, info: \"", check.detail,
                         "\"");
  const uint64_t sessions = datapath::Read(
      options_.datapath->backend_stats(backend.row.id).connections_active);
  log::Warning(
      "Server %s is DOWN, reason: %s, check duration: %dms. %d active and %d "
      "backup servers left. %d sessions active, 0 requeued, 0 remaining in "
      "queue.",
      name, reason, ms, active, backup, sessions);
  if (active + backup == 0) {
    log::Error("backend %s has no server available!", backend.row.service);
  }
}

// ---- what is seen ----------------------------------------------------------

std::vector<ServiceRow> Controller::Services() const {
  std::vector<ServiceRow> rows;
  for (const auto& [name, service] : services_) {
    ServiceRow row;
    row.id = service.id;
    row.config = service.config;
    row.listeners = listeners_.Rows(service.id);
    row.stats =
        datapath::Snapshot(options_.datapath->service_stats(service.id));
    for (const uint32_t id : service.backends) {
      const BackendRow& backend = backends_.at(id).row;
      ++row.backends_total;
      row.backends_up += std::strcmp(backend.state(), "up") == 0 ? 1 : 0;
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<BackendRow> Controller::Backends() const {
  std::vector<BackendRow> rows;
  for (const auto& [name, service] : services_) {
    for (const uint32_t id : service.backends) {
      rows.push_back(backends_.at(id).row);
      rows.back().stats =
          datapath::Snapshot(options_.datapath->backend_stats(id));
    }
  }
  return rows;
}

uint64_t Controller::ConnectionsActive() const {
  uint64_t sum = 0;
  for (const auto& [name, service] : services_) {
    sum += datapath::Read(
        options_.datapath->service_stats(service.id).connections_active);
  }
  return sum;
}

bool Controller::SetProblem(const std::string& subject,
                            const std::string& problem) {
  if (problem.empty()) return problems_.erase(subject) > 0;
  std::string& known = problems_[subject];
  const bool news = known != problem;
  known = problem;
  return news;
}

StatusRow Controller::Status() const {
  StatusRow status;
  status.ready = ready_;
  status.generation = generation_;
  status.started = started_;
  status.connections_active = ConnectionsActive();
  for (const ServiceRow& service : Services()) {
    ++status.services;
    status.backends_up += service.backends_up;
    status.backends_total += service.backends_total;
    for (const ListenerRow& listener : service.listeners) {
      if (listener.bound) continue;
      status.problems.push_back(
          absl::StrCat("service ", service.config.name, ": ", listener.error));
    }
    if (service.backends_up == 0) {
      status.problems.push_back(
          absl::StrCat("service ", service.config.name, ": no backend is up"));
    }
  }
  for (const auto& [subject, problem] : problems_) {
    status.problems.push_back(problem);
  }
  status.splice_reason = options_.datapath->splice_objection();
  if (config_.splice.mode == config::SpliceMode::kOff) {
    status.splice_reason = "splice.mode is off";
  } else if (config_.splice.mode == config::SpliceMode::kAlways &&
             options_.datapath->can_splice()) {
    status.splice_reason.clear();
  }
  status.splice = status.splice_reason.empty();
  if (!last_reload_ok_) {
    status.problems.push_back(
        "the last configuration was refused; see the log");
  }
  return status;
}

std::vector<ConnectionRow> Controller::Connections() const {
  std::map<uint32_t, std::string> service_names;
  for (const auto& [name, service] : services_) {
    service_names[service.id] = name;
  }
  std::vector<ConnectionRow> rows;
  for (const auto& worker : workers_) {
    for (const relay::ConnectionInfo& info : worker->Connections()) {
      ConnectionRow row;
      row.id = info.id;
      row.service = service_names[info.service];
      const auto backend = backends_.find(info.backend);
      if (backend != backends_.end()) row.backend = backend->second.row.name;
      row.client = info.client;
      row.spliced = info.spliced;
      row.age = absl::Nanoseconds(info.age_ns);
      row.idle = absl::Nanoseconds(info.idle_ns);
      row.bytes_in = info.bytes_in;
      row.bytes_out = info.bytes_out;
      rows.push_back(std::move(row));
    }
  }
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.id < b.id; });
  return rows;
}

}  // namespace headgate::control
