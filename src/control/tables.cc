#include "control/tables.h"

#include <algorithm>

#include "control/publish.h"

namespace headgate::control {

void Tables::Adopt() {
  for (const auto& [id, in_use] : datapath_->adopted().tables) {
    ids_.TakeThis(id);
    if (in_use) {
      adopted_.push_back(id);
    } else {
      Erase(id);
    }
  }
}

void Tables::EraseAdopted() {
  for (const uint32_t id : adopted_) Erase(id);
  adopted_.clear();
}

absl::StatusOr<uint32_t> Tables::Take(const Members& members) {
  const auto known = tables_.find(members);
  if (known != tables_.end()) {
    ++known->second.users;
    return known->second.id;
  }
  const std::vector<uint16_t> slots = balance::BuildTable(members);
  if (slots.empty()) return 0;
  // One for each service fits, and beside them those of the last run, or one
  // that is about to replace another.
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
  Erase(id);
  tables_.erase(table);
}

void Tables::Erase(uint32_t id) {
  LogIfFailed(datapath_->EraseTable(id));
  ids_.Return(id);
}

}  // namespace headgate::control
