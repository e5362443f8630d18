// Typed reading of a YAML map. Every complaint goes to one Errors, says which
// object it is about ("service smtp: health.interval: ...") and stands at the
// key or value at fault; one mistake makes one message.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "config/error.h"
#include "config/yaml.h"

namespace headgate::config {

// Reports all but the first of the entries that share a key, and leaves them
// out. `object` and `path` are as in MapReader: "service smtp", "health.".
std::vector<const Node*> UniqueEntries(const Node& map,
                                       absl::string_view object,
                                       absl::string_view path, Errors& errors);

class MapReader {
 public:
  // Reports keys that are duplicate or not in `keys`, or that `node` is not a
  // map (it then reads as an empty one). `node` and `errors` must outlive the
  // reader. `object` is empty or as in "service smtp".
  MapReader(const Node& node, absl::string_view object,
            std::vector<absl::string_view> keys, Errors& errors);

  // The value under `key`, which may be broken or of any kind; nullptr if
  // there is none.
  const Node* Find(absl::string_view key) const;

  // True if `key` is absent and no reported mistake stands in its place.
  bool Lacks(absl::string_view key) const;
  void Require(absl::string_view key) const;

  // The map under `key`; reads as empty if there is none.
  MapReader Section(absl::string_view key,
                    std::vector<absl::string_view> keys) const;

  // Sets `out` to the scalar under `key` as `parse` understands it:
  // absl::StatusOr<T>(absl::string_view). Returns whether it did.
  template <typename Parse, typename T>
  bool Read(absl::string_view key, const Parse& parse, T& out) const {
    const Node* node = Find(key);
    return node != nullptr && ReadNode(*node, key, parse, out);
  }
  // The same for a node found under `key`, such as an element of a list.
  template <typename Parse, typename T>
  bool ReadNode(const Node& node, absl::string_view key, const Parse& parse,
                T& out) const {
    if (!Expect(node, key, Node::Kind::kScalar)) return false;
    auto value = parse(node.text);
    if (!value.ok()) {
      Report(node.at, key, value.status().message());
      return false;
    }
    out = *std::move(value);
    return true;
  }

  // Reports a node of another kind. A broken one has been reported.
  bool Expect(const Node& node, absl::string_view key, Node::Kind kind) const;

  // Says `problem` about `key`.
  void Report(Position at, absl::string_view key,
              absl::string_view problem) const;

 private:
  MapReader(const Node* node, absl::string_view object, std::string path,
            std::vector<absl::string_view> keys, Errors& errors);
  void ReportUnknown(const Node& entry);

  Position at_;
  std::string object_;  // "service smtp" or empty.
  std::string path_;    // "health." or empty.
  std::vector<absl::string_view> keys_;
  std::map<absl::string_view, const Node*> entries_;
  std::set<absl::string_view> mistyped_;  // Keys that unknown ones look like.
  bool partial_ = false;                  // Some keys could not be read.
  Errors* errors_;
};

}  // namespace headgate::config
