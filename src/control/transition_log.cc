#include "control/transition_log.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace headgate::control {

void LogTransition(const BackendRow& backend,
                   const std::vector<const BackendRow*>& siblings,
                   uint64_t sessions) {
  const health::CheckResult& check = *backend.last_check;
  int active = 0, backup = 0;
  for (const BackendRow* other : siblings) {
    if (other->admin != HG_ADMIN_READY ||
        other->health == health::State::kDown) {
      continue;
    }
    ++(other->backup ? backup : active);
  }
  const std::string name = absl::StrCat(backend.service, "/", backend.name);
  const int64_t ms = absl::ToInt64Milliseconds(check.duration);
  if (backend.health == health::State::kUp) {
    log::Info(
        "Server %s is UP, reason: %s, check duration: %dms. %d active and %d "
        "backup servers online. 0 sessions requeued, 0 total in queue.",
        name, health::Reason(check), ms, active, backup);
    return;
  }
  log::Warning(
      "Server %s is DOWN, reason: %s, check duration: %dms. %d active and %d "
      "backup servers left. %d sessions active, 0 requeued, 0 remaining in "
      "queue.",
      name, health::Reason(check), ms, active, backup, sessions);
  if (active + backup == 0) {
    log::Error("backend %s has no server available!", backend.service);
  }
}

}  // namespace headgate::control
