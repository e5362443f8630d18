// What operators do at run time, and what of it is kept over a restart.
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "config/health.h"
#include "config/validate.h"
#include "control/controller.h"

namespace headgate::control {
namespace {

using Presence = RuntimeChange::Presence;

// Health is kept for as long as it is younger than kHealthIsStale.
constexpr absl::Duration kSaveAgain = absl::Minutes(1);
// When many backends change at once, they share a write.
constexpr absl::Duration kShareWrite = absl::Milliseconds(20);

absl::Status NoBackend(const std::string& service, const std::string& name) {
  return absl::NotFoundError(absl::StrCat("no backend ", service, "/", name));
}

}  // namespace

Backend* Controller::FindBackend(const std::string& service,
                                 const std::string& name) {
  const auto found = services_.find(service);
  if (found == services_.end()) return nullptr;
  for (const uint32_t id : found->second.backends) {
    // While the service is being put, its list has some that are retired.
    Backend* backend = backends_.Find(id);
    if (backend == nullptr || backend->retired) continue;
    if (backend->row.name == name) return backend;
  }
  return nullptr;
}

RuntimeChange& Controller::ChangeOf(const Backend& backend) {
  RuntimeChange& change = changes_[{backend.row.service, backend.row.name}];
  change.address = backend.row.address;
  return change;
}

// After each change: what was undone is forgotten, the rest is on the disk
// before the operator gets the answer.
void Controller::Changed() {
  std::erase_if(changes_,
                [](const auto& entry) { return entry.second.empty(); });
  Save();
  WatchTraffic();
}

absl::Status Controller::SetAdmin(const std::string& service,
                                  const std::string& name, hg_admin admin) {
  Backend* backend = FindBackend(service, name);
  if (backend == nullptr) return NoBackend(service, name);
  if (backend->row.admin == admin) return absl::OkStatus();
  backends_.SetAdmin(*backend, admin, services_.at(service).config);
  RuntimeChange& change = ChangeOf(*backend);
  change.admin = admin;
  change.admin_since = absl::Now();
  Changed();
  log::Info("Server %s/%s is set to %s by the operator.", service, name,
            AdminName(admin));
  return absl::OkStatus();
}

absl::Status Controller::Drain(const std::string& service,
                               const std::string& name, const Pace& pace) {
  RETURN_IF_ERROR(SetAdmin(service, name, HG_ADMIN_DRAIN));
  Backend& backend = *FindBackend(service, name);
  backend.drain =
      std::make_unique<PacedDrain>(options_.loop, &workers_, &packet_,
                                   options_.datapath, backend.row.id, pace);
  log::Info("Server %s/%s: its %d connections end within %s.", service, name,
            backends_.ConnectionsActive(backend.row.id),
            absl::FormatDuration(pace.over));
  return absl::OkStatus();
}

absl::Status Controller::SetWeight(const std::string& service,
                                   const std::string& name, uint32_t weight) {
  Backend* backend = FindBackend(service, name);
  if (backend == nullptr) return NoBackend(service, name);
  backends_.SetWeight(*backend, weight);
  PublishService(services_.at(service));  // Its table.
  RuntimeChange& change = ChangeOf(*backend);
  change.weight = {weight, backend->config.weight, absl::Now()};
  if (weight == backend->config.weight) change.weight.reset();
  Changed();
  log::Info("Server %s/%s has weight %d now, by the operator.", service, name,
            weight);
  return absl::OkStatus();
}

absl::Status Controller::CheckNow(const std::string& service,
                                  const std::string& name, bool explain,
                                  health::Check::Done done) {
  const Backend* backend = FindBackend(service, name);
  if (backend == nullptr) return NoBackend(service, name);
  const config::Health health = config::Resolved(services_.at(service).config);
  if (health.type == config::HealthType::kNone) {
    return absl::FailedPreconditionError(
        absl::StrCat("service ", service, " has health.type: none"));
  }
  const uint64_t id = next_check_now_++;
  checks_now_[id] = backends_.StartCheck(
      *backend, health, explain,
      [this, id, done = std::move(done)](health::CheckResult result) mutable {
        const auto finished = checks_now_.extract(id);  // Until we return.
        done(std::move(result));
      });
  return absl::OkStatus();
}

absl::Status Controller::CheckNewBackend(const std::string& service,
                                         const config::Backend& backend) {
  const auto found = services_.find(service);
  if (found == services_.end()) {
    return absl::NotFoundError(absl::StrCat("no service ", service));
  }
  const std::string name = absl::StrCat(service, "/", backend.name);
  if (const Backend* known = FindBackend(service, backend.name);
      known != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat(
        "backend ", name, " exists, at ", known->row.address.ToString()));
  }
  const config::Service& config = found->second.config;
  if (!backend.port.has_value() && !config.backend_port.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "backend ", name, ": ", backend.address.ToString(),
        " has no port, and service ", service, " has no backend_port"));
  }
  const auto removed = changes_.find({service, backend.name});
  if (removed != changes_.end() &&
      removed->second.address != AddressOf(config, backend)) {
    return absl::AlreadyExistsError(
        absl::StrCat("backend ", name, " is in the configuration, at ",
                     removed->second.address.ToString(),
                     "; add that one again, or choose another name"));
  }
  backends_.FreeRetired();
  if (found->second.backends.size() < config::kMaxBackendsPerPool &&
      backends_.all().size() + 1 < HG_MAX_BACKENDS) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      "backend ", name, ": no room; at most ", config::kMaxBackendsPerPool,
      " backends a service and ", HG_MAX_BACKENDS - 1, " in all"));
}

