// A node of a parsed reply, made for replies from newer and older daemons:
// asking for what is not there, or has another type, gives an absent node or
// nullopt, never an error. Values share the parsed reply; copies are cheap.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace headgate::ctl {

class Json {
 public:
  Json() = default;  // Absent.

  // Absent when `text` is not JSON (RFC 8259, valid UTF-8).
  static Json Parse(absl::string_view text);

  bool is_object() const;
  Json operator[](absl::string_view key) const;
  std::optional<bool> Bool() const;
  std::optional<double> Number() const;
  // A string as it is. Not for a terminal: see Text().
  std::optional<std::string> String() const;
  // Any value as one line of printable text; "-" when absent or null.
  std::string Text() const;
  std::vector<Json> Items() const;                            // Of an array.
  std::vector<std::pair<std::string, Json>> Members() const;  // Of an object.

  // `text` as one line that cannot drive a terminal: line ends and tabs become
  // spaces, other control characters (C0, DEL, C1) go.
  static std::string Clean(absl::string_view text);

 private:
  // A nlohmann::json inside the shared reply, whose header stays in json.cc.
  explicit Json(std::shared_ptr<const void> node) : node_(std::move(node)) {}
  std::shared_ptr<const void> node_;
};

}  // namespace headgate::ctl
