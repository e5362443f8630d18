// Backends going up and down, in HAProxy's words: eyes and alerts are used to
// them.
#pragma once

#include <cstdint>
#include <vector>

#include "control/state.h"

namespace headgate::control {

// `backend` has just changed; `siblings` are its service's, itself included;
// `sessions` is what it has open.
void LogTransition(const BackendRow& backend,
                   const std::vector<const BackendRow*>& siblings,
                   uint64_t sessions);

// `backend` was just ejected after so many failures, or is not any more.
void LogEjection(const BackendRow& backend, int failures, absl::Duration length,
                 const std::vector<const BackendRow*>& siblings,
                 uint64_t sessions);
void LogEjectionEnd(const BackendRow& backend,
                    const std::vector<const BackendRow*>& siblings);

}  // namespace headgate::control
