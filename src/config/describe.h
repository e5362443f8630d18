// The effective configuration as a file.
#pragma once

#include <string>

#include "config/types.h"

namespace headgate::config {

// Canonical YAML with every default written out; Parse() of it gives an equal
// Config. For a Config that Parse() made without errors; any thread.
std::string ToYaml(const Config& config);

}  // namespace headgate::config
