// One YAML document as a tree that remembers where everything stands. This is
// the only place that knows yaml-cpp: it works on parser events rather than on
// YAML::Node, which hides anchors and keeps duplicate keys silently.
//
// Refused, because one file should have one plain reading: anchors, aliases,
// tags, several documents, keys that are not single words, control characters,
// and more than kMaxDepth levels.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "config/error.h"

namespace headgate::config {

inline constexpr size_t kMaxDepth = 64;
inline constexpr size_t kMaxFileBytes = 1024 * 1024;

struct Node {
  enum class Kind {
    kNull,
    kScalar,
    kList,
    kMap,
    kBroken,  // Already reported: readers pass over it in silence.
  };
  Kind kind = Kind::kNull;
  Position at;
  std::string text;            // Of a scalar.
  std::vector<Node> children;  // Of a list or map, in file order.
  std::string key;             // In a map: the key this node stands under.
  Position key_at;             // Elsewhere the same as `at`.
};

// Returns nothing if there is no use in reading on; `errors` says why.
std::optional<Node> ReadYaml(absl::string_view text, Errors& errors);

}  // namespace headgate::config
