// What the maps have of services: under which ids, over reloads and restarts,
// and what selection is told of them.
#include <algorithm>
#include <utility>

#include "base/log.h"
#include "control/controller.h"
#include "control/publish.h"

namespace headgate::control {
namespace {

hg_balance ToAbi(config::Balance balance) {
  switch (balance) {
    case config::Balance::kRoundRobin:
      return HG_BALANCE_ROUND_ROBIN;
    case config::Balance::kLeastConnections:
      return HG_BALANCE_LEAST_CONNECTIONS;
    case config::Balance::kMaglev:
      return HG_BALANCE_MAGLEV;
    case config::Balance::kSource:
      return HG_BALANCE_SOURCE;
    case config::Balance::kFirst:
      return HG_BALANCE_FIRST;
  }
  return HG_BALANCE_ROUND_ROBIN;
}

}  // namespace

// ---- their ids --------------------------------------------------------------

uint32_t Controller::TakeServiceId(const std::string& name) {
  if (const auto known = adopted_services_.extract(name)) return known.mapped();
  const uint32_t id = service_ids_.Take().value();  // The parser counted them.
  if (datapath::PacketPath* path = options_.datapath->packet()) {
    // Who had it last may have connections that have yet to end: so may others,
    // and to look for them takes a walk through the table.
    if (ids_gone_.contains(id)) {
      path->KillIf([this](const hg_flow& flow) {
        return ids_gone_.contains(flow.service);
      });
      ids_gone_.clear();
    }
    path->ClearBytes(id);
  }
  ids_gone_.erase(id);
  datapath::ClearTotals(options_.datapath->service_stats(id));
  return id;
}

// What the last run had and `next` has keeps its id, whatever comes before it:
// connections of the packet path count on.
void Controller::Adopt(const config::Config& next,
                       const RuntimeChanges& changes) {
  service_ids_ = IdPool(HG_MAX_SERVICES);
  adopted_services_.clear();
  std::vector<BackendTable::Known> backends;
  for (const auto& [name, id] : options_.datapath->adopted().services) {
    service_ids_.TakeThis(id);
    const auto service = next.services.find(name);
    if (service == next.services.end()) {
      service_ids_.Return(id);  // Late.
      continue;
    }
    adopted_services_[name] = id;
    const config::Pool pool =
        Overlaid(service->second, next.pools.at(service->second.pool), changes);
    for (const config::Backend& backend : pool.backends) {
      backends.push_back(
          {id, backend.name, AddressOf(service->second, backend)});
    }
  }
  backends_.Adopt(backends);
}

// What the last run had and `next` has not, before its ids are used again.
void Controller::EraseUnadopted(const config::Config& next) {
  std::set<uint32_t> kept;
  for (const auto& [name, id] : options_.datapath->adopted().services) {
    if (adopted_services_.contains(name)) {
      kept.insert(id);
    } else {
      LogIfFailed(options_.datapath->EraseService(id));
    }
  }
  backends_.EraseUnadopted();
  tables_.Adopt();
  packet_.Adopt(next, kept);
}

// ---- what selection is told -------------------------------------------------

void Controller::PublishService(const Service& service) {
  writer_.Do({MapWriter::Map::kServices, service.id},
             [this, name = service.config.name] {
               return TryToPublish(services_.at(name));
             });
}

// Without a table hashes draw by weight until there is one.
absl::Status Controller::TryToPublish(Service& service) {
  const absl::StatusOr<uint32_t> table = TakeTable(service);
  hg_service value{};
  CopyName(service.config.name, value.name);
  value.balance = ToAbi(service.config.balance);
  value.panic_threshold = service.config.panic_threshold;
  value.use_draining =
      service.config.last_resort == config::LastResort::kDraining ? 1 : 0;
  value.table = table.value_or(0);
  value.backend_count = static_cast<uint32_t>(service.backends.size());
  std::copy(service.backends.begin(), service.backends.end(), value.backends);
  const absl::Status put = options_.datapath->PutService(service.id, value);
  tables_.Return(put.ok() ? std::exchange(service.table, value.table)
                          : value.table);
  return put.ok() ? table.status() : put;
}

absl::StatusOr<uint32_t> Controller::TakeTable(const Service& service) {
  if (service.config.balance != config::Balance::kMaglev &&
      service.config.balance != config::Balance::kSource) {
    return 0;
  }
  Tables::Members members;
  for (const uint32_t id : service.backends) {
    const BackendRow& row = backends_.at(id).row;
    members.push_back({row.name, row.weight});
  }
  return tables_.Take(members);
}

void Controller::NoteUnwritten(const std::string& problem) {
  if (!SetProblem("maps", problem)) return;
  if (problem.empty()) {
    log::Info("the kernel has been told all that it was to be told");
  } else {
    log::Error("%s", problem);
  }
}

}  // namespace headgate::control
