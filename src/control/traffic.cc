// What real connections say of backends, and what follows from it.
#include "control/controller.h"
#include "control/transition_log.h"

namespace headgate::control {

std::vector<Ejections::Backend> Controller::Watched() const {
  std::vector<Ejections::Backend> watched;
  for (const auto& [name, service] : services_) {
    if (!service.config.ejection.has_value()) continue;
    for (const uint32_t id : service.backends) {
      const BackendRow& row = backends_.at(id).row;
      watched.push_back(
          {id, service.id, *service.config.ejection, row.backup,
           row.admin == HG_ADMIN_READY && row.weight > 0,
           row.health == health::State::kDown,
           CountOutcomes(
               datapath::Snapshot(options_.datapath->backend_stats(id)),
               datapath::Snapshot(options_.datapath->greeting_times(id)),
               service.config.greeting_timeout.has_value())});
    }
  }
  return watched;
}

// Whenever a backend comes, goes or changes, too: the last one that takes
// connections may have been among them.
void Controller::WatchTraffic() {
  const std::vector<Ejections::Backend> watched = Watched();
  const absl::Time now = absl::FromUnixNanos(MonotonicNs());
  for (const uint32_t id : ejections_.Look(now, watched)) {
    backends_.CheckNow(id);
  }
  for (const auto& [name, service] : services_) {
    for (const uint32_t id : service.backends) {
      SettleEjection(backends_.at(id));
    }
    service.queue->LookForRoom();
  }
  if (watched.empty()) {
    traffic_timer_.Cancel();
  } else {
    traffic_timer_.Set(ejections_.Wait(now));
  }
}

// Brings it in line with what was decided.
void Controller::SettleEjection(Backend& backend) {
  const auto ejected = ejections_.Of(backend.row.id);
  if (ejected.has_value() == backend.row.ejected.has_value()) return;
  if (ejected.has_value()) {
    const config::Service& service = services_.at(backend.row.service).config;
    backends_.Eject(backend,
                    {absl::ToUnixNanos(ejected->until), ejected->last});
    LogEjection(backend.row, service.ejection->failures, ejected->length,
                Siblings(backend), backends_.ConnectionsActive(backend.row.id));
    return;
  }
  backends_.EndEjection(backend);
  if (backend.row.takes_connections()) {
    LogEjectionEnd(backend.row, Siblings(backend));
  }
}

}  // namespace headgate::control
