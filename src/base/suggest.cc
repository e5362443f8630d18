#include "base/suggest.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace headgate {
namespace {

constexpr size_t kMaxListed = 20;

size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

}  // namespace

std::optional<absl::string_view> Nearest(
    absl::string_view word, const std::vector<absl::string_view>& candidates) {
  size_t limit = std::min<size_t>(word.size() / 3 + 1, 3);
  std::optional<absl::string_view> nearest;
  for (absl::string_view candidate : candidates) {
    const auto [shorter, longer] =
        std::minmax({candidate.size(), word.size()});  // Values, no references.
    if (longer - shorter > limit) continue;            // Cannot be nearer.
    const size_t distance = Distance(word, candidate);
    if (distance > limit || distance == candidate.size()) continue;
    if (nearest.has_value() && distance == limit) continue;
    nearest = candidate;
    limit = distance;
  }
  return nearest;
}

std::string Suggestion(absl::string_view word,
                       const std::vector<absl::string_view>& candidates) {
  if (const auto nearest = Nearest(word, candidates); nearest.has_value()) {
    return absl::StrCat("; did you mean \"", *nearest, "\"?");
  }
  if (candidates.size() > kMaxListed) return "";
  return absl::StrCat("; one of: ", absl::StrJoin(candidates, ", "));
}

}  // namespace headgate
