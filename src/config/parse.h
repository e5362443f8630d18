// The configuration file (YAML) to values. Strict: what is not understood is
// an error, and all errors are found in one go, each at the key or value at
// fault. Pure functions; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "config/error.h"
#include "config/types.h"

namespace headgate::config {

struct Parsed {
  Config config;              // Meaningful if `errors` is empty.
  std::vector<Error> errors;  // In file order.
};

Parsed Parse(absl::string_view text);

// The contents of `path`; an error if it is larger than Parse() takes.
absl::StatusOr<std::string> ReadFile(const std::string& path);

}  // namespace headgate::config
