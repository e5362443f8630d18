#include "control/transition_log.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace headgate::control {
namespace {

struct Left {
  int active = 0;
  int backup = 0;
};

Left CountLeft(const std::vector<const BackendRow*>& siblings) {
  Left left;
  for (const BackendRow* backend : siblings) {
    if (!backend->takes_connections()) continue;
    ++(backend->backup ? left.backup : left.active);
  }
  return left;
}

std::string NameOf(const BackendRow& backend) {
  return absl::StrCat(backend.service, "/", backend.name);
}

}  // namespace

void LogTransition(const BackendRow& backend,
                   const std::vector<const BackendRow*>& siblings,
                   uint64_t sessions) {
  const health::CheckResult& check = *backend.last_check;
  const auto [active, backup] = CountLeft(siblings);
  const std::string name = NameOf(backend);
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

// HAProxy says so of `observe layer4` with `on-error mark-down`.
void LogEjection(const BackendRow& backend, int failures, absl::Duration length,
                 const std::vector<const BackendRow*>& siblings,
                 uint64_t sessions) {
  const auto [active, backup] = CountLeft(siblings);
  log::Warning(
      "Server %s is DOWN, reason: Health analyze, info: \"Detected %d "
      "consecutive errors, last one was: %s\", ejected for %s. %d active and "
      "%d backup servers left. %d sessions active, 0 requeued, 0 remaining in "
      "queue.",
      NameOf(backend), failures, FailureName(backend.ejected->reason),
      absl::FormatDuration(length), active, backup, sessions);
}

void LogEjectionEnd(const BackendRow& backend,
                    const std::vector<const BackendRow*>& siblings) {
  const auto [active, backup] = CountLeft(siblings);
  log::Info(
      "Server %s is UP, reason: its ejection is over. %d active and %d backup "
      "servers online. 0 sessions requeued, 0 total in queue.",
      NameOf(backend), active, backup);
}

}  // namespace headgate::control
