#include "control/state.h"

#include "absl/strings/str_cat.h"

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

std::string Misconfiguration(const BackendRow& backend) {
  if (!backend.last_check.has_value()) return "";
  const health::CheckResult& check = *backend.last_check;
  if (check.outcome != health::Outcome::kHeaderRefused &&
      check.outcome != health::Outcome::kRateLimited &&
      check.outcome != health::Outcome::kCertificate) {
    return "";
  }
  return absl::StrCat("Health check of ", backend.service, "/", backend.name,
                      ": ", check.detail, ": ", check.hint);
}

const char* BackendRow::state() const {
  if (admin != HG_ADMIN_READY) return AdminName(admin);
  if (ejected.has_value()) return "down";
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

bool BackendRow::takes_connections() const {
  return admin == HG_ADMIN_READY && health != health::State::kDown &&
         !ejected.has_value();
}

}  // namespace headgate::control
