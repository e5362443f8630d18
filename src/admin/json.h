// The rows of control/state.h as the admin API's JSON.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "config/error.h"
#include "control/controller.h"
#include "health/result.h"

namespace headgate::admin {

std::string StatusJson(const control::StatusRow& status);
std::string ServicesJson(const std::vector<control::ServiceRow>& services);
std::string BackendsJson(const std::vector<control::BackendRow>& backends,
                         const std::vector<control::LeavingRow>& leaving);
// One row, as lists.h has them.
std::string ConnectionJson(const control::ConnectionRow& row);
std::string FlowJson(const control::FlowRow& row);
std::string ConnectionCountJson(uint64_t active);
std::string AdminJson(const std::string& service, const std::string& backend,
                      hg_admin admin);
std::string CheckedJson(const std::string& service, const std::string& backend,
                        const health::CheckResult& result);
std::string WeightJson(const std::string& service, const std::string& backend,
                       uint32_t weight);
std::string KilledJson(uint64_t id);
std::string ConfigJson(const control::Controller& controller);
std::string AppliedJson(const control::Controller::Applied& applied);
std::string BackendJson(const std::string& service, const std::string& backend,
                        const char* done);
std::string ChangesJson(const std::vector<std::string>& changes,
                        const std::vector<std::string>& runtime);
std::string CheckJson(const std::vector<config::Error>& errors);
std::string ErrorJson(absl::string_view message,
                      const std::vector<config::Error>& errors = {});

// {"weight":N}; nothing if it is not that, or N is not 0 to 256.
std::optional<uint32_t> ParseWeight(const std::string& body);
// {"over_seconds":N,"order":"oldest|idle"}; errors say what was meant.
absl::StatusOr<control::Pace> ParsePace(const std::string& body);
// {"address":"IP[:PORT]","weight":N,"backup":bool}, the last two optional.
absl::StatusOr<config::Backend> ParseBackend(const std::string& name,
                                             const std::string& body);

// Whether it is {"explain":true}.
bool WantsExplanation(const std::string& body);

}  // namespace headgate::admin
