#include "control/backend_table.h"

#include <algorithm>
#include <cstring>

#include "control/publish.h"

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
                           OnCheck on_check)
    : datapath_(datapath),
      on_check_(std::move(on_check)),
      monitor_(loop, [this](uint32_t id, const health::CheckResult& result,
                            health::State state, bool changed) {
        Checked(id, result, state, changed);
      }) {}

uint32_t BackendTable::Put(const config::Service& service, uint32_t service_id,
                           Backend* known, const config::Backend& config) {
  const Endpoint address = AddressOf(service, config);
  Backend* backend = known;
  if (backend != nullptr && backend->row.address != address) {
    Retire(backend->row.id);  // Another server by the same name.
    backend = nullptr;
  }
  if (backend == nullptr) {
    FreeRetired();
    const uint32_t id = ids_.Take().value();  // The caller has made room.
    datapath::Clear(datapath_->backend_stats(id));
    backend = &backends_[id];
    backend->row.id = id;
    backend->row.service = service.name;
    backend->row.name = config.name;
    backend->row.address = address;
    backend->row.weight = config.weight;
    backend->service_id = service_id;
  } else if (backend->config.weight != config.weight) {
    backend->row.weight = config.weight;
  }
  backend->row.backup = config.backup;
  backend->config = config;
  Watch(*backend, service);
  if (service.health.type == config::HealthType::kNone) {
    backend->row.health = health::State::kUp;
  }
  Publish(*backend);
  return backend->row.id;
}

void BackendTable::Retire(uint32_t id) {
  monitor_.Remove(id);
  LogIfFailed(datapath_->EraseBackend(id));
  backends_.at(id).retired = true;
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
  if (was_maint && service.health.type != config::HealthType::kNone) {
    // What was known before the maintenance says nothing about now.
    backend.row.health = health::State::kStarting;
  }
  Watch(backend, service);
  Publish(backend);
}

void BackendTable::SetWeight(Backend& backend, uint32_t weight) {
  backend.row.weight = weight;
  Publish(backend);
}

uint64_t BackendTable::ConnectionsActive(uint32_t id) const {
  return datapath::Read(datapath_->backend_stats(id).connections_active);
}

void BackendTable::Watch(const Backend& backend,
                         const config::Service& service) {
  if (service.health.type == config::HealthType::kNone ||
      backend.row.admin == HG_ADMIN_MAINT) {
    monitor_.Remove(backend.row.id);
    return;
  }
  Endpoint endpoint = backend.row.address;
  endpoint.port = service.health.port.value_or(endpoint.port);
  monitor_.Put(backend.row.id, {endpoint, service.health});
}

void BackendTable::Publish(const Backend& backend) {
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
  LogIfFailed(datapath_->PutBackend(backend.row.id, value));
}

void BackendTable::Checked(uint32_t id, const health::CheckResult& result,
                           health::State state, bool changed) {
  Backend& backend = backends_.at(id);
  ++backend.row.checks[static_cast<size_t>(result.outcome)];
  backend.row.last_check = result;
  backend.row.health = state;
  if (changed) {
    ++(state == health::State::kUp ? backend.row.times_up
                                   : backend.row.times_down);
    Publish(backend);
  }
  on_check_(backend, changed);
}

}  // namespace headgate::control
