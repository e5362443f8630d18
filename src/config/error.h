// What is wrong with a configuration, and where. Lines and columns count from
// 1; columns count bytes. Messages are one line of at most kMaxMessage bytes,
// whatever the file held. Not thread-safe.
#pragma once

#include <compare>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace headgate::config {

struct Position {
  int line = 1;
  int column = 1;
  auto operator<=>(const Position&) const = default;
};

struct Error {
  int line;
  int column;
  std::string message;
};

// "FILE:LINE:COLUMN: error: message", which editors and CI know how to jump to.
std::string Format(absl::string_view file, const Error& error);

// Collects errors in any order and hands them out in file order.
class Errors {
 public:
  static constexpr size_t kMaxMessage = 400;

  void Add(Position at, absl::string_view message);
  bool empty() const { return errors_.empty(); }
  std::vector<Error> TakeSorted();

 private:
  std::vector<Error> errors_;
};

}  // namespace headgate::config
