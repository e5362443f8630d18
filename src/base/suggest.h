// "Did you mean": the nearest of the known words.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace headgate {

// The candidate with the smallest Levenshtein distance to `word`, or nothing
// if none is near enough to be what was meant. The result points into
// `candidates`.
std::optional<absl::string_view> Nearest(
    absl::string_view word, const std::vector<absl::string_view>& candidates);

// `; did you mean "smtp"?`, or `; one of: imap, smtp` if nothing is near; at
// most a handful is listed.
std::string Suggestion(absl::string_view word,
                       const std::vector<absl::string_view>& candidates);

}  // namespace headgate