absl::Status Controller::AddBackend(const std::string& service,
                                    const config::Backend& backend) {
  RETURN_IF_ERROR(CheckNewBackend(service, backend));
  const config::Service& config = config_.services.at(service);
  const auto [it, is_new] = changes_.try_emplace({service, backend.name});
  RuntimeChange& change = it->second;
  if (is_new) {
    change.address = AddressOf(config, backend);
    change.presence = Presence::kAdded;
    change.presence_since = absl::Now();
    change.added = backend;
  } else {
    change.presence = Presence::kConfigured;  // It was removed.
  }
  PutService(config, config_.pools.at(config.pool));
  Changed();
  const Backend& added = *FindBackend(service, backend.name);
  log::Info("Server %s/%s (%s) is added by the operator.", service,
            backend.name, added.row.address.ToString());
  if (!is_new && added.row.weight != backend.weight) {
    return SetWeight(service, backend.name, backend.weight);
  }
  return absl::OkStatus();
}

absl::Status Controller::RemoveBackend(const std::string& service,
                                       const std::string& name) {
  Backend* backend = FindBackend(service, name);
  if (backend == nullptr) return NoBackend(service, name);
  RuntimeChange& change = ChangeOf(*backend);
  const bool was_added = change.presence == Presence::kAdded;
  const Endpoint address = backend->row.address;
  change = {};
  change.address = address;
  if (!was_added) {
    change.presence = Presence::kRemoved;
    change.presence_since = absl::Now();
  }
  Changed();
  const config::Service& config = config_.services.at(service);
  PutService(config, config_.pools.at(config.pool));
  WatchTraffic();
  log::Info("Server %s/%s (%s) is removed by the operator.", service, name,
            address.ToString());
  return absl::OkStatus();
}

bool Controller::KillConnection(uint64_t id) {
  if (PacketServices::IsFlow(id)) return packet_.Kill(id);
  const uint32_t index = relay::Worker::IndexOf(id);
  return index < workers_.size() && workers_[index]->Kill(id);
}

// The health that it had, and what operators want of it.
BackendTable::Start Controller::StartOf(const config::Service& service,
                                        const config::Backend& backend) const {
  const BackendKey key{service.name, backend.name};
  BackendTable::Start start;
  start.health =
      RememberedHealth(remembered_, key, AddressOf(service, backend));
  const auto found = changes_.find(key);
  if (found == changes_.end()) return start;
  start.admin = found->second.admin;
  if (found->second.weight.has_value()) {
    start.weight = found->second.weight->weight;
  }
  return start;
}

// ---- kept over a restart ---------------------------------------------------

void Controller::LoadState() {
  if (options_.state_file.empty()) return;
  const absl::StatusOr<std::string> text = ReadStateFile(options_.state_file);
  if (absl::IsNotFound(text.status())) return;
  absl::StatusOr<SavedState> state =
      text.ok() ? ParseState(*text) : text.status();
  if (!state.ok()) {
    log::Warning(
        "state of the last run is not used, %s: %s; every backend starts as "
        "the configuration has it",
        options_.state_file, state.status().message());
    return;
  }
  remembered_ = *std::move(state);
  ForgetStale(remembered_, CurrentMoment());
  changes_ = remembered_.changes;
}

void Controller::SayWhatIsKept() const {
  for (const std::string& line : Describe(changes_)) {
    log::Info("kept from the last run: %s", line);
  }
}

void Controller::Save() {
  if (options_.state_file.empty() || generation_ == 0) return;
  SavedState state;
  state.saved = CurrentMoment();
  state.changes = changes_;
  for (const auto& [id, backend] : backends_.all()) {
    const BackendRow& row = backend.row;
    if (backend.retired || row.admin == HG_ADMIN_MAINT) continue;
    state.health.push_back({{row.service, row.name}, row.address, row.health});
  }
  const absl::Status status =
      WriteStateFile(options_.state_file, FormatState(state));
  const std::string problem =
      status.ok() ? ""
                  : absl::StrCat(
                        "changes at run time will not outlive a "
                        "restart: ",
                        status.message());
  if (SetProblem("state", problem) && !problem.empty()) {
    log::Warning("%s", problem);
  }
  saved_ns_ = MonotonicNs();
  save_timer_.Set(kSaveAgain);
}

void Controller::SaveSoon() {
  const absl::Duration since = absl::Nanoseconds(MonotonicNs() - saved_ns_);
  if (since >= kShareWrite) {
    Save();
  } else {
    save_timer_.Set(kShareWrite - since);
  }
}

}  // namespace headgate::control
