// The rows of control/state.h as the admin API's JSON.
#pragma once

#include <string>
#include <vector>

#include "config/error.h"
#include "control/controller.h"

namespace headgate::admin {

std::string StatusJson(const control::StatusRow& status);
std::string ServicesJson(const std::vector<control::ServiceRow>& services);
std::string BackendsJson(const std::vector<control::BackendRow>& backends);
std::string ConnectionsJson(const std::vector<control::ConnectionRow>& rows);
std::string ConnectionCountJson(uint64_t active);
std::string AdminJson(const std::string& service, const std::string& backend,
                      hg_admin admin);
std::string WeightJson(const std::string& service, const std::string& backend,
                       uint32_t weight);
std::string KilledJson(uint64_t id);
std::string ConfigJson(const control::Controller& controller);
std::string AppliedJson(const control::Controller::Applied& applied);
std::string ChangesJson(const std::vector<std::string>& changes);
std::string CheckJson(const std::vector<config::Error>& errors);
std::string ErrorJson(absl::string_view message,
                      const std::vector<config::Error>& errors = {});

// {"weight":N}; nothing if it is not that, or N is not 0 to 256.
std::optional<uint32_t> ParseWeight(const std::string& body);

}  // namespace headgate::admin
