#include "control/runtime_changes.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "control/backend_table.h"

namespace headgate::control {
namespace {

using Presence = RuntimeChange::Presence;

const config::Backend* FindBackend(const config::Pool& pool,
                                   const std::string& name) {
  const auto found =
      std::find_if(pool.backends.begin(), pool.backends.end(),
                   [&](const auto& backend) { return backend.name == name; });
  return found == pool.backends.end() ? nullptr : &*found;
}

// Whether anything of it still stands.
bool SettleOne(const config::Service& service, const config::Pool& pool,
               const std::string& name, RuntimeChange& change) {
  const config::Backend* configured = FindBackend(pool, name);
  if (configured != nullptr && change.presence == Presence::kAdded) {
    change.presence = Presence::kConfigured;
  }
  if (configured == nullptr && change.presence != Presence::kAdded) {
    return false;
  }
  const config::Backend& backend =
      configured != nullptr ? *configured : change.added;
  if (AddressOf(service, backend) != change.address) return false;
  if (change.weight.has_value() &&
      change.weight->configured != backend.weight) {
    change.weight.reset();
  }
  return !change.empty();
}

std::string At(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
}

}  // namespace

config::Pool Overlaid(const config::Service& service, const config::Pool& pool,
                      const RuntimeChanges& changes) {
  config::Pool result = pool;
  for (const auto& [key, change] : changes) {
    const auto& [service_name, name] = key;
    if (service_name != service.name) continue;
    const config::Backend* configured = FindBackend(pool, name);
    if (change.presence == Presence::kRemoved) {
      std::erase_if(result.backends, [&name = name](const auto& backend) {
        return backend.name == name;
      });
    } else if (change.presence == Presence::kAdded && configured == nullptr) {
      result.backends.push_back(change.added);
    }
  }
  return result;
}

void Settle(const config::Config& config, RuntimeChanges& changes) {
  for (auto it = changes.begin(); it != changes.end();) {
    const auto& [service_name, name] = it->first;
    const auto service = config.services.find(service_name);
    const bool stands =
        service != config.services.end() &&
        SettleOne(service->second, config.pools.at(service->second.pool), name,
                  it->second);
    it = stands ? std::next(it) : changes.erase(it);
  }
}

std::vector<std::string> Describe(const RuntimeChanges& changes) {
  std::vector<std::string> lines;
  for (const auto& [key, change] : changes) {
    const std::string name = absl::StrCat(key.first, "/", key.second);
    if (change.presence == Presence::kAdded) {
      lines.push_back(absl::StrCat(name, " (", change.address.ToString(),
                                   ") was added by the operator at ",
                                   At(change.presence_since),
                                   ", the configuration has no such backend"));
    } else if (change.presence == Presence::kRemoved) {
      lines.push_back(absl::StrCat(name, " (", change.address.ToString(),
                                   ") was removed by the operator at ",
                                   At(change.presence_since),
                                   ", the configuration still has it"));
    }
    if (change.admin != HG_ADMIN_READY) {
      lines.push_back(absl::StrCat(
          name,
          change.admin == HG_ADMIN_DRAIN ? " is drained" : " is in maintenance",
          " by the operator since ", At(change.admin_since)));
    }
    if (change.weight.has_value()) {
      lines.push_back(absl::StrCat(name, " has weight ", change.weight->weight,
                                   " by the operator since ",
                                   At(change.weight->since), ", configured ",
                                   change.weight->configured));
    }
  }
  return lines;
}

}  // namespace headgate::control
