#include "config/reader.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/suggest.h"

namespace headgate::config {
namespace {

absl::string_view KindName(Node::Kind kind) {
  switch (kind) {
    case Node::Kind::kNull:
      return "nothing";
    case Node::Kind::kScalar:
      return "a single value";
    case Node::Kind::kList:
      return "a list";
    case Node::Kind::kMap:
      return "a map";
    case Node::Kind::kBroken:
      break;
  }
  return "something unreadable";
}

// Empty if `node` is as expected, or has been reported before.
std::string WrongKind(const Node& node, Node::Kind expected) {
  if (node.kind == expected || node.kind == Node::Kind::kBroken) return "";
  return absl::StrCat("expected ", KindName(expected), ", found ",
                      KindName(node.kind));
}

// Nothing stands where a null does; its key is what the reader has to look at.
Position PlaceOf(const Node& node) {
  return node.kind == Node::Kind::kNull ? node.key_at : node.at;
}

std::string Prefix(absl::string_view object) {
  return object.empty() ? "" : absl::StrCat(object, ": ");
}

}  // namespace

std::vector<const Node*> UniqueEntries(const Node& map,
                                       absl::string_view object,
                                       absl::string_view path, Errors& errors) {
  std::vector<const Node*> unique;
  std::map<absl::string_view, int> lines;
  for (const Node& entry : map.children) {
    const auto [first, added] = lines.emplace(entry.key, entry.key_at.line);
    if (added) {
      unique.push_back(&entry);
    } else {
      errors.Add(entry.key_at,
                 absl::StrCat(Prefix(object), "duplicate key \"", path,
                              entry.key, "\"; first on line ", first->second));
    }
  }
  return unique;
}

MapReader::MapReader(const Node& node, absl::string_view object,
                     std::vector<absl::string_view> keys, Errors& errors)
    : MapReader(&node, object, "", std::move(keys), errors) {
  const std::string problem = WrongKind(node, Node::Kind::kMap);
  if (!problem.empty()) {
    errors.Add(PlaceOf(node), absl::StrCat(Prefix(object_), problem));
  }
}

MapReader::MapReader(const Node* node, absl::string_view object,
                     std::string path, std::vector<absl::string_view> keys,
                     Errors& errors)
    : object_(object),
      path_(std::move(path)),
      keys_(std::move(keys)),
      errors_(&errors) {
  // What is lacking in something that is no map is not a second mistake.
  partial_ = node == nullptr || node->kind != Node::Kind::kMap;
  if (partial_) return;
  at_ = node->key_at;
  for (const Node* entry : UniqueEntries(*node, object, path_, errors)) {
    const bool known =
        std::find(keys_.begin(), keys_.end(), entry->key) != keys_.end();
    if (known) {
      entries_.emplace(entry->key, entry);
    } else {
      ReportUnknown(*entry);
    }
  }
}

const Node* MapReader::Find(absl::string_view key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() ? nullptr : found->second;
}

bool MapReader::Lacks(absl::string_view key) const {
  return !partial_ && Find(key) == nullptr && mistyped_.count(key) == 0;
}

void MapReader::Require(absl::string_view key) const {
  if (!Lacks(key)) return;
  errors_->Add(
      at_, absl::StrCat(Prefix(object_), "missing key \"", path_, key, "\""));
}

MapReader MapReader::Section(absl::string_view key,
                             std::vector<absl::string_view> keys) const {
  const Node* node = Find(key);
  if (node != nullptr && !Expect(*node, key, Node::Kind::kMap)) node = nullptr;
  return MapReader(node, object_, absl::StrCat(path_, key, "."),
                   std::move(keys), *errors_);
}

bool MapReader::Expect(const Node& node, absl::string_view key,
                       Node::Kind kind) const {
  const std::string problem = WrongKind(node, kind);
  if (!problem.empty()) Report(PlaceOf(node), key, problem);
  return node.kind == kind;
}

void MapReader::Report(Position at, absl::string_view key,
                       absl::string_view problem) const {
  errors_->Add(at, absl::StrCat(Prefix(object_), path_, key, ": ", problem));
}

void MapReader::ReportUnknown(const Node& entry) {
  if (entry.key == "<<") {
    partial_ = true;
    // `<<: *alias` has been reported as an alias.
    if (entry.kind == Node::Kind::kBroken) return;
    errors_->Add(entry.key_at,
                 absl::StrCat(Prefix(object_), "merge keys are not supported"));
    return;
  }
  if (const auto meant = Nearest(entry.key, keys_); meant.has_value()) {
    mistyped_.insert(*meant);
  }
  errors_->Add(entry.key_at,
               absl::StrCat(Prefix(object_), "unknown key \"", path_, entry.key,
                            "\"", Suggestion(entry.key, keys_)));
}

}  // namespace headgate::config
