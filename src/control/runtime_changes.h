// What operators changed at run time and have not undone: it lies over the
// configuration, outlives reloads and restarts, and is told apart from it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "bpf/abi/types.h"
#include "config/types.h"
#include "net/address.h"

namespace headgate::control {

// To one backend of one service.
struct RuntimeChange {
  struct Weight {
    uint32_t weight = 0;
    uint32_t configured = 0;  // The file's then; another one there wins.
    absl::Time since;
    bool operator==(const Weight&) const = default;
  };
  enum class Presence { kConfigured, kAdded, kRemoved };

  // Of the server it was made for: another one by the same name is not meant.
  Endpoint address;
  hg_admin admin = HG_ADMIN_READY;
  absl::Time admin_since;
  std::optional<Weight> weight;
  Presence presence = Presence::kConfigured;
  absl::Time presence_since;
  config::Backend added;  // If kAdded.

  bool empty() const {
    return admin == HG_ADMIN_READY && !weight.has_value() &&
           presence == Presence::kConfigured;
  }
  bool operator==(const RuntimeChange&) const = default;
};

using BackendKey = std::pair<std::string, std::string>;  // Service, backend.
using RuntimeChanges = std::map<BackendKey, RuntimeChange>;

// The pool as the service uses it: without what was removed, with what was
// added. Of a name that both have, the pool's is meant.
config::Pool Overlaid(const config::Service& service, const config::Pool& pool,
                      const RuntimeChanges& changes);

// Drops what `config` has settled: changes of services and backends that are
// gone, of other servers by the same names, of weights that changed in the
// file, additions that the file has now.
void Settle(const config::Config& config, RuntimeChanges& changes);

// One a line, e.g. "smtp/node1 is drained by the operator since
// 2024-01-02T03:04:05Z".
std::vector<std::string> Describe(const RuntimeChanges& changes);

}  // namespace headgate::control
