#include "ctl/json.h"

#include <cstddef>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"

namespace headgate::ctl {
namespace {

using Node = nlohmann::json;

const Node& Get(const std::shared_ptr<const void>& node) {
  static const Node absent;
  return node == nullptr ? absent : *static_cast<const Node*>(node.get());
}

bool IsC1(absl::string_view text, size_t i) {  // U+0080 to U+009F in UTF-8.
  return text[i] == '\xc2' && i + 1 < text.size() &&
         static_cast<unsigned char>(text[i + 1]) < 0xa0;
}

}  // namespace

Json Json::Parse(absl::string_view text) {
  auto root = std::make_shared<const Node>(
      Node::parse(text.begin(), text.end(), nullptr, false));
  return root->is_discarded() ? Json() : Json(std::move(root));
}

bool Json::is_object() const { return Get(node_).is_object(); }

Json Json::operator[](absl::string_view key) const {
  const Node& node = Get(node_);
  if (!node.is_object()) return Json();
  const auto found = node.find(std::string(key));
  if (found == node.end()) return Json();
  return Json(std::shared_ptr<const void>(node_, &*found));
}

std::optional<bool> Json::Bool() const {
  const auto* value = Get(node_).get_ptr<const Node::boolean_t*>();
  return value == nullptr ? std::nullopt : std::optional<bool>(*value);
}

std::optional<double> Json::Number() const {
  const Node& node = Get(node_);
  return node.is_number() ? std::optional<double>(node.get<double>())
                          : std::nullopt;
}

std::optional<std::string> Json::String() const {
  const auto* value = Get(node_).get_ptr<const Node::string_t*>();
  return value == nullptr ? std::nullopt : std::optional<std::string>(*value);
}

std::string Json::Text() const {
  const Node& node = Get(node_);
  if (node.is_null()) return "-";
  if (std::optional<std::string> text = String()) return Clean(*text);
  return Clean(node.dump(-1, ' ', false, Node::error_handler_t::replace));
}

std::vector<Json> Json::Items() const {
  std::vector<Json> items;
  const Node& node = Get(node_);
  if (!node.is_array()) return items;
  items.reserve(node.size());
  for (const Node& item : node) {
    items.push_back(Json(std::shared_ptr<const void>(node_, &item)));
  }
  return items;
}

std::vector<std::pair<std::string, Json>> Json::Members() const {
  std::vector<std::pair<std::string, Json>> members;
  const Node& node = Get(node_);
  if (!node.is_object()) return members;
  for (const auto& [key, value] : node.items()) {
    members.emplace_back(Clean(key),
                         Json(std::shared_ptr<const void>(node_, &value)));
  }
  return members;
}

std::string Json::Clean(absl::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == '\n' || byte == '\t' || byte == '\r') {
      clean += ' ';
    } else if (IsC1(text, i)) {
      ++i;
    } else if (!absl::ascii_iscntrl(byte)) {
      clean += text[i];
    }
  }
  return clean;
}

}  // namespace headgate::ctl
