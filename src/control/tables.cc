#include "control/tables.h"

#include <algorithm>

#include "base/log.h"
#include "base/status.h"

namespace headgate::control {

absl::StatusOr<uint32_t> Tables::Take(const Members& members) {
  const auto known = tables_.find(members);
  if (known != tables_.end()) {
    ++known->second.users;
    return known->second.id;
  }
  const std::vector<uint16_t> slots = balance::BuildTable(members);
  if (slots.empty()) return 0;
  // One for each service, and one that is about to replace another, fit.
  const uint32_t id = ids_.Take().value();
  if (absl::Status put = datapath_->PutTable(id, slots); !put.ok()) {
    datapath_->EraseTable(id).IgnoreError();
    ids_.Return(id);
    return put;
  }
  tables_[members] = {id, 1};
  return id;
}

void Tables::Return(uint32_t id) {
  const auto table =
      std::find_if(tables_.begin(), tables_.end(),
                   [id](const auto& each) { return each.second.id == id; });
  if (table == tables_.end() || --table->second.users > 0) return;
  const absl::Status erased = datapath_->EraseTable(id);
  if (!erased.ok()) log::Error("%s", erased.message());
  ids_.Return(id);
  tables_.erase(table);
}

}  // namespace headgate::control
