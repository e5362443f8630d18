#include "control/backend_table.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

#include "config/health.h"
#include "control/publish.h"
#include "control/slow_start.h"

namespace headgate::control {
namespace {

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

}  // namespace

Endpoint AddressOf(const config::Service& service,
                   const config::Backend& backend) {
  return {backend.address,
          backend.port.value_or(service.backend_port.value_or(0))};
}

BackendTable::BackendTable(EventLoop* loop, datapath::Datapath* datapath,
                           MapWriter* writer, OnCheck on_check)
    : loop_(loop),
      datapath_(datapath),
      writer_(writer),
      on_check_(std::move(on_check)),
      farewells_(loop),
      monitor_(
          loop,
          [this](const health::CheckRequest& request,
                 health::Check::Done done) {
            return health::StartCheck(loop_, &farewells_, request,
                                      std::move(done));
          },
          [this](std::unique_ptr<health::Check> check) {
            farewells_.Add(std::move(check));
          },
          [this](uint32_t id, const health::CheckResult& result,
                 health::State state,
                 bool changed) { Checked(id, result, state, changed); }),
      warm_timer_(loop, [this] { WarmStepPassed(); }) {}

Endpoint CheckedEndpoint(const BackendRow& row, const config::Health& health) {
  return {row.address.address, health.port.value_or(row.address.port)};
}

std::vector<IpAddress> OfFamily(const std::vector<IpAddress>& addresses,
                                bool v4) {
  std::vector<IpAddress> result;
  std::copy_if(addresses.begin(), addresses.end(), std::back_inserter(result),
               [v4](const IpAddress& a) { return a.is_v4() == v4; });
  return result;
}

uint32_t BackendTable::Put(const config::Service& service, uint32_t service_id,
                           Backend* known, const config::Backend& config,
                           const std::vector<IpAddress>& pool_sources,
                           const Start& start) {
  const Endpoint address = AddressOf(service, config);
  Backend* backend = known;
  if (backend != nullptr && backend->row.address != address) {
    Retire(backend->row.id);  // Another server by the same name.
    backend = nullptr;
  }
  if (backend == nullptr) {
    FreeRetired();
    const uint32_t id = TakeId({service_id, config.name, address});
    backend = &backends_[id];
    backend->row.id = id;
    backend->row.service = service.name;
    backend->row.name = config.name;
    backend->row.address = address;
    backend->row.weight = start.weight.value_or(config.weight);
    backend->row.admin = start.admin;
    backend->row.health = start.health;
    backend->remembered = start.health != health::State::kStarting;
    backend->service_id = service_id;
    members_[service_id].ids.insert(id);
  } else if (backend->config.weight != config.weight) {
    backend->row.weight = config.weight;
  }
  backend->row.backup = config.backup;
  backend->row.max_connections = config.max_connections;
  backend->config = config;
  backend->pool = service.pool;
  backend->sources = OfFamily(pool_sources, config.address.is_v4());
  backend->slow_start = service.slow_start;
  if (!backend->slow_start.has_value()) EndWarming(*backend);
  Watch(*backend, service, start.health);
  if (service.health.type == config::HealthType::kNone) {
    backend->row.health = health::State::kUp;
    backend->remembered = false;
  }
  Publish(*backend);
  return backend->row.id;
}

void BackendTable::Adopt(const std::vector<Known>& wanted) {
  ids_ = IdPool(HG_MAX_BACKENDS);
  adopted_.clear();
  backends_.clear();
  for (const auto& [id, found] : datapath_->adopted().backends) {
    Known known;
    known.service_id = found.service;
    known.name = found.name;
    known.address = {IpAddress::FromBytes(std::to_array(found.address)),
                     static_cast<uint16_t>(found.port)};
    ids_.TakeThis(id);
    if (std::find(wanted.begin(), wanted.end(), known) != wanted.end()) {
      adopted_[id] = known;
    } else if (ConnectionsActive(id) > 0) {
      Backend& backend = backends_[id];
      backend.row.id = id;
      backend.row.service = ServiceOfLastRun(found.service);
      backend.row.name = found.name;
      backend.row.address = known.address;
      backend.service_id = found.service;
      backend.retired = true;
    } else {
      ids_.Return(id);  // Late: handshakes may be under way.
    }
  }
}

// Empty: unknown.
std::string BackendTable::ServiceOfLastRun(uint32_t id) const {
  for (const auto& [name, known] : datapath_->adopted().services) {
    if (known == id) return name;
  }
  return "";
}

void BackendTable::EraseUnadopted() {
  for (const auto& [id, found] : datapath_->adopted().backends) {
    if (found.name[0] != 0 && !adopted_.contains(id)) {
      LogIfFailed(datapath_->EraseBackend(id));
    }
  }
}

uint32_t BackendTable::TakeId(const Known& known) {
  const auto adopted =
      std::find_if(adopted_.begin(), adopted_.end(),
                   [&](const auto& each) { return each.second == known; });
  if (adopted != adopted_.end()) {
    return adopted_.extract(adopted).key();
  }
  const uint32_t id = ids_.Take().value();  // The caller has made room.
  datapath::ClearTotals(datapath_->backend_stats(id));
  datapath::Clear(datapath_->greeting_times(id));
  return id;
}

void BackendTable::Retire(uint32_t id) {
  Backend* backend = Find(id);
  if (backend == nullptr || backend->retired) return;
  monitor_.Remove(id);
  writer_->Do({MapWriter::Map::kBackends, id},
              [this, id] { return datapath_->EraseBackend(id); });
  backend->retired = true;
  const auto members = members_.find(backend->service_id);
  members->second.ids.erase(id);
  EndWarming(*backend);
  if (members->second.ids.empty()) members_.erase(members);
}

void BackendTable::FreeRetired() {
  for (auto it = backends_.begin(); it != backends_.end();) {
    if (it->second.retired && ConnectionsActive(it->first) == 0) {
      ids_.Return(it->first);
      it = backends_.erase(it);
    } else {
      ++it;
    }
  }
}

void BackendTable::SetAdmin(Backend& backend, hg_admin admin,
                            const config::Service& service) {
  const bool was_maint = backend.row.admin == HG_ADMIN_MAINT;
  backend.row.admin = admin;
  backend.drain.reset();
  if (was_maint && service.health.type != config::HealthType::kNone) {
    // What was known before the maintenance says nothing about now.
    backend.row.health = health::State::kStarting;
  }
  Watch(backend, service);
  Publish(backend);
  if (admin != HG_ADMIN_READY) {
    EndWarming(backend);
  } else if (was_maint) {
    Warm(backend);
  }
}

void BackendTable::SetWeight(Backend& backend, uint32_t weight) {
  backend.row.weight = weight;
  Publish(backend);
}

void BackendTable::Eject(Backend& backend, const Ejection& ejection) {
  backend.row.ejected = ejection;
  ++backend.row.ejections[static_cast<size_t>(ejection.reason)];
  Publish(backend);
  EndWarming(backend);
}

void BackendTable::EndEjection(Backend& backend) {
  backend.row.ejected.reset();
  Publish(backend);
  if (backend.row.takes_connections()) Warm(backend);
}

Backend* BackendTable::Find(uint32_t id) {
  const auto found = backends_.find(id);
  return found == backends_.end() ? nullptr : &found->second;
}

std::unique_ptr<health::Check> BackendTable::StartCheck(
    const Backend& backend, const config::Health& health, bool explain,
    health::Check::Done done) {
  return health::StartCheck(
      loop_, &farewells_,
      {CheckedEndpoint(backend.row, health), health, explain, backend.sources},
      std::move(done));
}

void BackendTable::EndChecks(absl::Duration patience,
                             absl::AnyInvocable<void()> done) {
  monitor_.RemoveAll();
  farewells_.Finish(patience, std::move(done));
}

uint64_t BackendTable::ConnectionsActive(uint32_t id) const {
  return datapath::Read(datapath_->backend_stats(id).connections_active);
}

void BackendTable::Watch(const Backend& backend, const config::Service& service,
                         health::State remembered) {
  const config::Health health = config::Resolved(service);
  if (health.type == config::HealthType::kNone ||
      backend.row.admin == HG_ADMIN_MAINT) {
    monitor_.Remove(backend.row.id);
    return;
  }
  const bool grouped = health.share == config::CheckShare::kGroup;
  monitor_.Put(backend.row.id,
               {CheckedEndpoint(backend.row, health), health, backend.sources,
                grouped ? backend.pool : ""},
               remembered);
}

void BackendTable::Publish(const Backend& backend) {
  hg_backend value{};
  CopyName(backend.row.name, value.name);
  value.service = backend.service_id;
  value.weight = ScaledWeight(backend.row.weight, Scale(backend.service_id),
                              backend.share);
  value.health = backend.row.ejected.has_value() ? HG_HEALTH_DOWN
                                                 : ToAbi(backend.row.health);
  value.admin = backend.row.admin;
  value.backup = backend.row.backup ? 1 : 0;
  value.max_connections = backend.row.max_connections;
  std::memcpy(value.address, backend.row.address.address.bytes().data(),
              sizeof value.address);
  value.port = backend.row.address.port;
  writer_->Do({MapWriter::Map::kBackends, backend.row.id},
              [this, id = backend.row.id, value] {
                return datapath_->PutBackend(id, value);
              });
}

void BackendTable::PublishAll(uint32_t service_id) {
  for (const uint32_t id : members_.at(service_id).ids) Publish(at(id));
}

// ---- slow start ------------------------------------------------------------

// 1 while no backend of the service is in a slow start.
uint32_t BackendTable::Scale(uint32_t service_id) const {
  const auto members = members_.find(service_id);
  if (members == members_.end() || members->second.warming == 0) return 1;
  uint32_t max_weight = 0;
  for (const uint32_t id : members->second.ids) {
    max_weight = std::max(max_weight, at(id).row.weight);
  }
  return WeightScale(max_weight);
}

void BackendTable::Warm(Backend& backend) {
  if (!backend.slow_start.has_value() || backend.row.admin != HG_ADMIN_READY) {
    return;
  }
  Members& members = members_.at(backend.service_id);
  if (!backend.warm_since_ns.has_value()) ++members.warming;
  backend.warm_since_ns = MonotonicNs();
  backend.share = kColdShare;
  PublishScaled(backend, members.warming == 1);
  // What comes back every now and then does not put off the others' steps.
  if (!warm_timer_.armed()) warm_timer_.Set(WarmStep(*backend.slow_start));
}

void BackendTable::EndWarming(Backend& backend) {
  if (!backend.warm_since_ns.has_value()) return;
  Members& members = members_.at(backend.service_id);
  backend.warm_since_ns.reset();
  backend.share = 1;
  --members.warming;
  PublishScaled(backend, members.warming == 0);
}

// `rescaled`: the weights of the service's other backends follow.
void BackendTable::PublishScaled(const Backend& backend, bool rescaled) {
  if (rescaled) {
    PublishAll(backend.service_id);
  } else if (!backend.retired) {
    Publish(backend);
  }
}

void BackendTable::WarmStepPassed() {
  absl::Duration step = absl::InfiniteDuration();
  for (auto& [id, backend] : backends_) {
    if (!backend.warm_since_ns.has_value()) continue;
    const absl::Duration since =
        absl::Nanoseconds(MonotonicNs() - *backend.warm_since_ns);
    backend.share = WarmShare(since, *backend.slow_start);
    if (backend.share >= 1) {
      EndWarming(backend);
    } else {
      step = std::min(step, WarmStep(*backend.slow_start));
      Publish(backend);
    }
  }
  if (step < absl::InfiniteDuration()) warm_timer_.Set(step);
}

// ---- health ----------------------------------------------------------------

void BackendTable::Checked(uint32_t id, const health::CheckResult& result,
                           health::State state, bool changed) {
  Backend& backend = backends_.at(id);
  ++backend.row.checks[static_cast<size_t>(result.outcome)];
  backend.row.last_check = result;
  const bool came_back = changed && state == health::State::kUp &&
                         backend.row.health == health::State::kDown;
  backend.row.health = state;
  if (result.outcome != health::Outcome::kError) backend.remembered = false;
  if (changed) {
    ++(state == health::State::kUp ? backend.row.times_up
                                   : backend.row.times_down);
    Publish(backend);
    if (state == health::State::kDown) EndWarming(backend);
    if (came_back) Warm(backend);
  }
  on_check_(backend, changed);
}

}  // namespace headgate::control
