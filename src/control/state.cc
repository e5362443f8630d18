#include "control/state.h"

namespace headgate::control {

const char* AdminName(hg_admin admin) {
  switch (admin) {
    case HG_ADMIN_READY:
      return "ready";
    case HG_ADMIN_DRAIN:
      return "drain";
    case HG_ADMIN_MAINT:
      return "maint";
  }
  return "ready";
}

const char* OutcomeName(health::Outcome outcome) {
  switch (outcome) {
    case health::Outcome::kPassed:
      return "passed";
    case health::Outcome::kRefused:
      return "refused";
    case health::Outcome::kTimeout:
      return "timeout";
    case health::Outcome::kUnreachable:
      return "unreachable";
    case health::Outcome::kError:
      return "error";
  }
  return "error";
}

const char* BackendRow::state() const {
  if (admin != HG_ADMIN_READY) return AdminName(admin);
  switch (health) {
    case health::State::kStarting:
      return "starting";
    case health::State::kUp:
      return "up";
    case health::State::kDown:
      return "down";
  }
  return "down";
}

}  // namespace headgate::control
