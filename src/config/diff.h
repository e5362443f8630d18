// What a new configuration changes, for people.
#pragma once

#include <string>
#include <vector>

#include "config/types.h"

namespace headgate::config {

// One change a line, e.g. "service smtp: health.interval: 5s -> 2s" or "pool
// mail-nodes: backend spare: removed". Empty if and only if the two are equal.
// For Configs that Parse() made without errors; any thread.
std::vector<std::string> Diff(const Config& running, const Config& next);

}  // namespace headgate::config
